"""Draws many guesses on bare backgrounds from masks that are kept: what comparing a picture with candidates takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mmgen.scenes.description import BACKGROUNDS
from mmgen.scenes.drawing import Colour, Layer
from mmgen.scenes.masks import SIZE, masks_of

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
        numbers = torch.zeros(len(pieces), depth, dtype=torch.long)
        colours = torch.zeros(len(pieces), depth, 3)
        for i, stack in enumerate(pieces):
            if stack:
                numbers[i, : len(stack)] = torch.tensor(rows[i])
                colours[i, : len(stack)] = torch.tensor([layer.colour for layer in stack], dtype=torch.float32)
        canvas = torch.tensor([BACKGROUNDS[name] for name in grounds], dtype=torch.float32)[:, :, None]
        canvas = canvas.expand(-1, -1, SIZE * SIZE).contiguous()
        for level in range(depth):
            mask = self._masks[numbers[:, level]][:, None]
            canvas.addcmul_(mask, colours[:, level, :, None] - canvas)
        return canvas.div_(255).view(-1, 3, SIZE, SIZE)

    def _numbers(self, pieces: Sequence[Sequence[Layer]]) -> list[list[int]]:
        """Where each layer's mask stands, after drawing those that are new."""
        keys = [[_key(layer) for layer in stack] for stack in pieces]
        new = {key: layer for row, stack in zip(keys, pieces, strict=True) for key, layer in zip(row, stack, strict=True)}
        new = {key: layer for key, layer in new.items() if key not in self._rows}
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


def recoloured(layer: Layer, colour: Colour) -> Layer:
    """The same in another colour."""
    return Layer(layer.form, layer.place, colour, layer.cut, layer.flip_x, layer.flip_y, layer.cell_height)
