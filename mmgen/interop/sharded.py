"""Weights that lie in several files, with an index that says which tensor is in which, as Hugging Face's tools do it.

The index (`model.safetensors.index.json`, `pytorch_model.bin.index.json`): an object whose `weight_map` has the name of
each tensor and the name of a file beside it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mmgen.errors import CheckpointError, quoted
from mmgen.files import parse_json
from mmgen.interop.archives import Archive
from mmgen.interop.stored import StoredTensor
from mmgen.interop.stubs import MAX_NAMES

INDEX = ".index.json"
MAX_INDEX, MAX_SHARDS = 16_000_000, 1000  # bytes, files

_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,200}(\.[A-Za-z0-9_-]{1,40}){0,4}\.(safetensors|bin)")


def is_index(path: Path) -> bool:
    """Whether a file is named as such an index is."""
    return path.name.endswith(INDEX)


def with_shards(path: Path) -> list[Path]:
    """A file; of an index, it and the files that it names, each once, in the order of their names.

    Raises:
        CheckpointError: MMG-K05 it is no index; MMG-K06 it names what is no file beside it.
    """
    return [path, *(path.parent / name for name in sorted(set(_map(path).values())))] if is_index(path) else [path]


class Sharded:
    """Several archives as the one that an index says they are; see `archives.Archive`, which it stands for.

    Attributes:
        path: of the index.
        size: bytes of all files.
        weights: all tensors, by name.

    Raises:
        CheckpointError: MMG-K01, a tensor is not where the index says, or is in two files, or in none of the index's.
    """

    def __init__(self, index: Path, archives: Sequence[Archive]) -> None:
        self.path, self.size = index, sum(archive.size for archive in archives)
        self.weights: dict[str, StoredTensor] = {}
        self._of: dict[str, Archive] = {}
        wanted = _map(index)
        for archive in archives:
            for name, stored in archive.weights.items():
                if wanted.get(name) != archive.path.name:
                    told = f"in {wanted[name]}" if name in wanted else "nowhere"
                    raise _untrue(index, f"{quoted(name)} is in {archive.path.name}, and {told} by the index")
                self.weights[name], self._of[name] = stored, archive
        missing = [name for name in wanted if name not in self.weights]
        if missing:
            raise _untrue(index, f"{len(missing)} are in no file, such as {quoted(missing[0])}")

    def file_of(self, name: str) -> str:
        """The name of the file that a tensor is in."""
        return self._of[name].path.name

    def load(self, names: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
        """See `archives.Archive.load`."""
        found: dict[str, Tensor] = {}
        for archive in dict.fromkeys(self._of[name] for name in names):
            found |= archive.load({name: stored for name, stored in names.items() if self._of[name] is archive})
        return {name: found[name] for name in names}


def gathered(archives: Sequence[Archive], extra: Sequence[Path]) -> tuple[list[Archive | Sharded], list[Path]]:
    """The archives with those of an index made one, and the other files without the index.

    Raises:
        CheckpointError: see `Sharded`; MMG-K05, there are two indices.
    """
    indices = [path for path in extra if is_index(path)]
    if not indices:
        return list(archives), list(extra)
    if len(indices) > 1:
        what = f"{indices[0]} and {indices[1]} are two indices of weights"
        raise CheckpointError(what, code="MMG-K05", fix="name one of them")
    names = set(_map(indices[0]).values())
    # By name: the files that it names were taken from beside it.
    mine = [archive for archive in archives if archive.path.name in names]
    others = [archive for archive in archives if archive.path.name not in names]
    return [Sharded(indices[0], mine), *others], [path for path in extra if path not in indices]


def _map(path: Path) -> dict[str, str]:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_INDEX + 1)
    except OSError as error:
        why = error.strerror or str(error)
        raise CheckpointError(f"cannot read {path}", code="MMG-K05", why=why, fix="name a file") from None
    content: Any = parse_json(data, str(path), limit=MAX_INDEX, trusted=True)
    found = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not found:
        raise CheckpointError(
            f"{path} is no index of weights", code="MMG-K05", why="it has no weight_map", fix="download it again"
        )
    bad = [name for name in found.values() if not isinstance(name, str) or not _SHARD.fullmatch(name)]
    if bad or len(found) > MAX_NAMES or len(set(found.values())) > MAX_SHARDS:
        why = f"{quoted(bad[0])} is no name of a file of weights beside it" if bad else ""
        raise CheckpointError(
            f"{path} is refused",
            code="MMG-K06",
            why=why or f"it names more than {MAX_NAMES:,} tensors, or {MAX_SHARDS:,} files",
            fix="get it again from where it was first published",
        )
    return found


def _untrue(index: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{index} and the files beside it do not agree",
        code="MMG-K01",
        why=why,
        fix="download the folder again, all of one revision",
    )
