"""Pictures of judged drawings: the true one beside what was drawn, framed by the verdict."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mmgen.images import grid, sheet, to_bytes
from mmgen.scenes.marking import Verdict
from mmgen.scenes.reading import Reading

COLUMNS = 4  # pairs a row
SMALLEST = 64  # pictures are enlarged to so many pixels a side
FRAME = 4
GREEN, RED = (0.10, 0.62, 0.25), (0.85, 0.15, 0.15)


@dataclass(frozen=True)
class Judged:
    """A drawing, the true picture, and what was found."""

    id: str
    caption: str
    image: Tensor  # (3,H,W) uint8
    drawn: Tensor  # (3,H,W) uint8
    reading: Reading
    verdict: Verdict
    right: bool


class Chosen:
    """The first few by a hash of the seed and their ids: by chance, and the same however the pictures come in chunks.

    Args:
        most: how many are kept.
        seed: of the choice.
    """

    def __init__(self, most: int, seed: int) -> None:
        self.most, self.seed = most, seed
        self._kept: list[tuple[str, Judged]] = []

    def offer(self, judged: Judged) -> None:
        """Keeps it, if it is among the first."""
        key = hashlib.sha256(f"{self.seed}/{judged.id}".encode()).hexdigest()
        self._kept = sorted([*self._kept, (key, judged)], key=lambda pair: pair[0])[: self.most]

    def __iter__(self) -> Iterator[Judged]:
        return (judged for _, judged in self._kept)

    def __len__(self) -> int:
        return len(self._kept)


def judged(
    id: str, caption: str, image: Tensor, drawn: Tensor, reading: Reading, verdict: Verdict, right: bool
) -> Judged:
    """Pictures in [0,1] are kept as bytes."""
    return Judged(id, caption, to_bytes(image), to_bytes(drawn), reading, verdict, right)


def sheet_of(drawings: Sequence[Judged]) -> Tensor:
    """Pairs of the true picture and the drawing (3,H',W'), green frames for right ones and red for others."""
    tiles = [torch.cat([_enlarged(each.image), _framed(each)], dim=2) for each in drawings]
    return grid(torch.stack(tiles), COLUMNS, pad=6)


def failures_of(drawings: Sequence[Judged]) -> Tensor:
    """The caption, the true picture and the drawing of each (3,H',W'), in two columns: one would be too tall."""
    rows = [(each.caption, [_enlarged(each.image), _enlarged(each.drawn)]) for each in drawings]
    half = -(-len(rows) // 2)
    columns = [sheet(part, headers=["true", "drawn"]) for part in (rows[:half], rows[half:]) if part]
    height = max(column.shape[1] for column in columns)
    ground = float(columns[0][0, 0, 0])
    return torch.cat([F.pad(column, (0, 0, 0, height - column.shape[1]), value=ground) for column in columns], dim=2)


def _enlarged(image: Tensor) -> Tensor:
    scale = -(-SMALLEST // image.shape[1])
    return F.interpolate(image[None].float().div(255), scale_factor=scale)[0]


def _framed(judged: Judged) -> Tensor:
    picture = _enlarged(judged.drawn).clone()
    colour = torch.tensor(GREEN if judged.right else RED)[:, None, None]
    for side in (picture[:, :FRAME], picture[:, -FRAME:], picture[:, :, :FRAME], picture[:, :, -FRAME:]):
        side[:] = colour
    return picture
