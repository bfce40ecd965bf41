"""Masks of layers, and what a picture's squared error gains when something is drawn on its bare background.

Letters: B pictures, K hypotheses, C colours, S pixels a side, P pixels of a window. With the picture x, the background
b and a mask m in the colour b + d, the squared error changes by -2 d·(m·(x - b)) + |d|² Σm²: one matrix product serves
a batch, all masks and all colours.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmgen.scenes.description import BACKGROUNDS, COLOURS
from mmgen.scenes.drawing import PART_COLOURS, Layer, coverage, grey, ink_on

FAR = 0.03  # squared distance in RGB; that of white and cream is 0.047
SIZE = 32  # pixels a side at which pictures are read; nothing in a scene is finer than 1.5 of them


def masks_of(pieces: Sequence[Layer], size: int = SIZE) -> Tensor:
    """Layers of any form to their masks (K,S,S): the share of each pixel that each covers."""
    alike: dict[tuple[object, ...], list[int]] = defaultdict(list)
    for number, piece in enumerate(pieces):
        alike[piece.form, piece.cut, piece.flip_x, piece.flip_y, piece.cell_height].append(number)
    found = np.empty((len(pieces), size, size), dtype=np.float32)
    for numbers in alike.values():
        found[numbers] = coverage([pieces[number] for number in numbers], size)
    return torch.from_numpy(found)


class Masks:
    """Masks of hypotheses, kept as far as any of them covers.

    Args:
        masks: (K,S,S).
    """

    def __init__(self, masks: Tensor) -> None:
        covered = masks.amax(dim=0) > 0
        rows, columns = covered.any(dim=1).nonzero().flatten(), covered.any(dim=0).nonzero().flatten()
        self.rows = slice(int(rows[0]), int(rows[-1]) + 1)
        self.columns = slice(int(columns[0]), int(columns[-1]) + 1)
        self.flat = masks[:, self.rows, self.columns].flatten(1).contiguous()  # (K,P)
        self.squares = self.flat.square().sum(dim=1)  # (K,)

    def dots(self, rest: Tensor) -> Tensor:
        """(B,3,S,S) to the sums of its pixels under each mask (B,K,3)."""
        window = rest[:, :, self.rows, self.columns].flatten(2)
        return (window @ self.flat.T).transpose(1, 2)

    def gains(self, rest: Tensor, colours: Tensor) -> Tensor:
        """The change of the squared error (B,K,C) by drawing each mask in each colour (B,C,3), given as its distance
        from the background."""
        dots = self.dots(rest) @ colours.transpose(1, 2)
        return dots.mul_(-2).add_(self.squares[None, :, None] * colours.square().sum(dim=2)[:, None, :])


class TwoMasks:
    """Hypotheses of two masks that are drawn together, each in a colour of its own.

    Args:
        lower: (L,S,S), what is drawn first.
        upper: (K,S,S), what is drawn on it.
        under: (K,) long, the number of the lower mask that each has under it.
    """

    def __init__(self, lower: Tensor, upper: Tensor, under: Tensor) -> None:
        covered = lower[under] * upper
        left = lower[under] - covered
        # The upper masks are small: the dots of what they leave of the lower ones are those of the lower ones less
        # those of what is covered.
        self.lower, self.covered, self.upper, self.under = Masks(lower), Masks(covered), Masks(upper), under
        self.left_squares = left.square().flatten(1).sum(dim=1)
        self.cross = (left * upper).flatten(1).sum(dim=1)

    def gains(self, rest: Tensor, below: Tensor, above: Tensor) -> tuple[Tensor, Tensor]:
        """The change of the squared error by what is left of the lower masks (B,K,C) in the colours (B,C,3), and by the
        upper ones (B,K,D) in the colours (B,D,3); with both it is their sum and `crossed`."""
        dots = self.lower.dots(rest)[:, self.under] - self.covered.dots(rest)
        first = (dots @ below.transpose(1, 2)).mul_(-2)
        first += self.left_squares[None, :, None] * below.square().sum(dim=2)[:, None, :]
        return first, self.upper.gains(rest, above)

    def crossed(self, below: Tensor, above: Tensor, chosen: Tensor) -> Tensor:
        """(B,n,C,D), what the soft edges between the two masks of the hypotheses (B,n) add."""
        return self.cross[chosen][:, :, None, None] * (2 * below @ above.transpose(1, 2))[:, None]


def _rgb(colour: tuple[int, int, int]) -> list[float]:
    return [channel / 255 for channel in colour]


GROUNDS = torch.tensor([_rgb(colour) for colour in BACKGROUNDS.values()])  # (4,3)
_COLOURS = torch.tensor([_rgb(colour) for colour in COLOURS.values()])
_GREYS = torch.tensor([_rgb(grey(colour)) for colour in COLOURS.values()])
_INKS = torch.tensor([_rgb(ink_on(name)) for name in BACKGROUNDS])
_GREEN = torch.tensor(_rgb(PART_COLOURS["leaves"]))


@dataclass(frozen=True)
class Sheet:
    """A batch that is being read."""

    images: Tensor  # (B,3,S,S)
    grounds: list[str]  # the backgrounds' names
    rest: Tensor  # (B,3,S,S), what differs from the background
    colours: Tensor  # (B,8,3), like all that follow as their distance from the background
    greys: Tensor  # (B,8,3)
    ink: Tensor  # (B,3)
    green: Tensor  # (B,3), of leaves

    @classmethod
    def of(cls, images: Tensor) -> Sheet:
        """Pictures (B,3,S,S), each with the background that most of its pixels are near to."""
        # Not the border's alone: four large squares that stand outwards cover most of it in part. What is far from
        # every background, as things are, counts for none.
        far = (images[:, :, None] - GROUNDS.T[None, :, :, None, None]).square().sum(dim=1).clamp(max=FAR)
        numbers = far.sum(dim=(2, 3)).argmin(dim=1)
        ground = GROUNDS[numbers]
        names = list(BACKGROUNDS)
        return cls(
            images,
            [names[number] for number in numbers.tolist()],
            images - ground[:, :, None, None],
            _COLOURS - ground[:, None],
            _GREYS - ground[:, None],
            _INKS[numbers] - ground,
            _GREEN - ground,
        )
