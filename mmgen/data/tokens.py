"""The dataset `tokens`: token shards, read from mapped files, for the training of a generator."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmgen.data import text_tokenizers
from mmgen.data.shards import (
    TEXT_TOKENIZER,
    Array,
    Entry,
    Index,
    Shard,
    check_content,
    check_size,
    damaged,
    entries,
    read_index,
    token_type,
)
from mmgen.data.text import BpeTextTokenizer
from mmgen.data.text_tokenizers import AnyTextTokenizer
from mmgen.errors import DataError, quoted
from mmgen.protocols import Record

SPLITS = ("train", "val")


class Tokens:
    """Image tokens and captions that `mmgen data tokenize` made of a dataset. A generator trains on them, with the
    image tokenizer that made them.

    Args:
        path: the directory.

    Attributes:
        image_tokenizer: fingerprint of the image tokenizer that made them.
        grid, codebook_size: that tokenizer's.
        variants: how many augmented variants of a training picture take turns, one an epoch.
        fingerprint: changes with any token, id or caption.
        attribution: the dataset's.

    Raises:
        DataError: MMG-D12, the directory is missing or not finished; MMG-D13, a file is missing or has another size.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path).expanduser()
        self.index: Index = read_index(self.path)
        recipe = self.index.recipe
        self.image_tokenizer: str = recipe["image_tokenizer"]
        self.grid: tuple[int, int] = (recipe["grid"][0], recipe["grid"][1])
        self.codebook_size: int = recipe["codebook_size"]
        self.fingerprint = self.index.fingerprint
        self.attribution = str(recipe.get("attribution") or "") or "made of a dataset that names no source"
        self.shards = [shard for split in SPLITS for shard in self.index.shards if shard.split == split]
        self.variants = max((shard.variants for shard in self.shards if shard.split == "train"), default=1)
        self._starts = np.cumsum([0, *(shard.count for shard in self.shards)])
        self._variants = np.array([shard.variants for shard in self.shards])
        self._image_type, self._text_type = token_type(self.codebook_size), token_type(self.index.num_ids)
        self._mapped: dict[int, MappedShard] = {}
        self._text: dict[int, memoryview] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A sample's record, and its `image_tokens` (N,) as the first epoch sees them."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        record = self.records([index])[0]
        return {**record, "caption": record["captions"][0], "image_tokens": self.image_tokens([index], [0])[0]}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": {}, "_text": {}}  # another process maps the files itself

    @property
    def size(self) -> int:
        """Bytes of all files that training reads."""
        return sum(entry.size for entry in entries(self.index).values())

    @property
    def splits(self) -> dict[str, Sequence[int]]:
        """The positions of `train` and `val`."""
        train = sum(shard.count for shard in self.shards if shard.split == "train")
        return {"train": range(train), "val": range(train, len(self))}

    def positions(self, split: str) -> Sequence[int]:
        """The positions of `train` or `val`, in the dataset's order.

        Raises:
            DataError: MMG-D10, another split.
        """
        if split not in SPLITS:
            raise DataError(
                f"token shards have no split {quoted(split)}", code="MMG-D10", fix="choose one of: train, val"
            )
        return self.splits[split]

    def image_tokens(self, positions: Sequence[int], epochs: Sequence[int]) -> Tensor:
        """(B,N) long: of each position, the variant of its epoch."""
        numbers, places = self._places(positions)
        variants = self._variants[numbers]
        rows = places * variants + np.asarray(epochs, dtype=np.int64) % variants
        shards = self._open(numbers)
        return _gathered([shard.image_tokens for shard in shards], rows, self.grid[0] * self.grid[1], self._image_type)

    def text_tokens(self, positions: Sequence[int]) -> Tensor:
        """(B,T) long: the ordinary segmentation of each first caption."""
        numbers, places = self._places(positions)
        wanted: list[int] = numbers.tolist()
        for number in wanted:
            if number not in self._text:
                self._text[number] = self._mapped_text(number)
        length = self.index.context_length
        return _gathered([self._text[number] for number in wanted], places, length, self._text_type)

    def records(self, positions: Sequence[int]) -> list[Record]:
        """Id, captions and attributes of each position."""
        numbers, places = self._places(positions)
        return [shard.record(place) for shard, place in zip(self._open(numbers), places.tolist(), strict=True)]

    def text_tokenizer(self, bpe_dropout: float = 0.0) -> AnyTextTokenizer:
        """The one that made the text tokens, for a training with this dropout.

        Raises:
            DataError: MMG-D13, its file is damaged.
        """
        path = self.path / TEXT_TOKENIZER
        check_content(path, self.index.text_tokenizer)
        return with_dropout(text_tokenizers.from_json(path.read_text(encoding="utf-8")), bpe_dropout)

    def _places(self, positions: Sequence[int]) -> tuple[Array, Array]:
        """The number of each position's shard (B,), and its place there (B,)."""
        wanted = np.asarray(positions, dtype=np.int64)
        numbers = self._starts.searchsorted(wanted, side="right") - 1
        return numbers, wanted - self._starts[numbers]

    def _open(self, numbers: Array) -> list[MappedShard]:
        wanted: list[int] = numbers.tolist()
        for number in wanted:
            if number not in self._mapped:
                length = self.grid[0] * self.grid[1]
                self._mapped[number] = MappedShard(self.path, self.shards[number], length, self.codebook_size)
        return [self._mapped[number] for number in wanted]

    def _mapped_text(self, number: int) -> memoryview:
        path = self.path / f"{self.shards[number].name}.text"
        size = self.shards[number].count * self.index.context_length * self._text_type.itemsize
        check_size(path, Entry(size, ""))
        return mapped(path)


def _gathered(parts: list[memoryview], rows: Array, length: int, kind: np.dtype[Any]) -> Tensor:
    """Row i of part i, each of `length` numbers: (B,length) long. Copies bytes: numpy takes four times as long for one
    row each of many arrays."""
    size = length * kind.itemsize
    content = b"".join([part[row : row + size] for part, row in zip(parts, (rows * size).tolist(), strict=True)])
    return torch.from_numpy(np.frombuffer(content, dtype=kind).reshape(len(parts), length).astype(np.int64))


class MappedShard:
    """A shard in memory as far as it is read: pages come from the file when they are asked for.

    Args:
        length: N.
        num_codes: the codebook's size.

    Attributes:
        image_tokens: the bytes of (n,V,N).

    Raises:
        DataError: MMG-D13, it does not hold what its writer said.
    """

    def __init__(self, directory: Path, shard: Shard, length: int, num_codes: int) -> None:
        path = directory / f"{shard.name}.tokens"
        check_size(path, shard.tokens)
        used = shard.count * shard.variants * length * token_type(num_codes).itemsize
        offsets = used + -used % 8
        self._lines = offsets + 8 * (shard.count + 1)
        if shard.size < self._lines:
            raise damaged(path, f"it has {shard.size:,} bytes, too few for {shard.count:,} samples")
        self._content = mapped(path)
        self.image_tokens = self._content[:used]
        self._offsets = np.frombuffer(self._content[offsets : self._lines], dtype="<u8")
        if self._lines + int(self._offsets[-1]) != shard.size:
            raise damaged(path, "its samples do not fill it")

    def record(self, row: int) -> Record:
        """What is known of a sample besides its tokens."""
        first, last = self._lines + int(self._offsets[row]), self._lines + int(self._offsets[row + 1])
        record: Record = json.loads(bytes(self._content[first:last]))
        return record


def mapped(path: Path) -> memoryview:
    """The bytes of a file. Unlike Python's own mmap, torch's keeps no file open: there may be thousands of shards."""
    size = os.stat(path).st_size
    if size == 0:
        return memoryview(b"")  # nothing cannot be mapped
    return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy().data


def with_dropout(text_tokenizer: AnyTextTokenizer, bpe_dropout: float) -> AnyTextTokenizer:
    """The same text tokenizer with another BPE dropout, which changes no id; CLIP's knows none."""
    if isinstance(text_tokenizer, BpeTextTokenizer):
        return BpeTextTokenizer(text_tokenizer.merges, text_tokenizer.context_length, bpe_dropout)
    return text_tokenizer
