"""Which trained model a command works with, and where it may write."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

from mmgen.errors import ConfigError, quoted
from mmgen.runs.directory import finished_runs

RUNS = Path("runs")


def source_of(run: str | None) -> Path:
    """The run or export asked for, or the newest finished run under runs/.

    Raises:
        ConfigError: there is none.
    """
    if run is not None:
        return Path(run)
    for directory in finished_runs(RUNS):
        if (directory.stage("encoder").model / "manifest.json").is_file():
            return directory.path
    raise ConfigError(
        f"there is no finished run under {RUNS}/",
        code="MMG-C21",
        where="run",
        fix="mmgen run, or run=PATH of a run or an export",
    )


def refuse_in_use(out: str | None) -> None:
    """Raises ConfigError where `out` is a file, or a directory that holds something: neither is overwritten."""
    path = Path(out) if out is not None else None
    if path is not None and (path.is_file() or (path.is_dir() and any(path.iterdir()))):
        number = 2
        while (free := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
            number += 1
        raise ConfigError(
            f"{quoted(out)} is in use" + ("" if path.is_file() else ": it holds files already"),
            code="MMG-C22",
            where="out",
            why="nothing is overwritten",
            fix=f"out={free}",
        )


def fresh_directory(asked: str | None, parent: str, title: str) -> Path:
    """A directory of its own for what is written: the one asked for, empty or new, or a new one under `parent`.

    Raises:
        ConfigError: the one asked for holds files, which are not overwritten.
    """
    if asked is not None:
        refuse_in_use(asked)
        path = Path(asked)
        path.mkdir(parents=True, exist_ok=True)
        return path
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40] or "pictures"
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for attempt in range(1000):
        path = Path(parent) / (f"{stamp}-{slug}" if attempt == 0 else f"{stamp}-{slug}-{attempt}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise ConfigError(f"{parent}/ is full of directories of this second", code="MMG-C22", fix="out=DIRECTORY")
