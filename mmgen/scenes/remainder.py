"""What a reading leaves unexplained: blobs of the difference between a picture and its drawing.

A thing more or less, or of another colour, differs over an area; an edge half a pixel off, a blurred corner or noise
does not. The difference is averaged over 5×5 pixels, which thin lines and noise do not survive, and what remains of it
is looked at where it is as large as half the distance between two colours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

CONTRAST = 0.25  # of the averaged difference, in RGB of [0,1]; the nearest two colours are 0.39 apart
STROKE = 0.35  # of the way from the background to a letter's colour, averaged alike
AREA = 6  # pixels of 32×32
WINDOW = 5  # pixels of 32×32 a side, over which the difference is averaged


@dataclass(frozen=True)
class Blob:
    """Pixels beside each other that differ."""

    x: float  # the middle, in 1/32 of the picture's side
    y: float
    area: int  # pixels of 32×32


def blobs(images: Tensor, drawn: Tensor, strokes: Tensor) -> list[list[Blob]]:
    """Of each picture (B,3,S,S) against its drawing, the largest first.

    Args:
        strokes: (B,3), what the colour of a word's letters differs from the background; zeros for other scenes. A
            letter fills half of a window, so that a pale one too many would stay below the contrast: it is looked for
            by its colour.
    """
    difference = F.avg_pool2d(images - drawn, WINDOW, stride=1, padding=WINDOW // 2, count_include_pad=False)
    far = difference.square().sum(dim=1) > CONTRAST**2
    length = strokes.square().sum(dim=1).clamp(min=1e-9)[:, None, None]
    far |= torch.einsum("bchw,bc->bhw", difference, strokes).abs() > STROKE * length
    return [_blobs(picture) if int(picture.sum()) >= AREA else [] for picture in far]


def _blobs(far: Tensor) -> list[Blob]:
    left = {(y, x) for y, x in far.nonzero().tolist()}
    found = []
    while left:
        piece = [left.pop()]
        for y, x in piece:  # grows as it is walked
            for beside in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if beside in left:
                    left.remove(beside)
                    piece.append(beside)
        if len(piece) >= AREA:
            y, x = torch.tensor(piece, dtype=torch.float32).mean(dim=0).tolist()
            found.append(Blob(x + 0.5, y + 0.5, len(piece)))
    return sorted(found, key=lambda blob: -blob.area)
