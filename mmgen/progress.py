"""One kind of bar for everything that takes long: a bar with ETA on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TextIO

UNREAD = 141  # the exit code where the reader of the output has gone: 128 + SIGPIPE, as other commands end
_INTERVAL = 10.0  # seconds between plain lines
_mute = False
_shown: list[Any] = []  # the rich Progress on the terminal, if there is one: a terminal has room for one


def mute() -> None:
    """No bar of this process is drawn from now on: of several that do the same, one is enough."""
    global _mute
    _mute = True


class Bar:
    """`with Bar("tokenizer", total=800, unit="steps") as bar: bar.advance(1, "loss 0.123")`. Never raises: a bar that
    cannot be drawn is no reason to stop what it counts.

    Args:
        name: what is done, such as a stage's name.
        total: how many units there are.
        unit: "steps", "pictures".
        done: how many were done before, as after a resume; they do not count for the ETA.
        stream: where to write; standard error by default.
    """

    def __init__(self, name: str, total: int, unit: str = "", *, done: int = 0, stream: TextIO | None = None) -> None:
        self.name, self.total, self.unit = name, total, unit
        self.done = self._begun_at = done
        self.text = ""
        self._stream = stream
        self._start = self._last_line = time.monotonic()
        self._mutex = threading.Lock()
        self._progress: Any = None
        self._task: Any = None
        self._owner = False

    def __enter__(self) -> Self:
        self._start = time.monotonic()
        with suppress(Exception):
            if self._is_terminal() and not _mute:
                self._show()
        if self._progress is None:
            self._line()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(Exception):
            if self._progress is not None:
                self._refresh()
                if self._owner:
                    _shown.remove(self._progress)
                    self._progress.stop()
                else:
                    self._progress.remove_task(self._task)
        if self._progress is None:
            self._line()

    def advance(self, count: int = 1, text: str = "") -> None:
        """Counts `count` more units; `text` (a loss, a speed) stands beside the bar until the next one."""
        with self._mutex:
            self.done += count
            self.text = text or self.text
            if self._progress is not None:
                with suppress(Exception):
                    self._refresh()
            elif time.monotonic() - self._last_line >= _INTERVAL:
                self._line()

    def eta(self) -> float | None:
        """Seconds left at the mean speed so far; None before the first unit."""
        counted = self.done - self._begun_at
        if counted <= 0:
            return None
        return max(0, self.total - self.done) * (time.monotonic() - self._start) / counted

    def _is_terminal(self) -> bool:
        return bool((self._stream or sys.stderr).isatty())

    def _times(self) -> str:
        left = self.eta()
        if left is None:
            return "ETA -:--"
        elapsed = time.monotonic() - self._start
        return f"ETA {duration(left)}" if self.done < self.total else f"in {duration(elapsed)}"

    def _line(self) -> None:
        self._last_line = time.monotonic()
        if _mute:
            return
        parts = [f"{self.done}/{self.total} {self.unit}".strip(), self._times(), self.text]
        with suppress(Exception):
            print(f"{self.name}: " + ", ".join(p for p in parts if p), file=self._stream or sys.stderr, flush=True)

    def _show(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        if _shown:
            progress = _shown[0]
        else:
            progress = Progress(
                TextColumn("{task.description:<12}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[count]}", markup=False),
                TextColumn("{task.fields[times]}", markup=False),
                TextColumn("{task.fields[text]}", markup=False),
                console=Console(file=self._stream, stderr=self._stream is None),
            )
            progress.start()
            _shown.append(progress)
            self._owner = True
        self._task = progress.add_task(self.name, total=self.total, completed=self.done, count="", times="", text="")
        self._progress = progress
        self._refresh()

    def _refresh(self) -> None:
        self._progress.update(
            self._task,
            completed=self.done,
            count=f"{self.done}/{self.total} {self.unit}".strip(),
            times=self._times(),
            text=self.text,
        )


def printed(line: str) -> None:
    """A line on standard error, above the bars of a terminal."""
    with suppress(Exception):
        if _shown:
            _shown[0].console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)


def unread() -> bool:
    """Whether the reader of standard output or standard error has gone, as `head -1` goes after a line. What is written
    there from now on goes nowhere, and is no error."""
    gone = False
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # no file is behind it
            number = stream.fileno()
            asked = select.poll()
            asked.register(number, 0)
            if any(event & (select.POLLERR | select.POLLHUP) for _, event in asked.poll(0)):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, number)
                os.close(null)
                gone = True
    return gone


def duration(seconds: float) -> str:
    """Seconds as 0:07, 12:34 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
