"""Probabilities of the next token, and the draws from them that speculative decoding makes.

Letters: S positions, V ids.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def filtered(logits: Tensor, temperature: float, top_k: int | None, top_p: float | None, min_p: float | None) -> Tensor:
    """Logits (S,V) to the probabilities (S,V) that are drawn from; those filtered out are 0.

    Args:
        temperature: logits are divided by it first; at 0 the likeliest id has all the probability.
        top_k: of the ids, only the k likeliest.
        top_p: of those, only the likeliest whose mass, with `top_k` renormalised, reaches `top_p`; at least one.
        min_p: of those, only ids at least `min_p` times as likely as the likeliest.
    """
    logits = logits.float()
    if temperature == 0:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits)
    # With the likeliest logit at 0, a temperature close to 0 cannot overflow; in single precision 1e-40 would be a 0.
    logits = (logits - logits.amax(-1, keepdim=True)) / max(temperature, 1e-30)
    if top_k is None and (top_p is None or top_p == 1) and min_p is None:
        return logits.softmax(-1)
    probs, ids = torch.sort(logits.softmax(-1), dim=-1, descending=True, stable=True)
    kept = torch.ones_like(probs, dtype=torch.bool)
    if top_k is not None:
        kept[:, top_k:] = False
    if top_p is not None and top_p < 1:
        mass = (probs * kept).cumsum(-1)
        before = F.pad(mass[:, :-1], (1, 0))
        kept &= before < top_p * mass[:, -1:]
    if min_p is not None:
        kept &= probs >= min_p * probs[:, :1]
    kept[:, 0] = True
    probs = probs * kept
    return torch.zeros_like(probs).scatter(-1, ids, probs / probs.sum(-1, keepdim=True))


def inverted(weights: Tensor, uniform: Tensor) -> Tensor:
    """Weights (S,V) ≥ 0 to one id a row, (S,) long: the cumulative distribution inverted at `uniform` (S,) in [0,1)."""
    cumulative = weights.cumsum(-1)
    # right=True passes over ids of no weight; the product stays below the whole, so no id beyond it is reached.
    place = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)
    return place.clamp_(max=weights.shape[-1] - 1).squeeze(-1)


def redrawn(tokens: Tensor, old: Tensor, new: Tensor, uniform: Tensor) -> Tensor:
    """Tokens (S,), drawn from `old` (S,V), turned into draws from `new` (S,V) that are, as often as can be, the same.

    A token stays with probability min(1, new/old), otherwise it is drawn from the normalised positive difference
    new - old (Leviathan et al., arXiv 2211.17192, section 2.3). If a token is distributed as `old` and has no part in
    `new`, the result is distributed as `new`.

    Args:
        uniform: (2,S) in [0,1): one number for the test, one for the draw.
    """
    row = tokens[:, None]
    more = (new - old).clamp_min_(0)
    stays = uniform[0] * old.gather(-1, row).squeeze(-1) < new.gather(-1, row).squeeze(-1)
    stays |= more.sum(-1) == 0  # they differ by rounding only
    return torch.where(stays, tokens, inverted(more, uniform[1]))


def uniforms(seed: int, image_number: int, turn: int, shape: tuple[int, int], beside: str = "") -> Tensor:
    """Numbers in [0,1), float32: a function of (seed, image number, turn) and of what it is drawn beside, a caption.

    A hash drawn out to the needed length, not torch's generator: that one keeps 32 bits of a seed, and its stream is
    promised for neither another device nor another release.
    """
    count = shape[0] * shape[1]
    said = f"mmgen-jacobi picture {seed} {image_number} {turn}" + (f" {beside}" if beside else "")
    stream = hashlib.shake_256(said.encode()).digest(4 * count)
    numbers = (np.frombuffer(stream, "<u4") >> 8).astype(np.float32) * np.float32(2**-24)
    return torch.from_numpy(numbers).view(shape)
