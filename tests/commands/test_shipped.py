"""A trained model that a plugin brings: found by its name, and where nothing was trained here yet."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import mmgen as package
from mmgen import packages
from mmgen.checkpoint.exports import write_export
from mmgen.loading import read_parts, recorded_sampler


@pytest.fixture
def shipped(work: Path, install, call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A plugin with the tiny run's three parts in eight bits, and a directory without any run."""
    names = ("toy", "toy_blind", "gone")
    every = packages.entry_points  # without those of other plugins that lie here
    ours = {f"toy_models.{name}" for name in names}
    monkeypatch.setattr(packages, "entry_points", lambda group: [e for e in every(group=group) if e.value in ours])
    site = install("toy-models", {"mmgen.models": {name: f"toy_models.{name}" for name in names}}, {})
    (site / "toy_models").mkdir()
    (site / "toy_models" / "__init__.py").write_text("raise RuntimeError('imported')")
    code, out, err = call("export", "runs/tiny", str(site / "toy_models" / "toy"), "precision=eight")
    assert code == 0, err
    assert "tokenizer, generator, encoder" in out
    parts = {kind: part for kind, part in read_parts("runs/tiny").items() if kind != "encoder"}
    write_export(site / "toy_models" / "toy_blind", parts=parts, data={}, sampler=recorded_sampler("runs/tiny"))
    shutil.copy(work / "red.png", tmp_path / "red.png")
    monkeypatch.chdir(tmp_path)
    return site / "toy_models" / "toy"


def test_it_draws_redraws_and_classifies_before_anything_was_trained(shipped, call, tmp_path):
    for number, (command, told) in enumerate(
        [
            (["sample", "a red bar", "num_images=2", "keep=1", "out=drawn"], "kept 1 of 2"),
            (["redraw", "red.png", "a blue bar", "row=8", "num_images=2", "keep=1", "out=redrawn"], "kept 1 of 2"),
            (["classify", "red.png", "red", "blue"], "red"),
        ]
    ):
        code, out, err = call(*command)
        assert code == 0, err
        assert told in out, number
        assert "the model 'toy' of toy-models, since there is no finished run under runs/" in err
    assert json.loads((tmp_path / "drawn/samples.json").read_text())[0]["caption"] == "a red bar"


def test_it_has_a_name_wherever_a_run_is_named(shipped, call, tmp_path):
    assert package.load("toy").fingerprints == package.load(str(shipped)).fingerprints
    code, _, err = call("classify", "red.png", "red", "blue", "run=toy")
    assert (code, err) == (0, "")
    code, _, err = call("sample", "a red bar", "num_images=1", "keep=1", "run=toy", "encoder_from=toy", "out=named")
    assert code == 0, err
    assert "the model" not in err
    (tmp_path / "toy").mkdir()
    err = call("classify", "red.png", "red", "blue", "run=toy")[2]
    assert "holds no finished run" in err, "a directory here goes first"


def test_two_models_of_a_plugin_share_the_encoder(shipped, call, tmp_path):
    """One of them has none; elsewhere it is a model like any other."""
    code, _, err = call("sample", "a red bar", "num_images=2", "keep=1", "run=toy_blind", "out=drawn")
    assert code == 0, err
    record = json.loads((tmp_path / "drawn/samples.json").read_text())
    assert "encoder" in record[0]["parts"]
    shutil.copytree(shipped.parent / "toy_blind", tmp_path / "copy")
    code, _, err = call("sample", "a red bar", "num_images=2", "keep=1", "run=copy", "out=again")
    assert code == 0, err
    assert json.loads((tmp_path / "again/samples.json").read_text())[0]["scores"] is None


def test_a_run_of_one_s_own_goes_first(shipped, call, work, monkeypatch):
    monkeypatch.chdir(work)
    code, _, err = call("classify", "red.png", "red", "blue")
    assert (code, err) == (0, "")


def test_it_writes_no_captions_and_says_so(shipped, call):
    code, _, err = call("caption", "red.png")
    assert code == 2
    assert "there is no finished run with a trained generator under runs/" in err


def test_it_is_listed(shipped, call):
    code, out, _ = call("plugins", "list")
    assert code == 0
    assert "model  toy_models.toy of toy-models" in out
