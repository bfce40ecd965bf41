"""Writes captions of pictures, one token after another, with a generator whose stream has the picture first.

Letters: P pictures, n captions of each, B captions written at once, T text positions, N image positions, V text ids.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from mmgen.errors import ConfigError
from mmgen.protocols import TextTokenizer
from mmgen.samplers.choice import Choice, uniforms
from mmgen.samplers.guards import evaluating, refuse_non_finite
from mmgen.stream import KVCache, TokenStream

ROWS = 8  # pictures read at once


class Captioner(Protocol):
    """What writing needs of a generator with `order: image_first`."""

    stream: TokenStream
    text_tokenizer: TextTokenizer

    def prefill_image(self, image_tokens: Tensor, text_tokens: Tensor | None = None) -> tuple[Tensor, KVCache]: ...
    def step_text(self, text_tokens: Tensor, kv_cache: KVCache) -> Tensor: ...


def write_captions(
    generator: Captioner,
    image_tokens: Tensor,
    *,
    num_captions: int,
    seed: int,
    choice: Choice | None = None,
    batch_size: int = 64,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Pictures (P,N) to captions (P,num_captions,T), each padded from its end on.

    Caption number i of a picture is a function of (generator, picture, seed, i) alone: every pass has one shape, padded
    where there is less to do. A caption ends at its first pad and has at least one token.

    Args:
        choice: how a token is chosen; by default at temperature 1.
        batch_size: captions written at once.
        progress: called with the number of captions finished since its last call.

    Raises:
        ConfigError: MMG-C10, fewer than one caption.
        NonFiniteError: the generator's logits are not numbers.
    """
    if num_captions < 1:
        raise ConfigError(
            f"cannot write {num_captions} captions", code="MMG-C10", where="num_captions", fix="num_captions=8"
        )
    choice, text, device = choice or Choice(), generator.text_tokenizer, image_tokens.device
    random = torch.stack([uniforms(seed, i, text.context_length, "caption") for i in range(num_captions)]).to(device)
    pads = torch.arange(text.vocab_size, text.num_ids, device=device)
    written = pads.expand(len(image_tokens), num_captions, -1).clone()
    with torch.no_grad(), evaluating(generator):
        for first in range(0, len(image_tokens), ROWS):
            chunk = image_tokens[first : first + ROWS]
            padded = torch.cat([chunk, chunk[-1:].expand(ROWS - len(chunk), -1)])
            logits, cache = generator.prefill_image(padded)
            numbers = torch.arange(num_captions, device=device)
            jobs = torch.cartesian_prod(torch.arange(len(chunk), device=device), numbers)
            for part in jobs.split(batch_size):
                rows = part[torch.arange(batch_size, device=device).clamp_(max=len(part) - 1)]
                picture, number = rows.unbind(1)
                tokens = _write(generator, logits[picture], cache.select(picture), random[number], pads, choice)
                written[first + picture, number] = tokens  # the padding is the last job again, and the same tokens
                if progress:
                    progress(len(part))
    return written


def _write(
    generator: Captioner, logits: Tensor, cache: KVCache, random: Tensor, pads: Tensor, choice: Choice
) -> Tensor:
    """Captions (B,T) from the logits (B,V) of their first tokens, with `random` (B,T)."""
    tokens = pads.expand(len(logits), -1).clone()
    ended = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    finite = torch.ones((), dtype=torch.bool, device=logits.device)
    length, vocab_size = len(pads), int(pads[0])
    for position in range(length):
        finite &= (logits.amax(dim=-1).isfinite() | ended).all()
        if position == 0:  # an empty caption says nothing of a picture
            logits = logits.clone()
            logits[:, vocab_size:] = float("-inf")
        token = choice(logits, random[:, position].contiguous())
        ended |= token >= vocab_size
        tokens[:, position] = torch.where(ended, pads[position], token)
        if position + 1 == length or bool(ended.all()):
            break
        logits = generator.step_text(tokens[:, position : position + 1].contiguous(), cache)[:, -1]
    refuse_non_finite(finite)
    return tokens
