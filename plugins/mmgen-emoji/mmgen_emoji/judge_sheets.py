"""Pictures of judged drawings: the true one beside what was drawn, framed by the verdict."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mmgen.images import grid, to_bytes, two_columns
from mmgen_emoji.reading import Reading, Verdict

COLUMNS = 4  # pairs a row
SMALLEST = 64  # pictures are enlarged to so many pixels a side
FRAME = 4
GREEN, RED = (0.10, 0.62, 0.25), (0.85, 0.15, 0.15)


@dataclass(frozen=True)
class Shown:
    """A drawing, the true picture, and what was found."""

    id: str
    caption: str
    image: Tensor  # (3,H,W) in [0,1]
    drawn: Tensor  # (3,H,W) in [0,1]
    reading: Reading
    verdict: Verdict


class Chosen:
    """The first few by a hash of the seed and their ids: by chance, and the same however the pictures come in chunks.

    Args:
        most: how many are kept.
        seed: of the choice.
    """

    def __init__(self, most: int, seed: int) -> None:
        self.most, self.seed = most, seed
        self._kept: list[tuple[str, Shown]] = []

    def offer(self, shown: Shown) -> None:
        """Keeps a copy, if it is among the first."""
        key = hashlib.sha256(f"{self.seed}/{shown.id}".encode()).hexdigest()
        if len(self._kept) == self.most and key > self._kept[-1][0]:
            return
        # A copy, of bytes: a picture is a view of the drawings of its whole chunk.
        kept = Shown(
            shown.id, shown.caption, to_bytes(shown.image), to_bytes(shown.drawn), shown.reading, shown.verdict
        )
        self._kept = sorted([*self._kept, (key, kept)], key=lambda pair: pair[0])[: self.most]

    def __iter__(self) -> Iterator[Shown]:
        return (shown for _, shown in self._kept)

    def __len__(self) -> int:
        return len(self._kept)


def sheet_of(drawings: Sequence[Shown]) -> Tensor:
    """Pairs of the true picture and the drawing (3,H',W'), green frames for right ones and red for others."""
    tiles = [torch.cat([_enlarged(each.image), _framed(each)], dim=2) for each in drawings]
    return grid(torch.stack(tiles), COLUMNS, pad=6)


def failures_of(drawings: Sequence[Shown]) -> Tensor:
    """The caption, the true picture and the drawing of each (3,H',W'), in two columns: one would be too tall."""
    rows = [(each.caption, [_enlarged(each.image), _enlarged(each.drawn)]) for each in drawings]
    return two_columns(rows, ["true", "drawn"])


def _enlarged(image: Tensor) -> Tensor:
    scale = -(-SMALLEST // image.shape[1])
    return F.interpolate(image[None].float().div(255), scale_factor=scale)[0]


def _framed(shown: Shown) -> Tensor:
    picture = _enlarged(shown.drawn).clone()
    colour = torch.tensor(GREEN if shown.verdict.right else RED)[:, None, None]
    for side in (picture[:, :FRAME], picture[:, -FRAME:], picture[:, :, :FRAME], picture[:, :, -FRAME:]):
        side[:] = colour
    return picture
