"""A text tokenizer that a test can read: a caption is its ids, written out; the rest are pads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Words:
    """Captions such as "3 1 4"; what was encoded, and with which keys, is kept."""

    def __init__(self, context_length: int = 4, vocab_size: int = 10) -> None:
        self.context_length, self.vocab_size = context_length, vocab_size
        self.num_ids = vocab_size + context_length
        self.encoded: list[str] = []
        self.keys: list[list[int] | None] = []

    def encode(self, captions: Sequence[str], keys: Sequence[int] | None = None) -> Tensor:
        self.encoded += captions
        self.keys.append(None if keys is None else list(keys))
        rows = [[int(word) for word in caption.split()][: self.context_length] for caption in captions]
        pads = range(self.vocab_size, self.num_ids)
        return torch.tensor([[*ids, *pads[len(ids) :]] for ids in rows])

    def end(self, text_tokens: Tensor) -> Tensor:
        return (text_tokens < self.vocab_size).sum(1).clamp_max(text_tokens.shape[1] - 1)
