"""Processes of mmgen's own: how many are wanted, and how all of them end."""

from __future__ import annotations

import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time

import pytest

from mmgen import cli, ranks
from mmgen.commands import launch, starting
from mmgen.commands.preflight import check_precision, check_ranks
from mmgen.commands.stages import Stage
from mmgen.errors import ConfigError, ConfigErrors, NonFiniteError

CPU = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "tensor_parallel_size": 1}


@pytest.fixture(autouse=True)
def nobody_started_us(monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_NTASKS", "SLURM_JOB_NAME"):
        monkeypatch.delenv(name, raising=False)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("said", "count"), [(1, 1), (3, 3), ("auto", 1), (-1, 1), ("2", 2), ("0,3", 2), ("1,", 1), ([0, 1, 5], 3)]
)
def test_devices_mean_what_they_mean_to_lightning(said, count):
    assert starting.devices({**CPU, "devices": said}) == count


def test_processes_are_started_only_where_several_are_wanted_and_none_runs(monkeypatch):
    several = {"trainer": {**CPU, "devices": 2}}
    assert starting.processes_wanted({"trainer": CPU}) == 0
    assert starting.processes_wanted(several) == 2
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    assert starting.processes_wanted(several) == 0
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    assert starting.processes_wanted(several) == 0
    monkeypatch.setenv("SLURM_JOB_NAME", "interactive")
    assert starting.processes_wanted(several) == 2


@pytest.mark.parametrize(
    ("config", "where"),
    [
        ({"trainer": {**CPU, "num_nodes": 2}}, "trainer.num_nodes"),
        (
            {"stages": {"tokenizer": {"trainer": CPU}, "generator": {"trainer": {**CPU, "devices": 2}}}},
            "stages.*.trainer.devices",
        ),
    ],
)
def test_what_one_machine_cannot_start_is_refused(config, where):
    with pytest.raises(ConfigError) as caught:
        starting.processes_wanted(config)
    assert (caught.value.code, caught.value.where) == ("MMG-C32", where)


@pytest.mark.parametrize(
    ("size", "trainer", "batch", "code", "fix"),
    [
        (2, {"devices": 4}, 16, "MMG-C32", "trainer.devices=2"),
        (4, {"devices": 4, "strategy": "ddp", "tensor_parallel_size": 2}, 16, "MMG-C30", "trainer.strategy=fsdp"),
        (4, {"devices": 4, "strategy": "fsdp", "tensor_parallel_size": 3}, 16, "MMG-C30", "tensor_parallel_size=1"),
        (4, {"devices": 4, "strategy": "ddp"}, 18, "MMG-C33", "task.batch_size=16 or task.batch_size=20"),
        (4, {"devices": 4, "strategy": "fsdp", "tensor_parallel_size": 2}, 17, "MMG-C33", "batch_size=16 or "),
    ],
)
def test_processes_that_do_not_fit_the_config_are_refused(monkeypatch, size, trainer, batch, code, fix):
    monkeypatch.setattr(ranks, "_current", ranks.Ranks(0, size))
    stage = Stage("generator", {}, {"batch_size": batch}, {**CPU, **trainer}, {}, 1, "x")
    with pytest.raises(ConfigError) as caught:
        check_ranks(stage, "")
    assert caught.value.code == code
    assert fix in caught.value.fix


def test_a_batch_that_its_replicas_divide_is_taken(monkeypatch):
    monkeypatch.setattr(ranks, "_current", ranks.Ranks(0, 4))
    trainer = {**CPU, "devices": 4, "strategy": "fsdp", "tensor_parallel_size": 2}
    check_ranks(Stage("generator", {}, {"batch_size": 18}, trainer, {}, 1, "x"), "")


@pytest.mark.parametrize(
    ("precision", "why"),
    [
        *((name, "ends a training") for name in ("16-mixed", "16")),
        *((name, "moving average") for name in ("16-true", "bf16-true", "transformer-engine")),
    ],
)
def test_a_precision_that_loses_what_is_learned_is_refused(precision, why):
    with pytest.raises(ConfigError, match=f"encoder cannot be trained with trainer.precision={precision}") as caught:
        check_precision(Stage("encoder", {}, {}, {**CPU, "precision": precision}, {}, 1, "x"), "stages.encoder.")
    assert caught.value.where == "stages.encoder.trainer.precision"
    assert why in caught.value.why
    assert caught.value.fix == "stages.encoder.trainer.precision=bf16-mixed"


@pytest.mark.parametrize("precision", [None, "32-true", "32", "64-true", "bf16-mixed", "bf16"])
def test_a_precision_that_keeps_weights_whole_is_taken(precision):
    check_precision(Stage("encoder", {}, {}, {**CPU, "precision": precision}, {}, 1, "x"), "")


def test_the_command_refuses_a_precision_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    argv = ["train", "task=encoder", "dataset=colours", "dataset.image_size=16", "trainer.precision=bf16-true"]
    assert cli.main([*argv, "run.name=rounded"]) == 2
    assert "fix: trainer.precision=bf16-mixed" in capsys.readouterr().err
    assert not (tmp_path / "runs" / "rounded" / "checkpoints").exists()


# ---- how they end


def python(code: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", code], start_new_session=True)


FOREVER = "import time; time.sleep(60)"


def ended(*codes: str) -> tuple[int, float, list[int]]:
    processes = [python(code) for code in codes]
    began = time.monotonic()
    try:
        return starting._wait(processes), time.monotonic() - began, [process.poll() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_all_that_end_well_end_well():
    assert ended("", "import time; time.sleep(0.3)")[::2] == (0, [0, 0])


def test_one_that_fails_does_not_leave_the_others_waiting(monkeypatch, capsys):
    monkeypatch.setattr(starting, "GRACE", 0.5)
    code, seconds, codes = ended(FOREVER, "raise SystemExit(6)")
    assert (code, codes) == (6, [None, 6])
    assert seconds < 5
    assert capsys.readouterr().err == "", "it spoke for itself"


def test_one_that_was_killed_is_named(monkeypatch, capsys):
    monkeypatch.setattr(starting, "GRACE", 0.5)
    code, seconds, _ = ended(FOREVER, "import os; os.kill(os.getpid(), 9)")
    assert code == 137
    assert seconds < 5
    assert "rank 1 (pid " in (said := capsys.readouterr().err)
    assert "was killed by SIGKILL; the others are stopped" in said


def test_those_that_were_asked_to_stop_get_the_time_to_save(monkeypatch):
    monkeypatch.setattr(starting, "GRACE", 0.1)
    code, _, codes = ended("raise SystemExit(143)", "import time; time.sleep(1); raise SystemExit(143)")
    assert (code, codes) == (143, [143, 143])


def test_a_signal_is_handed_on_once_to_each(tmp_path):
    code = """
import pathlib, signal, sys, time
signal.signal(15, lambda *_: sys.exit(143))
pathlib.Path({!r}).touch()
time.sleep(20)
"""
    ready = [tmp_path / str(number) for number in range(2)]
    processes = [python(code.format(str(path))) for path in ready]
    while not all(path.exists() for path in ready):
        time.sleep(0.01)
    before = signal.getsignal(signal.SIGTERM)
    with starting._handed_on(processes):
        os.kill(os.getpid(), signal.SIGTERM)
        assert starting._wait(processes) == 143
    assert signal.getsignal(signal.SIGTERM) is before
    assert [process.wait() for process in processes] == [143, 143]


def test_every_process_is_started_and_speaks_for_itself_when_it_fails(capfd):
    assert starting.start(2, "no_such_command", {"a": 1}) == 1
    assert capfd.readouterr().err.count("ModuleNotFoundError: No module named 'mmgen.commands.no_such_command'") == 2


def test_a_process_that_was_started_has_the_config_as_it_was_checked(monkeypatch):
    config = {"run": {"name": "a,b=${c}", "dir": "runs"}, "task": {"betas": [0.9, 0.96]}, "seed": None}
    got = []
    monkeypatch.setattr(starting, "die_with_parent", lambda: None)
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(config)))
    monkeypatch.setattr(launch, "function", lambda command: lambda *given: got.append((command, *given)) or 3)
    assert cli.main([cli.AS_STARTED, "train"]) == 3
    assert got == [("train", config, [])]


def test_errors_travel_between_processes():
    several = ConfigErrors([ConfigError("one", code="MMG-C01", where="a"), ConfigError("two", fix="b")])
    for error in (NonFiniteError("the loss", code="MMG-N01", where="step 3", why="x", fix="y"), several):
        again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
        assert type(again) is type(error)
        assert again.render() == error.render()
        assert again.exit_code == error.exit_code


@pytest.mark.slow
def test_processes_that_do_not_come_are_missed():
    """In a process of its own: a group that failed leaves traces in torch."""
    code = "from mmgen.ranks import join; join('gloo', 1)"
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **alone, "TORCHELASTIC_RUN_ID": "x"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "error[MMG-R06]: rank 0 did not find all 2 processes of its group" in result.stderr
    assert "1/2 clients joined" in result.stderr
