"""From captioned pictures to token shards: which shards there are, what goes into one, and the text at the end."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from mmgen.data import text_tokenizers
from mmgen.data.augment import AUGMENTATIONS, keeps, original
from mmgen.data.order import sample_key
from mmgen.data.pictures import checked_picture, split_positions
from mmgen.data.shards import (
    TEXT_TOKENIZER,
    Array,
    Entry,
    Index,
    Shard,
    token_type,
    write_index,
    write_shard,
    write_text,
)
from mmgen.data.tokens import SPLITS, MappedShard, with_dropout
from mmgen.errors import ConfigError, DataError, quoted
from mmgen.files import write_atomic
from mmgen.images import to_bytes
from mmgen.protocols import Dataset, Record, Sample

CHUNK = 64  # pictures read, and encoded, at a time; always so many are encoded, as last bits depend on the number
SMALLEST, MOST = 4096, 1000  # a shard holds at least so many samples, unless that makes more shards than this

Encode = Callable[[Tensor], Tensor]  # pictures (B,3,H,W) in [0,1] to indices (B,h,w)
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Planned:
    """A shard to be written: the places `first` to `last` of a split."""

    number: int
    split: str
    first: int
    last: int

    @property
    def size(self) -> int:
        return self.last - self.first


@dataclass(frozen=True)
class Augmenting:
    """How the pictures of `train` are varied: variant v of a sample is what a training with this seed would see of it
    in epoch v."""

    name: str = "none"
    variants: int = 1
    seed: int = 1


def positions_of(dataset: Dataset) -> dict[str, Array]:
    """The dataset's positions of `train` and `val`, eight bytes each.

    Raises:
        ConfigError: MMG-C27, it is a mixture, whose weights no shard keeps.
    """
    if getattr(dataset, "part_weights", None):
        raise ConfigError(
            "token shards keep no weights: a training on them would draw every sample of the mixture equally often",
            code="MMG-C27",
            where="dataset.parts",
            fix="train on the mixture itself, or make shards of one part: dataset=NAME",
        )
    return {split: np.array(split_positions(dataset, split), dtype=np.int64) for split in SPLITS}


def plan(sizes: dict[str, int], shard_size: int | None) -> list[Planned]:
    """The shards of splits of these sizes, numbered from 0; None chooses how many samples each holds at most."""
    shard_size = shard_size or max(SMALLEST, -(-sum(sizes.values()) // MOST))
    borders = [(split, first, size) for split, size in sizes.items() for first in range(0, size, shard_size)]
    return [
        Planned(number, split, first, min(first + shard_size, size))
        for number, (split, first, size) in enumerate(borders)
    ]


def ids_digest(dataset: Dataset) -> str:
    """What tells two datasets apart without reading a picture: the fingerprint it has, or its ids, or only its size."""
    own = getattr(dataset, "fingerprint", None)
    if isinstance(own, str):
        return own
    digest = hashlib.sha256(str(len(dataset)).encode())
    for id in getattr(dataset, "ids", ()):
        digest.update(f"\n{id}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


class Reader(torch.utils.data.Dataset):
    """Reads samples of a split: pictures as bytes, all variants of each, and records."""

    def __init__(self, dataset: Dataset, positions: Array, size: int, augmenting: Augmenting) -> None:
        self.dataset, self.positions, self.size, self.augmenting = dataset, positions, size, augmenting

    def __len__(self) -> int:
        return len(self.positions)

    def __getitems__(self, places: list[int]) -> tuple[Tensor, list[Record]]:
        """Pictures (n·V,3,H,W) uint8 and n records; a picture of a shape that is not trained on is left out."""
        pictures, records = [], []
        for place in places:
            position = int(self.positions[place])
            sample = self.dataset[position]
            image = checked_picture(sample, position)
            if tuple(image.shape[1:]) != (self.size, self.size):
                raise DataError(
                    f"sample {position} is {image.shape[2]} pixels wide and {image.shape[1]} high, not {self.size}",
                    code="MMG-D09",
                    where=quoted(sample["id"]),
                    fix="give all pictures one size",
                )
            variants = self._variants(position, image, sample["id"])
            if variants is not None:
                pictures += variants
                records.append(_record(sample))
        found = torch.stack(pictures) if pictures else torch.empty(0, 3, self.size, self.size, dtype=torch.uint8)
        return found, records

    def _variants(self, position: int, image: Tensor, id: str) -> list[Tensor] | None:
        if self.augmenting.name == "none":
            return [to_bytes(image)]
        picture = original(self.dataset, position)
        if not keeps(self.augmenting.name, picture):
            return None
        keys = [sample_key(self.augmenting.seed, variant, id) for variant in range(self.augmenting.variants)]
        return [to_bytes(AUGMENTATIONS[self.augmenting.name](picture, self.size, key)) for key in keys]


def _record(sample: Sample) -> Record:
    captions = list(sample.get("captions") or [])
    if captions[:1] != [sample["caption"]]:
        captions = [sample["caption"], *captions]  # the first is the one it is judged by
    return {"id": sample["id"], "captions": captions, "attributes": dict(sample.get("attributes") or {})}


def make_shard(
    directory: Path,
    planned: Planned,
    reader: Reader,
    encode: Encode,
    num_codes: int,
    *,
    num_workers: int = 0,
    progress: Progress = lambda count: None,
) -> Shard:
    """Reads, encodes and writes one shard; see `write_shard` for what a crash leaves."""
    variants = reader.augmenting.variants
    step = max(1, CHUNK // variants)
    chunks = [list(range(i, min(i + step, planned.last))) for i in range(planned.first, planned.last, step)]
    loader: DataLoader[Any] = DataLoader(
        reader, batch_sampler=chunks, num_workers=num_workers, collate_fn=_as_it_is, generator=torch.Generator()
    )

    def samples() -> Iterator[tuple[Array, Record]]:
        for chunk, (pictures, records) in zip(chunks, loader, strict=True):
            tokens = _encoded(pictures, encode)
            if records:
                yield from zip(tokens.reshape(len(records), variants, -1), records, strict=True)
            progress(len(chunk))

    place = (planned.number, planned.split, planned.first, planned.last)
    return write_shard(directory, place, samples(), variants, num_codes)


def _as_it_is(batch: Any) -> Any:
    return batch


@torch.no_grad()
def _encoded(pictures: Tensor, encode: Encode) -> Array:
    """Pictures (B,3,H,W) uint8 to image tokens (B,N)."""
    found = []
    for chunk in pictures.split(CHUNK):
        padded = torch.zeros(CHUNK, *chunk.shape[1:])
        padded[: len(chunk)] = chunk.float().div_(255)
        found.append(encode(padded).flatten(1)[: len(chunk)].cpu())
    return torch.cat(found).numpy() if found else np.empty((0, 1), dtype=np.int64)


def finish(
    directory: Path,
    recipe: dict[str, Any],
    shards: Sequence[Shard],
    options: dict[str, Any],
    *,
    every_caption: bool,
    progress: Progress = lambda count: None,
) -> Index:
    """Trains the text tokenizer on the captions of `train`, writes text tokens and the index: the directory is whole.

    Args:
        options: of the text tokenizer, as `task.text_tokenizer` has them.
        every_caption: whether it learns from all captions of a sample, not from the first alone.
        progress: called with the number of samples whose text is written.

    Raises:
        DataError: MMG-D07, an id occurs twice; MMG-D10, a split holds no samples.
    """
    for split in SPLITS:
        if not any(shard.count for shard in shards if shard.split == split):
            raise DataError(
                f"the split {quoted(split)} holds no samples", code="MMG-D10", fix="another dataset or task.augment"
            )
    parts = [
        MappedShard(directory, shard, recipe["grid"][0] * recipe["grid"][1], recipe["codebook_size"])
        for shard in shards
    ]
    _check_unique(shards, parts)
    train = [(shard, part) for shard, part in zip(shards, parts, strict=True) if shard.split == "train"]
    text_tokenizer = with_dropout(
        text_tokenizers.make(
            (
                caption
                for shard, part in train
                for row in range(shard.count)
                for caption in part.record(row)["captions"][: None if every_caption else 1]
            ),
            **options,
        ),
        0.0,
    )
    text = []
    for shard, part in zip(shards, parts, strict=True):
        tokens = np.empty((shard.count, text_tokenizer.context_length), dtype=token_type(text_tokenizer.num_ids))
        for first in range(0, shard.count, 1024):
            rows = range(first, min(first + 1024, shard.count))
            tokens[rows.start : rows.stop] = text_tokenizer.encode([part.record(row)["captions"][0] for row in rows])
            progress(len(rows))
        text.append(write_text(directory, shard, tokens))
    content = text_tokenizer.to_json().encode()
    write_atomic(directory / TEXT_TOKENIZER, content)
    index = Index(
        recipe=recipe,
        shards=list(shards),
        text=text,
        text_tokenizer=Entry(len(content), hashlib.sha256(content).hexdigest()),
        text_fingerprint=text_tokenizer.fingerprint,
        context_length=text_tokenizer.context_length,
        num_ids=text_tokenizer.num_ids,
    )
    write_index(directory, index)
    return index


def _check_unique(shards: Sequence[Shard], parts: Sequence[MappedShard]) -> None:
    """Raises DataError MMG-D07 where an id occurs twice; eight bytes of memory a sample."""

    def ids() -> Iterator[str]:
        for shard, part in zip(shards, parts, strict=True):
            yield from (part.record(row)["id"] for row in range(shard.count))

    count = sum(shard.count for shard in shards)
    numbers = np.fromiter((sample_key(0, 0, id) for id in ids()), dtype=np.int64, count=count)
    values, counts = np.unique(numbers, return_counts=True)
    suspects = set(values[counts > 1].tolist())  # the same id, or by a rare chance another with the same number
    seen: set[str] = set()
    for id in ids() if suspects else ():
        if sample_key(0, 0, id) in suspects:
            if id in seen:
                raise DataError(f"the id {quoted(id)} occurs twice", code="MMG-D07", fix="give each its own id")
            seen.add(id)
