"""A trial's program that a test can wait for: a run of a few milliseconds, in mmgen's own files.

It logs `val/loss` = (x - 0.3)² + 1/step and goes on where it was interrupted; every start and end is a line of
EVENTS. `fail=crash|number|memory|kill` ends it otherwise; `slow=SECONDS` is what a step takes, `linger=SECONDS` what it
takes to end after the last one.
"""

import os
import signal
import sys
import time
from pathlib import Path

from mmgen.errors import NonFiniteError
from mmgen.runs.directory import RunDirectory
from mmgen.runs.metrics import MetricsFile

STEPS = 5


def event(word: str, name: str) -> None:
    line = f"{word} {name} {os.getpid()}\n".encode()
    handle = os.open(os.environ["EVENTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(handle, line)
    os.close(handle)


def main() -> None:
    given = dict(text.split("=", 1) for text in sys.argv[1:])
    x, name = float(given.get("x", 0)), given["run.name"]
    directory = RunDirectory(Path(given["run.dir"]) / name)
    event("begin", f"{name} x={given.get('x')}")
    with directory.lock():
        new = not directory.config_file.exists()
        directory.create({key: value for key, value in given.items() if not key.startswith("run.")})
        done = 0 if new else directory.status().step
        metrics = MetricsFile(directory.metrics_file)
        metrics.drop_after(done - 1)
        for step in range(done, STEPS):
            time.sleep(float(given.get("slow", 0.01)))
            metrics.append({"step": step, "val/loss": (x - 0.3) ** 2 + 1 / (step + 1), "val/psnr": 30 * x})
            directory.update_status(state="running", step=step + 1, max_steps=STEPS)
            if given.get("fail") == "crash":
                raise RuntimeError("the trial broke down")
            if given.get("fail") == "memory":
                raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
            if given.get("fail") == "number":
                print(NonFiniteError("val/loss is not a number at step 1", code="MMG-N01").render())
                sys.exit(6)
            if given.get("fail") == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(float(given.get("linger", 0)))
        directory.update_status(state="finished")
    event("end", name)


main()
