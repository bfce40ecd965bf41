"""Weights in several files with an index: read as one, every tensor exactly once, and never a file elsewhere."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmgen import cli
from mmgen.checkpoint.exports import read_export
from mmgen.interop import sharded
from tests.interop import clip_files

INDEX = "model.safetensors.index.json"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers cuts it, and the same weights in one file."""
    place = tmp_path_factory.mktemp("sharded")
    model = clip_files.make_hugging_face()
    model.save_pretrained(place / "cut", max_shard_size="400KB")
    model.save_pretrained(place / "whole")
    for name in ("cut", "whole"):
        clip_files.save_vocabulary(place / name, "merges.txt")
    return place


@pytest.fixture
def folder(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the cut one, beside which commands run."""
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "folder"
    copy.mkdir()
    for file in (source / "cut").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def run(*arguments: str) -> int:
    return cli.main(["import", "clip", *arguments, "to=out"])


def change(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    index = json.loads((folder / INDEX).read_text())
    edit(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize("pickled", [False, True])
def test_shards_are_read_as_the_one_file_that_they_were(source, folder, capsys, pickled):
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    if pickled:
        names = {}
        for shard in shards:
            name = shard.name.replace("model", "pytorch_model").replace("safetensors", "bin")
            names[shard.name] = name
            torch.save(load_file(shard), folder / name)
            shard.unlink()
        index = json.loads((folder / INDEX).read_text())
        index["weight_map"] = {tensor: names[file] for tensor, file in index["weight_map"].items()}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        (folder / INDEX).unlink()
    assert run("folder") == 0, capsys.readouterr().err
    assert cli.main(["import", "clip", str(source / "whole"), "to=whole"]) == 0
    found, wanted = (read_export(name).parts["encoder"] for name in ("out", "whole"))
    assert found.config == wanted.config
    assert found.tensors.keys() == wanted.tensors.keys()
    assert all(torch.equal(found.tensors[name], wanted.tensors[name]) for name in wanted.tensors)
    parity = json.loads(Path("out/parity.json").read_text())
    held = {row["source"]: row["file"] for row in parity["tensors"]}
    index = json.loads(next(folder.glob("*.index.json")).read_text())["weight_map"]
    assert held == {name: index[name] for name in held}
    assert len({row["file"] for row in parity["tensors"]}) == len(shards)


def test_the_index_alone_names_the_files_beside_it(folder, capsys):
    assert run(f"folder/{INDEX}", "folder/config.json", "folder/merges.txt") == 0, capsys.readouterr().err


ELSEWHERE = ["../model.safetensors", "/etc/x.safetensors", "sub/x.safetensors", "..\\x.safetensors", "x.safetensors\n"]
NO_FILES = [".x.safetensors", "x.pkl", "x.safetensors.exe", "", "x\0.safetensors", "ü.safetensors", 3, None, ["x"]]


@pytest.mark.parametrize("name", [*ELSEWHERE, *NO_FILES])
def test_an_index_names_files_beside_it_and_nothing_else(folder, capsys, name):
    tensor = "logit_scale"
    change(folder, lambda names: names.update({tensor: name}))
    assert run("folder") == 5
    err = capsys.readouterr().err
    assert "error[MMG-K06]" in err
    assert "is no name of a file of weights beside it" in err
    assert not Path("out").exists()


def _move(folder: Path) -> None:
    change(folder, lambda names: names.update(logit_scale=next(f for f in names.values() if f != names["logit_scale"])))


def _forget(folder: Path) -> None:
    change(folder, lambda names: names.pop("logit_scale"))


def _invent(folder: Path) -> None:
    change(folder, lambda names: names.update(more=names["logit_scale"]))


def _repeat(folder: Path) -> None:
    first, second = sorted(folder.glob("model-*.safetensors"))[:2]
    name, tensor = next(iter(load_file(first).items()))
    save_file({**load_file(second), name: tensor}, second)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(_move, "and in model-"), (_forget, "and nowhere by"), (_invent, "1 are in no file"), (_repeat, "and in model-")],
)
def test_every_tensor_is_where_the_index_says_and_nowhere_else(folder, capsys, spoil, said):
    spoil(folder)
    assert run("folder") == 5
    err = capsys.readouterr().err
    assert "error[MMG-K01]" in err
    assert "the files beside it do not agree" in err
    assert said in err
    assert not Path("out").exists()


def _delete(folder: Path) -> None:
    next(folder.glob("model-*.safetensors")).unlink()


def _cut(folder: Path) -> None:
    shard = next(folder.glob("model-*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-7])


def _page(folder: Path) -> None:
    next(folder.glob("model-*.safetensors")).write_text("<!DOCTYPE html><html><body>404</body></html>")


def _index(text: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / INDEX).write_text(text)


@pytest.mark.parametrize(
    "spoil",
    [
        *(_delete, _cut, _page),
        *map(_index, ("", "<html>", "[]", "3", "{}", '{"weight_map": []}', '{"weight_map": {}}', "[" * 100_000)),
    ],
)
def test_what_is_damaged_or_missing_is_told(folder, capsys, spoil):
    spoil(folder)
    assert run("folder") == 5
    assert "error[MMG-" in capsys.readouterr().err
    assert not Path("out").exists()


def test_an_index_is_bounded(folder, capsys, monkeypatch):
    change(folder, lambda names: names.update({f"x{i}": f"x{i}.safetensors" for i in range(sharded.MAX_SHARDS)}))
    assert run("folder") == 5
    assert "more than 100,000 tensors, or 1,000 files" in capsys.readouterr().err
    (folder / INDEX).write_text(" " * sharded.MAX_INDEX + "{}")
    assert run("folder") == 5
    assert "error[MMG-" in capsys.readouterr().err
    assert not Path("out").exists()


def test_two_indices_are_one_too_many(folder, capsys):
    (folder / "again.index.json").write_bytes((folder / INDEX).read_bytes())
    assert run(f"folder/{INDEX}", "folder/again.index.json", "folder/merges.txt") == 5
    assert "are two indices of weights" in capsys.readouterr().err
