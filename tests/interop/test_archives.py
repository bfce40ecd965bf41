"""Files of torch.save: what torch wrote is read as it was, and nothing that means harm does any."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mmgen.errors import CheckpointError
from mmgen.interop import archives
from mmgen.interop.archives import open_archive
from tests.interop import hostile

FORMATS = {"zip": True, "legacy": False}
CORPUS = hostile.corpus()


def read(path: Path) -> dict[str, Tensor]:
    with open_archive(path) as archive:
        return archive.load(archive.weights)


def saved(path: Path, value: Any, kind: str = "zip", **options: Any) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=FORMATS[kind], **options)
    return path


def module() -> nn.Module:
    """With parameters, buffers, a shared weight, a child that is none, and classes that a reader need not have."""
    torch.manual_seed(0)
    inner = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4), up=nn.Upsample(scale_factor=2)))
    whole = nn.ModuleDict({"inner": inner, "attention": nn.MultiheadAttention(8, 2), "nothing": nn.Identity()})
    whole["attention"].register_module("none", None)
    whole["tied"] = nn.Linear(8, 8)
    whole["tied"].weight = whole["attention"].out_proj.weight
    return whole


def assert_same(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
        assert found[name].is_contiguous()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickled_module_is_read_without_its_classes(tmp_path, kind, protocol):
    whole = module()
    path = saved(tmp_path / "module.pkl", whole, kind, pickle_protocol=protocol)
    assert_same(read(path), whole.state_dict())


@pytest.mark.parametrize("kind", FORMATS)
def test_a_training_checkpoint_is_read_whatever_else_is_in_it(tmp_path, kind):
    whole = module()
    optimizer = torch.optim.Adam(whole.parameters())
    whole["inner"](torch.rand(1, 3, 8, 8)).sum().backward()
    optimizer.step()
    checkpoint = {
        "state_dict": whole.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "callbacks": {torch.optim.Adam: {"best": np.float64(1.5), "path": Path("x"), "when": torch.device("cpu")}},
        "rng": np.random.default_rng(0).integers(0, 9, 5),
        "objects": np.array([{"a": 1}, None], dtype=object),
        "hyper_parameters": {"shape": torch.Size([2, 3]), "kinds": {1, 2}, "raw": b"bytes", "dtype": torch.float16},
    }
    assert_same(read(saved(tmp_path / "last.ckpt", checkpoint, kind)), whole.state_dict())


@pytest.mark.parametrize("kind", FORMATS)
def test_every_dtype_and_view(tmp_path, kind):
    base = torch.arange(24)
    tensors = {
        str(dtype): base.to(dtype)
        for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32)
    }
    tensors |= {str(dtype): base.to(dtype) for dtype in (torch.int16, torch.int8, torch.uint8, torch.bool)}
    whole = base.view(4, 6).float()
    tensors |= {"t": whole.T, "part": whole[1:3, 2:5], "step": whole[:, ::2], "number": whole[2, 3], "whole": whole}
    tensors |= {"empty": torch.empty(0, 5), "parameter": nn.Parameter(whole.clone())}
    found = read(saved(tmp_path / "tensors.pt", tensors, kind))
    assert_same(found, {name: tensor.detach() for name, tensor in tensors.items()})
    found["whole"].zero_()
    assert found["part"].sum() > 0  # they shared memory in the file, and share none now


def test_the_file_is_known_by_its_hash(tmp_path):
    import hashlib

    path = saved(tmp_path / "w.pt", {"w": torch.ones(3)})
    with open_archive(path) as archive:
        assert archive.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert archive.size == path.stat().st_size


@pytest.fixture(scope="module")
def opened(tmp_path_factory) -> dict[str, Any]:
    """What became of every hostile file, opened in a process that listens to what Python does."""
    directory = tmp_path_factory.mktemp("hostile")
    (directory / "good").write_bytes(hostile.archive(hostile.state(hostile.tensor())))
    for number, content in enumerate(CORPUS.values()):
        (directory / str(number)).write_bytes(content)
    command = [sys.executable, str(Path(hostile.__file__).with_name("listening.py")), str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(("name", "said"), CORPUS)
def test_a_hostile_file_is_refused_and_says_why(opened, name, said):
    number = list(CORPUS).index((name, said))
    answer = opened["told"][str(number)]["said"]
    assert answer.startswith("error[MMG-")
    assert said in answer
    assert 2 <= len(answer.splitlines()) <= 6
    assert len(answer) < 700


def test_no_hostile_file_imports_opens_or_starts_anything(opened):
    assert len(opened["told"]) >= 150
    assert {name: told["events"] for name, told in opened["told"].items() if told["events"]} == {}
    assert opened["told"]["good"]["said"] == ""
    assert opened["grown"] < 400e6  # bytes: 300,000 sets, and 100 kB of files


def test_the_hook_hears_what_torchs_own_reader_would_do(tmp_path):
    """Were the corpus harmless, or the hook deaf, the test above would pass whatever the reader does."""
    code = f"""
import sys; sys.path.insert(0, {str(Path(hostile.__file__).parent)!r})
import hostile, listening, pickle
sys.addaudithook(listening._hear)
print(listening.watch(lambda: pickle.loads(hostile.calls()["os.system"])))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "os.system b'true'" in done.stdout, done.stderr
    assert "pickle.find_class" in done.stdout


@pytest.mark.parametrize("kind", FORMATS)
def test_a_cut_file_is_told_wherever_it_was_cut(tmp_path, kind):
    whole = saved(tmp_path / "w.pt", {f"w{i}": torch.rand(5, i + 1) for i in range(4)}, kind).read_bytes()
    path = tmp_path / "cut.pt"
    for length in [*range(0, len(whole), 13), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError) as caught:
            read(path)
        assert caught.value.code in ("MMG-K01", "MMG-K05"), (length, caught.value)


@pytest.mark.parametrize("kind", FORMATS)
def test_mutations_raise_what_a_user_can_read_or_change_nothing_else(tmp_path, kind):
    """Bytes changed at random: an error of ours, or tensors of bounded size; never another exception."""
    whole = saved(tmp_path / "w.pt", {f"w{i}": torch.rand(3, i + 1) for i in range(3)}, kind).read_bytes()
    choose = np.random.default_rng(0)
    path, refused = tmp_path / "changed.pt", 0
    for _ in range(400):
        changed = bytearray(whole)
        for place in choose.integers(0, len(whole), choose.integers(1, 4)):
            changed[place] = choose.integers(256)
        path.write_bytes(changed)
        try:
            found = read(path)
            assert sum(t.numel() * t.element_size() for t in found.values()) <= 2 * len(whole)
        except CheckpointError:
            refused += 1
    assert refused > 100


def test_what_is_no_file_is_told(tmp_path):
    for path, why in ((tmp_path / "gone.pkl", "No such file"), (tmp_path, "directory")):
        with pytest.raises(CheckpointError, match=why) as caught:
            read(path)
        assert caught.value.code == "MMG-K05"


def test_a_zip_with_a_list_of_members_without_end_is_not_listed(tmp_path, monkeypatch):
    path = saved(tmp_path / "w.pt", {"w": torch.ones(3)})
    monkeypatch.setattr(archives, "MAX_MEMBERS", 2)
    with pytest.raises(CheckpointError, match="members"):
        read(path)
    monkeypatch.setattr(archives, "MAX_MEMBERS", 100)
    monkeypatch.setattr(archives, "MAX_DIRECTORY", 20)
    with pytest.raises(CheckpointError, match="members"):
        read(path)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_pickle_without_end_is_not_read(tmp_path, monkeypatch, kind):
    path = saved(tmp_path / "w.pt", {f"w{i}": torch.ones(3) for i in range(50)}, kind)
    monkeypatch.setattr(archives, "MAX_BYTES", 1000)
    with pytest.raises(CheckpointError) as caught:
        read(path)
    assert caught.value.code == ("MMG-K06" if kind == "zip" else "MMG-K01")
