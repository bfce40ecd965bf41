"""What lies in the folder of an offline wandb run, read by wandb's own tool, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmgen.errors import CheckpointError, quoted

SECONDS = 600  # for a log of millions of rows


@dataclass
class WandbRun:
    """An offline run as wandb has it. `rows` are its history, numbers and the step; `ended` says whether it was
    finished in order."""

    file: Path
    id: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    ended: bool = False


def find_log(path: Path) -> Path | None:
    """The log in an offline run's folder, or `path` itself if it is one; None where there is none."""
    if path.is_file() and path.suffix == ".wandb":
        return path
    return next(iter(sorted(path.glob("run-*.wandb"))), None) if path.is_dir() else None


def read_wandb(file: Path) -> WandbRun:
    """Reads a log; what a crash cut off at its end is not in it.

    Raises:
        CheckpointError: wandb cannot read it.
    """
    found = WandbRun(file, id=file.stem.removeprefix("run-"))
    for record in _records(file):
        kind = record.get("type")
        content = record.get(str(kind))
        if not isinstance(content, dict):
            continue
        if kind in ("run", "config"):
            config = content.get("config", content)
            update = config.get("update") if isinstance(config, dict) else None
            found.config |= update if isinstance(update, dict) else {}
        elif kind == "history" and isinstance(content.get("item"), dict):
            found.rows.append(_logged(content["item"]))
        elif kind == "exit":
            found.ended = True
    return found


def _logged(item: dict[str, Any]) -> dict[str, Any]:
    """A row without wandb's own columns, and without pictures, of which it has the path, the size and so on."""
    media = tuple(f"{key.removesuffix('._type')}." for key in item if key.endswith("._type"))
    return {key: value for key, value in item.items() if not key.startswith(("_", *media))}


def _records(file: Path) -> Iterator[dict[str, Any]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "wandb", "leet", "inspect", "--json", str(file)],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env={**environment, "WANDB_ERROR_REPORTING": "false"},
        )
    except subprocess.TimeoutExpired as error:
        raise _unreadable(file, f"it took longer than {SECONDS} s") from error
    if done.returncode != 0:
        raise _unreadable(file, (done.stderr or done.stdout).strip().splitlines()[-1:] or "no reason given")
    for line in done.stdout.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            yield record


def _unreadable(file: Path, why: object) -> CheckpointError:
    return CheckpointError(
        f"wandb cannot read {quoted(str(file))}", code="MMG-K05", why=quoted(why, 200), fix="a run's directory instead"
    )
