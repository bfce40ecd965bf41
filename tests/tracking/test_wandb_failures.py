"""wandb breaks in every way it can, for real; training must not notice, and the metrics file must hold every row."""

from __future__ import annotations

import http.server
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mmgen.runs.metrics import MetricsFile
from mmgen.tracking import wandb_mirror
from mmgen.tracking.artifacts import Artifact
from mmgen.tracking.wandb_mirror import allowed_mode
from tests.tracking.conftest import Start, a_part
from tests.tracking.processes import children, command_of, wait_for_child, wait_until
from tests.tracking.wandb_files import of_type, offline_runs, records, rows

KEY = "a" * 40


def steps(directory: Path) -> list[int]:
    return [int(row["step"]) for row in MetricsFile(directory / "metrics.jsonl").rows()]


@pytest.mark.parametrize(("victim", "signal_number"), [("wandb-core", signal.SIGKILL), ("follower", signal.SIGKILL)])
def test_a_killed_process_is_one_warning_and_no_row_less(
    tmp_path: Path, start: Start, caplog: pytest.LogCaptureFixture, victim: str, signal_number: int
) -> None:
    logger = start(tmp_path)
    for step in range(10):
        logger.log_metrics({"train/loss": 1.0}, step)
    os.kill(wait_for_child(victim), signal_number)
    before = time.monotonic()
    for step in range(10, 60):
        logger.log_metrics({"train/loss": 1.0}, step)
        logger.log_picture("drawing", torch.zeros(3, 4, 4), step)
        time.sleep(0.01)
    logger.log_part(a_part("tokenizer", "3fa9"), tmp_path)
    logger.finish()
    assert time.monotonic() - before < 10, "it waited for who does not answer"  # alone, it takes under 2 s more
    assert steps(tmp_path) == list(range(60))
    (warning,) = caplog.records
    assert "MMG-W01" in warning.getMessage()
    assert "metrics.jsonl" in warning.getMessage()

    # The next attempt writes what wandb has missed.
    logger = start(tmp_path)
    logger.log_metrics({"train/loss": 1.0}, 60)
    logger.finish()
    assert [row["step"] for row in rows(records(tmp_path)) if "train/loss" in row] == list(range(61))


def test_an_artifact_that_cannot_be_recorded_is_one_warning(
    tmp_path: Path, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    gone = [Artifact(f"animals-{kind}", "model", {}, str(tmp_path / "gone")) for kind in ("tokenizer", "encoder")]
    logger = start(tmp_path, inputs=gone)
    logger.log_metrics({"train/loss": 1.0}, 0)
    logger.finish()
    (warning,) = caplog.records
    assert "MMG-W03" in warning.getMessage()
    assert "animals-tokenizer" in warning.getMessage()
    found = records(tmp_path)
    assert [row["step"] for row in rows(found)] == [0]
    assert [end["exit_code"] for end in of_type(found, "exit")] == [0]


def test_a_follower_that_hangs_is_left_behind(
    tmp_path: Path, start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(wandb_mirror.FINISH_SECONDS, "offline", 1.0)
    logger = start(tmp_path)
    logger.log_metrics({"train/loss": 1.0}, 0)
    follower = wait_for_child("follower")
    os.kill(follower, signal.SIGSTOP)
    before = time.monotonic()
    for step in range(1, 100):
        logger.log_metrics({"train/loss": 1.0}, step)
    logger.finish()
    assert time.monotonic() - before < 1.0 + 1.0
    assert "did not finish within 1 s" in caplog.text
    assert steps(tmp_path) == list(range(100))
    assert not Path(f"/proc/{follower}").exists()


def test_a_core_that_hangs_does_not_hold_the_end_up(
    tmp_path: Path, start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(wandb_mirror.FINISH_SECONDS, "offline", 1.0)
    logger = start(tmp_path)
    logger.log_metrics({"train/loss": 1.0}, 0)
    core = wait_for_child("wandb-core")
    os.kill(core, signal.SIGSTOP)
    try:
        before = time.monotonic()
        logger.finish()
        assert time.monotonic() - before < 1.0 + 1.0
    finally:
        os.kill(core, signal.SIGCONT)
    assert len(caplog.records) == 1
    wait_until(lambda: "wandb-core" not in command_of(core))  # it ends with the process it served


def test_no_place_to_write_is_one_warning(tmp_path: Path, start: Start, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "wandb").write_text("a file where a folder should be")
    logger = start(tmp_path)
    for step in range(3):
        logger.log_metrics({"train/loss": 1.0}, step)
    logger.finish()
    assert steps(tmp_path) == [0, 1, 2]
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["warning[MMG-W01]"]


def test_when_training_is_killed_wandb_still_gets_every_row(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from mmgen.runs.metrics import MetricsFile
from mmgen.tracking.wandb_mirror import WandbMirror
directory = Path({str(tmp_path)!r})
metrics = MetricsFile(directory / "metrics.jsonl")
names = dict(project="mmgen", group="animals", job_type="tokenizer", name="fox", config={{}})
mirror = WandbMirror(directory, metrics.path, names, "offline", [])
for step in range(500):
    metrics.append({{"step": step, "train/loss": 1.0}})
    mirror.tick()
print(mirror.process_id, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    wait_until(lambda: "follower" not in command_of(int(killed.stdout)))
    found = records(tmp_path)
    assert [row["step"] for row in rows(found)] == list(range(500))
    assert [end["exit_code"] for end in of_type(found, "exit")] == [255]


def test_a_logger_that_nobody_ends_ends_with_the_interpreter(tmp_path: Path) -> None:
    code = f"""
import sys
from mmgen.tracking.logger import RunLogger
logger = RunLogger({str(tmp_path)!r}, name="fox", job_type="tokenizer", config={{}})
logger.log_metrics({{"train/loss": 1.0}}, 0)
logger.finalize("success")
assert "wandb" not in sys.modules, "training pays for wandb's import"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert [end["exit_code"] for end in of_type(records(tmp_path), "exit")] == [0]


@pytest.mark.parametrize(
    ("asked", "environment", "mode"),
    [
        ("offline", {}, "offline"),
        ("online", {}, "online"),
        ("online", {"WANDB_MODE": "offline"}, "offline"),
        ("offline", {"WANDB_MODE": "online"}, "offline"),
        ("offline", {"WANDB_MODE": "disabled"}, "disabled"),
        ("disabled", {"WANDB_MODE": "online"}, "disabled"),
        ("offline", {"WANDB_MODE": "dryrun"}, "offline"),
    ],
)
def test_the_environment_may_only_lower_the_mode(asked: str, environment: dict[str, str], mode: str) -> None:
    assert allowed_mode(asked, environment) == mode


def test_online_without_a_key_asks_nothing_and_goes_on_offline(
    tmp_path: Path, start: Start, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = start(tmp_path, mode="online")
    logger.log_metrics({"train/loss": 1.0}, 0)
    logger.finish()
    (warning,) = caplog.records
    assert "MMG-W02" in warning.getMessage()
    assert "No API key" in warning.getMessage()
    assert "wandb login" in warning.getMessage()
    assert [row["step"] for row in rows(records(tmp_path))] == [0]
    assert capfd.readouterr() == ("", "")


class Trap(http.server.BaseHTTPRequestHandler):
    """A server that is down: 500 to everything, and it counts who came."""

    visits: list[str]

    def handle_one_request(self) -> None:
        self.visits.append(self.rfile.readline().decode(errors="replace"))
        self.wfile.write(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        self.close_connection = True


@pytest.fixture
def trap(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Every way out of this machine that wandb knows leads here; gives the requests that came."""
    Trap.visits = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Trap)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "WANDB_BASE_URL"):
        monkeypatch.setenv(name, address)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    yield Trap.visits
    server.shutdown()
    server.server_close()


def test_offline_means_no_connection_even_with_a_key(tmp_path: Path, start: Start, trap: list[str]) -> None:
    logger = start(tmp_path)
    logger.log_metrics({"train/loss": 1.0}, 0)
    logger.log_picture("drawing", torch.zeros(3, 4, 4), 0)
    logger.finish()
    assert len(offline_runs(tmp_path)) == 1
    assert trap == []


def test_a_server_that_is_down_costs_no_time_and_ends_offline(
    tmp_path: Path,
    start: Start,
    trap: list[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wandb_mirror, "INIT_SECONDS", 2.0)
    logger = start(tmp_path, mode="online")
    before = time.monotonic()
    for step in range(100):
        logger.log_metrics({"train/loss": 1.0}, step)
    assert time.monotonic() - before < 0.5
    logger.finish()
    assert time.monotonic() - before < 15
    assert trap != []
    assert [record.getMessage()[:16] for record in caplog.records] == ["warning[MMG-W02]"]
    assert [row["step"] for row in rows(records(tmp_path))] == list(range(100))
    assert KEY not in "".join(file.read_text(errors="replace") for file in tmp_path.rglob("*") if file.is_file())
    assert not [pid for pid in children(os.getpid()) if "wandb" in command_of(pid)]
