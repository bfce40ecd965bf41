"""A part comes back as it was written, and nothing that could run code comes in."""

import hashlib
import json

import pytest
import torch

from mmgen.checkpoint.parts import Part, check_requires, read_part, write_part
from mmgen.errors import CheckpointError


@pytest.fixture
def model(tmp_path, parts):
    return tmp_path / "run" / "generator" / "model"


def rewrite(directory, name, content):
    """Changes a file and makes the manifest fit: what someone who means harm would do."""
    (directory / name).write_bytes(content)
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["files"][name] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (directory / "manifest.json").write_text(json.dumps(manifest))


def edit(directory, **changes):
    config = json.loads((directory / "config.json").read_text())
    rewrite(directory, "config.json", json.dumps({**config, **changes}).encode())


def refused(directory, **options):
    with pytest.raises(CheckpointError) as caught:
        read_part(directory, **options)
    assert caught.value.exit_code == 5
    assert len(caught.value.render().splitlines()) <= 6
    return caught.value


def test_a_part_comes_back_as_it_was_written(model, parts):
    part = read_part(model)
    written = parts["generator"]
    for name in ("kind", "config", "arguments", "text_tokenizer", "requires", "info", "fingerprint"):
        assert getattr(part, name) == getattr(written, name), name
    assert part.arguments == {"image_size": 32, "grid": [8, 8]}
    assert part.info == {"step": 800, "val/loss": None}
    assert part.tensors.keys() == written.tensors.keys()
    for name, tensor in written.tensors.items():
        assert part.tensors[name].dtype == tensor.dtype
        assert torch.equal(part.tensors[name], tensor)
    assert sorted(p.name for p in model.iterdir()) == [
        "config.json",
        "manifest.json",
        "model.safetensors",
        "text_tokenizer.json",
    ]


def test_the_fingerprint_is_of_what_the_part_computes(tmp_path):
    def fingerprint(**changes):
        fields = {
            "kind": "encoder",
            "config": {"name": "clip", "a": 1, "b": 2},
            "arguments": {"image_size": 32},
            "tensors": {"x": torch.ones(2, 3), "y": torch.zeros(1)},
            "text_tokenizer": "{}",
            "info": {"step": 1},
        }
        return write_part(tmp_path / "part", **{**fields, **changes}).fingerprint

    first = fingerprint()
    assert len(first) == 64
    assert first == fingerprint(info={"step": 2}, config={"b": 2, "name": "clip", "a": 1}, requires={"tokenizer": "f"})
    assert first == fingerprint(tensors={"y": torch.zeros(1), "x": torch.ones(3, 2).t()})
    others = [
        fingerprint(config={"name": "clip", "a": 1, "b": 3}),
        fingerprint(arguments={"image_size": 64}),
        fingerprint(text_tokenizer='{"a": 1}'),
        fingerprint(text_tokenizer=None),
        fingerprint(tensors={"x": torch.ones(3, 2), "y": torch.zeros(1)}),
        fingerprint(tensors={"x": torch.ones(2, 3), "y": torch.ones(1)}),
        fingerprint(tensors={"x": torch.ones(2, 3), "z": torch.zeros(1)}),
        fingerprint(tensors={"x": torch.ones(2, 3), "y": torch.zeros(1, dtype=torch.int32)}),
        fingerprint(kind="generator"),
    ]
    assert len({first, *others}) == 10


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "os:system",
        "../../x",
        "torch.hub.load",
        "a/b",
        "",
        "A",
        "a@",
        "@a",
        "a@b@c",
        "a b",
        "vq\n",
        3,
        None,
    ],
)
def test_only_registry_names_name_a_component(model, name):
    edit(model, config={"name": name})
    assert "is no registry name" in refused(model).what
    edit(model, config={"name": "vq", "inner": [{"name": name}]})
    assert "is no registry name" in refused(model).what


@pytest.mark.parametrize("name", ["vq", "my-vq_2", "vq@mmgen-lightning", "vq@some.dist"])
def test_registry_names_are_taken(model, name):
    edit(model, config={"name": name})
    assert read_part(model).config["name"] == name


def test_a_class_of_ones_own_is_taken_from_ones_own_run_only(model):
    edit(model, config={"name": "my_module:MyClass"})
    assert "is no registry name" in refused(model).what
    assert read_part(model, trusted=True).config["name"] == "my_module:MyClass"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"config": {}}, "has no name"),
        ({"config": {"name": "vq", "_target_": "os.system"}}, "underscore"),
        ({"config": {"name": "vq", "path": "${oc.env:SECRET}"}}, "interpolation"),
        ({"arguments": {"_x": 1}}, "underscore"),
        ({"info": {"a": "${b}"}}, "interpolation"),
        ({"more": 1}, "'more'"),
        ({"config": []}, "'config'"),
        ({"requires": {"tokenizer": 3}}, "fingerprints"),
        ({"kind": "sampler"}, "kind 'sampler'"),
        ({"format": 2}, "format"),
        ({"format": True}, "'format'"),
    ],
)
def test_a_config_of_another_form_is_refused(model, changes, reason):
    edit(model, **changes)
    assert reason in refused(model).what


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"[]"),
        ("config.json", b"\x80\x04pickle"),
        ("config.json", b'{"format": 1, "format": 1}'),
        ("config.json", b" " * 1_000_001),
        ("text_tokenizer.json", b"[]"),
        ("text_tokenizer.json", b"\xff"),
        ("text_tokenizer.json", b'{"a": 1, "a": 2}'),
        ("model.safetensors", b""),
        ("model.safetensors", b"PK\x03\x04" + bytes(100)),
        ("model.safetensors", b"<html></html>"),
    ],
)
def test_files_of_another_form_are_refused_though_the_manifest_fits(model, name, content):
    rewrite(model, name, content)
    assert name in refused(model).render()


@pytest.mark.parametrize("name", ["evil.pkl", "model.ckpt", "tokenizer/model.safetensors"])
def test_no_other_file_is_opened(model, name):
    (model / "tokenizer").mkdir()
    rewrite(model, name, b"x")
    assert "file name" in refused(model).what


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_the_manifest_does_not_list_is_missing(model, name):
    manifest = json.loads((model / "manifest.json").read_text())
    del manifest["files"][name]
    (model / "manifest.json").write_text(json.dumps(manifest))
    assert f"it has no {name}" in refused(model).render()


def test_a_part_that_was_trained_with_another_is_refused(parts):
    check_requires(parts)
    check_requires({"generator": parts["generator"]})  # what is not there cannot be compared
    other = Part(**{**vars(parts["tokenizer"]), "fingerprint": "f" * 64})
    with pytest.raises(CheckpointError) as caught:
        check_requires({**parts, "tokenizer": other})
    assert caught.value.code == "MMG-K03"
    assert parts["tokenizer"].fingerprint[:12] in caught.value.what
    assert "fff" in caught.value.what
