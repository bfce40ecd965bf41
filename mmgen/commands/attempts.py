"""Work of which each part may fail alone: what raised is remembered and told, and the rest is done."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mmgen.errors import MmgenError

Result = TypeVar("Result")
FAILED_PARTS = 4  # the exit code of work of which a part failed


class Attempts:
    """Calls that may raise whatever a plugin raises, SystemExit included.

    Args:
        log: gets the tracebacks.
    """

    def __init__(self, log: Path) -> None:
        self.log = log
        self.failed: dict[str, str] = {}  # by the name of what failed: the reason, in one line

    def of(self, name: str, function: Callable[..., Result], *arguments: Any, foreseen: bool = True) -> Result | None:
        """What the function gives, or None, where it failed now or its part failed before.

        Args:
            name: of the part, such as an evaluator's.
            foreseen: whether an error that says how to mend it fails the part alone; otherwise it goes through.
        """
        if name in self.failed:
            return None
        try:
            return function(*arguments)
        except (Exception, SystemExit) as error:
            if isinstance(error, MmgenError) and not foreseen:
                raise
            self._remember(name, error)
            return None

    def _remember(self, name: str, error: BaseException) -> None:
        self.failed[name] = reason(error)
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"{name}\n{''.join(traceback.format_exception(error))}\n")


def reason(error: BaseException) -> str:
    """In one line: "RuntimeError: no such picture"."""
    if isinstance(error, MmgenError):
        return f"error[{error.code}]: {error.what}"
    first = str(error).strip().splitlines()[0][:200] if str(error).strip() else ""
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
