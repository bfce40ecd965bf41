"""A rival: another encoder of the run, trained and judged beside its own; and figures that should be reached."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mmgen import cli
from mmgen.commands.rivals import read_rivals, rivals
from tests.tiny import QUIET, RUN, files, mmgen, write_pictures

EXPERIMENT = """# @package _global_
evaluator: {found: {name: retrieval}, again: {name: retrieval}}
wanted: {found/picture_to_caption_r10: 0.0, found_noisy/picture_to_caption_r1: 1.01, fuond/x: 0.5}
rivals: {noisy: {task: {caption_noise: 1}, evaluator: [found]}}
"""
RIVAL = ["--config-dir=conf", "experiment=both", "evaluator=[reconstruction]", "run.name=both"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("rivals")
    write_pictures(work / "pictures")
    (work / "conf/experiment").mkdir(parents=True)
    (work / "conf/experiment/both.yaml").write_text(EXPERIMENT)
    result = mmgen("run", *RUN, *RIVAL, QUIET, cwd=work)
    assert result.returncode == 0, result.stderr
    (work / "out").write_text(result.stdout)
    return work


def test_the_rival_is_trained_and_judged_beside_the_run_s_own(run):
    directory = run / "runs/both"
    own, rival = (load_file(directory / name / "model/model.safetensors") for name in ("encoder", "encoder-noisy"))
    assert own.keys() == rival.keys()
    assert any((own[name] != rival[name]).any() for name in own)
    findings = json.loads((directory / "evaluation.json").read_text())["findings"]
    assert list(findings) == ["reconstruction", "found", "again", "found_noisy"]
    assert findings["found"]["numbers"][0]["value"] == findings["again"]["numbers"][0]["value"]
    assert {number["name"].partition("/")[0] for number in findings["again"]["numbers"]} == {"again"}
    lineage = json.loads((directory / "lineage.json").read_text())
    assert list(lineage["rivals"]) == ["encoder-noisy"]
    assert lineage["rivals"]["encoder-noisy"]["fingerprint"] != lineage["parts"]["encoder"]["fingerprint"]
    assert "encoder-noisy" in (directory / "report.html").read_text()


def test_what_should_be_reached_is_told_first_and_whether_it_is(run):
    lines = [line for line in (run / "out").read_text().splitlines() if "/picture_to_caption" in line]
    assert len(lines) == 2
    assert "reached" in lines[0]
    assert "missed" in lines[1]
    assert "wanted, and found by no evaluator: fuond/x" in (run / "out").read_text()
    numbers = json.loads((run / "runs/both/evaluation.json").read_text())["findings"]["found_noisy"]["numbers"]
    assert [number.get("wanted") for number in numbers if number["name"].endswith("to_caption_r1")] == [1.01]


def test_a_run_with_a_rival_goes_on_with_all_that_is_finished(run, monkeypatch):
    before = files(run / "runs/both", ["model/*"])
    assert len(before) > 12
    monkeypatch.chdir(run)
    assert cli.main(["run", *RUN, *RIVAL, QUIET]) == 0
    assert files(run / "runs/both", ["model/*"]) == before


def test_what_is_wanted_now_is_told_of_a_finished_run_and_all_trainings_are_counted(run, monkeypatch, capsys):
    monkeypatch.chdir(run)
    stages = list((run / "runs/both").glob("*/status.json"))
    assert len(stages) == 4
    seconds = sum(json.loads(file.read_text())["seconds"] for file in stages)
    before = json.loads((run / "runs/both/evaluation.json").read_text())
    experiment = run / "conf/experiment/both.yaml"
    experiment.write_text(EXPERIMENT.replace("r10: 0.0", "r10: 1.01").replace("r1: 1.01", "r1: 0.0"))
    assert cli.main(["run", *RUN, *RIVAL, QUIET]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "/picture_to_caption" in line]
    assert ["missed" in line for line in lines] == [True, False]
    assert json.loads((run / "runs/both/status.json").read_text())["seconds"] == pytest.approx(seconds)
    experiment.write_text(EXPERIMENT)
    assert cli.main(["run", *RUN, *RIVAL, QUIET]) == 0
    assert json.loads((run / "runs/both/evaluation.json").read_text()) == before


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("rivals.noisy.task.caption_nois=1", "rivals.noisy.task.caption_noise"),
        ("rivals.noisy.task.caption_noise=2", "rivals.noisy.task.caption_noise must be"),
        ("rivals.noisy.encoder.widht=8", "rivals.noisy.encoder.width"),
        ("rivals.noisy.evaluator=[nothing]", "which the run does not choose"),
        ("rivals.noisy.tsk.batch_size=8", "rivals.noisy.task"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path, monkeypatch, capsys, override, words):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", *RUN, QUIET, override]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_rival_that_is_to_draw_is_refused_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "pictures")
    judged = ["evaluator=[reconstruction,scene_judge]", "evaluator.scene_judge.split=heldout_pears"]
    assert cli.main(["run", *RUN, QUIET, *judged, "rivals.noisy.evaluator=[reconstruction]"]) == 2
    err = capsys.readouterr().err
    assert "warning: scene_judge judges the split heldout_pears, which the dataset has not: it will stand aside" in err
    assert "rivals.noisy is to be judged by reconstruction, which judges drawings or reconstructions" in err
    assert not list((tmp_path / "runs").rglob("checkpoints"))


def test_a_rival_is_the_encoder_but_for_what_it_says():
    task = {"name": "encoder", "batch_size": 32, "optimizer": {"name": "muon", "lr": 1e-2}}
    config = {
        "stages": {"encoder": {"task": task, "trainer": {"max_steps": 7}}},
        "encoder": {"name": "clip", "width": 64},
        "evaluator": {},
        "rivals": {"small": {"encoder": {"width": 32}, "task": {"optimizer": {"lr": 1e-3}}}},
    }
    (rival,) = rivals(config)
    assert rival.component["width"] == 32
    assert rival.component["image_layers"] == 4
    optimizer = rival.task["optimizer"]
    assert (rival.task["batch_size"], optimizer["name"], optimizer["lr"]) == (32, "muon", 1e-3)
    assert rival.trainer["max_steps"] == 7
    assert config["stages"]["encoder"]["task"]["optimizer"]["lr"] == 1e-2


def test_figures_that_would_be_called_as_an_evaluator_of_the_run_are_refused():
    config = {
        "stages": {"encoder": {"task": {"name": "encoder"}, "trainer": {}}},
        "encoder": {"name": "clip"},
        "evaluator": {"pairs": {"name": "retrieval"}, "pairs_seen": {"name": "retrieval"}},
        "rivals": {"seen": {"evaluator": ["pairs"]}, "noisy": {"evaluator": ["pairs"]}},
    }
    found, (error,) = read_rivals(config)
    assert [rival.name for rival in found] == ["seen", "noisy"]
    assert error.where == "rivals.seen"
    assert "would be called pairs_seen, which is an evaluator of the run" in error.what
