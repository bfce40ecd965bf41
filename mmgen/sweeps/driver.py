"""The driver of a sweep: takes trials, runs each in a process of its own, watches, prunes, and tells the storage.

It can be killed at any moment, and any number of drivers may share a storage; whose a trial is, is the ledger's
business. One thread: the process that starts a trial has to outlive it, or the leash would pull.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmgen.errors import Interrupted
from mmgen.progress import duration
from mmgen.sweeps import search
from mmgen.sweeps.definition import FIRST_TRIALS, Sweep
from mmgen.sweeps.goals import Tail
from mmgen.sweeps.ledger import Ledger
from mmgen.sweeps.process import Failure, Process, is_finished, progress, why
from mmgen.sweeps.results import Result, best, most_failed, results, shown
from mmgen.sweeps.running import Running, TrialsBar, share
from mmgen.sweeps.space import override
from mmgen.tracking.charts import number

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

POLL = 0.1  # seconds between two looks at the processes
PATIENCE = 60.0  # seconds that a process has to save what it has, before it is killed
OUTAGE = 600.0  # seconds that a storage may be out of reach
LOOK = (0.5, 5.0)  # seconds between two looks for a trial to take, where there was none: the first, and the longest


@dataclass
class Driver:
    """Runs a sweep until its trials are finished.

    Args:
        sweep: what to run.
        tell: where a line about each trial goes.

    Raises:
        ConfigError: something of the sweep cannot be, or it was made with another definition.
    """

    sweep: Sweep
    tell: Any = print
    ledger: Ledger = field(init=False)
    running: list[Running] = field(default_factory=list)
    advice: str = ""  # why it gave up, if it did
    _signal: int | None = None
    _look: float = 0.0  # when to look for trials again
    _wait: float = LOOK[0]

    def __post_init__(self) -> None:
        search.require_optuna()
        sweep = self.sweep
        search.sampler(sweep.sampler, sweep.space)  # a mistake is told before anything is written
        self.pruner = search.pruner(sweep.pruner)
        points = search.size(sweep.sampler, sweep.space)
        bounds = [bound for bound in (sweep.trials, points) if bound is not None]
        self.limit = min(bounds) if bounds else None
        for name in ("trials", "logs", "workers"):
            (sweep.directory / name).mkdir(parents=True, exist_ok=True)
        self.storage = search.storage(sweep.storage, sweep.directory)
        directions = [goal.direction for goal in sweep.goals]
        self.ledger = Ledger(sweep.name, self.storage, sweep.directory, directions, sweep.grace)
        try:
            self.ledger.agree(sweep.described())
        except BaseException:
            self.ledger.close()
            raise

    def run(self) -> list[Result]:
        """All trials, ranked.

        Raises:
            Interrupted: a signal came; the trials that ran have saved what they had, and go on next time.
        """
        try:
            with self._signals(), self._bar() as bar:
                self._loop(bar)
        finally:
            for one in self.running:
                one.process.kill()
            self.ledger.close()
        if self._signal is not None:
            raise Interrupted(self._signal, "stopped: the same command goes on with the trials that ran, and the rest")
        return self.results()

    def results(self) -> list[Result]:
        """All trials, ranked, as they are now."""
        return results(self.sweep, self.ledger.counting(self.limit))

    # --- the loop ----------------------------------------------------------------------------------------------------

    def _loop(self, bar: TrialsBar) -> None:
        """Turns until all is done. A storage or a disk that fails is waited for: the trials do not need it."""
        failing: float | None = None
        while True:
            try:
                if self._turn(bar):
                    return
                failing = None
            except search.out_of_reach() as error:
                if failing is None:
                    self.tell(f"warning: the storage fails and is tried again: {type(error).__name__}: {error}")
                failing = failing or time.monotonic()
                if self._signal is not None or time.monotonic() - failing > OUTAGE:
                    raise
                time.sleep(LOOK[1])
            time.sleep(POLL)

    def _turn(self, bar: TrialsBar) -> bool:
        """One look at everything; whether all is done."""
        ended = 0
        for one in list(self.running):
            if self._ended(one):
                self.running.remove(one)
                ended += 1
        for lost in self.ledger.beat():
            self._drop(lost)
        if not ended and time.monotonic() < self._look:
            return False
        self._show(bar)
        if ended or not self.running:
            self._give_up_after_failures()
        took = self._take_more()
        self._wait = LOOK[0] if took or ended else min(self._wait * 1.5, LOOK[1])
        self._look = time.monotonic() + self._wait
        return not self.running and (self._signal is not None or self._is_done())

    def _take_more(self) -> bool:
        took = False
        while len(self.running) < self.sweep.workers and self._signal is None:
            frozen = self.ledger.claim(self.limit, self._may_begin())
            if frozen is None:
                break
            try:
                self.running.append(self._begun(frozen))
            except BaseException:
                self.ledger.mine.discard(frozen.number)  # so that we may take it again
                raise
            took = True
        return took

    def _may_begin(self) -> bool:
        """Whether the budgets have room for another trial."""
        sweep = self.sweep
        if self.advice or (sweep.seconds is not None and self.ledger.seconds() >= sweep.seconds):
            return False
        return sweep.steps is None or self._steps() < sweep.steps

    def _steps(self) -> int:
        done = sum(int(t.user_attrs.get("steps", 0)) for t in self.ledger.counting(self.limit))
        return done + sum(progress(one.run)[0] for one in self.running)

    def _is_done(self) -> bool:
        """Whether nothing is left: not here, and not with another worker that may die before it has finished."""
        trials = self.ledger.counting(self.limit)
        if any(not trial.state.is_finished() for trial in trials):
            return False
        return not self._may_begin() or (self.limit is not None and len(trials) >= self.limit)

    # --- one trial ---------------------------------------------------------------------------------------------------

    def _begun(self, frozen: FrozenTrial) -> Running:
        """A trial with its values and its process: a new one, or one that was interrupted."""
        import optuna

        sweep, n = self.sweep, frozen.number
        if n < len(sweep.first) and "fixed_params" not in frozen.system_attrs:
            self.storage.set_trial_system_attr(frozen._trial_id, "fixed_params", dict(sweep.first[n]))
        study = optuna.load_study(
            study_name=sweep.name,
            storage=self.storage,
            sampler=search.sampler(sweep.sampler, sweep.space, n),
            pruner=self.pruner,
        )
        trial = optuna.trial.Trial(study, frozen._trial_id)
        values = sweep.space.suggest(trial)
        slot = min(set(range(sweep.workers)) - {one.slot for one in self.running})
        process = Process(sweep.log(n), sweep.directory / "logs" / f"{sweep.run_name(n)}.lock")
        one = Running(
            trial=trial,
            frozen=frozen,
            values=values,
            process=process,
            tail=Tail(sweep.watches.file(sweep.run(n))),
            run=sweep.run(n),
            slot=slot,
            began=time.monotonic(),
            before=float(frozen.user_attrs.get("seconds", 0.0)),
            reported=set(frozen.intermediate_values),
            had=share(sweep.run(n)),
        )
        self._go(one)
        return one

    def _go(self, one: Running) -> None:
        """Starts a trial's process, unless there is nothing to do or an orphan still does it."""
        n = one.frozen.number
        if one.process.is_free() and not is_finished(self.sweep.run(n)):
            one.process.start(self.sweep.command(n, one.values), self._environment(one.slot))

    def _environment(self, slot: int) -> dict[str, str]:
        sweep = self.sweep
        found = {}
        if sweep.devices:
            found["CUDA_VISIBLE_DEVICES"] = str(sweep.devices[slot % len(sweep.devices)])
        if sweep.workers > 1 and "OMP_NUM_THREADS" not in os.environ:
            found["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // sweep.workers))
        return found

    def _ended(self, one: Running) -> bool:
        """Looks at a trial; whether it is done with, here."""
        self._report(one)
        code = one.process.poll()
        if one.process.is_ours and code is None:
            if one.stop_by is not None and time.monotonic() > one.stop_by:
                one.process.kill()
            return False
        if not one.process.is_ours and not one.process.is_free():
            return False  # the process of a driver that was killed, where no leash pulled
        self._report(one)
        if is_finished(one.run):
            self._judge(one)  # also what was to be pruned at its last validation: all of it was paid for
        elif one.pruned:
            self._finish(one, "PRUNED", None, {})
        elif not one.process.is_ours:
            self._go(one)  # the orphan left it unfinished
            return False
        elif self._signal is not None:
            self._keep_seconds(one)  # it goes on next time
        else:
            self._fail(one, why(code or 0, one.process.log))
        return True

    def _report(self, one: Running) -> None:
        """Tells Optuna what the trial has logged since, and stops it if it is no good."""
        if not search.prunes(self.sweep.pruner) or one.pruned or one.process.stopping:
            return
        goal, sign = self.sweep.watches, self._sign
        for row in one.tail.rows():
            value, step = row.get(goal.metric), row["step"]
            if value is None or step in one.reported or not math.isfinite(value):
                continue
            one.reported.add(step)
            one.trial.report(sign * value, step)
            # what has done all of its steps was paid for, and only has to end
            if one.trial.should_prune() and share(one.run) < 1:
                one.pruned = True
                self._stop(one)
                return

    @property
    def _sign(self) -> float:
        """By what the watched metric is multiplied for Optuna, which knows the goal's direction alone."""
        return 1.0 if self.sweep.watches.direction == self.sweep.goals[0].direction else -1.0

    def _stop(self, one: Running) -> None:
        one.process.stop()
        one.stop_by = time.monotonic() + PATIENCE

    def _judge(self, one: Running) -> None:
        """A trial that came to its end: its values, or what is wrong with them."""
        run = one.run
        values = [goal.read(run) for goal in self.sweep.goals]
        for goal, value in zip(self.sweep.goals, values, strict=True):
            if value is None:
                self._fail(one, Failure("missing", f"{goal.file(run)} has no {goal.metric}"))
                return
            if not math.isfinite(value):
                self._fail(one, Failure("nan", f"{goal.name} is not a number"))
                return
        self._finish(one, "COMPLETE", [value for value in values if value is not None], {})

    def _fail(self, one: Running, failure: Failure) -> None:
        self._finish(one, "FAIL", None, {"failure": failure.reason, "kind": failure.kind})

    def _finish(self, one: Running, state: str, values: list[float] | None, facts: dict[str, Any]) -> None:
        from optuna.trial import TrialState

        steps = progress(one.run)[0]
        facts = {"seconds": self._seconds(one), "steps": steps, "log": str(one.process.log), **facts}
        pruned = "pruned"
        if state == "PRUNED":
            seen = self.storage.get_trial(one.frozen._trial_id).intermediate_values
            last = seen[max(seen)] if seen else None
            if last is not None:
                pruned += f" at {self.sweep.watches.name} {number(self._sign * last, 4)}"
            if self.sweep.watches_its_goal and last is not None:
                values = [last]  # as Optuna's own loop: it counts with what was seen last
        if not self.ledger.finish(one.frozen, TrialState[state], values, facts):
            self.tell(f"trial {one.frozen.number} was taken over by another worker")
            return
        failed = f"failed: {facts.get('failure')} (log: {one.process.log})"
        said = {"COMPLETE": shown(self.sweep, values or []), "PRUNED": pruned, "FAIL": failed}
        setting = " ".join(override(key, value) for key, value in one.values.items())
        self.tell(f"trial {one.frozen.number}: {said[state]} in {duration(facts['seconds'])}; {setting}")

    def _seconds(self, one: Running) -> float:
        return round(one.before + time.monotonic() - one.began, 2)

    def _keep_seconds(self, one: Running) -> None:
        self.storage.set_trial_user_attr(one.frozen._trial_id, "seconds", self._seconds(one))

    def _drop(self, lost: int) -> None:
        """Somebody else took a trial, since we gave no sign for long."""
        for one in [one for one in self.running if one.frozen.number == lost]:
            one.process.kill()
            self.running.remove(one)
            self.tell(f"trial {lost} was taken over by another worker")

    # --- around it ---------------------------------------------------------------------------------------------------

    def _give_up_after_failures(self) -> None:
        """Stops where more than half of the first trials failed, with what to do about it."""
        if self.advice or not self.sweep.stops_on_failures:
            return
        failed = most_failed(self.results(), self.limit)
        if not failed:
            return
        kinds = [r.kind for r in failed]
        usual = next(r for r in failed if r.kind == max(kinds, key=kinds.count))
        failure, log = Failure(usual.kind, usual.failure), self.sweep.log(usual.number)
        self.advice = f"{usual.failure}\n  log: {log}\n  fix: {failure.advice}; to go on anyway: stop_on_failures=false"
        self.tell(f"{len(failed)} of the first {FIRST_TRIALS} trials failed; no further one begins")

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """The first signal asks the trials to save and end; a second one ends them at once."""

        def heard(got: int, frame: object) -> None:
            for one in self.running:
                if self._signal is None:
                    self._stop(one)
                else:
                    one.process.kill()
            self._signal = self._signal or got

        before = {one: signal.signal(one, heard) for one in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def _bar(self) -> TrialsBar:
        done, total, unit = self._done()
        return TrialsBar(f"sweep {self.sweep.name}", total=total, unit=unit, done=done)

    def _done(self) -> tuple[int, int, str]:
        """How far the budget is used up that counts: trials, else minutes, else steps."""
        if self.limit is not None:
            finished = sum(t.state.is_finished() for t in self.ledger.counting(self.limit))
            return finished, self.limit, "trials"
        if self.sweep.seconds is not None:
            return int(self.ledger.seconds()), int(self.sweep.seconds), "s"
        return self._steps(), self.sweep.steps or 0, "steps"

    def _show(self, bar: TrialsBar) -> None:
        found = self.results()
        if self.limit is not None:
            bar.partly = sum(max(0.0, share(one.run) - one.had) for one in self.running)
        parts = []
        if (top := best(found)) is not None:
            parts.append(f"best {shown(self.sweep, top.values)} (trial {top.number})")
        counts = {state: sum(r.state == state for r in found) for state in ("pruned", "failed")}
        parts += [f"{count} {state}" for state, count in counts.items() if count]
        for one in self.running:
            done, wanted = progress(one.run)
            parts.append(f"trial {one.frozen.number}" + (f" at {done}/{wanted}" if wanted else ""))
        bar.advance(max(self._done()[0] - bar.done, 0), ", ".join(parts))
