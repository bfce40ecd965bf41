"""The order of a training on several parts, each drawn as often as its weight asks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

from mmgen.data.order import BatchOrder, Slot, sample_key


class WeightedOrder(BatchOrder):
    """An endless sequence of batches over parts of a set of samples.

    A part whose weight is the share w of all weights has its k-th draw (from 0) due at (k + 1/2) / w, counted in draws
    of the whole; draws come in the order in which they are due, of equal ones the earlier part's first. So before any
    draw t, in any batch, a part of P has had w·t draws to within (1 + (P - 2)·w) / 2: half a draw of two parts. The
    draws of one part are those of a `BatchOrder` of its own: each of its samples once, then each once more.

    What comes is a function of seed and step. The epoch of a slot counts the passes over its part, so that the key of a
    sample, from (seed, epoch, id), never repeats.

    Args:
        parts: the places of each part's samples, by its name; each place in one part.
        weights: by the part's name, above 0.
        batch_size, seed, groups, group_size: of `BatchOrder`; samples of one group follow each other in an epoch of
            their part.
    """

    def __init__(
        self,
        parts: Mapping[str, Sequence[int]],
        weights: Mapping[str, float],
        batch_size: int,
        seed: int,
        groups: Sequence[int] | None = None,
        group_size: int | None = None,
    ) -> None:
        super().__init__(sum(map(len, parts.values())), batch_size, seed)
        self._places = list(parts.values())
        self._orders = [
            BatchOrder(
                len(places),
                1,
                sample_key(seed, 0, f"part/{name}"),
                groups and [groups[i] for i in places],
                group_size=group_size,
            )
            for name, places in parts.items()
        ]
        self._weights = _whole([weights[name] for name in parts])

    def slots(self, step: int) -> list[Slot]:
        """The global batch of a step as (place, epoch), the epoch being that of the place's part."""
        counts = self._counts(step * self.batch_size)
        found = []
        for _ in range(self.batch_size):
            part = self._next(counts)
            [(place, epoch)] = self._orders[part].slots(counts[part])
            found.append((self._places[part][place], epoch))
            counts[part] += 1
        return found

    def _counts(self, draws: int) -> list[int]:
        """How many of the first `draws` were of each part."""
        total = sum(self._weights)
        # What is due until a time are as many draws as that time, to within half a draw a part: from a little earlier,
        # only the last few are to be gone through.
        early = max(0, draws - len(self._weights))
        counts = [(2 * early * weight + total) // (2 * total) for weight in self._weights]
        while sum(counts) < draws:
            counts[self._next(counts)] += 1
        return counts

    def _next(self, counts: list[int]) -> int:
        """The part whose next draw is due first."""
        best = 0
        for part in range(1, len(counts)):
            # (2k + 1) / weight, without a division: exact, however far the training goes
            if (2 * counts[part] + 1) * self._weights[best] < (2 * counts[best] + 1) * self._weights[part]:
                best = part
        return best


def _whole(weights: Sequence[float]) -> list[int]:
    """The weights as whole numbers in the same proportions, as they are written: 0.1 is a tenth."""
    exact = [Fraction(repr(float(weight))) for weight in weights]
    scale = math.lcm(*(weight.denominator for weight in exact))
    numbers = [int(weight * scale) for weight in exact]
    return [number // math.gcd(*numbers) for number in numbers]
