"""Whatever is done to an export, opening it runs nothing, reads nothing else and ends in an error of ours."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).with_name("fuzz.py")


def fuzz(export, scratch, count, seed):
    command = [sys.executable, str(FUZZ), str(export), str(scratch), str(count), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("count", [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_mutated_exports_run_nothing(export, tmp_path, count):
    found = fuzz(export, tmp_path / "scratch", count, seed=count)
    assert found["events"] == []
    assert found["errors"] == []
    assert found["opened"] + found["refused"] == count
    assert found["refused"] > 0.6 * count  # a few mutations are harmless: another number of layers, say
    assert found["codes"].keys() >= {"MMG-K01", "MMG-K05", "MMG-K06"}  # both the hashes and the parsers were reached
    assert found["slowest"] < 2
