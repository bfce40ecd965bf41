"""The health of an image tokenizer's codebook: how often each code is used, over a whole epoch and over all of `val`.

A batch says little: it may hold fewer grid positions than there are codes. The counts of an epoch that is under way are
in the checkpoint, so that a resumed run reports the same numbers.

Letters: K codes, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

LEAST_USED = 0.1  # of the codes; under that the alarm goes off
LEAST_PERPLEXITY = 0.02  # of the codes: many may be used at all while few do the work
ADVICE = "lower task.optimizer.lr"  # for a component that has none of its own
BARS, LEVEL, PAPER = (0.15, 0.35, 0.6), (0.9, 0.45, 0.1), (1.0, 1.0, 1.0)  # colours of the histogram


@dataclass(frozen=True)
class CodebookUse:
    """Counts (K,) long, on the CPU, of how often each code was used."""

    counts: Tensor

    @property
    def size(self) -> int:
        return len(self.counts)

    @property
    def used(self) -> int:
        return int((self.counts > 0).sum())

    @property
    def dead(self) -> int:
        return self.size - self.used

    @property
    def usage(self) -> float:
        """The fraction of the codes that was used at all, in [0,1]."""
        return self.used / self.size

    @property
    def perplexity(self) -> float:
        """exp of the entropy of the use, from 1 to K."""
        shares = self.counts[self.counts > 0].double()
        shares = shares / shares.sum()
        return float((-(shares * shares.log()).sum()).exp())

    @property
    def within_reach(self) -> int:
        """How many codes could have been used: no more than there were positions."""
        return min(self.size, int(self.counts.sum()))

    @property
    def collapsed(self) -> bool:
        few = self.used < LEAST_USED * self.within_reach
        return few or self.perplexity < LEAST_PERPLEXITY * self.within_reach


class CodeCounter:
    """Counts codes where they are, and hands over the sum of all ranks.

    Args:
        size: K.
    """

    def __init__(self, size: int) -> None:
        self._counts = torch.zeros(size, dtype=torch.long)

    def add(self, indices: Tensor) -> None:
        """Indices of any shape."""
        counts = torch.bincount(indices.flatten(), minlength=len(self._counts))
        self._counts = self._counts.to(counts.device) + counts

    def total(self, strategy: Any) -> CodebookUse:
        """The sum over the ranks, all of which have to ask. `strategy` is Lightning's."""
        return CodebookUse(strategy.reduce(self._counts.clone(), reduce_op="sum").cpu())

    def clear(self) -> None:
        self._counts = torch.zeros_like(self._counts)

    def state(self, strategy: Any) -> list[int]:
        """What a checkpoint keeps: the sum over the ranks."""
        return [int(count) for count in self.total(strategy).counts]

    def restore(self, counts: Sequence[int], rank: int) -> None:
        """The first rank goes on from the sum, the others from nothing."""
        self._counts = torch.tensor(counts, dtype=torch.long) * (rank == 0)


def histogram(use: CodebookUse, height: int = 96, width: int = 384) -> Tensor:
    """(3,height,width) in [0,1]: the codes from the most to the least used, and how often, on a logarithmic scale.

    An orange line marks the use of each code were all used alike; where there is no bar the codes are dead.
    """
    ordered = use.counts.double().sort(descending=True).values
    columns = ordered[torch.linspace(0, use.size - 1, width).round().long()]
    scale = (height - 1) / ordered[0].clamp_min(1).log1p()
    tops = torch.where(columns > 0, (columns.log1p() * scale).round(), -1)
    rows = torch.arange(height - 1, -1, -1)[:, None]
    level = (ordered.mean().log1p() * scale).round()
    picture = torch.where(rows <= tops, torch.tensor(BARS)[:, None, None], torch.tensor(PAPER)[:, None, None])
    return torch.where(rows == level, torch.tensor(LEVEL)[:, None, None], picture).expand(3, height, width)


class WatchCodebook(pl.Callback):
    """At each validation, the codebook's use as a picture in the log; and the alarm, once, when it has collapsed.

    It looks at the last whole pass over the training pictures, or before there is one at the validation pictures.

    Args:
        warn: called with the sentence.
    """

    def __init__(self, warn: Callable[[str], None]) -> None:
        self.warn: Callable[[str], None] | None = warn

    def on_validation_end(self, trainer: pl.Trainer, module: Any) -> None:
        use, where = module.epoch_use, "the last pass over the training pictures"
        if use is None:
            use, where = module.val_use, "the validation pictures"
        if trainer.sanity_checking or use is None:
            return
        logger: Any = trainer.logger
        if logger is not None:
            logger.log_picture("codebook", histogram(use), trainer.global_step)
        if self.warn is not None and use.collapsed:
            advice = getattr(module.averaged, "collapse_advice", ADVICE)
            self.warn(
                f"the codebook has collapsed: at step {trainer.global_step} {use.used:,} of {use.size:,} codes are in "
                f"use over {where}, with a perplexity of {use.perplexity:.3g}; {advice}"
            )
            self.warn = None
