"""Drivers of sweeps in this process and in processes of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmgen.sweeps.driver import Driver
from tests.sweeps import drive as quick

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _events(tmp_path, monkeypatch):
    monkeypatch.setenv("EVENTS", str(tmp_path / "events.txt"))


@pytest.fixture
def sweep(tmp_path):
    """`sweep(trials=3, …)`: a sweep of quick trials in the test's directory."""
    return lambda directory=tmp_path, **options: quick.sweep(directory, **options)


@pytest.fixture
def drive(sweep):
    """`drive(trials=3, …)`: runs one in this process; gives the driver, with what it `told` and its trials `ranked`."""

    def run(**options):
        driver = Driver(sweep(**options))
        driver.told = []
        driver.tell = driver.told.append
        driver.ranked = driver.run()
        return driver

    return run


@pytest.fixture
def start(tmp_path):
    """`start(options)`: a driver in a process of its own."""
    started = []

    def run(**options):
        command = [sys.executable, str(HERE / "drive.py"), str(tmp_path), json.dumps(options)]
        log = open(tmp_path / "drivers.log", "ab")  # noqa: SIM115 - the process has it
        started.append(subprocess.Popen(command, stdout=log, stderr=log, env=dict(os.environ)))
        log.close()
        return started[-1]

    yield run
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()
