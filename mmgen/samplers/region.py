"""Which codes of a picture are drawn anew: a rectangle that reaches to the bottom-right corner, or any mask.

DALL·E redraws "any rectangular region … that extends to the bottom-right corner" (announcement of January 2021; section
2.4 of arXiv 2102.12092 draws with the top rows given). Image tokens come in raster order, so what is kept guides only
what is drawn after it: kept codes that come later than a redrawn one could not be seen by it, and are counted here.

Letters: h w codes of the grid, H W pixels of a picture, N = h·w.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mmgen.errors import ConfigError

Unit = Literal["pixels", "codes"]
EXAMPLE = "row=16"


@dataclass(frozen=True)
class Region:
    """Codes to be drawn anew.

    Attributes:
        redrawn: (h,w) bool, at least one true.
        note: what was rounded outward to whole codes, in a sentence; empty where nothing was.
    """

    redrawn: Tensor
    note: str = ""

    @classmethod
    def corner(
        cls, grid: tuple[int, int], row: int, column: int, *, unit: Unit = "pixels", size: tuple[int, int] | None = None
    ) -> Region:
        """Everything from (row, column) to the bottom-right corner.

        Args:
            grid: (h,w).
            row, column: the first redrawn ones, from 0.
            unit: of both; a pixel is of the picture as it was given.
            size: (H,W) of that picture, of which the model reads the middle square; needed for pixels.

        Raises:
            ConfigError: MMG-C16, the corner lies outside the picture, or in what is cut off.
        """
        size = _size(grid, size, unit)
        for name, value, count in (("row", row, size[0]), ("column", column, size[1])):
            if not 0 <= value < count:
                raise ConfigError(
                    f"{name}={value} lies outside the picture, which has {count} {name}s of {unit}",
                    code="MMG-C16",
                    where=name,
                    fix=f"{name}={count // 2}, or any from 0 to {count - 1}",
                )
        wanted = (torch.arange(size[0]) >= row)[:, None] & (torch.arange(size[1]) >= column)
        if unit == "codes":
            return cls(wanted)
        redrawn = _codes_of(grid, wanted)
        if not redrawn.any():
            raise _nothing(f"row={row} column={column}", min(size))
        notes = []
        for axis, (name, value) in enumerate((("row", row), ("column", column))):
            side, first = min(size), int(redrawn.any(1 - axis).nonzero()[0])
            start = (size[axis] - side) // 2 + first * side / grid[axis]
            if start < value and (first or start > 0):
                notes.append(f"{name}={value} lies inside a code, so {name}s from {start:g} on are redrawn")
            elif start < value:
                notes.append(f"{name}={value} lies inside the first code, so every {name} is redrawn")
        return cls(redrawn, "; ".join(notes))

    @classmethod
    def masked(cls, grid: tuple[int, int], mask: Tensor, *, unit: Unit = "pixels", size: tuple[int, int]) -> Region:
        """What a mask says: true is drawn anew, false is kept.

        Args:
            grid: (h,w).
            mask: bool, of the picture's size (H,W), or with codes of the grid's.
            size: (H,W) of the picture as it was given, of which the model reads the middle square.

        Raises:
            ConfigError: MMG-C17, the mask has another size; MMG-C16, it redraws nothing.
        """
        size = _size(grid, size, unit)
        if mask.dtype != torch.bool or tuple(mask.shape) != tuple(size):
            what = " × ".join(map(str, mask.shape)) + ("" if mask.dtype == torch.bool else f" of {mask.dtype}")
            raise ConfigError(
                f"the mask has {what} {unit}, the picture {size[0]} × {size[1]}",
                code="MMG-C17",
                where="mask",
                fix=f"a mask of {size[0]} rows and {size[1]} columns; white is redrawn, black is kept",
            )
        redrawn = mask if unit == "codes" else _codes_of(grid, mask)
        if not redrawn.any():
            raise _nothing("mask", min(size))
        cut = 0 if unit == "codes" else int((redrawn & _codes_of(grid, ~mask)).sum())
        return cls(redrawn, f"the mask cuts through {cut} codes, which are redrawn whole" if cut else "")

    @property
    def kept(self) -> Tensor:
        """Which image tokens are kept, (N,) bool."""
        return ~self.redrawn.flatten()

    @property
    def unseen(self) -> Tensor:
        """(h,w) bool: kept codes that come later in raster order than a redrawn one, which could not see them."""
        drawn_before = self.redrawn.flatten().cumsum(0).view_as(self.redrawn) > 0
        return drawn_before & ~self.redrawn

    def describe(self) -> str:
        """How many codes are drawn, kept and unseen, in a sentence or two, without the last full stop."""
        codes, drawn, unseen = self.redrawn.numel(), int(self.redrawn.sum()), int(self.unseen.sum())
        text = f"{drawn} of {codes} codes are drawn, {codes - drawn} are kept bit for bit"
        if unseen:
            text += f"; {unseen} of those come later in raster order than some that are drawn, which cannot see them"
        return text

    def map(self) -> str:
        """A line a row: `#` redrawn, `.` kept, `o` kept and not seen by all that is redrawn."""
        unseen = self.unseen
        return "\n".join(
            "".join("#" if drawn else "o" if hidden else "." for drawn, hidden in zip(*rows, strict=True))
            for rows in zip(self.redrawn.tolist(), unseen.tolist(), strict=True)
        )

    def pixels(self, size: tuple[int, int]) -> Tensor:
        """(H,W) bool of a picture of this size: which pixels belong to redrawn codes."""
        height, width = size
        rows = torch.arange(height) * self.redrawn.shape[0] // height
        columns = torch.arange(width) * self.redrawn.shape[1] // width
        return self.redrawn[rows][:, columns]


def _size(grid: tuple[int, int], size: tuple[int, int] | None, unit: Unit) -> tuple[int, int]:
    if unit == "codes":
        return grid
    assert size is not None, "pixels are of a picture, which has a size"
    return size


def _nothing(where: str, side: int) -> ConfigError:
    return ConfigError(
        "nothing of the picture is to be redrawn",
        code="MMG-C16",
        where=where,
        why=f"the model reads the middle square, {side} a side, and all of it is kept",
        fix=EXAMPLE,
    )


def _codes_of(grid: tuple[int, int], pixels: Tensor) -> Tensor:
    """(h,w) bool: every code that holds one of these pixels (H,W) of the middle square."""
    rows, columns = (_overlaps(n, at, min(pixels.shape)) for n, at in zip(grid, pixels.shape, strict=True))
    return (rows @ pixels.double() @ columns.T) > 0


def _overlaps(codes: int, pixels: int, side: int) -> Tensor:
    """(codes,pixels) double, 1 where a pixel of the picture's line overlaps a code of the middle `side` pixels."""
    first = (pixels - side) // 2
    # In units that make all of it whole: pixel p takes [p·codes, (p+1)·codes), code i takes [i·side, (i+1)·side).
    start = (torch.arange(pixels) - first) * codes
    at = torch.arange(codes)[:, None] * side
    return ((start < at + side) & (start + codes > at)).double()
