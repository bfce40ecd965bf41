"""A training's checkpoints in a directory: which there are, which are whole, and what they hold.

Nothing of Lightning is imported here: whoever only reads, as `mmgen sample generator_from=RUN/checkpoints/step-001000`,
is spared its seconds.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmgen.checkpoint.files import MANIFEST, read_manifest, verify_directory
from mmgen.checkpoint.sharded import INDEX, STATE, TENSORS, StoredTensors, read_stored
from mmgen.checkpoint.tensors import load_tensors
from mmgen.checkpoint.tree import unflatten
from mmgen.errors import CheckpointError
from mmgen.files import read_json

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
    for path in newest_first(Path(checkpoints)):
        try:
            verify(path)
        except CheckpointError as error:
            problems.append(f"{error.what}; passed over")
        else:
            return path, problems
    return None, problems


def kept_checkpoints(checkpoints: str | Path) -> dict[int, Path]:
    """The checkpoints that are whole, by their steps, the oldest first."""
    return {step_of(path) or 0: path for path in reversed(newest_first(Path(checkpoints))) if is_valid(path)}


def verify(path: Path) -> None:
    """Raises CheckpointError unless a checkpoint is whole and holds what one may hold, sharded or not."""
    manifest = read_manifest(path)
    sharded = {STATE, INDEX, *(name for name in manifest if _PIECES.fullmatch(name))}
    verify_directory(path, sharded if INDEX in manifest else (STATE, TENSORS))


def read_checkpoint(path: Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Verifies and reads a checkpoint, sharded or not.

    Raises:
        CheckpointError: damaged, or not a checkpoint of mmgen.
    """
    verify(path)
    if (path / INDEX).exists():
        return read_stored(stored_state(path))
    found: dict[str, Any] = unflatten(_read_state(path), load_tensors(path / TENSORS, device))
    return found


def stored_state(path: Path) -> dict[str, Any]:
    """A verified checkpoint whose tensors are still on the disk, each a `Stored`, to be read as far as is wanted."""
    found: dict[str, Any] = unflatten(_read_state(path), StoredTensors(path).tensors)
    return found


def is_checkpoint(path: Path) -> bool:
    """Whether a directory is called as a checkpoint is, and has a manifest."""
    return step_of(path) is not None and (path / MANIFEST).is_file()


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


def step_of(path: Path) -> int | None:
    """The step that a checkpoint is called after; None: it is not called as one."""
    match = _STEP.fullmatch(path.name)
    return int(match[1]) if match else None


def newest_first(checkpoints: Path) -> list[Path]:
    """What is called as a checkpoint, whole or not; none where there is no directory."""
    if not checkpoints.is_dir():
        return []
    numbered = [(step, path) for path in checkpoints.iterdir() if (step := step_of(path)) is not None]
    return [path for _, path in sorted(numbered, reverse=True)]


def is_valid(path: Path) -> bool:
    """Whether every file is as it was written."""
    try:
        verify_directory(path)
    except CheckpointError:
        return False
    return True


def _read_state(path: Path) -> Any:
    state = read_json(path / STATE, limit=_MAX_STATE, trusted=True)
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise CheckpointError(f"{path} is no checkpoint of this version's format {FORMAT}", code="MMG-K05")
    return state["tree"]
