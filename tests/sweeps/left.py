"""What a sweep left behind, and drivers that are killed."""

from __future__ import annotations

import collections
import signal
import time
from pathlib import Path

import optuna

from mmgen.sweeps.search import storage


class Left:
    """What a sweep left in its directory and its storage."""

    def __init__(self, directory: Path, address: str | None = None):
        self.directory = directory
        self.study = optuna.load_study(study_name="quick", storage=storage(address, directory))
        self.states = collections.Counter(trial.state.name for trial in self.study.trials)
        lines = (directory / "events.txt").read_text().splitlines()
        self.ends = collections.Counter(line.split()[1] for line in lines if line.startswith("end"))
        self.begins = collections.defaultdict(set)
        for line in lines:
            if line.startswith("begin"):
                self.begins[line.split()[1]].add(line.split()[2])
        self.directories = sorted(path.name for path in (directory / "trials").iterdir())

    def assert_exactly(self, count: int) -> None:
        """So many trials, each finished once, in a directory of its own, with the values that the storage knows."""
        names = [f"quick-{number:04d}" for number in range(count)]
        assert dict(self.states) == {"COMPLETE": count}
        assert self.directories == names
        assert dict(self.ends) == dict.fromkeys(names, 1)
        for number, name in enumerate(names):
            assert self.begins[name] == {f"x={self.study.trials[number].params['x']!r}"}


def kill_and_restart(start, kills, delays, timeout=60, **options):
    """Kills a driver after each of these delays and starts it again, until it ends by itself; gives how many kills
    met a living driver."""
    met = 0
    for delay in delays:
        if met == kills:
            break
        process = start(**options)
        time.sleep(delay)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            met += 1
        process.wait()
    process = start(**options)
    assert process.wait(timeout=timeout) == 0
    return met
