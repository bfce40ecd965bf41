"""What happens around the steps: checkpoints, a clean stop on a signal, the bar, pictures to look at."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from mmgen.errors import CheckpointError
from mmgen.images import grid
from mmgen.progress import Bar
from mmgen.protocols import Tokenizer

FAILURES_ALLOWED = 3


def _amid_step(trainer: pl.Trainer) -> bool:
    """Whether further batches belong to the step, after a batch: gradients gathered for half a step are in no
    checkpoint, so the rest of it comes first. What is left at the end of Lightning's epoch is a step of its own."""
    return trainer.fit_loop.epoch_loop._should_accumulate()


class StopOnSignal(pl.Callback):
    """SIGINT and SIGTERM end the training after the step that is running, with a checkpoint; a second one at once.

    Attributes:
        received: the signal's number, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopOnSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *details: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(128 + number)  # the last checkpoint is whole: files are renamed into place
        self.received = number

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Lightning has put a handler of its own before ours by now; after a SIGTERM it would leave half a step."""
        for number in self._before:
            signal.signal(number, self._receive)

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if _amid_step(trainer):
            return
        # A signal reaches the ranks at different moments; all stop after the step at which one of them has it.
        if trainer.strategy.reduce_boolean_decision(self.received is not None, all=False):
            self.received = self.received or signal.SIGTERM
            trainer.should_stop = True


class SaveCheckpoints(pl.Callback):
    """A checkpoint every so many steps, and where training ends.

    A write that fails keeps the one before it; training goes on, and stops at the third failure in a row.

    Args:
        directory: gets one `step-…` for each.
        every: steps between two.
        keep_every: steps that it divides have one as well, if it is not None.
        saved: called with the step after each, once it lies safely on the disk.
        failed: called with the error of a write that is forgiven.
    """

    def __init__(
        self,
        directory: Path,
        every: int,
        saved: Callable[[int], None],
        failed: Callable[[CheckpointError], None],
        keep_every: int | None = None,
    ) -> None:
        self.directory, self.saved, self.failed = directory, saved, failed
        self.intervals = [max(1, interval) for interval in (every, keep_every) if interval is not None]
        self._last, self._failures = -1, 0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._last = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        due = any(trainer.global_step % interval == 0 for interval in self.intervals)
        if not _amid_step(trainer) and (due or trainer.should_stop):
            self._save(trainer)

    def on_train_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._save(trainer)

    def _save(self, trainer: pl.Trainer) -> None:
        step = trainer.global_step
        if step == self._last:
            return
        try:
            trainer.save_checkpoint(self.directory / f"step-{step:06d}")
        except CheckpointError as error:
            self._failures += 1
            if self._failures >= FAILURES_ALLOWED:
                raise
            self.failed(error)
            return
        self._last, self._failures = step, 0
        self.saved(step)


class MeasureSpeed(pl.Callback):
    """Logs `speed/samples_per_second`, of all processes together: the mean over the steps since about the last row.

    What a step waits for its batch and for a checkpoint counts; validations do not.
    """

    def __init__(self) -> None:
        self._steps: deque[tuple[float, int]] = deque()  # seconds and samples of each
        self._began = self._paused = 0.0

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._steps = deque(maxlen=max(1, int(trainer.log_every_n_steps)))  # type: ignore[attr-defined]
        self._began = time.monotonic()

    def on_validation_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._paused = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._began += time.monotonic() - self._paused

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        slices = (getattr(trainer.strategy, "distributed_sampler_kwargs", None) or {}).get("num_replicas", 1)
        self._steps.append((now - self._began, slices * len(batch["caption"])))
        self._began = now
        seconds, samples = (sum(column) for column in zip(*self._steps, strict=True))
        module.log("speed/samples_per_second", samples / max(seconds, 1e-9), batch_size=len(batch["caption"]))


class ShowProgress(pl.Callback):
    """Moves the stage's bar, with the loss beside it."""

    def __init__(self, bar: Bar) -> None:
        self.bar = bar

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *args: Any) -> None:
        if _amid_step(trainer):
            return
        loss = trainer.callback_metrics.get("train/loss")
        self.bar.advance(1, "" if loss is None else f"loss {float(loss):.3f}")


class ShowReconstructions(pl.Callback):
    """At each validation, originals over what the image tokenizer makes of them, as a picture in the log.

    Args:
        images: (B,3,H,W) in [0,1], the same each time.
    """

    def __init__(self, images: Tensor) -> None:
        self.images = images

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: pl.Trainer, module: Any) -> None:
        logger: Any = trainer.logger
        if trainer.sanity_checking or logger is None:
            return
        tokenizer: Tokenizer = module.averaged
        images = self.images.to(module.device)
        rows = torch.cat([images, tokenizer.decode(tokenizer.encode(images))]).cpu()
        logger.log_picture("reconstructions", grid(rows, columns=len(images)), trainer.global_step)
