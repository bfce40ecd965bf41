"""The dataset `colours`: shapes drawn when they are asked for, small enough to see every part of mmgen at work."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from mmgen.protocols import Sample
from mmgen_colours.shapes import COLOURS, SHAPES, draw


class Colours:
    """Coloured shapes on a light ground: "a red circle", "a blue star".

    Every colour comes in every shape, `copies` times, at other places and in other sizes. Splits: `heldout_pairs` are
    the combinations of colour and shape that are never trained on, one for each shape and colour; of the rest, one copy
    in ten is `val`.

    Args:
        image_size: pixels a side, at least 8.
        copies: pictures of each combination, at least 10.
        seed: decides places and sizes.

    Raises:
        ValueError: a number out of its range.
    """

    attribution = "Pictures: mmgen-colours, drawn by program, no rights reserved"
    templates: Sequence[str] = ("a {colour} {shape}",)
    classes: Mapping[str, Sequence[str]] = {"colour": list(COLOURS), "shape": list(SHAPES)}

    def __init__(self, image_size: int = 32, copies: int = 20, seed: int = 0) -> None:
        if image_size < 8 or copies < 10:
            raise ValueError(f"image_size is at least 8 and copies at least 10, got {image_size} and {copies}")
        self.image_size, self.copies, self.seed = image_size, copies, seed
        self._pairs = [(colour, shape) for shape in SHAPES for colour in COLOURS]
        self.splits = self._split()

    def __len__(self) -> int:
        return len(self._pairs) * self.copies

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        (colour, shape), copy = self._pairs[index // self.copies], index % self.copies
        # A text seeds the same numbers in every process and on every machine.
        place = random.Random(f"{self.seed}/{colour}/{shape}/{copy}")  # noqa: S311
        radius = place.uniform(0.22, 0.38)
        x, y = (place.uniform(radius + 0.05, 0.95 - radius) for _ in range(2))
        size = "small" if radius < 0.3 else "large"
        return {
            "image": draw(shape, COLOURS[colour], (x, y), radius, self.image_size),
            "caption": f"a {colour} {shape}",
            "captions": [f"a {colour} {shape}", f"a {size} {colour} {shape}", f"{shape}, {colour}"],
            "id": f"{colour}-{shape}-{copy}",
            "attributes": {"colour": colour, "shape": shape, "size": size},
        }

    def _split(self) -> dict[str, list[int]]:
        colours, splits = list(COLOURS), {"train": [], "val": [], "heldout_pairs": []}  # type: ignore[var-annotated]
        for index in range(len(self)):
            pair, copy = divmod(index, self.copies)
            shape, colour = divmod(pair, len(colours))
            held_out = colour == shape % len(colours)
            splits["heldout_pairs" if held_out else "val" if copy % 10 == 9 else "train"].append(index)
        return splits
