"""How long a person waits: help, listings, configs, errors and the first training step, as commands in new processes.

    python benchmarks/use.py [--rounds 5]

Prints the median and the fastest of the rounds by the clock, what was wanted, and whether the median keeps to it. A
busy machine shows in the difference between the two; nothing is asserted. Each command runs once before it is measured:
the first use of an installation compiles what it imports, and the measured ones find that as every later use does, also
where PYTHONDONTWRITEBYTECODE is set or the packages lie where nobody may write.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mmgen.runs.directory import RunDirectory
from mmgen.runs.metrics import MetricsFile

RUNS = 1000
TRAINING = ("train", "experiment=emoji_clip", "task=encoder", "tracking=offline")
WAITS: list[tuple[str, float, tuple[str, ...]]] = [  # what, seconds that it may take, arguments of `mmgen`
    ("help", 0.5, ("--help",)),
    ("plugins list", 0.5, ("plugins", "list")),
    ("config show", 3.0, ("config", "show", "run", "experiment=quickstart")),
    ("a config error", 3.0, ("train", "task=generator", "dataset=folder", "generator.num_layer=3")),
    (f"runs list, {RUNS} of them", 2.0, ("runs", "list")),
]


def seconds_of(arguments: tuple[str, ...], directory: Path) -> float:
    """Of one command in a new process."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "mmgen.cli", *arguments], cwd=directory, capture_output=True, check=False)
    return time.perf_counter() - began


def seconds_to_first_step(directory: Path, name: str) -> float:
    """From the command to the first row of metrics.jsonl; the training is then told to stop."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "mmgen.cli", *TRAINING, f"run.name={name}", "trainer.log_every_n_steps=1"]
    process = subprocess.Popen(command, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics = directory / "runs" / name / "metrics.jsonl"
    try:
        while not (metrics.is_file() and metrics.stat().st_size):
            if process.poll() is not None:
                raise SystemExit(f"mmgen {' '.join(TRAINING)} ended with {process.returncode} before its first step")
            time.sleep(0.02)
        return time.perf_counter() - began
    finally:
        process.terminate()
        process.wait()


def write_runs(directory: Path) -> None:
    """A thousand of three stages each, with rows, an evaluation and a config of the size of the quick start's."""
    config = {"seed": 1, **{f"section{i}": {f"key{j}": j for j in range(20)} for i in range(15)}}
    numbers = [{"name": f"psnr/{i}", "value": 1.0, "n": 9, "unit": "dB", "chance": None, "note": "x"} for i in range(9)]
    first = directory / "first"
    for path in (first, *(first / stage for stage in ("tokenizer", "generator", "encoder"))):
        path.mkdir(parents=True)
        RunDirectory(path).create(config).update_status(state="finished", step=1, max_steps=1, seconds=60.0)
        metrics = MetricsFile(path / "metrics.jsonl")
        metrics.append({"step": 1, "train/loss": 1.0})
        metrics.close()
    (first / "evaluation.json").write_text(json.dumps({"findings": {f"e{i}": {"numbers": numbers} for i in range(4)}}))
    config_text = (first / "config.yaml").read_text(encoding="utf-8")
    for i in range(RUNS - 1):
        run = shutil.copytree(first, directory / f"run-{i:04d}", copy_function=os.link)
        (run / "config.yaml").unlink()  # which was the first run's too
        (run / "config.yaml").write_text(f"{config_text}run:\n  name: {run.name}\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as compiled:
        directory = Path(name)
        os.environ["PYTHONPYCACHEPREFIX"] = compiled
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        write_runs(directory / "runs")
        print(f"{'what':24}{'median':>9}{'fastest':>9}{'wanted':>9}")
        for what, wanted, arguments in WAITS:
            told(what, [seconds_of(arguments, directory) for _ in range(rounds + 1)][1:], wanted)
        shutil.rmtree(directory / "runs")
        steps = [seconds_to_first_step(directory, f"first-{i}") for i in range(rounds + 1)]
        told("first training step", steps[1:], 8.0)


def told(what: str, seconds: list[float], wanted: float) -> None:
    median = statistics.median(seconds)
    verdict = "" if median <= wanted else "missed"
    print(f"{what:24}{median:8.2f}s{min(seconds):8.2f}s{wanted:8.1f}s  {verdict}", flush=True)


if __name__ == "__main__":
    main()
