"""Finds the processes that a test started, to break them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def children(pid: int) -> list[int]:
    """The processes that a process started, and theirs."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # it ended while we looked
    direct = [child for child, parent in parents.items() if parent == pid]
    return direct + [further for child in direct for further in children(child)]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def wait_for_child(word: str, seconds: float = 20) -> int:
    """The pid of the child process whose command holds a word, as soon as there is one."""
    return wait_until(lambda: next((pid for pid in children(os.getpid()) if word in command_of(pid)), 0), seconds)


def wait_until(found: Callable[[], Any], seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if result := found():
            return result
        time.sleep(0.05)
    raise AssertionError(f"did not come to pass within {seconds} s")
