"""Batches for Lightning: the right ones after any resume, pictures from memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mmgen.data.order import BatchOrder, Slot, StepBatches, sample_key
from mmgen.data.pictures import Pictures
from mmgen.errors import DataError, quoted
from mmgen.protocols import Batch, Dataset


class PictureData(pl.LightningDataModule):
    """Training batches that depend on seed and step alone, validation batches that never change.

    Args:
        dataset: captioned pictures, or `Pictures` of it that were read before.
        batch_size: the global batch, over all ranks.
        seed: decides order, keys and which caption is taken.
        max_steps: length of the training in optimizer steps; Lightning's Trainer has the same number.
        train, val: names of the splits.
        num_workers: processes that make batches; 0 suits pictures kept in memory.
        alternative_captions: how often training takes another of a sample's captions, drawn by its key.
        codes: (M,N) image tokens by dataset position; batches then carry `image_tokens` and no `image`.
        max_val: how many samples of `val` are used, None for all.
        grouped_by: an attribute; training samples that share its value go into the same batches.

    Raises:
        DataError: see `Pictures` and `split_positions`; MMG-D10, a split is empty.
    """

    def __init__(
        self,
        dataset: Dataset | Pictures,
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
    ) -> None:
        super().__init__()
        self.pictures = dataset if isinstance(dataset, Pictures) else Pictures(dataset)
        if codes is not None and (codes.dim() != 2 or codes.shape[0] != len(self.pictures)):
            raise ValueError(f"codes must be ({len(self.pictures)},N), got {tuple(codes.shape)}")
        if not 0 <= alternative_captions <= 1:
            raise ValueError(f"alternative_captions must be in [0,1], got {alternative_captions}")
        if max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {max_steps}")
        self.batch_size, self.seed, self.max_steps, self.num_workers = batch_size, seed, max_steps, num_workers
        self.alternative_captions, self.codes = alternative_captions, codes
        self.train_positions = self._positions(train)
        self.val_positions = self._positions(val)[:max_val]
        self.order = BatchOrder(len(self.train_positions), batch_size, seed, self._groups(grouped_by))

    def _positions(self, split: str) -> list[int]:
        positions = self.pictures.positions(split)
        if not positions:
            raise DataError(f"the split {quoted(split)} holds no samples", code="MMG-D10", fix="choose another split")
        return positions

    def _groups(self, attribute: str | None) -> list[int] | None:
        """A number for each training sample, the same for those that share the attribute's value."""
        if attribute is None:
            return None
        values = [self.pictures.attributes[position].get(attribute) for position in self.train_positions]
        if not any(values):
            known = ", ".join(sorted({key for attributes in self.pictures.attributes for key in attributes})) or "none"
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
        batches = StepBatches(self.order, self.max_steps * self._accumulation(), self._batches_done, *self._rank())
        source = _Source(self.pictures, self.train_positions, self.seed, self.alternative_captions, self.codes)
        return Batches(source, batches, self.num_workers)

    def val_dataloader(self) -> Batches:
        """`val` in fixed order, every sample once over all ranks, with the ordinary caption and the keys of epoch 0.

        The ranks get equally many, or those with more would wait for the others: up to world size - 1 come twice.
        """
        rank, world_size = self._rank()
        share, each = -(-self.batch_size // world_size), -(-len(self.val_positions) // world_size)
        mine = [((rank + i * world_size) % len(self.val_positions), 0) for i in range(each)]
        batches = [mine[i : i + share] for i in range(0, len(mine), share)]
        return Batches(
            _Source(self.pictures, self.val_positions, self.seed, 0.0, self.codes), batches, self.num_workers
        )

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

    def __init__(self, source: _Source, batches: StepBatches | Sequence[list[Slot]], num_workers: int) -> None:
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


class _Source(torch.utils.data.Dataset):
    """Makes a whole batch from its slots."""

    def __init__(
        self, pictures: Pictures, positions: list[int], seed: int, alternative_captions: float, codes: Tensor | None
    ) -> None:
        self.pictures, self.positions, self.seed = pictures, positions, seed
        self.alternative_captions, self.codes = alternative_captions, codes

    def __len__(self) -> int:
        return len(self.positions)

    def __getitems__(self, slots: list[Slot]) -> Batch:
        positions = [self.positions[place] for place, _ in slots]
        ids = [self.pictures.ids[i] for i in positions]
        keys = [sample_key(self.seed, epoch, id) for id, (_, epoch) in zip(ids, slots, strict=True)]
        captions = [self._caption(i, key) for i, key in zip(positions, keys, strict=True)]
        batch: Batch = {"caption": captions, "id": ids, "key": keys}
        if self.codes is None:
            batch["image"] = self.pictures.batch(positions)
        else:
            batch["image_tokens"] = self.codes[positions].long()
        return batch

    def _caption(self, position: int, key: int) -> str:
        caption, others = self.pictures.captions[position], self.pictures.alternatives[position]
        others = [other for other in others if other != caption]
        if not others or not self.alternative_captions:
            return caption
        # Two numbers out of the key's own stream, so that they say nothing about other uses of the key.
        share, which = (sample_key(key, number, "caption") for number in (0, 1))
        return others[which % len(others)] if share < self.alternative_captions * (1 << 63) else caption
