"""The directory that `mmgen data tokenize` writes: nobody else's, made one way, by one process a share."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from signal import SIGINT
from typing import Any

from mmgen.data.shards import RECIPE
from mmgen.errors import CheckpointError, ConfigError, Interrupted, MmgenError, RunLockedError, quoted
from mmgen.files import is_leftover, read_json, remove, write_json
from mmgen.runs.config import differences
from mmgen.runs.directory import RunDirectory
from mmgen.runs.lock import locked


def prepare(directory: Path, recipe: Mapping[str, Any]) -> None:
    """Makes the directory, unless it holds something else, or shards that were made otherwise."""
    free = RunDirectory(directory).free_name()
    if directory.exists() and not directory.is_dir():
        raise _in_use(directory, "it is a file", free)
    if (directory / RECIPE).is_file():
        agree(directory, recipe)
        return
    names = {entry.name for entry in directory.iterdir()} if directory.is_dir() else set()
    if any(not is_leftover(name) and not name.startswith(".lock-") for name in names):
        raise _in_use(directory, f"it holds {quoted(min(names))}", free)
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot make {directory}",
            code="MMG-R04",
            where="to",
            why=error.strerror or "",
            fix="to=DIRECTORY elsewhere",
        ) from error


def _in_use(directory: Path, why: str, free: str) -> ConfigError:
    return ConfigError(
        f"{quoted(str(directory))} is in use: {why}",
        code="MMG-C22",
        where="to",
        why="nothing is overwritten",
        fix=f"to={directory.parent / free}",
    )


def agree(directory: Path, recipe: Mapping[str, Any]) -> None:
    """Writes the recipe, or compares it with the one that is there."""
    path = directory / RECIPE
    wanted = json.loads(json.dumps(recipe))
    if not path.is_file():
        try:
            write_json(path, wanted)
        except CheckpointError:
            if not path.is_file():  # else the first process has written it, and cleaned ours away
                raise
    changed = differences(read_json(path, trusted=True), wanted)
    if changed:
        shown = ", ".join(f"{key} {quoted(old, 30)} → {quoted(new, 30)}" for key, old, new in changed[:5])
        raise ConfigError(
            f"the token shards in {directory} were made otherwise: {shown}",
            code="MMG-R02",
            where=str(path),
            fix=f"to={directory.parent / RunDirectory(directory).free_name()}, or tokenize as before",
        )


@contextmanager
def lock(directory: Path, name: str) -> Iterator[None]:
    """One process a share of the work."""
    try:
        with locked(directory / name, ""):
            yield
    except RunLockedError as error:
        error.what, error.fix = error.what.removeprefix("run "), f"wait for it, or to={directory}-2"
        raise
    except MmgenError as error:
        error.fix = error.fix.replace("put the run elsewhere", "tokenize elsewhere").replace("run.dir=DIR", "to=DIR")
        raise


@contextmanager
def goes_on(directory: Path, planned: int) -> Iterator[None]:
    """Says, where a signal ends the work, what is kept."""
    try:
        yield
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, Interrupted) else int(SIGINT)
        done = sum(1 for path in directory.glob("shard-*.json"))
        kept = f"{done} of {planned} shards are written" if planned else "all shards are written"
        raise Interrupted(number, f"stopped: {kept} to {directory}; the same command goes on from there") from None


def clean(directory: Path, numbers: Sequence[int], first: bool) -> None:
    """Removes what a killed process with these shards left, and, if this is the first one, what belongs to all. Others
    may be writing theirs."""
    mine = tuple(f".shard-{number:05d}." for number in numbers)
    for entry in directory.iterdir():
        shared = first and not entry.name.startswith(".shard-")
        if is_leftover(entry.name) and (shared or entry.name.startswith(mine)):
            remove(entry)
