from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree

import pytest

from mmgen.tracking.charts import BINS, Axis, Series, binned, line_chart, number, share_bar, ticks


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (24.312, "24.3"),
        (0.8712, "0.871"),
        (431.7, "432"),
        (3919, "3,919"),
        (1.0, "1"),
        (0.00025, "2.5e-4"),
        (-0.5, "-0.500"),
        (math.nan, "–"),
        (None, "–"),
    ],
)
def test_numbers_read_as_people_write_them(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.5, 7.3), (0, 1500), (21.8, 26.4), (-3, 4), (1e-9, 3e-4)])
def test_ticks_are_few_round_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 2 <= len(found) <= 6
    assert all(low - 1e-12 <= value <= high + 1e-12 for value in found)
    steps = {round((b - a) / 10 ** math.floor(math.log10(b - a)), 6) for a, b in itertools.pairwise(found)}
    assert steps <= {1.0, 2.0, 2.5, 5.0}


def test_a_long_line_is_drawn_with_few_points_and_keeps_its_extremes() -> None:
    points = [(float(step), math.sin(step / 50)) for step in range(10_000)]
    points[5000] = (5000.0, 9.0)
    found = binned(points)
    assert len(found) <= BINS
    assert max(high for *_, high in found) == 9.0
    assert min(low for _, _, low, _ in found) == pytest.approx(-1, abs=1e-3)
    assert [x for x, *_ in found] == sorted(x for x, *_ in found)


def test_what_is_not_finite_is_left_out() -> None:
    assert binned([(0.0, math.nan), (1.0, 2.0), (2.0, math.inf)]) == [(1.0, 2.0, 2.0, 2.0)]
    assert line_chart("Loss", [Series("train", "train", [(0.0, math.nan)])]) == ""
    assert line_chart("Loss", []) == ""


def test_a_chart_is_well_formed_and_says_in_words_what_it_shows() -> None:
    train = Series("train", "train", [(float(step), 5 / (step + 1)) for step in range(400)])
    val = Series("val", "val", [(0.0, 5.0), (200.0, 0.4), (399.0, 0.3)])
    svg = ElementTree.fromstring(str(line_chart('Loss <"of"> both', [train, val], 399)))  # noqa: S314 - our own
    assert svg.attrib["aria-label"].startswith('Loss <"of"> both over training steps')
    assert "train ends at 0.0125; val ends at 0.300" in svg.attrib["aria-label"]
    assert len(svg.findall("polyline")) == 2
    assert len(svg.findall("circle")) == 3
    assert len(svg.findall("polygon")) == 1
    for element in svg.iter():
        for name in ("cx", "cy", "x1", "x2", "y1", "y2", "x", "y"):
            assert 0 <= float(element.attrib.get(name, 0)) <= 400


@pytest.mark.parametrize("points", [[(5.0, 1.0)], [(0.0, 0.0), (1.0, 0.0)], [(0.0, 1e30), (1.0, -1e30)]])
def test_degenerate_lines_are_drawn(points: list[tuple[float, float]]) -> None:
    chart = str(line_chart("x", [Series("train", "train", points)]))
    ElementTree.fromstring(chart)  # noqa: S314 - our own
    assert not re.search(r"\b(nan|inf)\b", chart)


def test_a_measure_over_many_orders_gets_a_logarithmic_axis() -> None:
    axis = Axis([1e-3, 10.0], 100.0, 0.0, may_be_log=True)
    assert axis.log
    assert axis.place(0.1) == 50.0
    assert axis.ticks() == pytest.approx([1e-3, 1e-2, 0.1, 1.0, 10.0])
    assert not Axis([0.0, 10.0], 100.0, 0.0, may_be_log=True).log


def test_a_bar_never_leaves_its_track() -> None:
    svg = ElementTree.fromstring(str(share_bar(1.7, -0.2, (-0.1, 1.2))))  # noqa: S314 - our own
    assert [float(rect.attrib["width"]) for rect in svg.findall("rect")] == [100, 100]
    for line in svg.findall("line"):
        assert 0 <= float(line.attrib["x1"]) <= float(line.attrib["x2"]) <= 100
