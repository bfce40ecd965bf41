"""What the trials of a sweep came to, ranked; read from its storage, as a report or a bar needs it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmgen.sweeps.definition import FIRST_TRIALS, Sweep
from mmgen.sweeps.goals import Goal
from mmgen.sweeps.space import Value
from mmgen.tracking.charts import number

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class Result:
    """One trial.

    Args:
        state: complete, pruned, failed, running or waiting.
        values: of the goals; of a pruned trial, what was seen last of the goal; empty where it has none.
        on_front: among those that no other is better than, in every goal.
    """

    number: int
    state: str
    values: tuple[float, ...]
    params: dict[str, Value]
    seconds: float
    steps: int
    failure: str
    kind: str
    run: Path
    on_front: bool = False


def results(sweep: Sweep, trials: Sequence[FrozenTrial]) -> list[Result]:
    """All trials: finished ones first, best first; then pruned, failed, running ones."""
    found = [_result(sweep, trial) for trial in trials]
    complete = [r for r in found if r.state == "complete"]
    front = {r.number for r in complete if not any(_dominates(sweep.goals, o, r) for o in complete)}
    order = ("complete", "pruned", "failed", "running", "waiting")
    ranked = sorted(found, key=lambda r: (order.index(r.state), r.number not in front, _sign(sweep.goals, r), r.number))
    return [Result(**{**vars(r), "on_front": r.number in front}) for r in ranked]


def best(ranked: Sequence[Result]) -> Result | None:
    """The best trial that came to its end."""
    return ranked[0] if ranked and ranked[0].state == "complete" else None


def most_failed(found: Sequence[Result], limit: int | None) -> list[Result]:
    """The failed among the first trials, if they are more than half of those; else none."""
    failed = [r for r in found if r.number < FIRST_TRIALS and r.state == "failed"]
    among = min(FIRST_TRIALS, limit or FIRST_TRIALS)
    return failed if len(failed) > max(among / 2, 1) else []


def shown(sweep: Sweep, values: Sequence[float]) -> str:
    """The goals with their values, for people."""
    return ", ".join(f"{goal.name} {number(v, 4)}" for goal, v in zip(sweep.goals, values, strict=False))


def _result(sweep: Sweep, trial: FrozenTrial) -> Result:
    attrs: dict[str, Any] = trial.user_attrs
    return Result(
        number=trial.number,
        state={"FAIL": "failed"}.get(trial.state.name, trial.state.name.lower()),
        values=tuple(trial.values or ()),
        params=dict(trial.params),
        seconds=float(attrs.get("seconds", 0.0)),
        steps=int(attrs.get("steps", 0)),
        failure=str(attrs.get("failure", "")),
        kind=str(attrs.get("kind", "")),
        run=sweep.run(trial.number),
    )


def _sign(goals: Sequence[Goal], result: Result) -> float:
    """What to sort by: the first goal, smaller is better."""
    if not result.values:
        return 0.0
    return -result.values[0] if goals[0].direction == "maximize" else result.values[0]


def _dominates(goals: Sequence[Goal], one: Result, other: Result) -> bool:
    pairs = list(zip(goals, one.values, other.values, strict=True))
    return all(not goal.better(b, a) for goal, a, b in pairs) and any(goal.better(a, b) for goal, a, b in pairs)
