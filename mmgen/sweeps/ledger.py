"""Whose a trial is, and how many there are: what makes a sweep end with exactly as many trials as were asked for.

Every trial is born with its owner, in one operation of the storage, so that none is ever nobody's. It is begun
(WAITING to RUNNING) and finished (RUNNING to COMPLETE, PRUNED or FAIL) once, since a storage lets one of several win.
Numbers are given by the storage; a trial counts if fewer than the wanted number of counting trials have a lower one,
so that no race makes one too many.

A worker that dies leaves trials behind. On the machine that has its directory they go on where they were, each in its
own: whether their worker lives is known at once, by a lock that the kernel gives up with it. Elsewhere they are marked
as abandoned once their worker has given no sign for a while; abandoned trials do not count, and are tried again.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmgen.errors import ConfigError
from mmgen.runs.config import differences
from mmgen.sweeps.goals import Direction

if TYPE_CHECKING:
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial, TrialState

OWNER, BEAT, ABANDONED, RETRIES = "owner", "beat", "abandoned", "retries"


class Ledger:
    """One worker's view of a sweep's trials.

    Args:
        name: the study's.
        storage: where it is kept.
        directory: the sweep's, on this machine.
        directions: minimize or maximize, one a goal.
        grace: seconds without a sign after which the trials of another machine's worker are taken for abandoned.
    """

    def __init__(
        self, name: str, storage: BaseStorage, directory: Path, directions: Sequence[Direction], grace: float = 60.0
    ) -> None:
        import optuna

        self.name, self.storage, self.directory, self.grace = name, storage, directory, grace
        self.worker = secrets.token_hex(4)
        self.mine: set[int] = set()
        self._seen: dict[int, tuple[Any, float]] = {}  # trial number to its last sign, and when we first saw that
        (directory / "workers").mkdir(parents=True, exist_ok=True)
        self._lock = _locked_file(self._lock_of(self.worker))
        self._began, self._last_beat = time.time(), 0.0
        study = optuna.create_study(
            study_name=name, storage=storage, directions=list(directions), load_if_exists=True
        )
        self.study_id = storage.get_study_id_from_name(name)
        found = [d.name.lower() for d in study.directions]
        if found != list(directions):
            raise ConfigError(
                f"the sweep {name} is after {found}, not {list(directions)}",
                code="MMG-C66",
                where="sweep.direction",
                fix=f"sweep.name={name}-2",
            )

    def agree(self, definition: Mapping[str, Any]) -> None:
        """Keeps what the sweep is, and holds a later worker's against it.

        Raises:
            ConfigError: MMG-C66, the sweep was made with another definition.
        """
        with self._claims():
            kept = self.storage.get_study_user_attrs(self.study_id).get("definition")
            if kept is None:
                self.storage.set_study_user_attr(self.study_id, "definition", dict(definition))
                return
        changed = differences(kept, json.loads(json.dumps(definition)))
        if changed:
            shown = "; ".join(f"{key}: {old!r} → {new!r}" for key, old, new in changed[:3])
            raise ConfigError(
                f"the sweep {self.name} was made with another definition: {shown}"[:600],
                code="MMG-C66",
                where=str(self.directory),
                why="its trials would not be comparable",
                fix=f"sweep.name={self.name}-2 for a new sweep; n_trials, total_time, total_steps, workers may change",
            )

    def trials(self) -> list[FrozenTrial]:
        """All trials that are not abandoned, by their number."""
        found = self.storage.get_all_trials(self.study_id, deepcopy=False)
        return sorted((t for t in found if not _is_abandoned(t)), key=lambda t: t.number)

    def counting(self, limit: int | None) -> list[FrozenTrial]:
        """Those that count towards `limit`."""
        return self.trials()[:limit]

    def claim(self, limit: int | None, may_begin: bool) -> FrozenTrial | None:
        """A trial for this worker to run, begun and ours: an interrupted one, else a new one; None: there is none.

        Args:
            limit: how many trials the sweep has.
            may_begin: whether a new trial may begin; interrupted ones go on in any case.
        """
        with self._claims():
            self._abandon_the_lost(limit)
            for trial in self.counting(limit):
                if not trial.state.is_finished() and trial.number not in self.mine and self._is_ours_to_take(trial):
                    return self._take(trial)
            while may_begin and (limit is None or len(self.trials()) < limit):
                trial = self._born()
                if any(t.number == trial.number for t in self.counting(limit)):
                    return self._take(trial)
        return None

    def finish(
        self, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None, facts: Mapping[str, Any]
    ) -> bool:
        """Marks a trial of ours as finished; False where it is not ours any more.

        Args:
            facts: kept beside it: seconds, steps, the reason of a failure.
        """
        from optuna.exceptions import UpdateFinishedTrialError

        self.mine.discard(trial.number)
        try:
            for key, value in facts.items():
                self.storage.set_trial_user_attr(trial._trial_id, key, value)
            return self.storage.set_trial_state_values(trial._trial_id, state, values)
        except UpdateFinishedTrialError:
            return False

    def beat(self, notes: Mapping[int, Any] | None = None) -> list[int]:
        """A sign of life for every trial of ours, every now and then; gives those that are not ours any more."""
        from optuna.exceptions import UpdateFinishedTrialError

        if time.monotonic() - self._last_beat < self.grace / 4:
            return []
        self._last_beat = time.monotonic()
        lost = []
        for trial in self.storage.get_all_trials(self.study_id, deepcopy=False):
            if trial.number not in self.mine:
                continue
            owner = trial.user_attrs.get(OWNER) or {}
            try:
                if trial.state.is_finished() or owner.get("worker") != self.worker:
                    lost.append(trial.number)
                else:
                    self.storage.set_trial_user_attr(trial._trial_id, BEAT, round(time.time(), 1))
            except UpdateFinishedTrialError:
                lost.append(trial.number)
        self.mine -= set(lost)
        self._note_work()
        return lost

    def _note_work(self) -> None:
        self.storage.set_study_user_attr(self.study_id, f"worked:{self.worker}", [self._began, time.time()])

    def seconds(self) -> float:
        """How long anybody has worked on the sweep, in seconds: hours in which nobody did do not count."""
        attrs = self.storage.get_study_user_attrs(self.study_id)
        mine = f"worked:{self.worker}"
        spans = [tuple(span) for key, span in attrs.items() if key.startswith("worked:") and key != mine]
        total, end = 0.0, 0.0
        for begin, last in sorted([*spans, (self._began, time.time())]):
            total += max(last - max(begin, end), 0.0)
            end = max(end, last)
        return total

    def close(self) -> None:
        """Lets go of what is ours; what was not finished is for others to take."""
        with suppress(Exception):  # of a storage that is out of reach; what ended us is told
            self._note_work()
        os.close(self._lock)
        with suppress(OSError):
            if not self.mine:
                self._lock_of(self.worker).unlink()

    # --- whose it is -------------------------------------------------------------------------------------------------

    def _born(self) -> FrozenTrial:
        """A new trial, ours, not begun; it tries what an abandoned one was to try."""
        from optuna.trial import TrialState, create_trial

        owner = {"worker": self.worker, "boot": _boot(), "host": socket.gethostname(), "pid": os.getpid()}
        found = self.storage.get_all_trials(self.study_id, deepcopy=False)
        retried = {t.user_attrs.get(RETRIES) for t in found}
        again = next((t for t in found if _is_abandoned(t) and t.params and t.number not in retried), None)
        template = create_trial(
            state=TrialState.WAITING,
            user_attrs={OWNER: owner, **({RETRIES: again.number} if again else {})},
            system_attrs={"fixed_params": again.params} if again else {},
        )
        return self.storage.get_trial(self.storage.create_new_trial(self.study_id, template_trial=template))

    def _take(self, trial: FrozenTrial) -> FrozenTrial:
        """Ours from now on; a waiting one is begun."""
        from optuna.trial import TrialState

        owner = {"worker": self.worker, "boot": _boot(), "host": socket.gethostname(), "pid": os.getpid()}
        if (trial.user_attrs.get(OWNER) or {}).get("worker") != self.worker:
            self.storage.set_trial_user_attr(trial._trial_id, OWNER, owner)
        if trial.state == TrialState.WAITING:
            self.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
        self.mine.add(trial.number)
        return self.storage.get_trial(trial._trial_id)

    def _is_ours_to_take(self, trial: FrozenTrial) -> bool:
        """Whether a trial that is not finished is nobody's and can go on here, where its directory is."""
        owner = trial.user_attrs.get(OWNER) or {}
        worker = str(owner.get("worker"))
        if worker == self.worker:
            return True
        if not self._lock_of(worker).exists():
            return False
        return self._is_dead(worker) if owner.get("boot") == _boot() else self._is_silent(trial)

    def _is_dead(self, worker: str) -> bool:
        """Whether a worker of this machine has ended: the kernel has given up its lock."""
        try:
            os.close(_locked_file(self._lock_of(worker)))
        except BlockingIOError:
            return False
        return True

    def _is_silent(self, trial: FrozenTrial) -> bool:
        """Whether a worker elsewhere has given no sign for `grace` seconds of our own clock: no two are compared."""
        sign = (trial.user_attrs.get(BEAT), (trial.user_attrs.get(OWNER) or {}).get("worker"), trial.state.name)
        if self._seen.get(trial.number, (None, 0.0))[0] != sign:
            self._seen[trial.number] = (sign, time.monotonic())
        return time.monotonic() - self._seen[trial.number][1] > self.grace

    def _abandon_the_lost(self, limit: int | None) -> None:
        """Gives up trials whose directory is elsewhere and whose worker is silent."""
        from optuna.exceptions import UpdateFinishedTrialError
        from optuna.trial import TrialState

        for trial in self.counting(limit):
            worker = str((trial.user_attrs.get(OWNER) or {}).get("worker"))
            if trial.state.is_finished() or worker == self.worker or self._lock_of(worker).exists():
                continue
            if self._is_silent(trial):
                with suppress(UpdateFinishedTrialError):  # it finished meanwhile: all the better
                    self.storage.set_trial_user_attr(trial._trial_id, ABANDONED, True)
                    self.storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def _lock_of(self, worker: str) -> Path:
        return self.directory / "workers" / f"{worker}.lock"

    @contextmanager
    def _claims(self) -> Iterator[None]:
        """One worker of this machine at a time decides whose a trial is."""
        descriptor = os.open(self.directory / ".claims.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _is_abandoned(trial: FrozenTrial) -> bool:
    from optuna.trial import TrialState

    return trial.state == TrialState.FAIL and trial.user_attrs.get(ABANDONED) is True


def _locked_file(path: Path) -> int:
    """A file, locked until it is closed or its holder ends. Raises BlockingIOError where somebody holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    return descriptor


def _boot() -> str:
    """What is the same for all processes under one kernel until it starts anew."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()
