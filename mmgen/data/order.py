"""Which samples make up which batch: a pure function of seed and step, so that a run can stop and go on anywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

Slot = tuple[int, int]  # (position, epoch) of one sample of a batch


def sample_key(seed: int, epoch: int, id: str) -> int:
    """A 63-bit number for one sample in one epoch: the seed of whatever is random about it, wherever it lands."""
    return _number(f"sample/{seed}/{epoch}/{id}")


class Slots(list[Slot]):
    """One process's share of a step's batch."""

    text_only = False


def is_text_only(seed: int, step: int, share: float) -> bool:
    """Whether a step trains on captions alone: true for `share` of all steps."""
    return _number(f"text_only/{seed}/{step}") < share * (1 << 63)


def _number(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


class BatchOrder:
    """An endless sequence of batches over a set of samples.

    Each epoch is a permutation of its own; batches run across the border of two epochs, so that every batch is full and
    every sample is seen equally often.

    Args:
        size: how many samples there are, at least 1.
        batch_size: the global batch, over all ranks.
        seed: decides the permutations.
        groups: one number a sample; samples of one group follow each other in an epoch, and so share batches. To a
            contrastive encoder they are the negatives that are hard to tell apart.
        group_size: how many of a group follow each other at most; larger groups are cut, in every epoch anew. Null:
            all of them.
        blocks: one number a sample, such as that of the shard it lies in. Then an epoch goes through the blocks, in an
            order of its own, `window` of them at a time: samples are shuffled within a window. Not with `groups`.
        window: how many blocks a window has; the last one of an epoch may have fewer.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int,
        groups: Sequence[int] | None = None,
        blocks: Sequence[int] | None = None,
        window: int = 8,
        group_size: int | None = None,
    ) -> None:
        if size < 1 or batch_size < 1:
            raise ValueError(f"size and batch_size must be at least 1, got {size} and {batch_size}")
        if groups is not None and len(groups) != size:
            raise ValueError(f"groups must hold {size} numbers, got {len(groups)}")
        if blocks is not None and (len(blocks) != size or groups is not None or window < 1):
            raise ValueError(f"blocks must hold {size} numbers and a window of 1 or more, and exclude groups")
        numbers = groups if blocks is None else blocks
        self._groups = None if numbers is None else torch.unique(torch.as_tensor(numbers), return_inverse=True)[1]
        self._window, self._group_size = 1 if blocks is None else window, group_size
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self._permutations: dict[int, Tensor] = {}  # four bytes a sample, of the last two epochs

    def epoch_of(self, step: int, slot: int) -> int:
        """Which pass over the data the sample in a slot of a batch belongs to."""
        return (step * self.batch_size + slot) // self.size

    def slots(self, step: int) -> list[Slot]:
        """The global batch of a step as (position, epoch), positions from 0 to size - 1."""
        found: list[Slot] = []
        while len(found) < self.batch_size:
            epoch, place = divmod(step * self.batch_size + len(found), self.size)
            positions = self._permutation(epoch)[place : place + self.batch_size - len(found)]
            found += [(position, epoch) for position in positions.tolist()]
        return found

    def positions(self, step: int) -> list[int]:
        """The global batch of a step."""
        return [position for position, _ in self.slots(step)]

    def _permutation(self, epoch: int) -> Tensor:
        if epoch not in self._permutations:
            for old in list(self._permutations)[:-1]:
                del self._permutations[old]
            generator = torch.Generator().manual_seed(_number(f"epoch/{self.seed}/{epoch}"))
            permutation = torch.randperm(self.size, generator=generator)
            if self._groups is not None:
                groups = self._groups[permutation]
                if self._group_size is not None:
                    groups = _cut(groups, self._group_size)
                places = torch.randperm(int(groups.max()) + 1, generator=generator)
                permutation = permutation[(places[groups] // self._window).argsort(stable=True)]
            self._permutations[epoch] = permutation.int() if self.size < 1 << 31 else permutation
        return self._permutations[epoch]


def _cut(groups: Tensor, size: int) -> Tensor:
    """Group numbers (M,), from 0, to numbers of pieces: the first `size` members of each group, the next, and on."""
    order = groups.argsort(stable=True)
    counts = torch.bincount(groups)
    within = torch.empty_like(groups)
    within[order] = torch.arange(len(groups)) - (counts.cumsum(0) - counts)[groups[order]]
    return torch.unique(torch.stack([groups, within // size]), dim=1, return_inverse=True)[1]


class StepBatches:
    """One rank's slice of every batch, for a DataLoader's `batch_sampler`.

    Its length counts all batches of the training, also those before the start: Lightning restores a progress that
    counts from the first batch, and compares it with the length.

    Args:
        order: the global batches.
        batches: how many there are in the whole training.
        start: gives the batch to begin with; asked when the first batch is fetched, when a resumed run knows it.
        rank, world_size: each rank takes an equal slice.
        text_only: the share of optimizer steps whose batches hold captions alone.
        per_step: batches of one optimizer step.

    Raises:
        ValueError: the world size does not divide the batch size.
    """

    def __init__(
        self,
        order: BatchOrder,
        batches: int,
        start: Callable[[], int] = int,
        rank: int = 0,
        world_size: int = 1,
        text_only: float = 0.0,
        per_step: int = 1,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be from 0 to {world_size - 1}, got {rank}")
        if order.batch_size % world_size:
            raise ValueError(f"{world_size} processes do not divide a batch of {order.batch_size} samples")
        self.order, self.batches, self.start = order, batches, start
        self.text_only, self.per_step = text_only, per_step
        share = order.batch_size // world_size
        self._mine = slice(rank * share, (rank + 1) * share)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Slots]:
        for batch in range(self.start(), self.batches):
            slots = Slots(self.order.slots(batch)[self._mine])
            slots.text_only = is_text_only(self.order.seed, batch // self.per_step, self.text_only)
            yield slots
