"""How Lightning's Trainer saves and loads: a directory of safetensors and JSON in place of a pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins.io.checkpoint_io import CheckpointIO

from mmgen.checkpoint.files import verify_directory, write_directory_atomic
from mmgen.checkpoint.sharded import STATE, TENSORS, save_sharded
from mmgen.checkpoint.steps import FORMAT, is_valid, newest_first, read_checkpoint, step_of
from mmgen.checkpoint.tensors import num_bytes, write_tensors
from mmgen.checkpoint.tree import flatten
from mmgen.errors import CheckpointError
from mmgen.files import remove, remove_leftovers
from mmgen.ranks import current


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
            return read_checkpoint(path, device)
        except CheckpointError as error:
            good = next((p for p in newest_first(path.parent) if p != path and is_valid(p)), None)
            if good is None:
                raise
            fix = f"older good one: {good.name}; `resume=auto` takes it by itself"
            raise CheckpointError(error.what, code=error.code, where=error.where, why=error.why, fix=fix) from None

    def remove_checkpoint(self, path: str | Path) -> None:
        """Removes a checkpoint; one that is not there is no error."""
        remove(Path(path))

    def _retire(self, new: Path) -> None:
        """Removes what came before `new` beyond `keep_last`, counting only the whole; newer ones are never touched."""
        if self.keep_last is None or step_of(new) is None:
            return
        kept = 1
        for path in newest_first(new.parent):
            step = step_of(path)
            assert step is not None
            if path == new or step > step_of(new) or (self.keep_every and step % self.keep_every == 0):  # type: ignore[operator]
                continue
            if kept < self.keep_last and is_valid(path):
                kept += 1
            else:
                remove(path)
