"""Lightning's own loggers beside ours: the same rows as a table for spreadsheets, or for TensorBoard."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import CSVLogger, Logger, TensorBoardLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from mmgen.errors import ConfigError
from mmgen.runs.metrics import MetricsFile

KINDS: dict[str, Any] = {"csv": CSVLogger, "tensorboard": partial(TensorBoardLogger, default_hp_metric=False)}


def check_loggers(names: Sequence[str]) -> None:
    """Raises ConfigError where one of them cannot be used here; what it needs is not imported for that."""
    if "tensorboard" in names and not (find_spec("tensorboard") or find_spec("tensorboardX")):
        raise ConfigError(
            "TensorBoard is not installed",
            code="MMG-C35",
            where="tracking.loggers",
            why="mmgen does not bring it along",
            fix="pip install tensorboard",
        )


def make_loggers(names: Sequence[str], directory: Path) -> list[Logger]:
    """Lightning's loggers, each in a folder of its name inside `directory`.

    They start with the rows of metrics.jsonl: a training that goes on has the earlier ones there, and none of those
    that were logged after its last checkpoint.
    """
    loggers = [KINDS[name](directory, name=name, version="") for name in dict.fromkeys(names)]
    for logger in loggers:
        _begin(logger, directory)
    return loggers


@rank_zero_only
def _begin(logger: Logger, directory: Path) -> None:
    shutil.rmtree(directory / str(logger.name), ignore_errors=True)
    for row in MetricsFile(directory / "metrics.jsonl").rows():
        values = {name: value for name, value in row.items() if name not in ("step", "time")}
        logger.log_metrics(values, int(row["step"]))
    logger.save()
