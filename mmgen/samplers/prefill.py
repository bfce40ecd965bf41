"""Captions read once, for all the pictures that start from them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mmgen.protocols import Generator
from mmgen.stream import KVCache

ROWS = 8  # captions read at once; few, because a lone caption pays for all of them


class ReadCaptions:
    """The logits and the cache after some captions, and after the image tokens already given.

    With guidance the empty caption is read beside each, in the same pass: G = 2 rows a caption, otherwise G = 1.

    Args:
        generator: reads.
        text_tokens: (C,T), C ≥ 1.
        image_tokens: (C,K), the tokens of the first K image positions; K may be 0.
        guided: whether the empty caption is read too.
    """

    def __init__(self, generator: Generator, text_tokens: Tensor, image_tokens: Tensor, guided: bool) -> None:
        self.guided = guided
        passes, size = (2, ROWS * 2) if guided else (1, ROWS)
        null = generator.text_tokenizer.encode([""]).to(text_tokens).expand(ROWS, -1) if guided else text_tokens[:0]
        # All passes have one shape, the last one padded: logits differ in their last bits between shapes.
        captions = torch.arange(math.ceil(len(text_tokens) / ROWS) * ROWS, device=text_tokens.device)
        captions.clamp_(max=len(text_tokens) - 1)
        for place, chunk in enumerate(captions.split(ROWS)):
            image = image_tokens[chunk].repeat(passes, 1) if image_tokens.shape[1] else None
            logits, cache = generator.prefill(torch.cat([text_tokens[chunk], null]), image)
            if place == 0:
                total = len(captions) * passes
                self.logits = logits.new_empty(total, logits.shape[1])
                layers, _, heads, positions, head_dim = cache.keys.shape
                self.cache = KVCache.empty(layers, total, heads, positions, head_dim, like=cache.keys)
                self.cache.advance(cache.length)
            rows = slice(place * size, (place + 1) * size)
            self.logits[rows] = logits
            self.cache.keys[:, rows], self.cache.values[:, rows] = cache.keys, cache.values

    def start(self, captions: Tensor) -> tuple[Tensor, KVCache]:
        """For pictures of these captions (B,), logits (G·B,V) and a cache of their own; conditional rows, then null."""
        rows = captions
        if self.guided:
            conditional = captions // ROWS * (2 * ROWS) + captions % ROWS
            rows = torch.cat([conditional, conditional + ROWS])
        return self.logits[rows], self.cache.select(rows)
