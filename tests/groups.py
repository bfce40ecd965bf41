"""Commands by several processes, for tests: one process imports mmgen and becomes as many as a group has.

Each group is given a list of steps, which its processes do one after the other, all alike: {"argv": […], "env": {…}} is
a command line, {"copy": [from, to]} copies a directory. Starting the command for each would import it a dozen times.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

Group = tuple[int, list[dict[str, Any]]]  # how many processes, and what they do


def command(*argv: str, **env: str) -> dict[str, Any]:
    """A step that is a command line, with more in its environment."""
    return {"argv": argv, "env": env}


def run_groups(work: Path, groups: list[Group], timeout: float = 1500) -> list[list[list[int]]]:
    """Runs the groups one after the other in a directory.

    Returns:
        The exit codes, by group, rank and command. What a process wrote lies in `group-0-rank-1.log` and so on.
    """
    with subprocess.Popen(
        [sys.executable, str(Path(__file__)), json.dumps(groups)],
        cwd=work,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as worker:
        try:
            out, err = worker.communicate(timeout=timeout)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)  # and those that it has become
    assert worker.returncode == 0, err
    return json.loads(out)


def said(work: Path, group: int, rank: int) -> str:
    """What a process of a group wrote, to both streams."""
    return (work / f"group-{group}-rank-{rank}.log").read_text()


def _main() -> None:
    sys.path[0] = ""  # as the installed command has it: not this directory
    import mmgen.commands.run
    import mmgen.commands.train  # noqa: F401 - before the fork, so that it is done once

    groups = json.loads(sys.argv[1])
    codes = []
    for number, (size, steps) in enumerate(groups):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        children = [_fork(f"group-{number}", rank, size, port, steps) for rank in range(size)]
        codes.append([])
        for rank, child in enumerate(children):
            os.waitpid(child, 0)
            file = Path(f"group-{number}-rank-{rank}.json")
            codes[-1].append(json.loads(file.read_text()) if file.exists() else [])
    print(json.dumps(codes))


def _fork(name: str, rank: int, size: int, port: int, steps: list[dict[str, Any]]) -> int:
    child = os.fork()
    if child:
        return child
    log = os.open(f"{name}-rank-{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if size > 1:
        group = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
        os.environ.update({key: str(value) for key, value in group.items()})
        os.environ.update({"MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_RUN_ID": "test"})
    with contextlib.suppress(BaseException):
        from mmgen.cli import main

        codes: list[int] = []
        for step in steps:
            if "copy" in step:
                if rank == 0:
                    shutil.copytree(*step["copy"])
                continue
            before = dict(os.environ)
            os.environ.update(step["env"])
            codes.append(main(step["argv"]))
            os.environ.clear()
            os.environ.update(before)
            Path(f"{name}-rank-{rank}.json").write_text(json.dumps(codes))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    _main()
