"""metrics.jsonl: nothing is lost by a kill, nothing is there twice after a resume."""

import json
import math
import os
import signal

import pytest

from mmgen.runs.metrics import MetricsFile


@pytest.fixture
def metrics(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    yield file
    file.close()


def steps(metrics):
    return [row["step"] for row in metrics.rows()]


def test_rows_come_back_in_order_with_a_time(metrics):
    assert metrics.rows() == []
    metrics.append({"step": 1, "train/loss": 0.5})
    metrics.append({"step": 2, "time": 3.0, "train/loss": 1e-30, "val/psnr": 20})
    first, second = metrics.rows()
    assert first["train/loss"] == 0.5
    assert first["time"] > 1.7e9
    assert second == {"step": 2, "time": 3.0, "train/loss": 1e-30, "val/psnr": 20}


def test_numbers_that_are_not_finite_keep_the_file_json(metrics):
    metrics.append({"step": 1, "train/loss": math.nan, "train/grad_norm": math.inf})
    line = metrics.path.read_text()
    assert json.loads(line, parse_constant=pytest.fail)["train/loss"] is None
    assert math.isnan(metrics.rows()[0]["train/loss"])
    assert math.isnan(metrics.rows()[0]["train/grad_norm"])


def test_a_resume_forgets_what_it_writes_anew(metrics):
    for step in (1, 2, 2, 3, 4):
        metrics.append({"step": step, "x": 0})
    kept = metrics.path.read_text().splitlines()[:3]
    metrics.drop_after(2)
    assert metrics.path.read_text().splitlines() == kept
    metrics.append({"step": 3, "x": 1})
    assert steps(metrics) == [1, 2, 2, 3]
    assert os.listdir(metrics.path.parent) == ["metrics.jsonl"]
    metrics.drop_after(-1)
    assert metrics.rows() == []


def test_forgetting_where_nothing_is_makes_nothing(metrics):
    metrics.drop_after(3)
    assert not metrics.path.exists()


@pytest.mark.parametrize("torn", ['{"step": 3, "train/lo', '{"step": 3}', "{", "\x00" * 70_000])
def test_a_line_torn_by_a_crash_is_left_out_and_the_next_begins_anew(metrics, torn):
    metrics.append({"step": 1})
    metrics.append({"step": 2})
    metrics.close()
    with open(metrics.path, "a") as file:
        file.write(torn)
    assert steps(metrics) == [1, 2]
    metrics.append({"step": 3})
    assert steps(metrics) == [1, 2, 3]
    assert len(metrics.path.read_text().splitlines()) == 3


def test_a_file_with_nothing_but_a_torn_line_starts_over(metrics):
    metrics.path.write_text('{"step"')
    metrics.append({"step": 1})
    assert steps(metrics) == [1]


def test_every_row_is_there_after_a_kill(metrics):
    child = os.fork()
    if child == 0:
        for step in range(100):
            metrics.append({"step": step})
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert steps(metrics) == list(range(100))


def test_a_row_needs_a_step(metrics):
    with pytest.raises(KeyError):
        metrics.append({"train/loss": 1.0})
