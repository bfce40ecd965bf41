"""A run is a directory. Reading and writing what is in it needs no torch."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from mmgen.errors import CheckpointError, ConfigError, MmgenError, quoted
from mmgen.files import is_leftover, read_json, remove_leftovers, require_space, write_atomic, write_json
from mmgen.runs.config import ABSENT, config_fingerprint, differences, plain
from mmgen.runs.lock import locked
from mmgen.runs.redaction import hides

# What may differ between starts of one run: where it lies, whether it goes on, who is told.
MAY_DIFFER = ("run", "resume", "tracking", "wanted")
STATES = ("running", "finished", "preempted", "failed")
EVALUATION_LIMIT = 50_000_000  # bytes of an evaluation.json


@dataclass(frozen=True)
class Status:
    """How far a run, or a stage of one, has come."""

    state: str = "new"  # running, finished, preempted or failed; new where nothing was written yet
    stage: str | None = None
    step: int = 0
    max_steps: int = 0
    seconds: float = 0.0  # of training, over all resumes
    config_fingerprint: str = ""
    started: str = ""  # ISO 8601, UTC
    updated: str = ""
    pid: int = 0


class RunDirectory:
    """The directory of a run or of one of its stages. Making the object touches nothing.

    Args:
        path: such as `runs/quickstart`, or `runs/quickstart/tokenizer`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.status_file = self.path / "status.json"
        self.metrics_file = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.model = self.path / "model"
        self.samples = self.path / "samples"
        self.error_log = self.path / "error.log"
        self.lock_file = self.path / ".lock"

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """A run that exists.

        Raises:
            CheckpointError: no run lies there.
        """
        directory = cls(path)
        if not directory.config_file.is_file():
            raise CheckpointError(
                f"{directory.path} is no run", code="MMG-K05", why=f"it has no {directory.config_file.name}"
            )
        return directory

    def create(self, config: Mapping[str, Any], ignore: Collection[str] = MAY_DIFFER) -> RunDirectory:
        """Makes the directory, or goes on with the one that this config made.

        Args:
            config: the resolved config, plain.
            ignore: dotted keys that may differ from those of an earlier start.

        Raises:
            ConfigError: another config made it, it holds something else, or it cannot be written. Nothing was changed.
        """
        self._prepare()
        if self.config_file.is_file():
            self.check_config(config, ignore)
            return self
        # The status first: a directory that has one is known as a run, should the process die in between.
        self.update_status(state="running", config_fingerprint=config_fingerprint(config), started=_now())
        self.write_config(config)
        return self

    def stage(self, name: str) -> RunDirectory:
        """The directory of a stage: tokenizer, generator or encoder."""
        return RunDirectory(self.path / name)

    def _prepare(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            names = {entry.name for entry in self.path.iterdir()}
        except OSError as error:
            raise ConfigError(
                f"cannot write in {self.path}",
                code="MMG-R04",
                why=error.strerror or str(error),
                fix="choose another place: `run.dir=DIR`",
            ) from error
        if not names & {self.lock_file.name, self.status_file.name} and not all(map(is_leftover, names)):
            raise ConfigError(
                f"{self.path} is in use: it holds {quoted(min(names))} and is no run of mmgen",
                code="MMG-R03",
                fix=f"`run.name={self.free_name()}`; nothing was changed",
            )

    def free_name(self) -> str:
        """A name beside this one that is not taken: bird-2."""
        number = 2
        while (self.path.parent / f"{self.path.name}-{number}").exists():
            number += 1
        return f"{self.path.name}-{number}"

    @contextmanager
    def lock(self) -> Iterator[RunDirectory]:
        """Keeps every other process out, and first removes what a killed one left.

        Raises:
            RunLockedError: another process works in the directory.
            ConfigError: the directory holds something else or cannot be written.
        """
        self._prepare()
        with locked(self.lock_file, self.free_name()):
            for directory in [self.path, *(p for pattern in ("*/", "*/*/") for p in self.path.glob(pattern))]:
                remove_leftovers(directory)
            yield self

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Writes config.yaml, with secrets redacted."""
        write_atomic(self.config_file, yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True))

    def read_config(self) -> dict[str, Any]:
        """The config the run was made with.

        Raises:
            ConfigError: it cannot be read.
        """
        try:
            config = yaml.safe_load(self.config_file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            reason = quoted(str(error).splitlines()[0])
            raise ConfigError(f"cannot read {self.config_file}", code="MMG-R05", why=reason) from error
        if not isinstance(config, dict):
            raise ConfigError(f"{self.config_file} holds no config", code="MMG-R05")
        return config

    def check_config(self, config: Mapping[str, Any], ignore: Collection[str] = MAY_DIFFER) -> None:
        """Compares a config with the one the directory was made with.

        Raises:
            ConfigError: naming the keys that differ, except those of `ignore` and below.
        """
        found = differences(self.read_config(), config, ignore)
        # An option that the mmgen of then did not have yet, and that is null, changes nothing.
        changed = [(key, old, new) for key, old, new in found if not (old is ABSENT and new is None)]
        if not changed:
            return
        shown = ", ".join(f"{key} {quoted(old, 30)} → {quoted(new, 30)}" for key, old, new in changed[:5])
        more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
        known = [(key, old) for key, old, _ in changed if old is not ABSENT and not hides(old)]
        back = " ".join(f"{key}={_as_override(old)}" for key, old in known)
        raise ConfigError(
            f"run directory {self.path} was made with another config: {shown}{more}",
            code="MMG-R02",
            where=str(self.config_file),
            fix=f"`run.name={self.free_name()}` for a new run" + (f", or go on as before: `{back}`" if back else ""),
        )

    def status(self) -> Status:
        """How far it has come; `state` is "new" where nothing was written yet.

        Raises:
            CheckpointError: status.json is not ours.
        """
        if not self.status_file.is_file():
            return Status()
        found = read_json(self.status_file, trusted=True)
        known = {f.name for f in fields(Status)}
        if not isinstance(found, dict) or not known >= found.keys() or found.get("state") not in STATES:
            raise CheckpointError(f"{self.status_file} is no status of a run", code="MMG-K05", fix="remove the file")
        return Status(**found)

    def read_evaluation(self) -> dict[str, Any]:
        """What evaluation.json holds: every figure, drawing and score.

        Raises:
            CheckpointError: it is not there, or no JSON.
        """
        found: dict[str, Any] = read_json(self.path / "evaluation.json", trusted=True, limit=EVALUATION_LIMIT)
        return found

    def update_status(self, **changes: Any) -> Status:
        """Writes some fields of the status, atomically; `updated` and `pid` come by themselves."""
        old = self.status()
        default = {"state": "running"} if old.state == "new" else {}
        now = _now()
        stamp = {"updated": now, "pid": os.getpid(), "started": old.started or now}
        status = replace(old, **{**stamp, **default, **changes})
        assert status.state in STATES, status.state
        write_json(self.status_file, asdict(status))
        return status

    def require_space(self, needed: int) -> None:
        """Raises CheckpointError MMG-K04 unless `needed` bytes are free where the run lies."""
        require_space(self.path, needed)


def finished_runs(directory: str | Path) -> list[RunDirectory]:
    """The finished runs in a directory, newest first; what is not a run, or not readable, is not among them."""
    found = []
    directory = Path(directory)
    for path in directory.iterdir() if directory.is_dir() else []:
        run = RunDirectory(path)
        try:
            status = run.status()
        except MmgenError:
            continue
        if status.state == "finished":
            found.append((status.updated, path.name, run))
    return [run for _, _, run in sorted(found, key=lambda item: item[:2], reverse=True)]


def _as_override(value: Any) -> str:
    """A value as the command line takes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value).replace(" ", "") if isinstance(value, dict | list) else str(value)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
