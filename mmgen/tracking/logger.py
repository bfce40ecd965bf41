"""Lightning's logger of a run: one line of metrics.jsonl a call, repeated in wandb."""

from __future__ import annotations

import argparse
import atexit
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor
from typing_extensions import override

from mmgen.checkpoint.parts import Part
from mmgen.errors import ConfigError, quoted
from mmgen.images import save_png
from mmgen.runs.metrics import MetricsFile
from mmgen.runs.redaction import redacted
from mmgen.tracking.artifacts import Artifact, part_artifact
from mmgen.tracking.wandb_mirror import MODES, WandbMirror, allowed_mode, earlier_pictures

_NOT_FOR_FILES = re.compile(r"[^A-Za-z0-9._+-]+")


class RunLogger(Logger):
    """Writes metrics.jsonl, the source of truth, and has wandb repeat it.

    wandb starts with the first row, after the first training step, in a process of its own. Whatever goes wrong there
    is one warning; no call raises for it or waits for it, and `finish` waits 15 s at most (30 s online). Only rank 0
    writes.

    Args:
        directory: the stage's; `metrics.jsonl`, `samples/` and `wandb/` lie in it. Rows after the step that a run
            resumes from are to be dropped before the first row is logged.
        name: the run's name.
        job_type: the task: tokenizer, generator, encoder.
        config: the composed config. Secrets in it are not passed on.
        group: what the runs of one experiment share; the run's name if None.
        project: wandb's project.
        mode: offline, online or disabled. The environment's WANDB_MODE may lower it, never raise it.
        inputs: what the run is made with; wandb links it.

    Raises:
        ConfigError: another mode.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        name: str,
        job_type: str,
        config: Mapping[str, Any],
        group: str | None = None,
        project: str = "mmgen",
        mode: str = "offline",
        inputs: Sequence[Artifact] = (),
    ) -> None:
        super().__init__()
        if mode not in MODES:
            raise ConfigError(
                f"tracking.mode is one of {', '.join(MODES)}, not {quoted(mode)}", fix="tracking.mode=offline"
            )
        self.directory = Path(directory)
        self._name, self._job_type, self._group, self._project = name, job_type, group or name, project
        self._mode = allowed_mode(mode)
        self._config = redacted(config)
        self._inputs = [one.told() for one in inputs]
        self._metrics_path = self.directory / "metrics.jsonl"
        self._samples = self.directory / "samples"
        self._metrics = MetricsFile(self._metrics_path)
        self._mirror: WandbMirror | None = None
        self._exit_code = 0
        self._finished = False

    @property
    @override
    def name(self) -> str:
        return self._name

    @property
    @override
    def version(self) -> str:
        """Empty: a run's directory is its only version."""
        return ""

    @property
    @override
    def save_dir(self) -> str:
        return str(self.directory)

    @override
    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | argparse.Namespace, *args: Any, **kwargs: Any) -> None:
        """Adds what a module saved of its own to the config, if wandb has not started yet."""
        values = vars(params) if isinstance(params, argparse.Namespace) else params
        self._config["hyperparameters"] = redacted(values)

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Writes one row. Lightning's `epoch` is left out: `step` alone orders the rows."""
        values = {key: float(value) for key, value in metrics.items() if key != "epoch"}
        if not values:
            return
        self._start_mirror()  # before the row, so that it learns what was there from an earlier attempt
        self._metrics.append({"step": int(step or 0), **values})
        if self._mirror:
            self._mirror.tick()

    @rank_zero_only
    def log_picture(self, name: str, image: Tensor, step: int) -> Path | None:
        """Writes samples/<name>-<step>.png, step in six digits, and shows it in wandb. None on ranks but 0.

        Args:
            image: (3,H,W) float in [0,1].
        """
        name = _NOT_FOR_FILES.sub("-", name).strip("-.")[:80] or "picture"
        path = self._samples / f"{name}-{step:06d}.png"
        save_png(image, path)
        self._start_mirror()
        if self._mirror:
            self._mirror.picture(name, path, step)
        return path

    @rank_zero_only
    def log_part(self, part: Part, path: str | Path) -> None:
        """Records a finished model part as a wandb artifact that refers to `path`; nothing is copied."""
        self._start_mirror()
        if self._mirror:
            self._mirror.artifact(part_artifact(part, Path(path), self._group).told())

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Lightning's end of a fit. wandb stays open, for the part and the pictures that follow; see `finish`."""
        self._exit_code = 0 if status == "success" else 1

    @rank_zero_only
    def finish(self) -> None:
        """Ends the wandb run; later rows reach the metrics file alone. At the interpreter's exit it calls itself."""
        self._finished = True
        self._metrics.close()
        if self._mirror:
            atexit.unregister(self.finish)
            self._mirror.finish(self._exit_code)

    def _start_mirror(self) -> None:
        if self._mirror is not None or self._finished or self._mode == "disabled":
            return
        names = {"project": self._project, "group": self._group, "job_type": self._job_type, "name": self._name}
        settings = {**names, "config": self._config, "inputs": self._inputs}
        pictures = self._earlier_pictures()
        self._mirror = WandbMirror(self.directory, self._metrics_path, settings, self._mode, pictures)
        atexit.register(self.finish)

    def _earlier_pictures(self) -> list[dict[str, Any]]:
        """What an earlier attempt logged up to where this one resumes; later pictures will be drawn again."""
        return earlier_pictures(self._samples, max((int(row["step"]) for row in self._metrics.rows()), default=-1))
