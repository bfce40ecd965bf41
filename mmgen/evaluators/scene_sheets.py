"""Pictures of judged drawings: the true one beside what was drawn, framed by the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmgen.evaluators.sheets import enlarged
from mmgen.images import grid, to_bytes, two_columns
from mmgen.scenes.marking import Verdict
from mmgen.scenes.reading import Reading

COLUMNS = 4  # pairs a row
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


def judged(
    id: str, caption: str, image: Tensor, drawn: Tensor, reading: Reading, verdict: Verdict, right: bool
) -> Judged:
    """Pictures in [0,1] are kept as bytes."""
    return Judged(id, caption, to_bytes(image), to_bytes(drawn), reading, verdict, right)


def sheet_of(drawings: Sequence[Judged]) -> Tensor:
    """Pairs of the true picture and the drawing (3,H',W'), green frames for right ones and red for others."""
    tiles = [torch.cat([enlarged(each.image), _framed(each)], dim=2) for each in drawings]
    return grid(torch.stack(tiles), COLUMNS, pad=6)


def failures_of(drawings: Sequence[Judged]) -> Tensor:
    """The caption, the true picture and the drawing of each (3,H',W'), in two columns: one would be too tall."""
    rows = [(each.caption, [enlarged(each.image), enlarged(each.drawn)]) for each in drawings]
    return two_columns(rows, ["true", "drawn"])


def _framed(judged: Judged) -> Tensor:
    picture = enlarged(judged.drawn).clone()
    colour = torch.tensor(GREEN if judged.right else RED)[:, None, None]
    for side in (picture[:, :FRAME], picture[:, -FRAME:], picture[:, :, :FRAME], picture[:, :, -FRAME:]):
        side[:] = colour
    return picture
