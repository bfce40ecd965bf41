"""A trial that a driver runs, and the bar over all of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmgen.progress import Bar
from mmgen.sweeps.goals import Tail
from mmgen.sweeps.process import Process, progress
from mmgen.sweeps.space import Value

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, Trial


@dataclass
class Running:
    """A trial that we run."""

    trial: Trial
    frozen: FrozenTrial
    values: dict[str, Value]
    process: Process
    tail: Tail
    run: Path
    slot: int
    began: float
    before: float  # seconds that it took before it was interrupted
    reported: set[int]
    had: float  # the share of its steps that it had when we took it
    stop_by: float | None = None  # when it is killed, once told to stop
    pruned: bool = False


class TrialsBar(Bar):
    """A bar whose time left counts the trials that run, too."""

    partly = 0.0  # trials' worth of steps, done in trials that are not finished

    def eta(self) -> float | None:
        """Seconds left at the mean speed so far; None before the first step."""
        counted = self.done - self._begun_at + self.partly
        if counted <= 0:
            return None
        return max(0.0, self.total - self.done - self.partly) * (time.monotonic() - self._start) / counted


def share(run: Path) -> float:
    """The share of its steps that a run has done; 0 before it knows how many there are."""
    done, wanted = progress(run)
    return done / wanted if wanted else 0.0
