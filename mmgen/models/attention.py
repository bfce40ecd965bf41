"""Attention under a mask of the stream: one predicate (`mmgen.stream.Mask`), several ways to compute it.

What a way needs to know (a table of bools, which blocks meet, which keys a step reads) is derived from the predicate,
with numpy, before any tensor is there: a model may be traced with fake tensors.

Letters: B batch, H heads, S positions of the pass, K head dim, N image positions of the pass, T text positions of the
pass, P blocks, Q queries of a block, M image keys of a block.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mmgen.models.patterns import StepKeys, is_causal, seen_table, step_keys, tiles
from mmgen.stream import Mask

Executor = Literal["auto", "dense", "blocked", "flex"]


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, mask: Mask, *, first: int = 0, executor: Executor = "auto"
) -> Tensor:
    """Attention (B,H,S,K) of S neighbouring positions to each other, as in training.

    Args:
        queries, keys, values: (B,H,S,K).
        mask: who sees whom.
        first: the position of the first of them.
        executor: how it is computed. `dense` computes all pairs and masks, `blocked` only blocks of the picture that
            meet, `flex` the same by FlexAttention, on a GPU only; `auto` takes the fastest, as measured (see
            docs/decisions.md). Where a mask is that of full attention, all of them are torch's causal attention.

    Raises:
        ValueError: `flex` without a GPU.
    """
    if is_causal(mask, first, queries.shape[2]):
        return F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    if executor == "auto":
        executor = _fastest(queries, mask, first)
    if executor == "flex":
        if not queries.is_cuda:
            raise ValueError("executor=flex needs a GPU: its backward is not implemented elsewhere; use executor=auto")
        return _flex(queries, keys, values, mask, first)
    if executor == "blocked" and first == 0:
        return _blocked(queries, keys, values, mask)
    return _dense(queries, keys, values, mask, first)


def attend_cached(queries: Tensor, keys: Tensor, values: Tensor, mask: Mask) -> Tensor:
    """Attention of the last S of all positions, (B,H,S,K), to those of all of them, (B,H,·,K), that the mask lets them
    see, for decoding: of a sparse layer's cache only those are read.

    torch's fused kernel gives a row other last bits depending on the thread it lands on; spelt out, a picture's logits
    do not depend on its place in the batch. For a few queries it is as fast.
    """
    length, total = queries.shape[2], keys.shape[2]
    plan = step_keys(mask, total - length, length)
    queries = queries * queries.shape[-1] ** -0.5
    scores = [queries @ keys[:, :, part].transpose(-2, -1) for part in plan.parts]
    together = scores[0] if len(scores) == 1 else torch.cat(scores, -1)
    if plan.seen is not None:
        together = together.masked_fill(~plan.seen.like(together), float("-inf"))
    probs = together.softmax(-1, dtype=torch.float32).to(values.dtype)
    return _weighed(probs, values, plan)


def attention_probs(queries: Tensor, keys: Tensor, mask: Mask, *, first: int = 0) -> Tensor:
    """The probabilities (B,H,S,S) in fp32 by which `attend` weighs values: row by query, each with the sum 1.

    All pairs are computed and kept, which no way to train or to draw does: for a few samples that are looked at.
    """
    seen = seen_table(mask, first, queries.shape[2]).like(queries)
    scores = queries.float() @ keys.float().transpose(-2, -1) * queries.shape[-1] ** -0.5
    return scores.masked_fill(~seen, float("-inf")).softmax(-1)


def _weighed(probs: Tensor, values: Tensor, plan: StepKeys) -> Tensor:
    if len(plan.parts) == 1:
        return probs @ values[:, :, plan.parts[0]]
    read = [values[:, :, part] for part in plan.parts]
    shares = probs.split([value.shape[2] for value in read], -1)
    out = shares[0] @ read[0]
    for share, value in zip(shares[1:], read[1:], strict=True):
        out = out + share @ value
    return out


def _fastest(queries: Tensor, mask: Mask, first: int) -> Executor:
    """As measured on a CPU, forward and backward: docs/decisions.md. On a GPU nobody has measured yet."""
    length, head_dim = queries.shape[2:]
    if first:
        return "dense"
    if queries.is_cuda and head_dim >= 16 and head_dim & (head_dim - 1) == 0:
        return "flex"
    return "blocked" if length >= 256 and tiles(mask, length).share < 0.4 else "dense"


def _dense(queries: Tensor, keys: Tensor, values: Tensor, mask: Mask, first: int) -> Tensor:
    """All pairs, masked: the reference."""
    seen = seen_table(mask, first, queries.shape[2]).like(queries)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen)


def _blocked(queries: Tensor, keys: Tensor, values: Tensor, mask: Mask) -> Tensor:
    """Text as it is; the picture in blocks, each of which meets the few blocks that its queries see."""
    plan = tiles(mask, queries.shape[2])
    text, image = plan.text, plan.image
    text_out = F.scaled_dot_product_attention(
        queries[:, :, text], keys[:, :, : text.stop], values[:, :, : text.stop],
        attn_mask=None if plan.text_first else plan.text_seen.like(queries), is_causal=plan.text_first,
    )  # fmt: skip
    blocks = plan.split(queries[:, :, image] * queries.shape[-1] ** -0.5)
    near_keys, near_values = (plan.near(plan.split(x[:, :, image])) for x in (keys, values))
    scores = blocks @ near_keys.transpose(-2, -1)
    scores = scores.masked_fill(~plan.image_seen.like(scores), float("-inf"))
    if plan.text_first:
        flat = blocks.flatten(2, 3)
        text_scores = (flat @ keys[:, :, text].transpose(-2, -1)).unflatten(2, blocks.shape[2:4])
        scores = torch.cat([text_scores, scores], -1)
    probs = scores.softmax(-1, dtype=torch.float32).to(values.dtype)
    if plan.text_first:
        length = text.stop - text.start
        out = probs[..., length:] @ near_values
        out = out + (probs[..., :length].flatten(2, 3) @ values[:, :, text]).view_as(out)
    else:
        out = probs @ near_values
    image_out = plan.join(out)
    return torch.cat([text_out, image_out] if plan.text_first else [image_out, text_out], 2)


def _flex(queries: Tensor, keys: Tensor, values: Tensor, mask: Mask, first: int) -> Tensor:
    block_mask = _block_mask(mask, first, queries.shape[2], queries.device)
    # Each mask and each shape is compiled once; past torch's limit of eight it would quietly compute all pairs.
    with torch._dynamo.config.patch(recompile_limit=128):
        out: Tensor = _compiled_flex()(queries, keys, values, block_mask=block_mask)
    return out


@lru_cache(maxsize=64)
def _block_mask(mask: Mask, first: int, length: int, device: torch.device) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return mask(query + first, key + first)

    with torch.inference_mode(False):
        return create_block_mask(seen, None, None, length, length, device=str(device))


@lru_cache(maxsize=1)
def _compiled_flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)
