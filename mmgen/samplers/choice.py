"""One token from logits: temperature, top_k, top_p, min_p, and the randomness that a picture number owns.

Letters: B rows, V ids, N positions.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Choice:
    """How a token is chosen; see `choose`.

    Raises:
        ValueError: a value out of its range.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature is {self.temperature}; it must be a finite number ≥ 0")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; it must be ≥ 1, or null for all tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must lie in (0,1], or be null")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p is {self.min_p}; it must lie in [0,1], or be null")

    def __call__(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """(B,V), (B,) to one id a row, (B,)."""
        return choose(
            logits, uniform, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, min_p=self.min_p
        )


def uniforms(seed: int, number: int, positions: int, of: str = "picture", beside: str = "") -> Tensor:
    """One number in [0,1) a position, (N,) float32: a function of (seed, number, position), of what is numbered, and of
    what it is drawn `beside`, such as its caption.

    A hash drawn out to the needed length, not torch's generator: that one keeps 32 bits of a seed, and its stream is
    promised for neither another device nor another release.
    """
    said = f"mmgen {of} {seed} {number}" + (f" {beside}" if beside else "")
    stream = hashlib.shake_256(said.encode()).digest(4 * positions)
    return torch.from_numpy((np.frombuffer(stream, "<u4") >> 8).astype(np.float32) * np.float32(2**-24))


def choose(
    logits: Tensor,
    uniform: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
) -> Tensor:
    """Inverts the cumulative distribution of the filtered logits at `uniform`: one id a row, (B,) long.

    Args:
        logits: (B,V).
        uniform: (B,) float32 in [0,1).
        temperature: logits are divided by it first; 0 takes the likeliest id.
        top_k: of the ids, only the k likeliest.
        top_p: of those, only the likeliest whose mass, with `top_k` renormalised, reaches `top_p` (Holtzman et al.
            2019, section 3.1); always at least one.
        min_p: of those, only the ones at least `min_p` times as likely as the likeliest (Nguyen et al. 2024,
            section 3); always at least one.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    # With the likeliest logit at 0, a temperature close to 0 cannot overflow; in single precision 1e-40 would be a 0.
    logits = logits.float()
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / max(temperature, 1e-30)
    # How much less likely than the likeliest a logit may be: the logarithm of their ratio.
    least = math.log(min_p) if min_p else -math.inf
    share = 1.0 if top_p is None else top_p
    ids = None
    if top_k is not None and top_k < logits.shape[-1]:
        logits, ids = torch.topk(logits, top_k, dim=-1)
    elif share < 1:
        logits, ids = torch.sort(logits, dim=-1, descending=True)
    if share == 1:
        logits = logits.masked_fill(logits < least, -math.inf)
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1)
    mass = cumulative[:, -1:]
    if share < 1:
        # The first id whose cumulative mass reaches top_p is the last one kept; of those that min_p keeps, the last is
        # the least likely. Whichever comes first.
        last = (cumulative < share * mass).sum(dim=-1, keepdim=True)
        last = last.minimum((logits >= least).sum(dim=-1, keepdim=True) - 1)
        mass = cumulative.gather(-1, last)
    # right=True passes over ids of no probability; the product stays below `mass`, so no id beyond it is reached.
    place = torch.searchsorted(cumulative, uniform[:, None] * mass, right=True).clamp_(max=cumulative.shape[-1] - 1)
    return (place if ids is None else ids.gather(-1, place)).squeeze(-1)
