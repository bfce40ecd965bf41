"""What a sweep is after: metrics of a trial's metrics.jsonl or evaluation.json, read while it runs and at its end."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmgen.errors import ConfigError, quoted
from mmgen.runs.metrics import MetricsFile

STAGES = ("tokenizer", "generator", "encoder")
EVALUATION = "evaluation"
Direction = Literal["minimize", "maximize"]


@dataclass(frozen=True)
class Goal:
    """A metric and its direction.

    Args:
        metric: its name, such as `val/loss` or, of an evaluation, `retrieval/caption_to_picture_r5`.
        place: of `mmgen run`, the stage whose metric it is, or `evaluation`; None: the only training there is.
        direction: minimize or maximize.
        value: of a training's values, the last or the best.
    """

    metric: str
    place: str | None
    direction: Direction
    value: Literal["last", "best"] = "last"

    @property
    def name(self) -> str:
        """As a user writes it."""
        return f"{self.place}:{self.metric}" if self.place else self.metric

    @property
    def is_evaluated(self) -> bool:
        """Whether an evaluator finds it, after training."""
        return self.place == EVALUATION

    def file(self, run: Path) -> Path:
        """Where it stands, of the run in this directory."""
        if self.is_evaluated:
            return run / "evaluation.json"
        return (run / self.place if self.place else run) / "metrics.jsonl"

    def better(self, one: float, other: float) -> bool:
        """Whether one value is better than another."""
        return one > other if self.direction == "maximize" else one < other

    def read(self, run: Path) -> float | None:
        """Its value of a finished run; None where it is not there, NaN where it is no number."""
        if self.is_evaluated:
            return _evaluated(self.file(run), self.metric)
        values = [row[self.metric] for row in MetricsFile(self.file(run)).rows() if self.metric in row]
        if not values:
            return None
        if self.value == "last" or not all(math.isfinite(value) for value in values):
            return float(values[-1])
        return float(max(values) if self.direction == "maximize" else min(values))


def _evaluated(file: Path, name: str) -> float | None:
    try:
        findings = json.loads(file.read_text(encoding="utf-8"))["findings"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    for found in findings.values():
        for number in found.get("numbers") or []:
            if number.get("name") == name:
                value = number.get("value")
                return math.nan if value is None else float(value)
    return None


def parse(
    names: str | Sequence[str], directions: str | Sequence[str] | None, value: Literal["last", "best"], trains: bool
) -> tuple[Goal, ...]:
    """The goals of a sweep, as its config has them.

    Args:
        trains: whether a trial is `mmgen train`, which has one training and no evaluation.

    Raises:
        ConfigError: a direction is missing or unknown, or a metric does not say whose it is.
    """
    wanted = [names] if isinstance(names, str) else list(names)
    given = [directions] * len(wanted) if isinstance(directions, str | None) else list(directions)
    if not wanted or len(given) != len(wanted) or len(set(wanted)) < len(wanted):
        raise ConfigError(
            f"{len(wanted)} goals ({', '.join(wanted)}) and {len(given)} directions",
            code="MMG-C62",
            where="sweep.goal",
            why="each goal, named once, has one direction",
            fix="sweep.goal=[val/psnr,val/loss] sweep.direction=[maximize,minimize]",
        )
    return tuple(_goal(name, direction, value, trains) for name, direction in zip(wanted, given, strict=True))


def _goal(name: str, direction: str | None, value: Literal["last", "best"], trains: bool) -> Goal:
    place, colon, metric = name.partition(":")
    if not colon:
        place, metric = "", name
    places = STAGES if trains else (*STAGES, EVALUATION)
    if trains and place == EVALUATION:
        raise ConfigError(
            f"the goal {quoted(name)} is an evaluator's, and `mmgen train` evaluates nothing",
            code="MMG-C62",
            where="sweep.goal",
            fix="sweep.goal=val/loss, or search `mmgen run`: leave task= out",
        )
    if (colon and place not in places) or (not colon and not trains):
        raise ConfigError(
            f"the goal {quoted(name)} does not say which part of the run has it",
            code="MMG-C62",
            where="sweep.goal",
            fix=" or ".join(f"sweep.goal={one}:{metric}" for one in places),
        )
    if direction is None and "loss" in metric:
        direction = "minimize"
    if direction not in ("minimize", "maximize"):
        raise ConfigError(
            f"is more or less {quoted(metric)} better?"
            if direction is None
            else f"{quoted(direction)} is no direction",
            code="MMG-C62",
            where="sweep.direction",
            fix="sweep.direction=maximize or sweep.direction=minimize",
        )
    return Goal(metric, (place or None) if not trains else None, direction, value)  # type: ignore[arg-type]


class Tail:
    """The rows of a metrics file as they come. A resumed training writes the file anew; then all rows come again.

    Args:
        file: it need not be there yet.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._inode, self._at, self._rest = 0, 0, b""

    def rows(self) -> Iterator[dict[str, Any]]:
        """The whole rows written since the last call."""
        try:
            with open(self.file, "rb") as file:
                found = os.fstat(file.fileno())
                if found.st_ino != self._inode or found.st_size < self._at:
                    self._inode, self._at, self._rest = found.st_ino, 0, b""
                file.seek(self._at)
                read = file.read()
        except OSError:
            return
        self._at += len(read)
        *lines, self._rest = (self._rest + read).split(b"\n")
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                yield {key: math.nan if value is None else value for key, value in row.items()}
