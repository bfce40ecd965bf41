"""Small datasets for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from mmgen.data.augment import Augmentation
from mmgen.data.tokenizing import Augmenting, Reader, finish, make_shard, plan, positions_of
from mmgen.protocols import Dataset, Sample


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


class Noisy(Numbered):
    """Pictures of noise, 8×8 pixels; at a size of their own, 20×30, they are other noise."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        return {**sample, "image": self._noise(index, 8, 8), "attributes": {"parity": "odd" if index % 2 else "even"}}

    def original(self, index: int) -> Tensor:
        return self._noise(index, 20, 30 if index % 5 else 50)

    def _noise(self, index: int, height: int, width: int) -> Tensor:
        return torch.rand(3, height, width, generator=torch.Generator().manual_seed(index)).mul(255).round().div(255)


CODES = 256


def codes(images: Tensor) -> Tensor:
    """Stands for an image tokenizer: the grey of each quarter, (B,3,H,W) to (B,2,2) below 256."""
    return F.adaptive_avg_pool2d(images.mean(1, keepdim=True), 2)[:, 0].mul(CODES - 1).round().long()


def recipe(**changes: object) -> dict:
    """As `mmgen data tokenize` writes it, in what reading needs."""
    return {"image_tokenizer": "f" * 64, "grid": [2, 2], "codebook_size": CODES, **changes}


def tokens_at(
    directory: Path, dataset: Dataset, augment: Augmentation = "none", variants: int = 1, shard_size: int = 7, **changes
) -> Path:
    """Writes token shards of a dataset, as `mmgen data tokenize` does."""
    directory.mkdir(parents=True)
    positions = positions_of(dataset)
    varied = {"train": Augmenting(augment, variants, seed=3), "val": Augmenting()}
    readers = {split: Reader(dataset, positions[split], 8, how) for split, how in varied.items()}
    planned = plan({split: len(found) for split, found in positions.items()}, shard_size)
    shards = [make_shard(directory, shard, readers[shard.split], codes, CODES) for shard in planned]
    options = {"vocab_size": 270, "context_length": 12, "bpe_dropout": 0.1}
    finish(directory, recipe(**changes), shards, options, every_caption=False)
    return directory
