"""The token stream: text and a picture in raster order, who may see whom, and what decoding remembers of it.

Letters: B batch, T text positions, h×W grid, N = h·W image positions, L layers, H heads, S positions, K head dim.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np

Order = Literal["text_first", "image_first"]
MaskName = Literal["full", "row", "column", "convolution"]
KERNEL_SIZE = 11  # of the convolutional mask (DALL·E, figure 11)

# Positions are tensors, or numpy's arrays where a mask is looked at before there is any tensor.
Positions = TypeVar("Positions", Tensor, "np.ndarray[Any, Any]")


@dataclass(frozen=True)
class TokenStream:
    """Every position of the stream: T text tokens, then N image tokens in raster order (DALL·E, section 2.2).

    The model reads the token at position p and predicts the one at p + 1, so the last text position predicts the first
    image token, and the last token of the stream is never read. Padding is part of the text: one learned token a
    position, not masked. In the other order the picture comes first, and the stream is a caption being written.

    Args:
        text_length: T.
        grid: (h,W) of the image tokenizer.
        order: which of the two comes first.
    """

    text_length: int
    grid: tuple[int, int]
    order: Order = "text_first"

    @property
    def image_length(self) -> int:
        """N = h·W."""
        return self.grid[0] * self.grid[1]

    @property
    def length(self) -> int:
        """T + N."""
        return self.text_length + self.image_length

    @property
    def text_start(self) -> int:
        """The position of the first text token."""
        return 0 if self.order == "text_first" else self.image_length

    @property
    def image_start(self) -> int:
        """The position of the first image token."""
        return self.text_length if self.order == "text_first" else 0

    def is_image(self, position: Positions) -> Positions:
        """Whether each position holds an image token."""
        return (position >= self.image_start) & (position < self.image_start + self.image_length)

    def row(self, position: Positions) -> Positions:
        """The grid row of each image position; meaningless for text positions."""
        return (position - self.image_start) // self.grid[1]

    def column(self, position: Positions) -> Positions:
        """The grid column of each image position; meaningless for text positions."""
        return (position - self.image_start) % self.grid[1]

    def mask(self, name: MaskName, kernel_size: int = KERNEL_SIZE) -> Mask:
        """The mask of that name on this stream."""
        return Mask(self, name, kernel_size)


@dataclass(frozen=True)
class Mask:
    """May the token at position `query` see the one at position `key`? (DALL·E, section 2.2 and figure 11.)

    Nobody sees what comes later. Text sees all text before it; what comes second in the stream, the picture or its
    caption, sees all of what comes first. Only between image tokens do the masks differ. There, a token sees itself and

    - `full`: every image token before it;
    - `row`: the W image tokens before it in raster order, the last of them just above it;
    - `column`: those above it;
    - `convolution`: the upper half of a square of `kernel_size` tokens around it. It wraps around: left of the first
      column stands the last one of the row above, as for `row`.

    The one definition of each: every way of computing attention (`mmgen.models.attention`) is derived from it. Nothing
    but operators is used, so that positions may be tensors, numpy's arrays or what a compiler traces.

    Args:
        stream: the positions.
        name: of the four.
        kernel_size: of the convolution, odd.
    """

    stream: TokenStream
    name: MaskName
    kernel_size: int = KERNEL_SIZE

    def __call__(self, query: Positions, key: Positions) -> Positions:
        """Two tensors of positions that broadcast to one of bool."""
        before = key <= query
        if self.name == "full":
            return before
        both_image = self.stream.is_image(query) & self.stream.is_image(key)
        return before & (self._near(query - key) | ~both_image)

    def _near(self, distance: Positions) -> Positions:
        """Whether an image token sees the one so many places before it in raster order; distances are ≥ 0."""
        width, half = self.stream.grid[1], self.kernel_size // 2
        if self.name == "row":
            return distance <= width
        if self.name == "column":
            return distance % width == 0
        near = distance <= half
        for rows in range(1, half + 1):
            near = near | ((distance >= rows * width - half) & (distance <= rows * width + half))
        return near


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
