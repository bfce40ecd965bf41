"""Several processes on this machine for one command, where neither torchrun nor SLURM has started them."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from mmgen.errors import ConfigError, MmgenError
from mmgen.progress import mute
from mmgen.ranks import Ranks, current, join, launched
from mmgen.runs.directory import RunDirectory

GRACE = 8.0  # seconds that the others have to end by themselves once one has failed
_PR_SET_PDEATHSIG = 1


def processes_wanted(config: Mapping[str, Any]) -> int:
    """How many processes this one has to start; 0 where they run already, or one is enough.

    Raises:
        ConfigError: MMG-C32, stages that want different numbers, or several machines without a launcher.
    """
    trainers = _trainers(config)
    if launched():
        return 0
    counts = {devices(trainer) for trainer in trainers}
    if len(counts) > 1:
        raise ConfigError(
            f"the stages want {' and '.join(map(str, sorted(counts)))} processes",
            code="MMG-C32",
            where="stages.*.trainer.devices",
            why="one command has as many processes from its start to its end",
            fix=f"trainer.devices={max(counts)}, or each part with `mmgen train`",
        )
    nodes = max(trainer["num_nodes"] for trainer in trainers)
    if nodes > 1:
        raise ConfigError(
            f"trainer.num_nodes={nodes}, and nobody started this process as one of several",
            code="MMG-C32",
            where="trainer.num_nodes",
            fix=f"torchrun --nnodes={nodes} --nproc-per-node={max(counts)} … --no-python mmgen …; see docs/scale.md",
        )
    return counts.pop() if max(counts) > 1 else 0


def _trainers(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [stage["trainer"] for stage in config["stages"].values()] if "stages" in config else [config["trainer"]]


def computes_on(*trainers: Mapping[str, Any]) -> str:
    """The `device` of what follows a training: the CPU where any of its trainers asks for it, and otherwise auto."""
    return "cpu" if any(trainer["accelerator"] == "cpu" for trainer in trainers) else "auto"


def devices(trainer: Mapping[str, Any]) -> int:
    """How many processes a trainer's section wants on a machine, with Lightning's meaning of `devices`."""
    wanted = trainer["devices"]
    if isinstance(wanted, str) and wanted != "auto":
        numbers = [int(part) for part in wanted.split(",") if part.strip()]
        wanted = numbers if "," in wanted else numbers[0]
    if isinstance(wanted, list):
        return len(wanted)
    if wanted not in ("auto", -1):
        return int(wanted)
    if trainer["accelerator"] == "cpu":
        return 1
    import torch

    return max(1, torch.cuda.device_count())


def meet(config: dict[str, Any]) -> Ranks:
    """Joins the other processes of a training command, if there are any; rank 0 says what the run is called, since a
    name may hold the time of day.

    Raises:
        ConfigError: MMG-C32, some stages on GPUs and some on CPUs.
    """
    trainers = _trainers(config)
    if not launched():
        return current()
    import torch

    gpus = torch.cuda.is_available()
    kinds = {"gpu" if gpus and trainer["accelerator"] != "cpu" else "cpu" for trainer in trainers}
    if len(kinds) > 1:
        raise ConfigError(
            "some stages want GPUs and some CPUs, for one group of processes",
            code="MMG-C32",
            where="stages.*.trainer.accelerator",
            fix="trainer.accelerator=gpu, or each part with `mmgen train`",
        )
    ranks = join("gloo" if kinds == {"cpu"} else "nccl", max(trainer["timeout"] for trainer in trainers))
    if not ranks.first:
        mute()
    config["run"] = ranks.agree(lambda: config["run"])
    return ranks


@contextmanager
def locked(path: Path) -> Iterator[RunDirectory]:
    """The run's directory, locked by rank 0 for all of them (see `RunDirectory.lock`)."""
    directory = RunDirectory(path)
    with ExitStack() as stack:
        current().agree(lambda: stack.enter_context(directory.lock()) and None)
        yield directory


def start(count: int, command: str, config: Mapping[str, Any]) -> int:
    """Runs a command in `count` processes, each with this very config, and waits for all of them.

    A signal is handed on to each. When one fails, the others get a moment, then they are killed: none waits for it
    forever, and none outlives this process.

    Returns:
        The exit code of the first that failed, else 0.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "mmgen"}
    shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-P", "-m", "mmgen.cli", "--as-started", command],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.PIPE,
            start_new_session=True,  # a Ctrl-C at the terminal reaches them once, through us
        )
        for rank in range(count)
    ]
    try:
        with _handed_on(processes):
            for process in processes:
                assert process.stdin is not None
                with suppress(BrokenPipeError), process.stdin as pipe:  # one that has died is told of below
                    pipe.write(json.dumps(config).encode())
            return _wait(processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def die_with_parent() -> None:
    """For a process that `start` started: it is killed when that one is (Linux)."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _wait(processes: list[subprocess.Popen[bytes]]) -> int:
    failed: int | None = None
    deadline = float("inf")
    while (running := [process for process in processes if process.poll() is None]) and time.monotonic() < deadline:
        if failed is None:
            failed = next((rank for rank, p in enumerate(processes) if p.returncode), None)
            if failed is not None and processes[failed].returncode not in (130, 143):
                deadline = time.monotonic() + GRACE
                _tell(failed, processes[failed], len(running))
        time.sleep(0.05)
    codes = [process.poll() for process in processes]
    if failed is None:
        failed = next((rank for rank, code in enumerate(codes) if code), None)
        if failed is not None:
            _tell(failed, processes[failed], 0)
    if failed is None:
        return 0
    code = processes[failed].returncode
    return 128 - code if code < 0 else code


def _tell(rank: int, process: subprocess.Popen[bytes], left: int) -> None:
    """Names a process that could not say itself how it ended."""
    if process.returncode < 0:
        name = signal.Signals(-process.returncode).name
        error = MmgenError(
            f"rank {rank} (pid {process.pid}) was killed by {name}" + ("; the others are stopped" if left else ""),
            code="MMG-R06",
            fix="the same command, with its run.name, goes on from the last checkpoint",
        )
        print(error.render(), file=sys.stderr, flush=True)


@contextmanager
def _handed_on(processes: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    def hand_on(number: int, frame: object) -> None:
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
