"""What the checks of both orders of a stream share: the subject, how close logits must be, and a plain way to draw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmgen.testing.checks import require
from mmgen.testing.trainables import Subject as TrainableSubject

TOLERANCE = 1e-5


@dataclass
class Subject(TrainableSubject):
    """A generator with text (B,T) and image tokens (B,N) of three captions."""

    text_tokens: Tensor = field(default_factory=lambda: torch.empty(0))
    image_tokens: Tensor = field(default_factory=lambda: torch.empty(0))
    codebook_size: int = 0

    def logits(self, generator: Any) -> tuple[Tensor, Tensor]:
        return generator(self.text_tokens, self.image_tokens)


def require_close(one: Tensor, other: Tensor, what: str) -> None:
    """Logits that may differ in their last bits and no further."""
    difference = float((one - other).detach().abs().max())
    allowed = TOLERANCE * max(1.0, float(other.detach().abs().max()))
    require(difference <= allowed, f"{what}: logits differ by {difference:.1e}, allowed is {allowed:.0e}")


@torch.no_grad()
def draw(count: int, rows: int, logits_after: Callable[[Tensor], Tensor]) -> Tensor:
    """`count` tokens one after another, (rows,count), by the same random numbers every time.

    Args:
        logits_after: the tokens drawn so far (rows,n) to the logits of the next, (rows,V).
    """
    random = torch.rand(count, rows, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens = torch.empty(rows, 0, dtype=torch.long)
    for uniform in random:
        mass = logits_after(tokens).double().cpu().softmax(-1).cumsum(-1)
        tokens = torch.cat([tokens, torch.searchsorted(mass, uniform).clamp(max=mass.shape[1] - 1)], 1)
    return tokens
