"""The three tasks as LightningModules: a batch to a loss, an optimizer step, an average, and what is logged.

The component owns its loss; a task adds what is the same for all of them, and each of the three what it alone shows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from mmgen.errors import NonFiniteError
from mmgen.evaluators.retrieval import rank_of_right
from mmgen.protocols import Batch, Logs
from mmgen.ranks import current
from mmgen.tasks.codebook import CodebookUse, CodeCounter
from mmgen.tasks.ema import Ema
from mmgen.tasks.optimizers import make_optimizer, make_schedule
from mmgen.tasks.parallel import clip_gradients, distribute, gradient_norm, norms_by_module


class Task(pl.LightningModule):
    """Trains one component.

    Args:
        component: an `nn.Module` with `training_loss` (see `mmgen.protocols.Trainable`). Where it will be sharded, it
            may lie on the meta device on all ranks but 0.
        optimizer: name, lr, betas, eps, weight_decay.
        schedule: warmup_steps, final.
        ema_decay: of the weights' moving average, in [0,1).
        max_steps: where the schedule ends.
        seed: what a batch draws is a function of (seed, number of the batch, rank): a resumed step draws the same, and
            the batches of one step, where gradients are accumulated, do not draw alike.
        ema_every: optimizer steps between two updates of the average; the last step is followed always.
        discriminator_optimizer: lr, betas, eps, weight_decay of a component's discriminator; None is the optimizer's.
    """

    def __init__(
        self,
        component: Any,
        *,
        optimizer: Mapping[str, Any],
        schedule: Mapping[str, Any],
        ema_decay: float,
        max_steps: int,
        seed: int,
        discriminator_optimizer: Mapping[str, Any] | None = None,
        ema_every: int = 1,
    ) -> None:
        super().__init__()
        self.component = component
        self.ema = Ema(component, ema_decay)
        self.optimizer_options, self.schedule_options = optimizer, schedule
        self.discriminator_options = discriminator_optimizer
        self.max_steps, self.seed, self.ema_every = max_steps, seed, ema_every
        self._bad_loss: NonFiniteError | None = None

    @property
    def averaged(self) -> Any:
        """The component with averaged weights, in eval mode: what is judged and published."""
        return self.ema.module

    def configure_model(self) -> None:
        """Where weights are sharded, the component and its average are split before the optimizer sees them."""
        if self._device_mesh is not None:
            device, mixed = self.trainer.strategy.root_device, self.trainer.precision == "bf16-mixed"
            distribute(self.component, self._device_mesh, device, mixed=mixed)
            distribute(self.averaged, self._device_mesh, device)

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.component, self.optimizer_options, self.discriminator_options)
        schedule = make_schedule(optimizer, self.schedule_options, self.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        batches = self.trainer.fit_loop.epoch_loop.batch_progress.total.completed  # before this one, over all epochs
        torch.manual_seed((self.seed * 1_000_003 + batches) * 4096 + self._data_rank())
        loss, logs = self.component.training_loss(batch, self.global_step)
        self._batch = batch
        if not torch.isfinite(loss):
            self._bad_loss = self._not_finite("the loss", float(loss.detach()), batch)
            if self.trainer.world_size == 1:
                raise self._bad_loss
            loss = loss * torch.nan  # the gradient carries it to all ranks, and all stop before the optimizer's step
        self._log("train", {"loss": loss.detach(), **logs}, len(batch["caption"]))
        return loss

    def _data_rank(self) -> int:
        """Which slice of the batch this process has; those that share one, by tensor parallelism, draw the same."""
        sharding = getattr(self.trainer.strategy, "distributed_sampler_kwargs", None)
        return int(sharding["rank"]) if sharding else 0

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """The last moment before weights change: nothing that is not finite gets past it."""
        self._norm = norm = gradient_norm(self._gradients())
        if not torch.isfinite(norm):
            error = self._bad_loss or self._not_finite("the gradient's norm", float(norm), self._batch)
            error.elsewhere = self._bad_loss is None and self.global_rank > 0  # all ranks stop, and few tell
            raise error
        lr = optimizer.param_groups[0]["lr"]
        values = {"train/grad_norm": norm, "train/lr": lr}
        if (self.global_step + 1) % self.trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            values |= {f"grad_norm/{name}": value for name, value in norms_by_module(self.component).items()}
        self.log_dict(values, batch_size=len(self._batch["caption"]))

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.component.parameters() if parameter.grad is not None]

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Lightning's refuses a fused optimizer under autocast, for what a gradient scaler would do to it (there is
        none), and cannot find the norm of gradients that lie in pieces; here it is found already."""
        if not gradient_clip_val or gradient_clip_algorithm == "value":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        else:
            clip_gradients(self._gradients(), self._norm, gradient_clip_val)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The average follows at once: whatever a callback saves after the step holds it."""
        super().optimizer_step(*args, **kwargs)
        done = self.global_step + 1  # Lightning counts after this
        if done % self.ema_every == 0 or done >= self.max_steps:
            self.ema.update(self.component)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        loss, logs = self.averaged.training_loss(batch, self.global_step)
        self._log("val", {"loss": loss, **logs}, len(batch["caption"]))

    def _log(self, stage: str, logs: Logs, batch_size: int) -> None:
        values = self._over_ranks({name: value for name, value in logs.items() if name != "indices"})
        values = {f"{stage}/{name}": value for name, value in values.items()}
        self.log_dict(values, on_step=stage == "train", on_epoch=stage == "val", batch_size=batch_size)

    def _over_ranks(self, logs: Logs) -> Logs:
        """The means over the ranks' slices, which are equally large, in one exchange."""
        if self.trainer.world_size == 1 or not logs:
            return logs
        numbers = torch.stack([torch.as_tensor(value, device=self.device).float() for value in logs.values()])
        return dict(zip(logs, self.trainer.strategy.reduce(numbers, reduce_op="mean").unbind(), strict=True))

    def _not_finite(self, what: str, value: float, batch: Batch) -> NonFiniteError:
        ids = ", ".join(batch["id"][:4])
        return NonFiniteError(
            f"{what} is {value} at step {self.global_step}; the update was not applied",
            code="MMG-N01",
            where=f"step {self.global_step}, samples {ids}, …",
            why="the learning rate is too high, or a sample is broken",
            fix=f"task.optimizer.lr={self.optimizer_options['lr'] / 3:.2g} (now {self.optimizer_options['lr']:.2g}); "
            "the last checkpoint is intact",
        )


class TokenizerTask(Task):
    """Trains an image tokenizer; over each epoch and over all of `val`, how often each code is used.

    A component that does not log `indices` is trained all the same, and its codes are not counted.

    Attributes:
        epoch_use: of the last whole pass over the training pictures, or None.
        val_use: of the last validation, or None.
    """

    def __init__(self, component: Any, **options: Any) -> None:
        super().__init__(component, **options)
        self.epoch_use: CodebookUse | None = None
        self.val_use: CodebookUse | None = None
        self._counters = {stage: CodeCounter(getattr(component, "codebook_size", 0)) for stage in ("train", "val")}
        self._counted = False

    def _log(self, stage: str, logs: Logs, batch_size: int) -> None:
        indices = logs.get("indices")
        if isinstance(indices, Tensor):
            self._counters[stage].add(indices)
            self._counted = True
            if stage == "val":  # those of all its pictures follow
                logs = {name: value for name, value in logs.items() if not name.startswith("codebook_")}
        super()._log(stage, logs, batch_size)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        if self._counted and self._epoch_ends():
            self.epoch_use = use = self._counters["train"].total(self.trainer.strategy)
            self._counters["train"].clear()
            numbers = {"codebook_usage": use.usage, "codebook_perplexity": use.perplexity, "dead_codes": use.dead}
            for logger in self.loggers:  # not self.log: an epoch's last step is seldom one of those that are logged
                logger.log_metrics({f"train/epoch_{name}": value for name, value in numbers.items()}, self.global_step)
        return loss

    def _epoch_ends(self) -> bool:
        """Whether the batch is the last of a pass over the data. Lightning's own epoch is the whole training."""
        order = getattr(getattr(self.trainer, "datamodule", None), "order", None)
        batch = self.trainer.fit_loop.epoch_loop.batch_progress.total.ready - 1
        return order is not None and order.epoch_of(batch + 1, 0) > order.epoch_of(batch, 0)

    def on_validation_epoch_start(self) -> None:
        self._counters["val"].clear()

    def on_validation_epoch_end(self) -> None:
        if self._counted:
            self.val_use = use = self._counters["val"].total(self.trainer.strategy)
            self.log_dict({"val/codebook_usage": use.usage, "val/codebook_perplexity": use.perplexity})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["codes_of_the_epoch"] = self._counters["train"].state(self.trainer.strategy)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if counts := checkpoint.get("codes_of_the_epoch"):
            self._counters["train"].restore(counts, self.global_rank)


class GeneratorTask(Task):
    """Trains a generator on the token stream."""

    _told: Mapping[str, None] = MappingProxyType({})  # the names of the numbers that were logged so far

    def _log(self, stage: str, logs: Logs, batch_size: int) -> None:
        # Lightning repeats a number until it gets another: a step on captions alone has no image loss, and says so.
        if stage == "train":
            self._told = dict.fromkeys([*self._told, *logs])
            logs = {name: logs.get(name, math.nan) for name in self._told}
        super()._log(stage, logs, batch_size)


class EncoderTask(Task):
    """Trains a contrastive encoder; over the validation pictures, how often a caption finds a right one first."""

    def on_validation_epoch_start(self) -> None:
        self._names: list[tuple[str, str]] = []  # id and caption of each picture
        self._features: list[tuple[Tensor, Tensor]] = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        super().validation_step(batch, batch_idx)
        text = self.averaged.text_tokenizer.encode(batch["caption"]).to(batch["image"].device)
        features = self.averaged.encode_image(batch["image"]), self.averaged.encode_text(text)
        self._features.append((features[0].float().cpu(), features[1].float().cpu()))
        self._names += zip(batch["id"], batch["caption"], strict=True)

    def on_validation_epoch_end(self) -> None:
        """As the evaluator `retrieval` counts: among the pictures of all ranks, any with an equal caption is right."""
        told = current().together(lambda: (self._names, *map(torch.cat, zip(*self._features, strict=True))))
        names, images, texts = zip(*told, strict=True)
        every = [name for rank in names for name in rank]
        once = list({id: place for place, (id, _) in enumerate(every)}.values())  # some fill up a rank's share
        captions = [every[place][1] for place in once]
        number = {caption: i for i, caption in enumerate(captions)}
        label = torch.tensor([number[caption] for caption in captions])
        scores = torch.cat(texts)[once] @ torch.cat(images)[once].T
        right = rank_of_right(scores, label[:, None] == label) == 1
        self.log("val/retrieval_at_1", float(right.float().mean()), batch_size=len(right))


TASKS: dict[str, type[Task]] = {"tokenizer": TokenizerTask, "generator": GeneratorTask, "encoder": EncoderTask}
