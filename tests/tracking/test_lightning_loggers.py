"""Lightning's own loggers, beside a run's: the same rows, also after a resume, and nothing outside the run."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

from mmgen import cli
from mmgen.errors import ConfigError
from mmgen.runs.metrics import MetricsFile
from mmgen.tracking import lightning_loggers
from mmgen.tracking.lightning_loggers import check_loggers, make_loggers
from tests.tiny import RUN, write_pictures


def train(loggers: list[Any], metrics: MetricsFile, steps: range) -> None:
    """Logs as a training does: into the run's file, and with each of Lightning's loggers."""
    for step in steps:
        row = {"train/loss": 1 / (step + 1)}
        metrics.append({"step": step, **row})
        for logger in loggers:
            logger.log_metrics(row, step)
    metrics.close()
    for logger in loggers:
        logger.finalize("success")


def losses(file: Path) -> list[tuple[int, float]]:
    with file.open() as lines:
        return [(int(row["step"]), float(row["train/loss"])) for row in csv.DictReader(lines)]


def test_a_resumed_training_has_every_row_once(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    train(make_loggers(["csv", "csv"], tmp_path), metrics, range(12))
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["csv"]
    metrics.drop_after(7)  # the last checkpoint was that of step 8
    train(make_loggers(["csv"], tmp_path), metrics, range(8, 15))
    assert losses(tmp_path / "csv" / "metrics.csv") == [(step, 1 / (step + 1)) for step in range(15)]


def test_tensorboard_has_the_rows(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    train(make_loggers(["tensorboard"], tmp_path), metrics, range(12))
    metrics.drop_after(7)
    train(make_loggers(["tensorboard"], tmp_path), metrics, range(8, 15))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["train/loss"]
    assert [event.step for event in events.Scalars("train/loss")] == list(range(15))


def test_without_tensorboard_the_command_to_install_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lightning_loggers, "find_spec", lambda name: None)
    check_loggers(["csv"])
    with pytest.raises(ConfigError, match="not installed") as caught:
        check_loggers(["csv", "tensorboard"])
    assert caught.value.fix == "pip install tensorboard"


def test_a_command_asks_before_it_writes_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lightning_loggers, "find_spec", lambda name: None)
    write_pictures(tmp_path / "pictures")
    assert cli.main(["run", "run.name=tiny", *RUN, "tracking.loggers=[tensorboard]"]) == 2
    assert "pip install tensorboard" in capsys.readouterr().err
    assert cli.main(["run", "run.name=tiny", *RUN, "tracking.loggers=[csv,wandb]"]) == 2
    assert "tracking.loggers" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_they_take_part_in_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the real command, in this process: what Lightning is given is what the config names."""
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "pictures")
    given: list[Any] = []
    started = pl.Trainer.__init__

    def watched(self: pl.Trainer, *arguments: Any, **options: Any) -> None:
        given.append(options.get("logger"))
        started(self, *arguments, **options)

    monkeypatch.setattr(pl.Trainer, "__init__", watched)
    own = [option for option in RUN if not option.startswith(("stages.", "drawing."))]
    steps = ["trainer.max_steps=3", "trainer.log_every_n_steps=1", "trainer.val_check_interval=3", "task.batch_size=8"]
    off = ["tracking=disabled", "tracking.loggers=[csv]"]
    assert cli.main(["train", "task=tokenizer", "run.name=tiny", *own, *steps, *off]) == 0
    assert [type(logger).__name__ for logger in given[-1]] == ["RunLogger", "CSVLogger"]
    rows = [row for row in MetricsFile(tmp_path / "runs/tiny/metrics.jsonl").rows() if "train/loss" in row]
    with (tmp_path / "runs/tiny/csv/metrics.csv").open() as lines:
        found = [row for row in csv.DictReader(lines) if row["train/loss"]]
    assert len(rows) == 3
    for row, line in zip(rows, found, strict=True):
        assert {name: float(line[name]) for name in row if name != "time"} == {
            n: v for n, v in row.items() if n != "time"
        }
