"""A trial's process: started on a leash, watched, stopped; and why it failed."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mmgen.errors import quoted
from mmgen.runs.directory import RunDirectory

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
    """Optimizer steps done, and wanted, by a run and its stages; of what has begun so far."""
    done = wanted = 0
    for directory in (run, *(run / name for name in ("tokenizer", "generator", "encoder"))):
        if (directory / "status.json").is_file() and (directory / "status.json").stat().st_size:
            status = RunDirectory(directory).status()
            done, wanted = done + status.step, wanted + status.max_steps
    return done, wanted



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
