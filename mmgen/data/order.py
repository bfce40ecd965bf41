"""Which samples make up which batch: a pure function of seed and step, so that a run can stop and go on anywhere."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence

import torch

Slot = tuple[int, int]  # (position, epoch) of one sample of a batch


def sample_key(seed: int, epoch: int, id: str) -> int:
    """A 63-bit number for one sample in one epoch: the seed of whatever is random about it, wherever it lands."""
    return _number(f"sample/{seed}/{epoch}/{id}")


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
    """

    def __init__(self, size: int, batch_size: int, seed: int, groups: Sequence[int] | None = None) -> None:
        if size < 1 or batch_size < 1:
            raise ValueError(f"size and batch_size must be at least 1, got {size} and {batch_size}")
        if groups is not None and len(groups) != size:
            raise ValueError(f"groups must hold {size} numbers, got {len(groups)}")
        self._groups = None if groups is None else torch.unique(torch.tensor(groups), return_inverse=True)[1]
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self._permutations: dict[int, list[int]] = {}

    def epoch_of(self, step: int, slot: int) -> int:
        """Which pass over the data the sample in a slot of a batch belongs to."""
        return (step * self.batch_size + slot) // self.size

    def slots(self, step: int) -> list[Slot]:
        """The global batch of a step as (position, epoch), positions from 0 to size - 1."""
        first = step * self.batch_size
        pairs = (divmod(i, self.size) for i in range(first, first + self.batch_size))
        return [(self._permutation(epoch)[place], epoch) for epoch, place in pairs]

    def positions(self, step: int) -> list[int]:
        """The global batch of a step."""
        return [position for position, _ in self.slots(step)]

    def _permutation(self, epoch: int) -> list[int]:
        if epoch not in self._permutations:
            if len(self._permutations) > 2:
                self._permutations.clear()
            generator = torch.Generator().manual_seed(_number(f"epoch/{self.seed}/{epoch}"))
            permutation = torch.randperm(self.size, generator=generator)
            if self._groups is not None:
                places = torch.randperm(int(self._groups.max()) + 1, generator=generator)
                permutation = permutation[places[self._groups[permutation]].argsort(stable=True)]
            self._permutations[epoch] = permutation.tolist()
        return self._permutations[epoch]


class StepBatches:
    """One rank's slice of every batch, for a DataLoader's `batch_sampler`.

    Its length counts all batches of the training, also those before the start: Lightning restores a progress that
    counts from the first batch, and compares it with the length.

    Args:
        order: the global batches.
        batches: how many there are in the whole training.
        start: gives the batch to begin with; asked when the first batch is fetched, when a resumed run knows it.
        rank, world_size: each rank takes an equal slice.

    Raises:
        ValueError: the world size does not divide the batch size.
    """

    def __init__(
        self, order: BatchOrder, batches: int, start: Callable[[], int] = int, rank: int = 0, world_size: int = 1
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be from 0 to {world_size - 1}, got {rank}")
        if order.batch_size % world_size:
            raise ValueError(f"{world_size} processes do not divide a batch of {order.batch_size} samples")
        self.order, self.batches, self.start = order, batches, start
        share = order.batch_size // world_size
        self._mine = slice(rank * share, (rank + 1) * share)

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[Slot]]:
        for step in range(self.start(), self.batches):
            yield self.order.slots(step)[self._mine]
