"""Runs side by side: what their figures are over seeds, and over any other option."""

from __future__ import annotations

from pathlib import Path
from statistics import stdev

import pytest

from mmgen.tracking.comparison import Compared, spreads, write_comparison
from mmgen.tracking.run_files import Evaluation, Figure


def compared(option_value: object, **values: float | None) -> Compared:
    figures = [Figure(f"scene_judge/{name}", value, 200, "%") for name, value in values.items()]
    return Compared(f"runs/{option_value}", [Evaluation("scene_judge", figures, {}, {}, [], None)], option_value)


RUNS = [compared(1, right=0.61, letters=0.9), compared(2, right=0.52), compared(3, right=0.49, letters=0.8)]


def test_seeds_have_a_mean_and_the_deviation_of_single_trainings(tmp_path: Path) -> None:
    found = spreads("seed", RUNS)
    assert list(found) == ["scene_judge/right"], "letters are lacking in one of the three"
    right = found["scene_judge/right"]
    assert (right.mean, right.seeds) == (pytest.approx(0.54), 3)
    assert right.deviation == pytest.approx(stdev([0.61, 0.52, 0.49]))
    assert right.shown == "54.0 % ± 6.2 %"
    page = write_comparison(tmp_path, "seed", RUNS).read_text()
    assert "54.0 % ± 6.2 %" in page
    assert "as the deviation of the seeds does" in page
    assert "<svg" not in page, "no figure is a function of the seed"


def test_other_options_have_curves_and_no_mean(tmp_path: Path) -> None:
    assert spreads("stages.encoder.task.caption_noise", RUNS) == {}
    assert spreads("seed", RUNS[:1]) == {}
    page = write_comparison(tmp_path, "stages.encoder.task.caption_noise", RUNS).read_text()
    assert page.count("<svg") == 2
    assert "±" not in page
