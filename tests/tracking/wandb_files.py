"""Reads back what the real wandb wrote, with wandb's own tool."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any


def offline_runs(directory: Path) -> list[Path]:
    return sorted((directory / "wandb").glob("offline-run-*/run-*.wandb"))


def records(directory: Path) -> list[dict[str, Any]]:
    """Every record of the one offline run below a directory."""
    (file,) = offline_runs(directory)
    command = [sys.executable, "-P", "-m", "wandb", "leet", "inspect", "--json", str(file)]
    out = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    return [json.loads(line) for line in out.splitlines()]


def of_type(found: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [record[kind] for record in found if record["type"] == kind]


def rows(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The history, without wandb's own columns, in the order of writing."""
    items = [record["item"] for record in of_type(found, "history")]
    return [{key: value for key, value in item.items() if not key.startswith("_")} for item in items]
