"""The arithmetic of the race: when a curve reaches its target, and that nobody trains on after that."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

RACE = Path(__file__).parents[1] / "benchmarks" / "time_to_accuracy.py"


@pytest.fixture(scope="module")
def race() -> ModuleType:
    spec = importlib.util.spec_from_file_location("race", RACE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("points", "seconds"),
    [
        ([], None),
        ([(10.0, 0.1), (20.0, 0.49)], None),
        ([(10.0, 0.6)], 10.0),  # nothing is known of before
        ([(10.0, 0.4), (20.0, 0.6)], 15.0),
        ([(10.0, 0.4), (20.0, 0.5)], 20.0),
        ([(0.0, 0.0), (100.0, 0.2), (200.0, 0.8), (300.0, 0.4)], 150.0),  # the first time counts
    ],
)
def test_the_target_is_reached_on_the_line_between_two_points(race, points, seconds):
    assert race.crossing(points) == (None if seconds is None else pytest.approx(seconds))


def test_a_contestant_ends_at_the_target(race, capsys):
    asked: list[float] = []

    def curve() -> Iterator[tuple[float, float]]:
        for seconds, right in ((1.0, 0.2), (2.0, 0.5), (3.0, 0.9)):
            asked.append(seconds)
            yield seconds, right

    assert race.until(curve(), "it") == [(1.0, 0.2), (2.0, 0.5)]
    assert asked == [1.0, 2.0]
    assert capsys.readouterr().out.count("it:") == 2
