"""`mmgen evaluate` on pictures and encoders from elsewhere: folders of classes, several runs, weights of their own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

import mmgen
from mmgen.commands.comparison import varied
from mmgen.errors import CheckpointError
from mmgen.images import save_png
from mmgen.loading import PARTS, part_of
from mmgen.runs.directory import RunDirectory
from tests.tiny import files

MEAN_COLOURS = """
import torch

class MeanColours(torch.nn.Module):
    pretrained = True
    image_size = 8

    def __init__(self, *, text_tokenizer, image_size: int, gain: float = 1.0) -> None:
        super().__init__()
        assert text_tokenizer is None
        self.gain, self.image_size = gain, image_size

    def encode_image(self, images):
        return torch.nn.functional.normalize(self.probe_features(images), dim=-1)

    def probe_features(self, images):
        return self.gain * images.mean(dim=(2, 3))
"""
COLOURS = "encoder=mean_colours:MeanColours"  # it needs no training and reads no text


@pytest.fixture(scope="module", autouse=True)
def mean_colours(work) -> None:
    (work / "mean_colours.py").write_text(MEAN_COLOURS)


@pytest.fixture(scope="module")
def classes(tmp_path_factory) -> Path:
    """Sixty pictures in folders of three classes: flat and noisy, each near a colour of its own."""
    root, source = tmp_path_factory.mktemp("classes"), torch.Generator().manual_seed(0)
    for name, colour in {"red": (0.8, 0.2, 0.2), "green": (0.2, 0.7, 0.2), "dark_blue": (0.1, 0.1, 0.5)}.items():
        (root / name).mkdir()
        for i in range(20):
            image = torch.tensor(colour)[:, None, None] + 0.1 * torch.randn(3, 16, 16, generator=source)
            save_png(image.clamp(0, 1), root / name / f"{i}.png")
    return root


def evaluation(work: Path, name: str) -> dict:
    return json.loads((work / name / "evaluation.json").read_text())


def numbers(found: dict, name: str) -> dict:
    return {number["name"]: number for number in found["findings"][name]["numbers"]}


def test_a_folder_of_classes_is_judged_whole_by_zero_shot_and_in_halves_by_a_probe(call, work, classes):
    code, out, err = call(
        "evaluate", "run=runs/tiny", "evaluator=[zero_shot,linear_probe]", "dataset=folder", f"dataset.path={classes}",
        "dataset.image_size=16", "out=judged",
    )  # fmt: skip
    assert code == 0, err
    assert "not the pictures that the run was trained on" in out
    found = evaluation(work, "judged")
    zero_shot, probe = numbers(found, "zero_shot"), numbers(found, "linear_probe")
    assert zero_shot["zero_shot/class"]["n"] == 60
    assert "pictures of all, each among all 3 classes, of 3 captions each" in zero_shot["zero_shot/class"]["note"]
    assert zero_shot["zero_shot/class_single"]["n"] == 60
    assert probe["linear_probe/class"]["n"] == 30
    assert probe["linear_probe/class"]["value"] > 0.9, "three colours, by 32 features of a small encoder"
    rows = found["findings"]["zero_shot"]["tables"]["Zero-shot: class"]
    assert [row["class"] for row in rows] == ["dark blue", "green", "red"]
    assert "linear_probe/class" in out


def test_the_folders_of_a_benchmark_are_named_by_its_pack_and_its_captions_are_kept(
    call, work, classes, tmp_path, monkeypatch
):
    """As `imagenet/val/n01440764` by the prompts imagenet: 1,000 classes of 80 captions have a bar the first time."""
    monkeypatch.setenv("MMGEN_CACHE", str(tmp_path / "caches"))
    monkeypatch.setattr("mmgen.commands.classes.VERY_MANY", 9)
    for number, name in enumerate(("red", "green", "dark_blue")):
        shutil.copytree(classes / name, tmp_path / "val" / f"n{number:02}")
    pack = tmp_path / "colours.yaml"
    templates = '["a {} bar", "{}", "the {} bar and all that is beside it, far and near"]'
    pack.write_text(f"labels: [[crimson, red], green, blue]\ntemplates: {templates}\n")
    judge = [
        "evaluate", "run=runs/tiny", "evaluator=[zero_shot]", f"evaluator.zero_shot.prompts={pack}", "dataset=folder",
        f"dataset.path={tmp_path}", "dataset.image_size=16", "evaluator.zero_shot.split=val",
    ]  # fmt: skip
    code, _, err = call(*judge, "out=first")
    assert code == 0, err
    assert "encoding: 12/12 captions" in err
    assert "4 captions are longer than the encoder's 12 tokens, and were cut" in err
    assert f"the class features are kept in {tmp_path}/caches/classes" in err
    found = evaluation(work, "first")
    assert [row["class"] for row in found["findings"]["zero_shot"]["tables"]["Zero-shot: class"]] == [
        "crimson", "green", "blue",
    ]  # fmt: skip
    code, _, err = call(*judge, "out=second")
    assert code == 0, err
    assert "encoding:" not in err
    assert "4 captions are longer than the encoder's 12 tokens, and were cut" in err  # what was kept was cut as well
    assert evaluation(work, "second")["findings"] == found["findings"]


def test_an_encoder_that_comes_with_its_weights_is_judged_without_a_run(call, work, classes):
    code, out, err = call(
        "evaluate", COLOURS, "encoder.gain=2", "evaluator=[linear_probe,zero_shot]", "dataset=folder",
        f"dataset.path={classes}", "dataset.image_size=8", "out=alone",
    )  # fmt: skip
    assert code == 0, err
    found = evaluation(work, "alone")
    assert found["run"] == "mean_colours:MeanColours"
    assert numbers(found, "linear_probe")["linear_probe/class"]["value"] == 1
    assert found["findings"]["zero_shot"]["stood_aside"] == "the encoder reads pictures only, no captions"
    assert "zero_shot stood aside" in out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["encoder=clip", "evaluator=[linear_probe]"], "MMG-C38", "has no weights of its own"),
        ([COLOURS, "run=runs/tiny", "evaluator=[linear_probe]"], "MMG-C38", "run=runs/tiny names one"),
        ([COLOURS, "evaluator=[zero_shot]"], "MMG-D27", "reads pictures only"),
        (["run=runs/tiny", "evaluator=[linear_probe]", "evaluator.linear_probe.attribute=size"], "MMG-D27", "size"),
        (["runs=[runs/tiny]", "evaluator=[retrieval]"], "MMG-C39", "two runs or more"),
        (["runs=[runs/tiny,runs/tiny]", "evaluator=[retrieval]"], "MMG-C39", "two runs or more"),
        (["runs=[runs/tiny,runs/b]", "run=runs/tiny", "evaluator=[retrieval]"], "MMG-C39", "run= is given too"),
        (["run=runs/tiny", "evaluator=[zero_shot]", "evaluator.zero_shot.templates=[a cat]"], "MMG-C04", "no place"),
        (["runs=[runs/tiny]", "over=encoder", "evaluator=[retrieval]"], "MMG-C39", "runs= is given too"),
        ([COLOURS, "over=encoder", "evaluator=[linear_probe]"], "MMG-C39", "encoder= is given too"),
        (["run=runs/tiny", "over=encoder", "encoder_from=runs/b", "evaluator=[retrieval]"], "MMG-C39", "encoder_from="),
        (["run=runs/tiny", "evaluator=[retrieval]", "evaluator.retrieval.max_pictures=0"], "MMG-C02", "must be ≥ 1"),
        (["run=runs/tiny", "evaluator=[zero_shot]", "evaluator.zero_shot.prompts=imagnet"], "MMG-C03", "'imagnet' in"),
        (["run=runs/tiny/tokenizer", "over=generator", "evaluator=[reconstruction]"], "MMG-C69", "no training"),
    ],
)
def test_what_cannot_be_judged_is_told_and_leaves_nothing(call, work, classes, arguments, code, said):
    before = files(work)
    status, _, err = call("evaluate", *arguments, "dataset=folder", f"dataset.path={classes}", "dataset.image_size=16")
    assert status != 0
    assert f"error[{code}]" in err, err
    assert said in err
    assert files(work) == before


def test_a_folder_of_one_class_or_with_one_picture_of_each_cannot_be_judged(call, work, classes, tmp_path):
    for name in ("red", "green"):
        (tmp_path / name).mkdir()
        shutil.copy(classes / name / "0.png", tmp_path / name)
    judge = ["evaluate", "run=runs/tiny", "evaluator=[linear_probe]", "dataset=folder", "dataset.image_size=16"]
    status, _, err = call(*judge, f"dataset.path={tmp_path}")
    assert status != 0
    assert "error[MMG-D27]" in err
    shutil.rmtree(tmp_path / "green")
    status, _, err = call(*judge, f"dataset.path={tmp_path}")
    assert status != 0
    assert "error[MMG-D03]" in err


def test_several_runs_stand_side_by_side_over_the_option_that_tells_them_apart(call, work):
    for number, share in enumerate((0.3, 0.0)):
        run = work / "runs" / f"noisy-{number}"
        shutil.copytree(work / "runs" / "tiny", run)
        config = RunDirectory(run).read_config()
        config["stages"]["encoder"]["task"]["alternative_captions"] = share
        (run / "config.yaml").write_text(yaml.safe_dump(config))
    code, _, err = call("evaluate", "runs=[runs/noisy-0,runs/noisy-1]", "evaluator=[retrieval]", "out=compared")
    assert code == 0, err
    found = json.loads((work / "compared" / "comparison.json").read_text())
    assert found["option"].endswith("alternative_captions")
    assert [(run["run"], run["value"]) for run in found["runs"]] == [("runs/noisy-1", 0.0), ("runs/noisy-0", 0.3)]
    page = (work / "compared" / "comparison.html").read_text()
    assert page.count("<svg") == len(found["runs"][0]["figures"]) == 6
    assert "over stages.encoder.task.alternative_captions" in page
    for run in ("noisy-0", "noisy-1"):
        assert len(list((work / "runs" / run / "evaluations").iterdir())) == 1
        shutil.rmtree(work / "runs" / run)


def test_a_run_is_judged_as_it_was_at_each_checkpoint_that_it_kept(call, work):
    """The last one is the run itself."""
    judge = ["evaluate", "run=runs/tiny", "evaluator=[retrieval]", "evaluator.retrieval.split=val"]
    code, out, err = call(*judge, "over=encoder", "out=over")
    assert code == 0, err
    assert err.count("reading: 60/60") == 1
    assert "encoder at step 20 of 24" in out
    found = json.loads((work / "over/comparison.json").read_text())
    assert (found["run"], found["option"]) == ("runs/tiny", "minutes of the encoder's training")
    judged = [json.loads(path.read_text()) for path in (work / "runs/tiny/evaluations").glob("*/evaluation.json")]
    assert {Path(each["encoder_from"]).name for each in judged} == {"step-000020", "step-000024"}
    assert [run["run"] for run in found["runs"]] == ["step 20", "step 24"]
    seconds = RunDirectory(work / "runs/tiny/encoder").status().seconds
    assert [run["value"] for run in found["runs"]] == pytest.approx([seconds * 20 / 24 / 60, seconds / 60], abs=0.01)
    assert "<svg" in (work / "over/comparison.html").read_text()
    assert call(*judge, "out=itself")[0] == 0
    own = numbers(evaluation(work, "itself"), "retrieval")
    assert {figure["name"]: figure["value"] for figure in found["runs"][1]["figures"]} == {
        name: number["value"] for name, number in own.items()
    }
    shutil.rmtree(work / "runs/tiny/evaluations")  # the other tests' run has none


def test_a_checkpoint_holds_what_would_have_been_published(work):
    run = work / "runs/tiny"
    published = mmgen.load(str(run))
    steps = run / "generator/checkpoints"
    last = mmgen.load(str(run), generator_from=str(steps / "step-000024"))
    before = mmgen.load(str(run), generator_from=str(steps / "step-000020"))
    assert last.fingerprints == published.fingerprints
    assert part_of(steps / "step-000020", "generator", "generator_from").info["step"] == 20
    assert {kind for kind in PARTS if before.fingerprints[kind] != last.fingerprints[kind]} == {"generator"}
    drawn = [model.draw(["a red bar"], num_images=2, seed=3)[0].image_tokens for model in (published, last, before)]
    assert torch.equal(drawn[0], drawn[1])
    alone = mmgen.load(str(steps / "step-000020"), tokenizer_from=str(run), encoder_from=str(run))
    assert torch.equal(alone.draw(["a red bar"], num_images=2, seed=3)[0].image_tokens, drawn[2])


def test_a_checkpoint_of_a_training_that_has_not_ended_is_no_part(work, tmp_path):
    shutil.copytree(work / "runs/tiny/generator/checkpoints", tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match="a training that has not ended"):
        mmgen.load(str(tmp_path / "checkpoints/step-000020"))
    shutil.copytree(work / "runs/tiny/encoder/model", tmp_path / "model")
    with pytest.raises(CheckpointError, match="no checkpoint of the part beside it"):
        mmgen.load(str(tmp_path / "checkpoints/step-000020"))


def test_an_encoder_that_comes_with_its_weights_stands_beside_runs_on_the_same_pictures(call, work, classes):
    for number, share in enumerate((0.3, 0.0)):
        run = work / "runs" / f"rivalled-{number}"
        shutil.copytree(work / "runs" / "tiny", run)
        config = RunDirectory(run).read_config()
        config["dataset"] = {"name": "folder", "path": str(classes), "image_size": 16}
        config["stages"]["encoder"]["task"]["alternative_captions"] = share
        (run / "config.yaml").write_text(yaml.safe_dump(config))
    runs = ["runs/rivalled-0", "runs/rivalled-1"]
    judge = ["evaluate", COLOURS, "evaluator=[linear_probe,retrieval]", "evaluator.linear_probe.max_pictures=30"]
    code, _, err = call(*judge, f"runs=[{','.join(runs)}]", "out=rivals")
    assert code == 0, err
    found = json.loads((work / "rivals" / "comparison.json").read_text())
    assert found["option"].endswith("alternative_captions")
    rivals = [(run["run"], run["value"]) for run in found["runs"]]
    assert rivals == [(runs[1], 0.0), (runs[0], 0.3), ("mean_colours:MeanColours", None)]
    names = [{figure["name"]: figure["n"] for figure in run["figures"]} for run in found["runs"]]
    assert {name: n for name, n in names[0].items() if "retrieval" not in name} == names[2]
    assert names[2]
    page = (work / "rivals" / "comparison.html").read_text()
    assert page.count("<svg") == len(names[0])
    own = json.loads(next((work / "runs" / "rivalled-0" / "evaluations").glob("*/evaluation.json")).read_text())
    alone = json.loads(max((work / "evaluations").glob("*linear-probe-retrieval/evaluation.json")).read_text())
    assert alone["run"] == "mean_colours:MeanColours"
    for key in ("dataset", "evaluator", "seed"):
        assert alone[key] == own[key]
    code, _, err = call(*judge, f"runs=[{runs[0]}]", "out=one-rival")
    assert code == 0, err
    assert len(json.loads((work / "one-rival" / "comparison.json").read_text())["runs"]) == 2
    for run in runs:
        shutil.rmtree(work / run)
    shutil.rmtree(work / "evaluations")


def test_the_option_that_varies():
    assert varied([{"a": 1, "b": 0.1}, {"a": 1, "b": 0.3}]) == ("b", [0.1, 0.3])
    assert varied([{"a": 1, "b": 0.1}, {"a": 2, "b": 0.3}]) == ("", [None, None])
    assert varied([{"a": "x"}, {"a": "y"}]) == ("", [None, None])
    assert varied([{"a": True}, {"a": False}]) == ("", [None, None])
    assert varied([{"a": 1}, {"a": 1}]) == ("", [None, None])
    assert varied([{"a": 1}, {}]) == ("", [None, None])
