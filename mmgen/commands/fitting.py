"""Lightning's Trainer over one stage: where it goes on, what happens around the steps, how it ends. By one process or,
all alike, by several, of which rank 0 keeps the books."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.exceptions import SIGTERMException

from mmgen.checkpoint.lightning import SafeCheckpointIO
from mmgen.checkpoint.steps import newest_valid
from mmgen.commands.schema import TRAINER_OWN
from mmgen.errors import Interrupted, MmgenError
from mmgen.progress import Bar, printed
from mmgen.ranks import current
from mmgen.runs.directory import RunDirectory
from mmgen.runs.metrics import MetricsFile
from mmgen.tasks.callbacks import MeasureSpeed, SaveCheckpoints, ShowProgress, StopOnSignal
from mmgen.tasks.strategies import make_strategy
from mmgen.tracking.lightning_loggers import make_loggers
from mmgen.tracking.logger import RunLogger


@dataclass
class Fit:
    """One stage's training.

    Args:
        kind: tokenizer, generator or encoder.
        trainer: the config's section.
        checkpoint_every: steps.
        keep_every: checkpoints of steps that it divides stay; None: the newest two alone.
        experiment: the run's name, for the message that tells how to go on.
        directory: the stage's.
        loggers: Lightning's own, beside the run's.
    """

    kind: str
    trainer: Mapping[str, Any]
    checkpoint_every: int
    keep_every: int | None
    experiment: str
    directory: RunDirectory
    loggers: Sequence[str] = ()

    def run(
        self, task: pl.LightningModule, data: pl.LightningDataModule, logger: RunLogger, more: Sequence[pl.Callback]
    ) -> None:
        """Trains from the newest whole checkpoint, or from the start, to the last step.

        Args:
            more: callbacks beside those that every training has.

        Raises:
            Interrupted: a signal came; everything is saved.
            MmgenError: MMG-R06, another process of the training is gone.
        """
        max_steps = int(self.trainer["max_steps"])
        checkpoint, start = current().agree(self._begin)
        status = self._status(max_steps)
        status("running", start)
        quieten_lightning()
        with StopOnSignal() as stop, Bar(self.kind, total=max_steps, unit="steps", done=start) as bar:
            save = SaveCheckpoints(
                self.directory.checkpoints,
                self.checkpoint_every,
                saved=lambda step: status("running", step),
                failed=lambda error: printed(error.render()) if current().first else None,
                keep_every=self.keep_every,
            )
            trainer = self._make([stop, ShowProgress(bar), MeasureSpeed(), save, *more], logger)
            try:
                trainer.fit(task, data, ckpt_path=checkpoint)
            except SIGTERMException:  # it came before the first step: Lightning's own way of ending then
                stop.received = stop.received or SIGTERM
            except BaseException as error:
                status("failed", trainer.global_step)
                if current().size > 1 and _is_loss_of_contact(error):
                    raise self._alone(error, trainer.global_step) from error
                raise
        if stop.received is not None and trainer.global_step < max_steps:
            status("preempted", trainer.global_step)
            interrupted = Interrupted(
                stop.received,
                f"stopped: the {self.kind} is saved at step {trainer.global_step} of {max_steps}; "
                f"the same command with run.name={self.experiment} goes on from there",
            )
            interrupted.elsewhere = not current().first
            raise interrupted
        status("running", trainer.global_step)  # finished once the part is written

    def _begin(self) -> tuple[Path | None, int]:
        """The checkpoint to go on from, with its step; the books are brought to where it was."""
        checkpoint, problems = newest_valid(self.directory.checkpoints)
        for problem in problems:
            printed(f"warning: {problem}")
        start = int(checkpoint.name.removeprefix("step-")) if checkpoint else 0
        MetricsFile(self.directory.metrics_file).drop_after(start - 1)  # a row's step counts from 0
        return checkpoint, start

    def _status(self, max_steps: int) -> Callable[[str, int], None]:
        before = self.directory.status().seconds
        began = time.monotonic()

        def status(state: str, step: int) -> None:
            if current().first:
                seconds = before + time.monotonic() - began
                self.directory.update_status(
                    state=state, stage=self.kind, step=step, max_steps=max_steps, seconds=seconds
                )

        return status

    def _make(self, callbacks: list[pl.Callback], logger: RunLogger) -> pl.Trainer:
        options = {**trainer_options(self.trainer), "default_root_dir": str(self.directory.path)}
        loggers = [logger, *make_loggers(self.loggers, self.directory.path)]  # pictures are for the first alone
        files = SafeCheckpointIO(keep_every=self.keep_every)
        return pl.Trainer(**options, logger=loggers, callbacks=callbacks, plugins=[files])

    def _alone(self, error: BaseException, step: int) -> MmgenError:
        ranks = current()
        found = MmgenError(
            f"rank {ranks.rank} of {ranks.size} lost touch with another process at step {step} of the {self.kind}",
            code="MMG-R06",
            why=str(error).strip().splitlines()[0][:200],
            fix=f"the same command with run.name={self.experiment} goes on from the last checkpoint",
        )
        found.elsewhere = not ranks.first
        return found


def _is_loss_of_contact(error: BaseException) -> bool:
    """Whether a collective failed, and not what this process computes: torch has one type for both."""
    import torch.distributed as dist

    text = str(error).lower()
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and ("gloo" in text or "nccl" in text))


def trainer_options(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of Lightning's Trainer that a config holds. Validations further apart than the training is long
    would be refused by Lightning; then there is one at the end."""
    options = {key: value for key, value in trainer.items() if key not in ("logger", *TRAINER_OWN)}
    options["strategy"] = make_strategy(
        trainer["strategy"], current().size, trainer["tensor_parallel_size"], trainer["timeout"]
    )
    interval = options.get("val_check_interval")
    if isinstance(interval, int):
        options["val_check_interval"] = min(interval, int(trainer["max_steps"]))
    return options


def quieten_lightning() -> None:
    """Lightning's tips and advice would hide what matters; its errors are raised, not printed."""
    for name in (
        "pytorch_lightning",
        "pytorch_lightning.utilities.rank_zero",
        "lightning_fabric",
        "torch.distributed.tensor._redistribute",  # how tensors are put together at the end could be faster
    ):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(pytorch_lightning|lightning_fabric|torch\.distributed)\..*")
