"""The token stream: text, then the picture in raster order, and what decoding remembers of it.

Letters: B batch, T text positions, N = h·w image positions, L layers, H heads, S positions so far, K head dim.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenStream:
    """Every position of the stream: T text tokens, then h·w image tokens in raster order (DALL·E, section 2.2).

    The model reads the token at position p and predicts the one at p + 1, so the last text position predicts the first
    image token, and the last image token is never read. Padding is part of the text: one learned token a position,
    not masked.

    Args:
        text_length: T.
        grid: (h,w) of the image tokenizer.
    """

    text_length: int
    grid: tuple[int, int]

    @property
    def image_length(self) -> int:
        """N = h·w."""
        return self.grid[0] * self.grid[1]

    @property
    def length(self) -> int:
        """T + N."""
        return self.text_length + self.image_length

    def is_image(self, position: Tensor) -> Tensor:
        """Whether each position holds an image token."""
        return position >= self.text_length

    def row(self, position: Tensor) -> Tensor:
        """The grid row of each image position; of text positions, a negative number."""
        return torch.div(position - self.text_length, self.grid[1], rounding_mode="floor")

    def column(self, position: Tensor) -> Tensor:
        """The grid column of each image position; meaningless for text positions."""
        return (position - self.text_length) % self.grid[1]

    def causal(self, query: Tensor, key: Tensor) -> Tensor:
        """The mask of full attention as a predicate on two positions: may `query` see `key`?"""
        return key <= query


@dataclass
class KVCache:
    """Keys and values of the positions read so far, in tables of fixed size: nothing is concatenated while decoding.

    keys, values: (L,B,H,S_max,K). `length` counts the positions in use.
    """

    keys: Tensor
    values: Tensor
    length: int = field(default=0)

    @classmethod
    def empty(
        cls, layers: int, batch: int, heads: int, positions: int, head_dim: int, like: Tensor | None = None
    ) -> KVCache:
        """A cache for `positions` positions, with the dtype and device of `like`."""
        like = torch.empty(0) if like is None else like
        shape = (layers, batch, heads, positions, head_dim)
        return cls(like.new_zeros(shape), like.new_zeros(shape))

    def write(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Stores (B,H,K_new,K) after the last position of a layer; returns all that the layer may look at.

        `length` moves on only by `advance`, once a step, after all layers have written.
        """
        end = self.length + keys.shape[2]
        if end > self.keys.shape[3]:
            raise ValueError(f"the cache holds {self.keys.shape[3]} positions, {end} are needed")
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, count: int) -> None:
        """Counts `count` more positions as read."""
        self.length += count

    def truncate(self, length: int) -> None:
        """Forgets every position from `length` on; speculative samplers take back what they guessed wrong."""
        if not 0 <= length <= self.length:
            raise ValueError(f"cannot truncate a cache of {self.length} positions to {length}")
        self.length = length

    def select(self, rows: Tensor) -> KVCache:
        """A new cache with the given rows (B',): one prefill serves all the candidates of a caption."""
        return KVCache(self.keys[:, rows], self.values[:, rows], self.length)
