"""A training state that several processes hold together: each writes its own pieces, and one index tells how they fit.

A sharded checkpoint is a directory: `state.json`, as in every checkpoint; `index.json`, the mesh of processes and, of
each tensor, its whole shape and how it is split; `rank-00000.safetensors` and so on, the pieces; `manifest.json`. Any
number of processes can read it, also one: what a process needs is cut out of the pieces that overlap it.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from mmgen.checkpoint.files import MANIFEST, publish, refuse_foreign
from mmgen.checkpoint.tensors import CODES, DTYPES, num_bytes, write_tensors
from mmgen.checkpoint.tree import flatten
from mmgen.errors import CheckpointError
from mmgen.files import beside, cannot_write, read_json, remove, require_space, write_json
from mmgen.ranks import Ranks, current

STATE, TENSORS, INDEX = "state.json", "state.safetensors", "index.json"
FORMAT = 1
_MAX_INDEX = 256_000_000

Box = list[tuple[int, int]]  # of each side of a tensor, where a piece begins and ends
Splits = list[tuple[str, int]]  # in order: the mesh dimension over which which side was cut


def piece_file(rank: int) -> str:
    """The file of a process's pieces."""
    return f"rank-{rank:05d}.safetensors"


def box(shape: Sequence[int], splits: Splits, mesh: Mapping[str, int], place: Mapping[str, int]) -> Box:
    """Which part of a tensor the process at a place of the mesh holds. Each cut is torch.chunk's: equal pieces rounded
    up, and what is left, maybe nothing, for the last ones."""
    sides = [(0, size) for size in shape]
    for name, dim in splits:
        low, high = sides[dim]
        each = -(-(high - low) // mesh[name])
        begin = min(low + place[name] * each, high)
        sides[dim] = begin, min(begin + each, high)
    return sides


def splits_of(tensor: Any) -> Splits:
    """How a DTensor is cut; of FSDP2 beside tensor parallelism, the latter's cut comes first (`_StridedShard`)."""
    from torch.distributed.tensor.placement_types import _StridedShard

    first: Splits = []
    then: Splits = []
    for name, placement in zip(tensor.device_mesh.mesh_dim_names, tensor.placements, strict=True):
        assert not placement.is_partial(), "a sum that was never made cannot be stored"
        if isinstance(placement, _StridedShard):
            then.append((name, placement.dim))
        elif placement.is_shard():
            first.append((name, placement.dim))
    return first + then


def mesh_of(tensor: Any) -> tuple[dict[str, int], dict[str, int]]:
    """The mesh of a DTensor, sizes by name, and this process's place in it."""
    mesh = tensor.device_mesh
    names = mesh.mesh_dim_names
    return dict(zip(names, mesh.shape, strict=True)), dict(zip(names, mesh.get_coordinate(), strict=True))


def is_sharded(tensor: Any) -> bool:
    """Whether it is a DTensor."""
    return hasattr(tensor, "device_mesh")


# ---- writing


def save_sharded(checkpoint: dict[str, Any], path: Path, mesh: Mapping[str, int]) -> None:
    """Writes a state whose DTensors every process holds a piece of; every process calls it.

    Each writes its pieces beside the destination, syncs and reads them back. Only when all have done so does rank 0
    publish the directory: a crash at any moment leaves the old state of things.

    Args:
        checkpoint: the same tree on every process; a tensor that is no DTensor is rank 0's.
        path: the directory, the same for all.
        mesh: all processes, row by row: sizes by name, such as {"data_parallel": 2, "tensor_parallel": 2}.

    Raises:
        CheckpointError: on every process alike; nothing was overwritten.
    """
    ranks = current()
    tree, tensors = flatten(checkpoint)
    place = places(mesh)[ranks.rank]
    mine = {name: piece for name, tensor in tensors.items() if (piece := _my_piece(tensor, place)) is not None}
    needed = sum(ranks.together(lambda: num_bytes(mine)))
    temp = ranks.agree(lambda: _begin(path, needed))
    try:
        written = ranks.together(lambda: _write_pieces(temp, ranks, mine))
        index = {"format": FORMAT, "mesh": dict(mesh), "tensors": {name: _described(t) for name, t in tensors.items()}}
        state = {"format": FORMAT, "tree": tree}
        ranks.agree(lambda: _publish(temp, path, {STATE: state, INDEX: index}, dict(written)))
    except BaseException:
        if ranks.first:
            remove(temp)
        raise


def places(mesh: Mapping[str, int]) -> list[dict[str, int]]:
    """The place of each rank in the mesh, row by row."""
    return [dict(zip(mesh, numbers, strict=True)) for numbers in itertools.product(*(range(n) for n in mesh.values()))]


def _my_piece(tensor: Any, place: Mapping[str, int]) -> Tensor | None:
    """What this process stores of a tensor: its piece, unless it is empty or one before it holds the same."""
    if not is_sharded(tensor):
        return tensor if not any(place.values()) else None
    splits, (mesh, mine) = splits_of(tensor), mesh_of(tensor)
    local = tensor.to_local()
    assert [high - low for low, high in box(tensor.shape, splits, mesh, mine)] == list(local.shape)
    if any(place[name] for name in place.keys() - {name for name, _ in splits}) or not local.numel():
        return None
    return local


def _described(tensor: Any) -> dict[str, Any]:
    splits = splits_of(tensor) if is_sharded(tensor) else []
    return {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape), "splits": splits}


def _begin(path: Path, needed: int) -> Path:
    refuse_foreign(path)
    temp = beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        require_space(path, needed)
        temp.mkdir()
    except OSError as error:
        raise cannot_write(path, error, needed) from error
    return temp


def _write_pieces(temp: Path, ranks: Ranks, pieces: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]]:
    """The file and its entry in the manifest, from what the disk gives back."""
    file = temp / piece_file(ranks.rank)
    try:
        with open(file, "xb") as out:
            write_tensors(out, pieces)
            out.flush()
            os.fsync(out.fileno())
        with open(file, "rb") as back:
            digest = hashlib.file_digest(back, "sha256").hexdigest()
        return file.name, {"size": file.stat().st_size, "sha256": digest}
    except OSError as error:
        raise cannot_write(file, error, num_bytes(pieces)) from error


def _publish(temp: Path, path: Path, documents: Mapping[str, Any], entries: dict[str, Any]) -> None:
    try:
        for name, document in documents.items():
            data = json.dumps(document, allow_nan=False).encode()
            with open(temp / name, "xb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            entries[name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        write_json(temp / MANIFEST, {"format": FORMAT, "files": entries})
        publish(temp, path)
    except OSError as error:
        raise cannot_write(path, error) from error


# ---- reading


@dataclass(frozen=True)
class Stored:
    """A tensor on the disk, of which as much is read as is asked for."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    splits: Splits
    source: StoredTensors

    def read(self, wanted: Box | None = None) -> Tensor:
        """The tensor, or the part of it that a box holds."""
        return self.source.read(self, wanted or [(0, size) for size in self.shape])

    def like(self, target: Tensor) -> Tensor:
        """As much as `target` holds: this process's piece, as a DTensor, where that is one of this shape."""
        if not is_sharded(target) or tuple(target.shape) != self.shape:
            return self.read()
        from torch.distributed.tensor import DTensor

        local = self.read(box(self.shape, splits_of(target), *mesh_of(target))).to(target.device)
        mesh, placements = target.device_mesh, target.placements  # type: ignore[attr-defined]
        return DTensor.from_local(local, mesh, placements, run_check=False, shape=target.shape, stride=target.stride())


@dataclass
class StoredTensors:
    """The tensors of a checkpoint that has been verified, sharded or not.

    Args:
        path: its directory.

    Raises:
        CheckpointError: MMG-K05, not one of ours.
    """

    path: Path
    mesh: dict[str, int] = field(default_factory=dict)
    tensors: dict[str, Stored] = field(default_factory=dict)
    _open: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (self.path / INDEX).is_file():
            file = self._file(TENSORS)
            for name in file.keys():  # noqa: SIM118 - no mapping
                cut = file.get_slice(name)
                self.tensors[name] = Stored(name, DTYPES[cut.get_dtype()], tuple(cut.get_shape()), [], self)
            return
        index = read_json(self.path / INDEX, limit=_MAX_INDEX, trusted=True)
        if not isinstance(index, dict) or index.get("format") != FORMAT:
            raise CheckpointError(f"{self.path} has an index of another format than {FORMAT}", code="MMG-K05")
        self.mesh = index["mesh"]
        for name, entry in index["tensors"].items():
            splits = [(dimension, side) for dimension, side in entry["splits"]]
            self.tensors[name] = Stored(name, DTYPES[entry["dtype"]], tuple(entry["shape"]), splits, self)

    def read(self, stored: Stored, wanted: Box) -> Tensor:
        """A part of a tensor, put together from every piece that overlaps it."""
        if not self.mesh:
            return self._cut(TENSORS, stored.name, wanted)
        found = torch.empty([high - low for low, high in wanted], dtype=stored.dtype)
        cut = {name for name, _ in stored.splits}
        for rank, place in enumerate(places(self.mesh)):
            if any(place[name] for name in self.mesh.keys() - cut):
                continue  # holds the same as one before it
            held = box(stored.shape, stored.splits, self.mesh, place)
            both = [(max(a, c), min(b, d)) for (a, b), (c, d) in zip(held, wanted, strict=True)]
            if all(low < high for low, high in both):
                inside = [(low - begin, high - begin) for (low, high), (begin, _) in zip(both, held, strict=True)]
                target = tuple(
                    slice(low - begin, high - begin) for (low, high), (begin, _) in zip(both, wanted, strict=True)
                )
                found[target] = self._cut(piece_file(rank), stored.name, inside)
        return found

    def _file(self, name: str) -> Any:
        if name not in self._open:
            self._open[name] = safe_open(self.path / name, framework="pt")
        return self._open[name]

    def _cut(self, file: str, name: str, wanted: Box) -> Tensor:
        if not wanted or any(low == high for low, high in wanted):
            whole: Tensor = self._file(file).get_tensor(name)
            return whole[tuple(slice(low, high) for low, high in wanted)].clone()
        return self._file(file).get_slice(name)[tuple(slice(low, high) for low, high in wanted)].clone()


def read_stored(tree: Any) -> Any:
    """The tree with every `Stored` in it read whole."""
    if isinstance(tree, Stored):
        return tree.read()
    if isinstance(tree, dict):
        return {key: read_stored(value) for key, value in tree.items()}
    return type(tree)(map(read_stored, tree)) if isinstance(tree, list | tuple) else tree
