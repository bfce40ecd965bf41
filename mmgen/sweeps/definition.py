"""What a sweep is, as its driver needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmgen.sweeps.goals import Goal
from mmgen.sweeps.space import Space, Value, override

FIRST_TRIALS = 8  # of these, more than half may not fail


@dataclass(frozen=True)
class Sweep:
    """A search and its bounds.

    Args:
        name: of the sweep, its study and wandb's group.
        directory: the sweep's own.
        program: what a trial runs; the overrides of the trial follow.
        overrides: what all trials have in common.
        space: what is searched.
        goals: one or several.
        sampler: Optuna's, by name and options.
        pruner: Optuna's, by name and options.
        watched: the metric by which trials are pruned; the goal by default.
        first: settings to try before any sampler is asked, such as today's recipe.
        trials: how many there are in all.
        seconds: no trial begins once so much time was worked.
        steps: no trial begins once the trials took so many optimizer steps.
        workers: trials at once, of this command.
        devices: GPUs that the workers share out, one each.
        storage: an address; None: a file in the directory.
        stops_on_failures: whether it gives up when most of the first trials fail.
        grace: see `Ledger`.
    """

    name: str
    directory: Path
    program: tuple[str, ...]
    overrides: tuple[str, ...]
    space: Space
    goals: tuple[Goal, ...]
    sampler: Mapping[str, Any] = field(default_factory=lambda: {"name": "tpe"})
    pruner: Mapping[str, Any] = field(default_factory=lambda: {"name": "none"})
    watched: Goal | None = None
    first: tuple[Mapping[str, Value], ...] = ()
    trials: int | None = None
    seconds: float | None = None
    steps: int | None = None
    workers: int = 1
    devices: tuple[int, ...] = ()
    storage: str | None = None
    stops_on_failures: bool = True
    grace: float = 60.0

    @property
    def watches(self) -> Goal:
        """By what trials are pruned."""
        return self.watched or self.goals[0]

    @property
    def watches_its_goal(self) -> bool:
        """Whether what a pruned trial had reached counts as a value of the goal."""
        goal = self.goals[0]
        return (self.watches.name, self.watches.direction) == (goal.name, goal.direction)

    def run_name(self, number: int) -> str:
        """The name of a trial's run."""
        return f"{self.name}-{number:04d}"

    def run(self, number: int) -> Path:
        """The directory of a trial's run, of no other trial ever."""
        return self.directory / "trials" / self.run_name(number)

    def log(self, number: int) -> Path:
        """What a trial's process wrote."""
        return self.directory / "logs" / f"{self.run_name(number)}.log"

    def settings(self, values: Mapping[str, Value]) -> list[str]:
        """The overrides of a trial, but where it lies."""
        return [*self.overrides, *(override(key, value) for key, value in values.items())]

    def command(self, number: int, values: Mapping[str, Value]) -> list[str]:
        """What a trial runs."""
        place = [f"run.dir={self.directory / 'trials'}", f"run.name={self.run_name(number)}"]
        return [*self.program, *self.settings(values), *place]

    def described(self) -> dict[str, Any]:
        """What may not differ between the workers and the starts of one sweep."""
        return {
            "overrides": list(self.overrides),
            "space": self.space.described(),
            "goals": [[goal.name, goal.direction, goal.value] for goal in self.goals],
            "sampler": dict(self.sampler),
            "pruner": dict(self.pruner),
            "watched": self.watches.name,
            "first": [dict(one) for one in self.first],
        }
