"""metrics.jsonl: every logged number of a run, one JSON object a line; the source of truth for reports and curves."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from mmgen.files import write_atomic


class MetricsFile:
    """Rows such as `{"step": 200, "time": 1700000000.0, "train/loss": 0.5}`; numbers that are not finite are null in
    the file, NaN when read.

    Args:
        path: the file; it need not exist.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: TextIO | None = None

    def append(self, row: Mapping[str, Any]) -> None:
        """Writes a row at once, so that a killed process loses none; `time` is now, unless given."""
        if self._file is None:
            self._repair()
            self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - stays open between rows
        full = {"step": row["step"], "time": round(time.time(), 3), **row}
        self._file.write(json.dumps({k: _storable(v) for k, v in full.items()}, allow_nan=False) + "\n")
        self._file.flush()

    def rows(self) -> list[dict[str, Any]]:
        """All rows in the order written. A last line torn by a crash is not among them."""
        return [row for row, _ in self._lines()]

    def drop_after(self, step: int) -> None:
        """Forgets the rows of later steps, which a resume from `step` writes anew; atomic."""
        self.close()
        if self.path.exists():
            write_atomic(self.path, "".join(line for row, line in self._lines() if row["step"] <= step))

    def close(self) -> None:
        """Closes the file; a later `append` opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _lines(self) -> Iterator[tuple[dict[str, Any], str]]:
        if not self.path.exists():
            return
        with open(self.path, encoding="utf-8", errors="replace") as file:
            for line in file:
                try:
                    row = json.loads(line)
                except ValueError:
                    continue
                if line.endswith("\n") and isinstance(row, dict) and isinstance(row.get("step"), int):
                    yield {key: math.nan if value is None else value for key, value in row.items()}, line

    def _repair(self) -> None:
        """Cuts off a torn last line: the next row must begin a line of its own."""
        if not self.path.exists():
            return
        with open(self.path, "rb+") as file:
            end = place = file.seek(0, os.SEEK_END)
            while place > 0:
                begin = max(0, place - 65536)
                file.seek(begin)
                newline = file.read(place - begin).rfind(b"\n")
                if newline >= 0:
                    place = begin + newline + 1
                    break
                place = begin
            if place != end:
                file.truncate(place)


def _storable(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
