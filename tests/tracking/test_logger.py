"""The metrics file, and the real wandb offline, read back with its own tool."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from mmgen.errors import ConfigError
from mmgen.images import decode
from mmgen.runs.metrics import MetricsFile
from mmgen.tracking.logger import RunLogger
from tests.tracking.conftest import Start, a_part
from tests.tracking.wandb_files import of_type, offline_runs, records, rows

CONFIG = {"seed": 1, "tokenizer": {"name": "vq"}, "dataset": {"name": "folder", "api_key": "hunter2"}}


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_a_row_is_one_line_at_once(tmp_path: Path, start: Start) -> None:
    logger = start(tmp_path, mode="disabled")
    logger.log_metrics({"train/loss": torch.tensor(0.5), "epoch": 3}, step=7)
    (row,) = lines(tmp_path)
    assert {**row, "time": 0} == {"step": 7, "time": 0, "train/loss": 0.5}
    assert row["time"] > 1.7e9
    logger.log_metrics({"epoch": 3}, step=8)
    assert len(lines(tmp_path)) == 1
    assert not (tmp_path / "wandb").exists()


def test_everything_logged_reaches_wandb_inside_the_run_and_silently(
    tmp_path: Path, start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = start(tmp_path, config=CONFIG)
    for step in range(20):
        logger.log_metrics({"train/loss": 1 / (step + 1), "train/lr": 1e-3}, step)
        if step == 10:
            logger.log_metrics({"val/loss": 0.7}, step)
            logger.log_picture("reconstructions", torch.full((3, 4, 4), 0.5), step)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights" * 300_000)
    logger.finalize("success")
    logger.log_part(a_part("tokenizer", "3fa9", data="81c2"), tmp_path / "model")
    logger.finish()

    found = records(tmp_path)
    (run,) = of_type(found, "run")
    assert (run["project"], run["run_group"], run["job_type"], run["display_name"]) == (
        "mmgen", "animals", "tokenizer", "fox",
    )  # fmt: skip
    config = run["config"]["update"]
    assert config["tokenizer"] == {"name": "vq"}
    assert config["dataset"] == {"name": "folder", "api_key": "<redacted>"}
    written = [{key: value for key, value in row.items() if key != "time"} for row in lines(tmp_path)]
    history = rows(found)
    assert [row for row in history if "train/loss" in row or "val/loss" in row] == written
    (picture,) = [row for row in history if row.get("samples/reconstructions._type") == "image-file"]
    assert picture["step"] == 10
    assert [row["step"] for row in history] == sorted(row["step"] for row in history)
    assert {"glob_name": "*", "step_metric": "step"}.items() <= of_type(found, "metric")[-1].items()

    (artifact,) = of_type(found, "artifact")
    assert (artifact["name"], artifact["type"]) == ("animals-tokenizer", "model")
    assert json.loads(artifact["metadata"]) == {"kind": "tokenizer", "fingerprint": "3fa9", "parents": {"data": "81c2"}}
    (reference,) = artifact["manifest"]["contents"]
    assert reference["ref"].endswith("/model/model.safetensors")
    assert sum(file.stat().st_size for file in (tmp_path / "wandb").rglob("*") if file.is_file()) < 1_000_000
    assert [end["exit_code"] for end in of_type(found, "exit")] == [0]
    assert capfd.readouterr() == ("", "")


def test_a_resumed_run_is_one_history_without_gaps_or_doubles(tmp_path: Path, start: Start) -> None:
    first = start(tmp_path)
    for step in range(30):
        first.log_metrics({"train/loss": 1.0}, step)
    first.log_picture("drawing", torch.zeros(3, 4, 4), 10)
    first.log_picture("drawing", torch.zeros(3, 4, 4), 29)
    first.finish()
    (before,) = offline_runs(tmp_path)
    MetricsFile(tmp_path / "metrics.jsonl").drop_after(19)
    second = start(tmp_path)
    for step in range(20, 40):
        second.log_metrics({"train/loss": 2.0}, step)
    second.log_picture("drawing", torch.zeros(3, 4, 4), 29)
    second.finish()

    (after,) = offline_runs(tmp_path)
    assert after.name == before.name
    history = rows(records(tmp_path))
    losses = [(row["step"], row["train/loss"]) for row in history if "train/loss" in row]
    assert losses == [(step, 1.0) for step in range(20)] + [(step, 2.0) for step in range(20, 40)]
    assert [row["step"] for row in history if "samples/drawing._type" in row] == [10, 29]


def test_a_picture_is_a_file_with_a_plain_name(tmp_path: Path, start: Start) -> None:
    logger = start(tmp_path, mode="disabled")
    image = torch.zeros(3, 8, 8)
    image[0] = float("nan")
    image[1] = 1.0
    path = logger.log_picture("../a <b>\n" + "x" * 200, image, 5)
    assert path is not None
    assert path.parent == tmp_path / "samples"
    assert path.name.startswith("a-b-xxx")
    assert path.name.endswith("-000005.png")
    assert len(path.name) < 100
    assert torch.equal(decode(path)[:, 0, 0], torch.tensor([0.0, 1.0, 0.0]))


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="offlin'"):
        RunLogger(tmp_path, name="fox", job_type="encoder", config={}, mode="offlin")


class Line(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        loss = (self.weight * batch).square().mean()
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: torch.Tensor, index: int) -> None:
        self.log("val/loss", (self.weight * batch).square().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_lightning_logs_into_it(tmp_path: Path, start: Start) -> None:
    logger = start(tmp_path, mode="disabled")
    data = torch.utils.data.DataLoader(torch.ones(6, 1), batch_size=1)
    trainer = pl.Trainer(
        accelerator="cpu", logger=logger, max_steps=6, val_check_interval=3, log_every_n_steps=1,
        num_sanity_val_steps=0, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Line(), data, data)
    assert trainer.log_dir == str(tmp_path)
    training = [row for row in lines(tmp_path) if "train/loss" in row]
    assert [row["step"] for row in training] == list(range(6))
    assert sum("val/loss" in row for row in lines(tmp_path)) == 2
    assert not any("epoch" in row for row in lines(tmp_path))
