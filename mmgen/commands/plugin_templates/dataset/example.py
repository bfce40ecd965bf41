"""The dataset `example`: stripes of one colour, drawn when they are asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from mmgen.protocols import Sample

COLOURS = {"red": (0.9, 0.1, 0.1), "green": (0.1, 0.7, 0.2), "blue": (0.1, 0.2, 0.9), "grey": (0.5, 0.5, 0.5)}
DIRECTIONS = ("horizontal", "vertical")
WIDTHS = range(2, 10)


class Example:
    """Stripes on white: "red horizontal stripes". Every fifth picture is held out as `val`.

    Args:
        image_size: pixels a side, at least 16.

    Raises:
        ValueError: a number out of its range.
    """

    attribution = "Pictures: mmgen-example, drawn by program"
    classes: Mapping[str, Sequence[str]] = {"colour": list(COLOURS), "direction": list(DIRECTIONS)}
    templates: Sequence[str] = ("{colour} {direction} stripes",)

    def __init__(self, image_size: int = 32) -> None:
        if image_size < 16:
            raise ValueError(f"image_size is {image_size}; it must be at least 16")
        self.image_size = image_size
        self._kinds = [(c, d, w, s) for w in WIDTHS for s in range(w) for c in COLOURS for d in DIRECTIONS]
        every = range(len(self._kinds))
        self.splits = {"train": [i for i in every if i % 5], "val": [i for i in every if i % 5 == 0]}

    def __len__(self) -> int:
        return len(self._kinds)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        colour, direction, width, start = self._kinds[index]
        striped = (torch.arange(self.image_size) + start) // width % 2 == 0  # (H,)
        striped = striped[:, None] if direction == "horizontal" else striped[None]
        image = torch.where(striped, torch.tensor(COLOURS[colour])[:, None, None], torch.ones(()))
        return {
            "image": image.expand(3, self.image_size, self.image_size).clone(),
            "caption": f"{colour} {direction} stripes",
            "id": f"{colour}-{direction}-{width}-{start}",
            "attributes": {"colour": colour, "direction": direction},
        }
