"""An export holds all three parts and opens only if all of them are whole and fit."""

import hashlib
import json
import os
import shutil

import pytest
import torch

from mmgen.checkpoint.exports import is_export, read_export, write_export
from mmgen.checkpoint.parts import Part, read_part
from mmgen.errors import CheckpointError


def refused(directory):
    with pytest.raises(CheckpointError) as caught:
        read_export(directory)
    assert caught.value.exit_code == 5
    return caught.value


def rewrite(directory, name, content):
    (directory / name).write_bytes(content)
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (directory / "manifest.json").write_text(json.dumps(manifest))


def test_an_export_comes_back_as_it_was_written(export, parts):
    back = read_export(export)
    assert back.parts.keys() == parts.keys()
    for kind, part in parts.items():
        assert back.parts[kind].fingerprint == part.fingerprint
        assert torch.equal(back.parts[kind].tensors["weight"], part.tensors["weight"])
        assert read_part(export / kind).fingerprint == part.fingerprint  # each by itself, for `tokenizer_from=EXPORT`
    assert back.sampler == {"name": "autoregressive", "top_k": 100}
    assert back.classes == {"tone": ["light", "dark"]}
    assert back.templates == ["{name} with {tone} skin tone"]
    assert is_export(export)
    assert not is_export(export / "tokenizer")


def test_an_export_does_not_depend_on_where_it_lies(export, tmp_path):
    moved = tmp_path / "elsewhere" / "bird"
    shutil.copytree(export, moved)
    shutil.rmtree(export)
    assert set(read_export(moved).parts) == {"tokenizer", "generator", "encoder"}
    link = tmp_path / "latest"
    link.symlink_to(moved)  # the user's own link is the user's business
    assert read_export(link).data["name"] == "emoji"


def test_nothing_is_overwritten(export, parts, tmp_path):
    for taken in (export, tmp_path / "run"):
        before = sorted(os.listdir(taken))
        with pytest.raises(CheckpointError, match="not empty") as caught:
            write_export(taken, parts=parts, data={}, sampler={"name": "autoregressive"})
        assert caught.value.code == "MMG-K07"
        assert sorted(os.listdir(taken)) == before


def test_what_could_not_be_opened_is_not_written(parts, tmp_path):
    other = Part(**{**vars(parts["tokenizer"]), "fingerprint": "f" * 64})
    mine = Part(**{**vars(parts["encoder"]), "config": {"name": "my_module:MyEncoder"}})
    for wrong, code in (({**parts, "tokenizer": other}, "MMG-K03"), ({**parts, "encoder": mine}, "MMG-K06")):
        with pytest.raises(CheckpointError) as caught:
            write_export(tmp_path / "new", parts=wrong, data={}, sampler={"name": "autoregressive"})
        assert caught.value.code == code
    assert not (tmp_path / "new").exists()


def test_a_part_from_another_run_is_refused(export):
    torch.manual_seed(1)
    part = read_part(export / "tokenizer")
    config = json.loads((export / "tokenizer" / "config.json").read_text())
    config["config"]["num_layers"] = 3
    rewrite(export, "tokenizer/config.json", json.dumps(config).encode())
    error = refused(export)
    assert error.code == "MMG-K03"
    assert part.fingerprint[:10] in error.what


@pytest.mark.parametrize("name", ["export.json", "tokenizer/model.safetensors", "encoder/text_tokenizer.json"])
def test_damage_anywhere_is_detected(export, name):
    data = bytearray((export / name).read_bytes())
    data[len(data) // 2] ^= 1
    (export / name).write_bytes(data)
    error = refused(export)
    assert error.code == "MMG-K01"
    assert name in error.what
    (export / name).unlink()
    assert f"{name} is missing" in refused(export).what


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sampler": {"name": "os.system"}}, "no registry name"),
        ({"sampler": {"name": "autoregressive", "_target_": "x"}}, "underscore"),
        ({"data": {"path": "${oc.env:HOME}"}}, "interpolation"),
        ({"templates": [1]}, "lists of strings"),
        ({"classes": {"tone": "dark"}}, "lists of strings"),
        ({"classes": []}, "'classes'"),
        ({"callbacks": []}, "'callbacks'"),
    ],
)
def test_a_head_of_another_form_is_refused(export, changes, reason):
    head = json.loads((export / "export.json").read_text())
    rewrite(export, "export.json", json.dumps({**head, **changes}).encode())
    assert reason in refused(export).what


@pytest.mark.parametrize("name", ["tokenizer/model.ckpt", "setup.py", "sampler.json"])
def test_no_other_file_is_opened(export, name):
    rewrite(export, name, b"x")
    assert "file name" in refused(export).what


def test_a_part_in_the_place_of_another_is_refused(export):
    for name in ("model.safetensors", "config.json"):
        rewrite(export, f"encoder/{name}", (export / "tokenizer" / name).read_bytes())
    assert "it holds a tokenizer" in refused(export).what


def test_a_part_alone_is_no_export(export):
    assert refused(export / "tokenizer").code == "MMG-K06"
    assert "nothing lies at" in refused(export / "nowhere").what
