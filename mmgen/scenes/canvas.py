"""Draws many guesses on bare backgrounds from masks that are kept: what comparing a picture with candidates takes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from mmgen.scenes.description import BACKGROUNDS
from mmgen.scenes.drawing import Layer
from mmgen.scenes.masks import SIZE, masks_of

ODD = 0.3  # of the way from one drawing to another, beyond the middle: 1 is at the other
MOST = 8192  # masks kept, 4 kB each; then it starts anew


class Canvas:
    """Masks of the layers met so far."""

    def __init__(self) -> None:
        self._rows: dict[tuple[object, ...], int] = {}
        self._masks = torch.zeros(MOST, SIZE * SIZE)  # the first covers nothing
        self._next = 1

    def draw(self, pieces: Sequence[Sequence[Layer]], grounds: Sequence[str]) -> Tensor:
        """Layers from the back to the front on named backgrounds to (N,3,S,S), as `draw_layers` does but for the
        rounding to 256 levels."""
        rows = self._numbers(pieces)
        depth = max(map(len, pieces))
        numbers = torch.tensor([row + [0] * (depth - len(row)) for row in rows])
        colours = torch.tensor(
            [[layer.colour for layer in stack] + [(0, 0, 0)] * (depth - len(stack)) for stack in pieces],
            dtype=torch.float32,
        )
        canvas = torch.tensor([BACKGROUNDS[name] for name in grounds], dtype=torch.float32)[:, :, None]
        canvas = canvas.expand(-1, -1, SIZE * SIZE).contiguous()
        for level in range(depth):
            mask = self._masks[numbers[:, level]][:, None]
            canvas.addcmul_(mask, colours[:, level, :, None] - canvas)
        return canvas.div_(255).view(-1, 3, SIZE, SIZE)

    def _numbers(self, pieces: Sequence[Sequence[Layer]]) -> list[list[int]]:
        """Where each layer's mask stands, after drawing those that are new."""
        keys = [[_key(layer) for layer in stack] for stack in pieces]
        every = zip(itertools.chain.from_iterable(keys), itertools.chain.from_iterable(pieces), strict=True)
        new = {key: layer for key, layer in every if key not in self._rows}
        if self._next + len(new) > MOST:
            self._rows, self._next = {}, 1
            return self._numbers(pieces)
        if new:
            self._masks[self._next : self._next + len(new)] = masks_of(list(new.values())).flatten(1)
            self._rows.update({key: self._next + i for i, key in enumerate(new)})
            self._next += len(new)
        return [[self._rows[key] for key in row] for row in keys]


def _key(layer: Layer) -> tuple[object, ...]:
    return (layer.form, layer.place, layer.cut, layer.flip_x, layer.flip_y, layer.cell_height)


_canvas = Canvas()


def draw_guesses(pieces: Sequence[Sequence[Layer]], grounds: Sequence[str]) -> Tensor:
    """See `Canvas.draw`; the masks are kept for everyone."""
    return _canvas.draw(pieces, grounds)


def is_another(won: float, rather: Sequence[Layer], read: Sequence[Layer], ground: str) -> bool:
    """Whether a thing that was read so for the sake of the others is rather another.

    Args:
        won: by how much the squared error falls with the other in its place.
        rather, read: the layers of both.
    """
    if won <= 0 or list(rather) == list(read):
        return False
    one, other = draw_guesses([rather, read], [ground] * 2)
    return won > ODD * float((one - other).square().sum())
