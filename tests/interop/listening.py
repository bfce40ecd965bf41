"""Opens every file of a directory (`python listening.py DIRECTORY`) while listening to what Python does meanwhile.

Prints JSON: for each file what was said, and the audit events that reading a file has no need of; and by how many bytes
the process grew.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def watch(act: Callable[[], Any]) -> list[str]:
    """The audit events of what is done that reading a file has no need of."""
    global _heard
    _heard = []
    try:
        act()
    finally:
        heard, _heard = _heard, None
    return heard


_heard: list[str] | None = None


def _hear(event: str, args: tuple[Any, ...]) -> None:
    if _heard is not None and not event.startswith(("object.__getattr__", "builtins.id", "sys._getframe")):
        _heard.append(f"{event} {args[0] if args else ''}")


def read(path: Path) -> None:
    from mmgen.interop.archives import open_archive

    with open_archive(path) as opened:
        opened.load(opened.weights)


def main(directory: Path) -> None:
    from mmgen.errors import MmgenError

    sys.addaudithook(_hear)
    told = {}
    read(directory / "good")  # loads what reading needs
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for path in sorted(directory.iterdir()):
        said = ""

        def act(path: Path = path) -> None:
            nonlocal said
            try:
                read(path)
            except MmgenError as error:
                said = error.render()

        events = [event for event in watch(act) if event != f"open {path}"]
        told[path.name] = {"said": said, "events": events}
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) * 1024
    print(json.dumps({"told": told, "grown": grown}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
