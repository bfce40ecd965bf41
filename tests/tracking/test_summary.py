from __future__ import annotations

import json
from pathlib import Path

from mmgen.tracking.report import summary
from tests.tracking.fake_run import finding, judged, make_run, write


def test_every_figure_stands_beside_its_chance(tmp_path: Path) -> None:
    lines = summary(make_run(tmp_path / "run"), width=120).splitlines()
    (tone,) = [line for line in lines if line.startswith("zero_shot/tone")]
    assert " ".join(tone.split()) == "zero_shot/tone 92.7 % 89–95 % 330 20.0 % among the five tones"
    (psnr,) = [line for line in lines if line.startswith("reconstruction/psnr")]
    assert "24.31 dB" in psnr
    assert "22.5 dB" in " ".join(lines)
    assert lines[-1] == "aesthetics stood aside: the dataset declares no classes and templates"
    assert max(map(len, lines)) <= 120


def test_without_an_evaluation_it_is_empty(tmp_path: Path) -> None:
    assert summary(tmp_path) == ""


def test_text_from_data_cannot_steer_the_terminal(tmp_path: Path) -> None:
    number = finding("x/y", 0.5, 10, "%", note="\x1b[2J[red]boo[/red]\r\n")
    write(tmp_path / "evaluation.json", {"findings": {"x": judged(number), "z": judged(stood_aside="\x1b]0;t\x07")}})
    text = summary(tmp_path)
    assert "[red]boo[/red]" in text
    assert not set(text) & {"\x1b", "\r", "\x07"}
    assert json.dumps(text).count("\\u00") == 0
