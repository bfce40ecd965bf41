"""A small training in this process, as the commands set it up: Lightning's Trainer, our data, our checkpoints."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from mmgen.checkpoint.lightning import SafeCheckpointIO
from mmgen.data.module import PictureData
from mmgen.models.clip import Clip
from mmgen.models.dvae import Dvae
from mmgen.models.transformer import Transformer
from mmgen.models.vq import VQ
from mmgen.protocols import Sample
from mmgen.tasks.task import TASKS, Task
from mmgen.testing.stand_ins import small_samples, small_text_tokenizer

ADAMW = {"name": "adamw", "lr": 1e-2, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1}


class Bars(list[Sample]):
    """Twenty-four pictures of 8×8 pixels."""

    def __init__(self) -> None:
        super().__init__(small_samples(24, 8))


def make_task(kind: str, component: Any, *, steps: int = 6, seed: int = 1, **options: Any) -> Task:
    settings = {
        "optimizer": ADAMW,
        "schedule": {"warmup_steps": 2, "final": 0.1},
        "ema_decay": 0.9,
        "max_steps": steps,
        "seed": seed,
    }
    return TASKS[kind](component, **{**settings, **options})


def fit(
    task: Task,
    *callbacks: pl.Callback,
    steps: int | None = None,
    checkpoint: Path | None = None,
    codes: Tensor | None = None,
    logger: Any = False,
    data: PictureData | None = None,
    **options: Any,
) -> pl.Trainer:
    """Trains up to the task's last step, or to `steps`, where the training stops as a killed one would."""
    data = data or PictureData(Bars(), batch_size=8, seed=1, max_steps=task.max_steps, codes=codes)
    stop = [StopAt(steps)] if steps is not None else []
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=task.max_steps,
        logger=logger,
        callbacks=[*callbacks, *stop],
        plugins=[SafeCheckpointIO()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        **{"val_check_interval": task.max_steps, "log_every_n_steps": 1, **options},
    )
    trainer.fit(task, data, ckpt_path=checkpoint)
    return trainer


class StopAt(pl.Callback):
    """Ends the training after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            trainer.should_stop = True


class Watch(pl.Callback):
    """Calls a function with the trainer and the task after each batch."""

    def __init__(self, function: Callable[[pl.Trainer, Task], None]) -> None:
        self.function = function

    def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *args: Any) -> None:
        self.function(trainer, module)


def everything(task: Task) -> dict[str, Tensor]:
    """Weights, averages, and the optimizer's state, copied."""
    optimizer = task.optimizers(use_pl_optimizer=False)
    halves = getattr(optimizer, "halves", {"": optimizer})
    found = {name: tensor.clone() for name, tensor in task.state_dict().items()}
    for name, half in halves.items():
        for number, state in half.state_dict()["state"].items():
            found |= {f"{name}.{number}.{key}": torch.as_tensor(value).clone() for key, value in state.items()}
    return copy.deepcopy(found)


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """Bit for bit."""
    assert one.keys() == other.keys()
    differing = [name for name in one if not torch.equal(one[name], other[name])]
    assert differing == []


class Brightness(nn.Module):
    """Learns each pixel's mean; at one step it is poisoned.

    Args:
        poison: what goes wrong: "nan" or "inf" in the loss, "gradient" only there.
        at: the step.
    """

    def __init__(self, poison: str = "", at: int = -1) -> None:
        super().__init__()
        self.poison, self.at = poison, at
        self.mean = nn.Parameter(torch.zeros(3, 8, 8))
        self.gain = nn.Parameter(torch.ones(4, 4))

    def training_loss(self, batch, step):
        loss = (batch["image"] - self.mean * self.gain.mean()).square().mean()
        if self.training and step == self.at:
            zero = (self.mean - self.mean.detach()).sum()
            poisons = {"nan": loss * math.nan, "inf": loss + math.inf, "gradient": loss + zero.abs().sqrt()}
            loss = poisons[self.poison]
        return loss, {"brightness": self.mean.detach().mean()}


def components() -> dict[str, tuple[str, Any]]:
    """One small component of each of mmgen's own, with its task."""
    torch.manual_seed(5)
    options = {"embed_dim": 16, "num_layers": 1, "num_heads": 2, "dropout": 0.1}
    words = small_text_tokenizer(8)
    return {
        "dvae": ("tokenizer", Dvae(image_size=8, codebook_size=9, decoder_width=6, width=4, blocks_per_group=1)),
        "vq": ("tokenizer", VQ(image_size=8, codebook_size=9, codebook_dim=6, width=4, blocks=1)),
        "transformer": ("generator", Transformer(text_tokenizer=words, grid=(2, 2), codebook_size=9, **options)),
        "clip": ("encoder", Clip(text_tokenizer=words, image_size=8, width=16, image_layers=1, text_layers=1)),
    }


CODES = torch.randint(9, (24, 4), generator=torch.Generator().manual_seed(0))


class Rows(pl.loggers.logger.DummyLogger):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[dict] = []

    def log_metrics(self, metrics, step=None):
        self.rows.append({"at": step, **metrics})

    def log_picture(self, name, image, step):
        self.rows.append({"at": step, "picture": (name, image)})
