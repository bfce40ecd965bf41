"""The dataset `digits`: handwritten digits, 8×8 pixels, as scikit-learn ships them."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import torch
from torch.nn import functional as F

from mmgen.protocols import Sample

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SIDE = 8
SEED = 2021  # of the split


class Digits:
    """1,797 pictures of ten digits: "the digit seven". Half of each digit is the split `test`, the same in every run.

    Args:
        image_size: pixels a side, 8 or more; the pictures are 8 and are scaled up.

    Raises:
        ValueError: a smaller image size.
    """

    attribution = "Pictures: Optical Recognition of Handwritten Digits, E. Alpaydin, C. Kaynak (UCI, CC BY 4.0)"
    templates: Sequence[str] = ("the digit {digit}", "the number {digit}", "a handwritten {digit}")
    classes: Mapping[str, Sequence[str]] = {"digit": NAMES}

    def __init__(self, image_size: int = 16) -> None:
        from sklearn.datasets import load_digits

        if image_size < SIDE:
            raise ValueError(f"image_size must be at least {SIDE}, got {image_size}")
        found = load_digits()
        small = torch.tensor(found.images / 16, dtype=torch.float32)[:, None]
        large = F.interpolate(small, size=(image_size, image_size), mode="bicubic", align_corners=False)
        self._images = large.clamp(0, 1)
        self._labels = [int(label) for label in found.target]
        self.fingerprint = f"digits-{image_size}"
        self.splits: Mapping[str, Sequence[int]] = _halves(self._labels)

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Sample:
        name = NAMES[self._labels[index]]
        captions = [template.replace("{digit}", name) for template in self.templates]
        return {
            "image": self._images[index].repeat(3, 1, 1),
            "caption": captions[0],
            "captions": captions,
            "id": f"digit-{index:04d}",
            "attributes": {"digit": name},
        }


def _halves(labels: Sequence[int]) -> dict[str, list[int]]:
    """`train` and `test`, half of each digit."""
    draw = random.Random(SEED)  # noqa: S311 - a documented split, not a secret
    test: set[int] = set()
    for digit in range(len(NAMES)):
        places = [i for i, label in enumerate(labels) if label == digit]
        test |= set(draw.sample(places, len(places) // 2))
    return {"train": [i for i in range(len(labels)) if i not in test], "test": sorted(test)}
