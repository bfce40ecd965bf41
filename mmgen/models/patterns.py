"""What a mask of the stream means for the work: tables, blocks that meet, the keys of a decoding step.

All of it follows from the predicate, evaluated with numpy on the positions in question, and is remembered.

Letters: B batch, H heads, S positions of the pass, K head dim, N image positions of the pass, P blocks, Q positions of
a block, O blocks that a block meets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mmgen.stream import Mask

Array = np.ndarray[Any, Any]


@dataclass
class Table:
    """A table of bools that has a copy on every device where it was asked for."""

    array: Array
    _copies: dict[torch.device, Tensor] = field(default_factory=dict, repr=False)

    def like(self, x: Tensor) -> Tensor:
        """On the device of `x`."""
        if type(x) is not Tensor or x.is_meta:  # a fake or traced one: its copy is of no use to the next caller
            return torch.tensor(self.array, device=x.device)
        if x.device not in self._copies:
            with torch.inference_mode(False):  # or the copy could never be used in training
                self._copies[x.device] = torch.tensor(self.array, device=x.device)
        return self._copies[x.device]


def _seen(mask: Mask, first: int, length: int) -> Array:
    position = np.arange(first, first + length)
    return mask(position[:, None], position[None])


@lru_cache(maxsize=256)
def is_causal(mask: Mask, first: int, length: int) -> bool:
    """Whether the mask of these positions (S,S) is that of full attention."""
    seen = _seen(mask, first, length)
    return bool((seen == np.tri(length, dtype=bool)).all())


@lru_cache(maxsize=64)
def seen_table(mask: Mask, first: int, length: int) -> Table:
    """(S,S): which of these positions sees which."""
    return Table(_seen(mask, first, length))


@dataclass
class StepKeys:
    """What a decoding step reads of the keys: slices of all positions, and which query sees which of them.

    `seen` (S, keys of all slices) is None where every query sees every key.
    """

    parts: tuple[slice, ...]
    seen: Table | None


@lru_cache(maxsize=8192)
def step_keys(mask: Mask, first: int, length: int) -> StepKeys:
    """The keys of the positions `first` to `first + length`: for text and picture the shortest slice with all of them.

    A row is a slice of neighbours, a column one with a step. Neither copies anything.
    """
    stop = first + length
    seen = mask(np.arange(first, stop)[:, None], np.arange(stop)[None])
    needed = np.flatnonzero(seen.any(0))
    border = max(mask.stream.text_start, mask.stream.image_start)
    parts: list[slice] = []
    for side in (needed[needed < border], needed[needed >= border]):
        if len(side):
            step = int(np.gcd.reduce(np.diff(side))) or 1
            part = slice(int(side[0]), int(side[-1]) + 1, step)
            if parts and part.step == parts[-1].step == 1 and part.start == parts[-1].stop:
                part = slice(parts.pop().start, part.stop, 1)
            parts.append(part)
    seen = seen[:, np.concatenate([np.arange(stop)[part] for part in parts])]
    return StepKeys(tuple(parts), None if seen.all() else Table(seen))


@dataclass
class Tiles:
    """A pass over S positions from the start of the stream, with the picture cut into blocks.

    A block is a row of the grid, or, with the grid transposed, a column: whichever makes the least work. Block p meets
    the blocks p - offset, for every offset in `offsets`; those before the first and after the last do not exist.

    text, image: where each stands in the pass. text_first: whether the picture sees the text, not the text the picture.
    text_seen: (T,S), what the text sees; where it comes first, all the text before it.
    image_seen: (P, Q, O·Q), which query of a block sees which key of the blocks it meets.
    share: pairs that are computed over all S² pairs.
    """

    text: slice
    image: slice
    text_first: bool
    text_seen: Table
    image_seen: Table
    offsets: tuple[int, ...]
    grid: tuple[int, int]  # (rows read, columns), the last row perhaps in part
    transposed: bool
    share: float

    def split(self, x: Tensor) -> Tensor:
        """Image positions (B,H,N,K) to blocks (B,H,P,Q,K), the missing end of the last row filled with zeros."""
        missing = self.grid[0] * self.grid[1] - x.shape[2]
        x = (F.pad(x, (0, 0, 0, missing)) if missing else x).unflatten(2, self.grid)
        return x.transpose(2, 3) if self.transposed else x

    def join(self, x: Tensor) -> Tensor:
        """Blocks (B,H,P,Q,K) to image positions (B,H,N,K)."""
        x = x.transpose(2, 3) if self.transposed else x
        return x.flatten(2, 3)[:, :, : self.image.stop - self.image.start]

    def near(self, x: Tensor) -> Tensor:
        """Blocks (B,H,P,Q,K) to those that each of them meets, side by side (B,H,P,O·Q,K)."""
        if self.offsets == (0,):
            return x
        blocks, before, after = x.shape[2], max(*self.offsets, 0), max(*(-o for o in self.offsets), 0)
        padded = F.pad(x, (0, 0, 0, 0, before, after))
        return torch.cat([padded[:, :, before - o : before - o + blocks] for o in self.offsets], 3)


@lru_cache(maxsize=64)
def tiles(mask: Mask, length: int) -> Tiles:
    """The blocks of the first `length` positions of the stream, one of which at least is an image token."""
    stream = mask.stream
    text = slice(stream.text_start, min(stream.text_start + stream.text_length, length))
    image = slice(stream.image_start, min(stream.image_start + stream.image_length, length))
    count, width = image.stop - image.start, stream.grid[1]
    assert count > 0
    rows = -(-count // width)
    position = stream.image_start + np.arange(rows * width)
    seen = mask(position[:, None], position[None])
    cuts = [_meetings(seen, rows, width, transposed) for transposed in (False, True)]
    transposed = cuts[1][1].size < cuts[0][1].size
    offsets, image_seen = cuts[transposed]
    all_seen = _seen(mask, 0, length)
    text_count, text_first = text.stop - text.start, stream.order == "text_first"
    # What comes second sees all of what comes first, which sees nothing of it, and text sees all text before it.
    assert all_seen[image, text].all() if text_first else all_seen[text, image].all()
    assert (all_seen[text, text] == np.tri(text_count, dtype=bool)).all()
    pairs = image_seen.size + text_count * (text_count + (rows * width if text_first else count))
    return Tiles(
        text, image, text_first, Table(all_seen[text]), Table(image_seen), offsets, (rows, width), transposed,
        pairs / length**2,
    )  # fmt: skip


def _meetings(seen: Array, rows: int, width: int, transposed: bool) -> tuple[tuple[int, ...], Array]:
    """The offsets of the blocks that meet, and who sees whom in them (P, Q, O·Q), for one way to cut the grid."""
    blocks, size = (width, rows) if transposed else (rows, width)
    cut = seen.reshape(rows, width, rows, width)
    cut = cut.transpose(1, 0, 3, 2) if transposed else cut  # (P,Q,P,Q)
    query, key = np.nonzero(cut.any((1, 3)))
    offsets = sorted({int(o) for o in query - key})
    table = np.zeros((blocks, size, len(offsets), size), dtype=bool)
    for place, offset in enumerate(offsets):
        for block in range(max(0, offset), min(blocks, blocks + offset)):
            table[block, :, place] = cut[block, :, block - offset]
    return tuple(offsets), table.reshape(blocks, size, -1)
