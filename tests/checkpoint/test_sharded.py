"""The arithmetic of pieces, and what is read back by any other number of processes."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

from mmgen.checkpoint.lightning import SafeCheckpointIO
from mmgen.checkpoint.sharded import Stored, StoredTensors, box, piece_file, places, save_sharded
from mmgen.checkpoint.steps import newest_valid, stored_state
from mmgen.errors import CheckpointError

MESH = {"data_parallel": 3, "tensor_parallel": 2}
SPLITS = {
    "replicated": [],
    "rows": [("data_parallel", 0)],
    "columns": [("tensor_parallel", 1), ("data_parallel", 0)],
    "rows twice": [("tensor_parallel", 0), ("data_parallel", 0)],
}


def cut(tensor, splits, mesh, place):
    """The piece by torch's own chunks; where there are fewer than processes, the last ones hold nothing."""
    for name, dim in splits:
        chunks = tensor.chunk(mesh[name], dim)
        empty = tensor.narrow(dim, 0, 0)
        tensor = chunks[place[name]] if place[name] < len(chunks) else empty
    return tensor


@pytest.mark.parametrize("splits", SPLITS.values(), ids=SPLITS)
@pytest.mark.parametrize("shape", [(12, 4), (7, 5), (2, 3), (1, 1)])
def test_a_piece_is_what_torch_s_chunks_are(splits, shape):
    tensor = torch.arange(shape[0] * shape[1]).view(shape)
    for place in places(MESH):
        found = box(shape, splits, MESH, place)
        mine = tensor[tuple(slice(low, high) for low, high in found)]
        theirs = cut(tensor, splits, MESH, place)
        assert mine.numel() == theirs.numel()
        assert torch.equal(mine.flatten(), theirs.flatten())


def test_ranks_count_row_by_row():
    assert [tuple(place.values()) for place in places(MESH)] == list(itertools.product(range(3), range(2)))


def write_pieces(directory, tensors, mesh):
    """A sharded checkpoint's tensors as all processes together would have written them."""
    from safetensors.torch import save_file

    index = {"format": 1, "mesh": mesh, "tensors": {}}
    for name, (tensor, splits) in tensors.items():
        index["tensors"][name] = {"dtype": "F32", "shape": list(tensor.shape), "splits": splits}
    (directory / "index.json").write_text(json.dumps(index))
    for rank, place in enumerate(places(mesh)):
        mine = {}
        for name, (tensor, splits) in tensors.items():
            piece = cut(tensor, splits, mesh, place)
            if piece.numel() and not any(place[other] for other in mesh.keys() - dict(splits).keys()):
                mine[name] = piece.contiguous()
        save_file(mine, directory / piece_file(rank))


def test_any_part_is_read_from_the_pieces_that_overlap_it(tmp_path):
    tensors = {
        name: (torch.randn(shape, generator=torch.Generator().manual_seed(1)), splits)
        for number, (name, splits) in enumerate(SPLITS.items())
        for shape in [(7 + number, 5)]
    }
    write_pieces(tmp_path, tensors, MESH)
    stored = StoredTensors(tmp_path).tensors
    for name, (tensor, _) in tensors.items():
        assert torch.equal(stored[name].read(), tensor)
        for other in ({"data_parallel": 2, "tensor_parallel": 4}, {"data_parallel": 5, "tensor_parallel": 1}):
            for place in places(other):
                wanted = box(tensor.shape, SPLITS["columns"], other, place)
                expected = tensor[tuple(slice(low, high) for low, high in wanted)]
                assert torch.equal(stored[name].read(wanted), expected)


STATE = {
    "epoch": 3,
    "state_dict": {"weight": torch.arange(6.0).view(2, 3), "steps": torch.tensor(7)},
    "rest": [(1, "a")],
}


def test_what_one_process_saves_in_pieces_comes_back(tmp_path):
    path = tmp_path / "step-000003"
    save_sharded(STATE, path, {"data_parallel": 1, "tensor_parallel": 1})
    assert newest_valid(tmp_path) == (path, [])
    found = SafeCheckpointIO().load_checkpoint(path)
    assert torch.equal(found["state_dict"]["weight"], STATE["state_dict"]["weight"])
    assert (found["state_dict"]["steps"], found["epoch"], found["rest"]) == (7, 3, [(1, "a")])
    weight = stored_state(path)["state_dict"]["weight"]
    assert isinstance(weight, Stored)
    assert torch.equal(weight.read([(0, 2), (1, 2)]), STATE["state_dict"]["weight"][:, 1:2])


def test_an_unsharded_checkpoint_is_read_in_parts_too(tmp_path):
    SafeCheckpointIO().save_checkpoint(STATE, tmp_path / "step-000003")
    weight = stored_state(tmp_path / "step-000003")["state_dict"]["weight"]
    assert torch.equal(weight.read([(1, 2), (0, 2)]), torch.tensor([[3.0, 4.0]]))
    assert weight.read([(2, 2), (0, 3)]).shape == (0, 3)


@pytest.mark.parametrize("name", ["rank-00000.safetensors", "index.json", "state.json"])
def test_a_damaged_piece_is_found_before_anything_is_read(tmp_path, name):
    path = tmp_path / "step-000003"
    save_sharded(STATE, path, {"data_parallel": 1, "tensor_parallel": 1})
    data = bytearray((path / name).read_bytes())
    data[-1] ^= 1
    (path / name).write_bytes(data)
    newest, (problem,) = newest_valid(tmp_path)
    assert newest is None
    assert name in problem
    with pytest.raises(CheckpointError, match="sha256 differs"):
        SafeCheckpointIO().load_checkpoint(path)


def test_a_failed_write_leaves_the_state_before_it(tmp_path, monkeypatch):
    path = tmp_path / "step-000003"
    mesh = {"data_parallel": 1, "tensor_parallel": 1}
    save_sharded(STATE, path, mesh)

    def full(file, tensors):
        file.write(b"part of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mmgen.checkpoint.sharded.write_tensors", full)
    with pytest.raises(CheckpointError, match="needed"):
        save_sharded({**STATE, "epoch": 4}, path, mesh)
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-000003"]
    assert SafeCheckpointIO().load_checkpoint(path)["epoch"] == 3


def test_a_directory_that_is_no_checkpoint_is_not_replaced(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(CheckpointError, match="is not overwritten"):
        save_sharded(STATE, tmp_path, {"data_parallel": 1, "tensor_parallel": 1})
    assert (tmp_path / "mine.txt").read_text() == "precious"
