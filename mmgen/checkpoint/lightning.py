"""Lightning's checkpoints without pickle: a directory of safetensors and JSON, verified before it is read."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO
from torch import Tensor

from mmgen.checkpoint.files import MANIFEST, read_manifest, verify_directory, write_directory_atomic
from mmgen.checkpoint.sharded import INDEX, STATE, TENSORS, StoredTensors, read_stored, save_sharded
from mmgen.checkpoint.tensors import load_tensors, num_bytes, write_tensors
from mmgen.checkpoint.tree import flatten, unflatten
from mmgen.errors import CheckpointError
from mmgen.files import read_json, remove, remove_leftovers
from mmgen.ranks import current

FORMAT = 1
AVERAGED = "ema.module."  # before the names of the average's tensors in a task's state
_PIECES = re.compile(r"rank-\d{5}\.safetensors")
_STEP = re.compile(r"step-(\d+)")
_MAX_STATE = 256_000_000


def checkpoint_path(checkpoints: str | Path, step: int) -> Path:
    """Where the checkpoint of a step lies: `checkpoints/step-000200`."""
    return Path(checkpoints) / f"step-{step:06d}"


def newest_valid(checkpoints: str | Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that is whole, and a sentence about each newer one that was passed over."""
    problems = []
    for path in _newest_first(Path(checkpoints)):
        try:
            verify(path)
        except CheckpointError as error:
            problems.append(f"{error.what}; passed over")
        else:
            return path, problems
    return None, problems


def kept_checkpoints(checkpoints: str | Path) -> dict[int, Path]:
    """The checkpoints that are whole, by their steps, the oldest first."""
    return {_step(path) or 0: path for path in reversed(_newest_first(Path(checkpoints))) if _is_valid(path)}


def verify(path: Path) -> None:
    """Raises CheckpointError unless a checkpoint is whole and holds what one may hold, sharded or not."""
    manifest = read_manifest(path)
    sharded = {STATE, INDEX, *(name for name in manifest if _PIECES.fullmatch(name))}
    verify_directory(path, sharded if INDEX in manifest else (STATE, TENSORS))


class SafeCheckpointIO(CheckpointIO):
    """Saves and loads a Trainer's state as a directory; hand it to `Trainer(plugins=[…])`.

    Args:
        keep_last: how many checkpoints `step-…` stay in a directory; the older ones go once the new one has been read
            back and verified. None keeps all.
        keep_every: those of steps that it divides stay beside them. None: none does.
    """

    def __init__(self, keep_last: int | None = 2, keep_every: int | None = None) -> None:
        if keep_last is not None and keep_last < 1:
            raise ValueError(f"keep_last must be at least 1, got {keep_last}")
        self.keep_last, self.keep_every = keep_last, keep_every
        self._cleaned: set[Path] = set()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Writes the checkpoint, verifies it, then removes those that `keep_last` no longer wants.

        Raises:
            CheckpointError: the disk is full or not writable, or the state holds what cannot be stored. Every older
                checkpoint is as it was.
        """
        path = Path(path)
        self._clean(path.parent)
        tree, tensors = flatten(checkpoint)
        text = json.dumps({"format": FORMAT, "tree": tree}, allow_nan=False)

        def fill(directory: Path) -> None:
            (directory / STATE).write_text(text, encoding="utf-8")
            with open(directory / TENSORS, "wb") as file:
                write_tensors(file, tensors)

        write_directory_atomic(path, fill, needed=num_bytes(tensors) + len(text) + 4096)
        verify_directory(path)
        self._retire(path)

    def save_sharded(self, checkpoint: dict[str, Any], path: Path, mesh: Mapping[str, int]) -> None:
        """As `save_checkpoint`, but every process calls it and writes its own pieces (`mmgen.checkpoint.sharded`)."""
        current().agree(lambda: self._clean(path.parent))
        save_sharded(checkpoint, path, mesh)
        current().agree(lambda: self._retire(path))

    def _clean(self, checkpoints: Path) -> None:
        if checkpoints not in self._cleaned:
            remove_leftovers(checkpoints)
            self._cleaned.add(checkpoints)

    def load_checkpoint(
        self, path: str | Path, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Verifies and reads a checkpoint.

        Args:
            path: the directory.
            map_location: a device to put the tensors on; anything else of torch's means the CPU.
            weights_only: Lightning's argument; nothing here can run code either way.

        Raises:
            CheckpointError: damaged (naming an older good one, if there is) or not a checkpoint of mmgen.
        """
        path = Path(path)
        device = map_location if isinstance(map_location, str | torch.device) else "cpu"
        try:
            verify(path)
            if (path / INDEX).exists():
                return read_stored(stored_state(path))
            return unflatten(_read_state(path), load_tensors(path / TENSORS, device))
        except CheckpointError as error:
            good = next((p for p in _newest_first(path.parent) if p != path and _is_valid(p)), None)
            if good is None:
                raise
            fix = f"older good one: {good.name}; `resume=auto` takes it by itself"
            raise CheckpointError(error.what, code=error.code, where=error.where, why=error.why, fix=fix) from None

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes a checkpoint; one that is not there is no error."""
        remove(Path(path))

    def _retire(self, new: Path) -> None:
        """Removes what came before `new` beyond `keep_last`, counting only the whole; newer ones are never touched."""
        if self.keep_last is None or _step(new) is None:
            return
        kept = 1
        for path in _newest_first(new.parent):
            step = _step(path)
            assert step is not None
            if path == new or step > _step(new) or (self.keep_every and step % self.keep_every == 0):  # type: ignore[operator]
                continue
            if kept < self.keep_last and _is_valid(path):
                kept += 1
            else:
                remove(path)


def stored_state(path: Path) -> dict[str, Any]:
    """A verified checkpoint whose tensors are still on the disk, each a `Stored`, to be read as far as is wanted."""
    found: dict[str, Any] = unflatten(_read_state(path), StoredTensors(path).tensors)
    return found


def is_checkpoint(path: Path) -> bool:
    """Whether a directory is called as a checkpoint is, and has a manifest."""
    return _step(path) is not None and (path / MANIFEST).is_file()


def averaged(path: Path, names: Collection[str]) -> dict[str, Tensor]:
    """Of a training's checkpoint the moving average's tensors of these names: what would be published at that step.

    Raises:
        CheckpointError: it is damaged, or is of another component.
    """
    verify(path)
    state = stored_state(path).get("state_dict")
    found = {name: state.get(AVERAGED + name) for name in names} if isinstance(state, dict) else {}
    if not found or any(tensor is None for tensor in found.values()):
        raise CheckpointError(
            f"{path} is no checkpoint of the part beside it", code="MMG-K05", fix="a run's own checkpoints/step-…"
        )
    return read_stored(found)


def _read_state(path: Path) -> Any:
    state = read_json(path / STATE, limit=_MAX_STATE, trusted=True)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of this version's format {FORMAT}", code="MMG-K05")
    return state["tree"]


def _step(path: Path) -> int | None:
    match = _STEP.fullmatch(path.name)
    return int(match[1]) if match else None


def _newest_first(checkpoints: Path) -> list[Path]:
    if not checkpoints.is_dir():
        return []
    numbered = [(step, path) for path in checkpoints.iterdir() if (step := _step(path)) is not None]
    return [path for _, path in sorted(numbered, reverse=True)]


def _is_valid(path: Path) -> bool:
    try:
        verify_directory(path)
    except CheckpointError:
        return False
    return True
