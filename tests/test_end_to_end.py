"""The main job on one's own pictures: from a folder to a report, a second call, and an export for others."""

from __future__ import annotations

import json
import shutil

import torch

import mmgen as package
from mmgen.images import decode, save_png
from tests.tiny import QUIET, RUN, STEPS, files, mmgen


def test_a_run_leaves_a_report_a_sheet_and_what_was_found(finished):
    status = json.loads((finished / "status.json").read_text())
    assert (status["state"], status["stage"]) == ("finished", None)
    found = json.loads((finished / "evaluation.json").read_text())
    values = {n["name"]: n["value"] for f in found["findings"].values() for n in f["numbers"]}
    assert values["reconstruction/psnr"] > 8
    assert {"reconstruction/ssim", "retrieval/caption_to_picture_r1"} <= values.keys()
    assert decode(finished / "sheet.png").shape[1] > 100
    report = (finished / "report.html").read_text()
    assert report.startswith("<!DOCTYPE html>") or report.startswith("<!doctype html>")
    for drawing in found["drawings"]:
        assert drawing["caption"] in report
        assert all((finished / picture).is_file() for picture in drawing["pictures"])
    lineage = json.loads((finished / "lineage.json").read_text())
    assert lineage["parts"].keys() == {"tokenizer", "generator", "encoder"}
    tokenizer = lineage["parts"]["tokenizer"]["fingerprint"]
    assert lineage["parts"]["generator"]["requires"] == {"tokenizer": tokenizer}
    assert (lineage["data"]["name"], lineage["data"]["size"]) == ("folder", 60)


def test_every_stage_leaves_its_part_its_checkpoints_and_its_curve(finished):
    for kind in ("tokenizer", "generator", "encoder"):
        status = json.loads((finished / kind / "status.json").read_text())
        assert (status["state"], status["step"]) == ("finished", STEPS)
        assert sorted(p.name for p in (finished / kind / "checkpoints").iterdir()) == ["step-000020", "step-000024"]
        rows = [json.loads(line) for line in (finished / kind / "metrics.jsonl").read_text().splitlines()]
        losses = [row["train/loss"] for row in rows if "train/loss" in row]
        assert len(losses) == STEPS
        assert losses[-1] < losses[0]
        assert sum("val/loss" in row for row in rows) == 3
        parts = {"config.json", "manifest.json", "model.safetensors"}
        assert {p.name for p in (finished / kind / "model").iterdir()} - {"text_tokenizer.json"} == parts


def test_measures_that_need_what_a_folder_lacks_step_aside(finished):
    found = json.loads((finished / "evaluation.json").read_text())["findings"]
    assert found["zero_shot"]["stood_aside"] == "the dataset declares no classes and no templates"
    assert found["reconstruction"]["stood_aside"] is None
    assert "the dataset declares no classes and no templates" in (finished / "report.html").read_text()


def test_a_second_call_finds_everything_done(work):
    shutil.copytree(work / "runs/tiny", work / "runs/again", dirs_exist_ok=True)
    before = files(work / "runs/again")
    result = mmgen("run", "run.name=again", *RUN, QUIET, cwd=work)
    assert result.returncode == 0, result.stderr
    assert "steps" not in result.stderr
    assert "drawing" not in result.stderr
    assert "runs/again/sheet.png" in result.stdout
    assert "runs/again/report.html" in result.stdout
    after = files(work / "runs/again")
    told = {"status.json", ".lock", "report.html"}
    assert {name: file for name, file in after.items() if name not in told} == {
        name: file for name, file in before.items() if name not in told
    }
    assert json.loads((work / "runs/again/status.json").read_text())["state"] == "finished"
    for number in json.loads((work / "runs/again/evaluation.json").read_text())["findings"]["reconstruction"][
        "numbers"
    ]:
        assert number["name"] in result.stdout


def test_other_pictures_in_the_folder_are_another_run(work, call):
    shutil.copytree(work / "pictures", work / "more")
    save_png(torch.zeros(3, 24, 24), work / "more/black.png")
    (work / "more/black.txt").write_text("nothing at all")
    (work / "pictures").rename(work / "aside")
    (work / "more").rename(work / "pictures")
    try:
        code, _, err = call("run", "run.name=tiny", *RUN, QUIET)
    finally:
        (work / "pictures").rename(work / "more")
        (work / "aside").rename(work / "pictures")
    assert code == 2
    assert "data " in err
    assert "made with another config" in err


def test_an_export_is_all_that_another_machine_needs(work, call, tmp_path):
    """Copied to where there is no run, it draws and classifies bit for bit as the run does."""
    result = mmgen("export", "runs/tiny", "exported", cwd=work)
    assert result.returncode == 0, result.stderr
    assert "mmgen.load('exported')" in result.stdout
    away = shutil.copytree(work / "exported", tmp_path / "away")
    ours, theirs = package.load(str(work / "runs/tiny")), package.load(str(away))
    one, other = (m.generate("a red bar", num_images=4, seed=9) for m in (ours, theirs))
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.scores, other.scores)
    labels = ["a red bar", "a blue square"]
    assert ours.classify(work / "red.png", labels) == theirs.classify(work / "red.png", labels)
    export = json.loads((away / "export.json").read_text())
    assert export["data"]["name"] == "folder"
    assert export["sampler"]["name"] == "autoregressive"
    code, _, err = call("export", "runs/tiny", "exported")
    assert code == 5
    assert "not overwritten" in err
