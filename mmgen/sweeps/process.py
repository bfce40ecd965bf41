"""A trial's process: started on a leash, watched, stopped; and why it failed."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mmgen.errors import MmgenError, quoted
from mmgen.runs.directory import RunDirectory, Status

LEASH = Path(__file__).with_name("leash.py")
_LOG_END = 20_000  # bytes of a log that are looked at
_NO_MEMORY = re.compile(r"out of memory|OutOfMemoryError|can't allocate memory|Cannot allocate memory|MemoryError")


@dataclass(frozen=True)
class Failure:
    """Why a trial failed.

    Args:
        kind: memory, nan, config, crash or missing.
        reason: one line.
    """

    kind: str
    reason: str

    @property
    def advice(self) -> str:
        """What to do where many trials fail so."""
        return {
            "memory": "search smaller models or batches, or run fewer workers at once",
            "nan": "search smaller learning rates, or set trainer.gradient_clip_val=1.0",
            "config": "mend the config: the message names the key",
            "missing": "sweep.goal names a metric that these runs do not log",
        }.get(self.kind, "look into the log: the fault is the program's, not the values'")


class Process:
    """The process of one trial, with a lock that all its descendants hold, so that an orphan is seen.

    Args:
        log: where its output goes, behind what an earlier start wrote.
        lock: a file of its own.
    """

    def __init__(self, log: Path, lock: Path) -> None:
        self.log, self._lock = log, lock
        self.stopping = False  # whether it was told to stop
        self._process: subprocess.Popen[bytes] | None = None

    def is_free(self) -> bool:
        """Whether no process, started by whoever, works on the trial."""
        descriptor = self._lock_now()
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is not None

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Starts it; it dies with us (on Linux), and no signal from the terminal reaches it but through us."""
        descriptor = self._lock_now()
        assert descriptor is not None, "another process works on this trial"
        try:
            with open(self.log, "ab") as output:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), *command],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **environment},
                    pass_fds=(descriptor,),
                    start_new_session=True,
                )
        finally:
            os.close(descriptor)

    def poll(self) -> int | None:
        """Its exit code, negative for a signal, or None while it runs."""
        return self._process.poll() if self._process is not None else None

    @property
    def is_ours(self) -> bool:
        """Whether we started it."""
        return self._process is not None

    def stop(self) -> None:
        """Asks it to save what it has, and end."""
        self.stopping = True
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def kill(self) -> None:
        """Ends it and all it started, at once."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _lock_now(self) -> int | None:
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        return descriptor


def is_finished(run: Path) -> bool:
    """Whether the run in this directory came to its end."""
    return RunDirectory(run).status().state == "finished"


def progress(run: Path) -> tuple[int, int]:
    """Optimizer steps done, and wanted, by a run and all its stages, also those that have not begun. A status is
    written at checkpoints; in between, the last row of the metrics tells."""
    done = wanted = 0
    for directory, steps in _trained(run).items():
        file = directory / "status.json"
        status = RunDirectory(directory).status() if file.is_file() and file.stat().st_size else Status()
        finished = status.state == "finished"
        done += status.step if finished else max(status.step, _rows(directory / "metrics.jsonl"))
        wanted += status.max_steps or max(steps, 0)
    return done, wanted


def _trained(run: Path) -> dict[Path, int]:
    """What a run trains: its own directory or, of `mmgen run`, those of stages and rivals; and how many steps, as far
    as its config tells."""
    try:
        config = _config(run / "config.yaml")
    except MmgenError:  # not written yet
        return {run: 0}
    if "stages" not in config:
        return {run: 0}
    steps = {kind: int(options["trainer"]["max_steps"]) for kind, options in config["stages"].items()}
    found = {run / kind: count for kind, count in steps.items() if not config.get(f"{kind}_from")}
    for name, options in (config.get("rivals") or {}).items():
        found[run / f"encoder-{name}"] = int((options.get("trainer") or {}).get("max_steps", steps["encoder"]))
    return found


@cache
def _config(file: Path) -> dict[str, Any]:
    """A trial's directory has one config for good."""
    return RunDirectory(file.parent).read_config()


def _rows(metrics: Path) -> int:
    """How many steps the last whole row comes after."""
    try:
        with open(metrics, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_END))
            lines = file.read().splitlines()
    except OSError:
        return 0
    for line in reversed(lines):
        with suppress(ValueError, TypeError, KeyError):
            return int(json.loads(line)["step"]) + 1
    return 0


def why(code: int, log: Path) -> Failure:
    """Why a process failed, from its exit code and the end of its log."""
    end = _end_of(log)
    said = re.findall(r"^(?:error\[[\w-]+\]: |\w*(?:Error|Exception): ).*", end, flags=re.MULTILINE)
    lines = [line.strip() for line in end.splitlines() if line.strip()]
    line = (said or lines or ["it wrote nothing"])[-1][:300]
    number = -code if code < 0 else code - 128 if code > 128 else 0
    name = signal.Signals(number).name if number in set(signal.Signals) else ""
    if _NO_MEMORY.search(end):
        return Failure("memory", f"out of memory: {line}")
    if name == "SIGKILL":
        return Failure("memory", "killed by SIGKILL, as the system does where memory runs out")
    if name:
        return Failure("crash", f"ended by {name}: {line}")
    if code == 6:
        return Failure("nan", line)
    return Failure("config" if code == 2 else "crash", f"exit code {code}: {line}")


def _end_of(log: Path) -> str:
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_END))
            return file.read().decode("utf-8", errors="replace")
    except OSError as error:
        return quoted(str(error))
