"""Small datasets for the tests of this folder."""

from __future__ import annotations

import torch

from mmgen.protocols import Sample


class Numbered:
    """`size` pictures of 8×8 pixels; picture i is filled with i / 255 and captioned with its number."""

    def __init__(self, size: int, splits: dict[str, list[int]] | None = None, others: int = 0) -> None:
        self.size, self.others = size, others
        if splits is not None:
            self.splits = splits

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Sample:
        captions = [f"number {index}", *(f"number {index} in words {k}" for k in range(self.others))]
        image = torch.full((3, 8, 8), index % 256 / 255)
        return {"image": image, "caption": captions[0], "captions": captions, "id": f"n{index:04d}"}
