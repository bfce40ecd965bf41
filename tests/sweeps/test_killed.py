"""A sweep whose drivers are processes: killed at random, stopped, several on one storage."""

import random
import signal
import time

import pytest

from tests.sweeps.left import Left, kill_and_restart


def test_killed_at_any_point_it_ends_with_exactly_as_many_trials(start, tmp_path):
    dice = random.Random(3)
    delays = (dice.uniform(1.0, 2.0) for _ in range(6))
    met = kill_and_restart(start, 3, delays, trials=5, overrides=["slow=0.25"], workers=2)
    assert met >= 2
    Left(tmp_path).assert_exactly(5)


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "trials"), [(1, 50), (3, 90)])
def test_twenty_random_kills(start, tmp_path, workers, trials):
    """Of enough trials that none of the kills comes after the last of them."""
    dice = random.Random(workers)
    delays = (dice.uniform(0.5, 4.0) for _ in range(60))
    met = kill_and_restart(
        start, 20, delays, timeout=300, trials=trials, overrides=["slow=0.15"], workers=workers
    )
    assert met == 20
    Left(tmp_path).assert_exactly(trials)


def test_an_interrupted_sweep_proposes_what_an_uninterrupted_one_would(start, drive, tmp_path):
    options = {"trials": 4, "overrides": ["slow=0.05"], "sampler": {"name": "tpe", "n_startup_trials": 2, "seed": 7}}
    kill_and_restart(start, 1, [2.2], **options)
    interrupted = [trial.params for trial in Left(tmp_path).study.trials]
    other = drive(directory=tmp_path / "other", **options)
    assert [r.params for r in sorted(other.ranked, key=lambda r: r.number)] == interrupted


@pytest.mark.parametrize("scheme", ["journal", pytest.param("sqlite", marks=pytest.mark.slow)])
def test_four_workers_on_one_storage_share_the_trials(start, tmp_path, scheme):
    address = None if scheme == "journal" else f"sqlite:///{tmp_path}/trials.db"
    workers = [start(trials=8, storage=address, overrides=["slow=0.05"]) for _ in range(4)]
    assert [worker.wait(timeout=60) for worker in workers] == [0] * 4, (tmp_path / "drivers.log").read_text()
    left = Left(tmp_path, address)
    left.assert_exactly(8)
    owners = {trial.user_attrs["owner"]["worker"] for trial in left.study.trials}
    assert len(owners) == 4


def test_stopped_by_a_signal_it_goes_on_where_it_was(start, tmp_path):
    process = start(trials=3, overrides=["slow=0.1"])
    deadline = time.monotonic() + 20
    while not (tmp_path / "events.txt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 143
    assert start(trials=3, overrides=["slow=0.1"]).wait(timeout=30) == 0
    Left(tmp_path).assert_exactly(3)
