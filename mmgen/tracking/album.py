"""Pictures of a run as data addresses, small enough that the report stays one file that opens at once."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from pathlib import Path

from torch.nn.functional import avg_pool2d

from mmgen.errors import MmgenError
from mmgen.images import decode, encode_png

BUDGET = 13 * 1024 * 1024  # bytes of pictures in one report; base64 makes them a third more
AS_IT_IS = 512 * 1024  # bytes up to which a PNG file goes in unchanged
_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Embedded:
    """A picture inside the page. `width` and `height` are its own, in pixels."""

    address: str
    width: int
    height: int

    def zoomed(self, side: int) -> tuple[int, int]:
        """The size to show it at: the largest whole multiple that fits in a square of `side`, its own if none does."""
        zoom = max(side // max(self.width, self.height), 1)
        return self.width * zoom, self.height * zoom


class Album:
    """Embeds the pictures below one directory, until the budget is used up.

    Attributes:
        left_out: the paths that were asked for and are not in the page.
    """

    def __init__(self, directory: Path, budget: int = BUDGET) -> None:
        self._directory = directory.resolve()
        self._left = budget
        self._known: dict[tuple[str, int], Embedded | None] = {}
        self.left_out: list[str] = []

    def picture(self, path: object, longest: int = 512) -> Embedded | None:
        """The picture at a path relative to the directory, made smaller where a side is beyond `longest` pixels."""
        if not isinstance(path, str) or not path:
            return None
        if (path, longest) not in self._known:
            self._known[path, longest] = self._embedded(path, longest)
            if self._known[path, longest] is None:
                self.left_out.append(path)
        return self._known[path, longest]

    def _embedded(self, path: str, longest: int) -> Embedded | None:
        file = (self._directory / path).resolve()
        if not file.is_relative_to(self._directory) or not file.is_file():
            return None
        try:
            data = _fitting(file, longest)
        except (MmgenError, OSError, ValueError):
            return None
        if len(data) > self._left:
            return None
        self._left -= len(data)
        width, height = _size(data)
        return Embedded(f"data:image/png;base64,{base64.b64encode(data).decode()}", width, height)


def _fitting(file: Path, longest: int) -> bytes:
    """The bytes of a PNG whose sides are at most `longest`."""
    data = file.read_bytes()
    if data.startswith(_PNG) and len(data) <= AS_IT_IS and max(_size(data)) <= longest:
        return data
    image = decode(data)
    factor = math.ceil(max(image.shape[1:]) / longest)
    if factor > 1:
        image = avg_pool2d(image[None], factor, ceil_mode=True)[0]
    return encode_png(image)


def _size(png: bytes) -> tuple[int, int]:
    """Width and height from a PNG's header."""
    if len(png) < 24:
        raise ValueError("a PNG cut off in its header")
    return int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
