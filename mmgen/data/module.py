"""Batches for Lightning: the right ones after any resume."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mmgen.data.augment import keeps, original
from mmgen.data.noise import CaptionNoise
from mmgen.data.order import BatchOrder, Slot, StepBatches
from mmgen.data.pictures import Pictures
from mmgen.data.sources import PictureSource, TokenSource
from mmgen.data.weighted import WeightedOrder
from mmgen.errors import DataError, quoted
from mmgen.protocols import Batch, Dataset, TokenDataset

Samples = Pictures | TokenDataset
Source = PictureSource | TokenSource


class PictureData(pl.LightningDataModule):
    """Training batches that depend on seed and step alone, validation batches that never change.

    Args:
        dataset: captioned pictures, or `Pictures` of it that were read before, or token shards.
        batch_size: the global batch, over all ranks.
        seed: decides order, keys and which caption is taken.
        max_steps: length of the training in optimizer steps; Lightning's Trainer has the same number.
        train, val: names of the splits.
        num_workers: processes that make batches; 0 suits pictures kept in memory, and tokens.
        alternative_captions: how often training takes another of a sample's captions, drawn by its key.
        codes: (M,N) image tokens by dataset position; batches then carry `image_tokens` and no `image`.
        max_val: how many samples of `val` are used, None for all.
        grouped_by: an attribute; training samples that share its value go into the same batches.
        group_size: how many of them at most follow each other.
        shuffle: "blocks" goes through the dataset's `blocks`, a few at a time, shuffled among these; see `BatchOrder`.
        augment: of the training pictures, by the sample's key; validation pictures stay as they are.
        text_only: the share of optimizer steps, chosen by (seed, step), whose batches hold captions alone.
        bpe_dropout: of the text tokenizer; with none, batches of token shards carry `text_tokens`.
        noise: spoils captions of the training; those of `val` stay as they are.

    Attributes:
        left_out: how many training pictures `augment` does not take, because of their shape.

    Raises:
        DataError: see `Pictures` and `split_positions`; MMG-D10, a split is empty; MMG-D52, there are no blocks.
    """

    def __init__(
        self,
        dataset: Dataset | Samples,
        *,
        batch_size: int,
        seed: int,
        max_steps: int,
        train: str = "train",
        val: str = "val",
        num_workers: int = 0,
        alternative_captions: float = 0.0,
        codes: Tensor | None = None,
        max_val: int | None = None,
        grouped_by: str | None = None,
        group_size: int | None = None,
        shuffle: Literal["full", "blocks"] = "full",
        augment: str = "none",
        text_only: float = 0.0,
        bpe_dropout: float = 0.1,
        noise: CaptionNoise | None = None,
    ) -> None:
        super().__init__()
        if isinstance(dataset, Pictures | TokenDataset):
            self.samples = dataset
        else:
            self.samples = Pictures(dataset)
        if augment != "none" and (codes is not None or isinstance(self.samples, TokenDataset)):
            raise ValueError(f"fixed image tokens cannot be augmented: augment must be 'none', got {augment!r}")
        if codes is not None and (codes.dim() != 2 or codes.shape[0] != len(self.samples)):
            raise ValueError(f"codes must be ({len(self.samples)},N), got {tuple(codes.shape)}")
        if not 0 <= alternative_captions <= 1:
            raise ValueError(f"alternative_captions must be in [0,1], got {alternative_captions}")
        if max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {max_steps}")
        self.batch_size, self.seed, self.max_steps, self.num_workers = batch_size, seed, max_steps, num_workers
        self.alternative_captions, self.codes, self.augment = alternative_captions, codes, augment
        self.text_only, self.bpe_dropout, self.left_out = text_only, bpe_dropout, 0
        self.noise = noise
        self.train_positions = self._shapely(self._positions(train))
        self.val_positions = self._positions(val)[:max_val]
        self._group_size = group_size
        self.order = self._order(self._groups(grouped_by), self._blocks(shuffle, grouped_by))

    def _positions(self, split: str) -> Sequence[int]:
        positions = self.samples.positions(split)
        if not positions:
            raise DataError(f"the split {quoted(split)} holds no samples", code="MMG-D10", fix="choose another split")
        return positions

    def _blocks(self, shuffle: str, grouped_by: str | None) -> list[int] | None:
        """The block of each training sample, where the order goes by blocks."""
        if shuffle == "full":
            return None
        dataset: Any = self.samples.dataset if isinstance(self.samples, Pictures) else None
        found = getattr(dataset, "blocks", None)
        if found is None or grouped_by is not None or getattr(dataset, "part_weights", None):
            raise DataError(
                "the dataset has no blocks to go through" if found is None else "samples cannot be grouped both ways",
                code="MMG-D52",
                where=f"task.shuffle={shuffle}",
                why="" if found is None else "blocks decide what is near in an epoch; so do attributes and weights",
                fix="task.shuffle=full",
            )
        return [int(found[position]) for position in self.train_positions]

    def _order(self, groups: list[int] | None, blocks: list[int] | None) -> BatchOrder:
        """Every sample once an epoch; of a dataset with weighted parts, each part as often as it asks."""
        dataset: Any = self.samples.dataset if isinstance(self.samples, Pictures) else None
        weights: Mapping[str, float] | None = getattr(dataset, "part_weights", None)
        if not weights:
            return BatchOrder(
                len(self.train_positions), self.batch_size, self.seed, groups, blocks, group_size=self._group_size
            )
        positions: Mapping[str, Sequence[int]] = dataset.parts
        parts = {}
        for name in weights:
            own = positions[name] if isinstance(positions[name], range) else set(positions[name])
            parts[name] = [place for place, position in enumerate(self.train_positions) if position in own]
            if not parts[name]:
                raise DataError(
                    f"the part {quoted(name)} has nothing to train on",
                    code="MMG-D10",
                    where=f"dataset.parts.{name}",
                    fix="leave it out",
                )
        return WeightedOrder(parts, weights, self.batch_size, self.seed, groups, self._group_size)

    def _shapely(self, positions: Sequence[int]) -> Sequence[int]:
        """Those whose pictures the augmentation takes; to see their shapes, each is read once."""
        if self.augment != "dalle_generator" or not isinstance(self.samples, Pictures):
            return positions
        dataset = self.samples.dataset
        kept = [i for i in positions if keeps(self.augment, original(dataset, i))]
        self.left_out = len(positions) - len(kept)
        if not kept:
            raise DataError(
                "every training picture is more than twice as long as wide, or as wide as long",
                code="MMG-D10",
                where="task.augment=dalle_generator",
                fix="task.augment=dalle_tokenizer, or task.augment=none",
            )
        return kept

    def _groups(self, attribute: str | None) -> list[int] | None:
        """A number for each training sample, the same for those that share the attribute's value."""
        if attribute is None:
            return None
        if isinstance(self.samples, Pictures):
            found = [self.samples.attributes[position] for position in self.train_positions]
        else:
            found = [record["attributes"] for record in self.samples.records(self.train_positions)]
        values = [attributes.get(attribute) for attributes in found]
        if not any(values):
            known = ", ".join(sorted({key for attributes in found for key in attributes})) or "none"
            raise DataError(
                f"no training sample has the attribute {quoted(attribute)}",
                code="MMG-D11",
                where="task.grouped_by",
                fix=f"task.grouped_by=null, or one of these: {known}",
            )
        numbers: dict[str, int] = {}
        return [
            -1 - place if value is None else numbers.setdefault(value, len(numbers))
            for place, value in enumerate(values)
        ]

    def train_dataloader(self) -> Batches:
        """From the first batch that the (resumed) trainer has not finished, to the last of the training."""
        per_step = self._accumulation()
        batches = StepBatches(
            self.order,
            self.max_steps * per_step,
            self._batches_done,
            *self._rank(),
            text_only=self.text_only,
            per_step=per_step,
        )
        return Batches(self._source(self.train_positions, training=True), batches, self.num_workers)

    def val_dataloader(self) -> Batches:
        """`val` in fixed order, every sample once over all ranks, with the ordinary caption and the keys of epoch 0.

        The ranks get equally many, or those with more would wait for the others: up to world size - 1 come twice.
        """
        rank, world_size = self._rank()
        share, each = -(-self.batch_size // world_size), -(-len(self.val_positions) // world_size)
        mine = [((rank + i * world_size) % len(self.val_positions), 0) for i in range(each)]
        batches = [mine[i : i + share] for i in range(0, len(mine), share)]
        return Batches(self._source(self.val_positions, training=False), batches, self.num_workers)

    def _source(self, positions: Sequence[int], training: bool) -> Source:
        others = self.alternative_captions if training else 0.0
        noise = self.noise if training else None
        if isinstance(self.samples, Pictures):
            augment = self.augment if training else "none"
            return PictureSource(self.samples, positions, self.seed, others, self.codes, augment, noise)
        return TokenSource(self.samples, positions, self.seed, others, not training or not self.bpe_dropout, noise)

    def _accumulation(self) -> int:
        return self.trainer.accumulate_grad_batches if self.trainer else 1

    def _rank(self) -> tuple[int, int]:
        """(rank, world size) among the processes that see different data: with tensor parallelism fewer than all."""
        sharding = getattr(self.trainer.strategy, "distributed_sampler_kwargs", None) if self.trainer else None
        return (sharding["rank"], sharding["num_replicas"]) if sharding else (0, 1)

    def _batches_done(self) -> int:
        """Counted by Lightning, restored from a checkpoint before the first batch is fetched.

        Not `global_step`: that counts optimizer steps, of which a batch can have two (a discriminator) or a fraction.
        """
        if self.trainer is None or getattr(self.trainer, "overfit_batches", False):
            return 0  # Lightning repeats the first batches by starting over
        return self.trainer.fit_loop.epoch_loop.batch_progress.total.completed


class Batches:
    """A loader that Lightning takes as it is: it would put a sampler of its own into a bare DataLoader under DDP.

    It has a state, empty, so that Lightning knows that it can be resumed; its place comes from the trainer's progress.
    """

    def __init__(self, source: Source, batches: StepBatches | Sequence[list[Slot]], num_workers: int) -> None:
        self.source, self.batches, self.num_workers = source, batches, num_workers

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        # A generator of its own keeps the loader from drawing a number of the global one, whose state is the model's.
        loader: DataLoader[Any] = DataLoader(
            self.source,
            batch_sampler=self.batches,
            num_workers=self.num_workers,
            collate_fn=_as_it_is,
            generator=torch.Generator().manual_seed(0),
        )
        yield from loader

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def _as_it_is(batch: Any) -> Any:
    return batch
