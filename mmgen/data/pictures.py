"""A dataset read once: small pictures kept in memory, so that an epoch costs nothing; splits and fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from mmgen.errors import DataError, quoted
from mmgen.images import to_bytes
from mmgen.protocols import Dataset, Sample

MEMORY_CAP = 1 << 30  # bytes of pictures kept; of larger datasets every picture is read each time it is asked for
VAL_SHARE = 0.05
TOGETHER = 128  # samples read at once, where a dataset can read several

Progress = Callable[[int, int], None]  # (done, total)


class Pictures:
    """All samples of a dataset, read once and checked; position i is the dataset's [i].

    Args:
        dataset: captioned pictures, all of one size.
        progress: called with (done, total) while reading.
        memory_cap: bytes of pictures that may be kept.

    Attributes:
        images: (M,3,H,W) uint8, or None when they take more than `memory_cap`.
        captions, ids: one a sample. `alternatives`: every caption of each sample.

    Raises:
        DataError: MMG-D02, there are no samples; MMG-D07, an id occurs twice; MMG-D06, MMG-D09, a sample breaks
            the contract.
    """

    def __init__(self, dataset: Dataset, progress: Progress | None = None, memory_cap: int = MEMORY_CAP) -> None:
        self.dataset = dataset
        self.images: Tensor | None = None
        self.captions: list[str] = []
        self.ids: list[str] = []
        self.alternatives: list[list[str]] = []
        self.attributes: list[dict[str, str]] = []
        self.shape: tuple[int, int] = (0, 0)
        self._pixels = hashlib.sha256()
        self._read(progress, memory_cap)
        _check_unique(self.ids)

    def _read(self, progress: Progress | None, memory_cap: int) -> None:
        total = len(self.dataset)
        if total == 0:
            raise DataError(
                "the dataset holds no samples", code="MMG-D02", fix="choose another dataset, or fill this one"
            )
        for i, sample in enumerate(_samples(self.dataset)):
            pixels = to_bytes(checked_picture(sample, i))
            if i == 0:
                self.shape = (pixels.shape[1], pixels.shape[2])
                if total * pixels.numel() <= memory_cap:
                    self.images = torch.empty((total, *pixels.shape), dtype=torch.uint8)
            if (pixels.shape[1], pixels.shape[2]) != self.shape:
                raise _wrong(f"sample {i} has another size than sample 0", sample["id"])
            if self.images is not None:
                self.images[i] = pixels
            self._pixels.update(pixels.contiguous().numpy().tobytes())
            self.captions.append(sample["caption"])
            self.ids.append(sample["id"])
            self.alternatives.append(list(sample.get("captions") or [sample["caption"]]))
            self.attributes.append(dict(sample.get("attributes") or {}))
            if progress:
                progress(i + 1, total)

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, positions: Sequence[int]) -> Tensor:
        """The pictures at these positions, (B,3,H,W) float in [0,1]."""
        if self.images is None:
            return torch.stack([to_bytes(self.dataset[i]["image"]) for i in positions]).float().div_(255)
        return self.images[torch.as_tensor(positions, dtype=torch.long)].float().div_(255)

    def before(self, positions: Sequence[int]) -> Tensor:
        """What redrawings of these samples start from, (B,3,H,W) float in [0,1]."""
        own = getattr(self.dataset, "before", None)
        if own is None:
            return self.batch(positions)
        return torch.stack([to_bytes(own(i)) for i in positions]).float().div_(255)

    @property
    def fingerprint(self) -> str:
        """What `data_fingerprint` gives, without reading anything again."""
        if own := _own_fingerprint(self.dataset):
            return own
        digest = hashlib.sha256(self._pixels.digest())
        for id, captions in zip(self.ids, self.alternatives, strict=True):
            digest.update(repr((id, captions)).encode("utf-8", "backslashreplace"))
        if weights := getattr(self.dataset, "part_weights", None):
            digest.update(repr(list(weights.items())).encode())  # a run that goes on with others sees other batches
        return digest.hexdigest()[:16]

    def positions(self, split: str) -> list[int]:
        """The positions of a split, in fixed order (see `split_positions`)."""
        return _positions(self.dataset, split, self.ids)


def samples_at(dataset: Dataset, positions: Sequence[int]) -> list[Sample]:
    """The samples at these positions: read together, where the dataset can."""
    together = getattr(dataset, "__getitems__", None)
    return list(together(positions)) if together is not None else [dataset[i] for i in positions]


def _samples(dataset: Dataset) -> Iterator[Sample]:
    total, step = len(dataset), TOGETHER if hasattr(dataset, "__getitems__") else 1
    for first in range(0, total, step):
        yield from samples_at(dataset, range(first, min(first + step, total)))


def split_names(dataset: Dataset) -> list[str]:
    """The splits of a dataset: those it declares, and always `train` and `val`."""
    return list(dict.fromkeys([*_declared(dataset), "train", "val"]))


def split_positions(dataset: Dataset, name: str) -> list[int]:
    """The positions of a split, in fixed order.

    A dataset that declares no splits is divided by the hash of its ids: 5 % are `val`, the rest is `train`. One that
    declares `train` but no `val` has its `train` divided so; one that declares others but no `train`, what is in none.

    Raises:
        DataError: MMG-D10, there is no such split.
    """
    if name in _declared(dataset) and (name != "train" or "val" in _declared(dataset)):
        return _positions(dataset, name, [])
    ids = getattr(dataset, "ids", None)
    return _positions(dataset, name, ids if ids is not None else [dataset[i]["id"] for i in range(len(dataset))])


def data_fingerprint(dataset: Dataset) -> str:
    """16 hex digits that change with any id, caption, pixel or weight of a part; the dataset's own `fingerprint`, where
    it has one."""
    return _own_fingerprint(dataset) or Pictures(dataset, memory_cap=0).fingerprint


def _own_fingerprint(dataset: Dataset) -> str | None:
    own = getattr(dataset, "fingerprint", None)
    return own if isinstance(own, str) else None


def _declared(dataset: Dataset) -> Mapping[str, Sequence[int]]:
    return getattr(dataset, "splits", None) or {}


def _positions(dataset: Dataset, name: str, ids: Sequence[str]) -> list[int]:
    declared = _declared(dataset)
    if name in declared and (name != "train" or "val" in declared):
        return list(declared[name])
    if name not in ("train", "val"):
        known = ", ".join(split_names(dataset))
        raise DataError(f"the dataset has no split {quoted(name)}", code="MMG-D10", fix=f"choose one of: {known}")
    pool = list(declared["train"]) if "train" in declared else _undeclared(dataset)
    if len(pool) < 2 or "val" in declared:
        return pool  # a single picture trains and validates
    val = _held_out(pool, ids)
    return [i for i in pool if (i in val) == (name == "val")]


def _undeclared(dataset: Dataset) -> list[int]:
    """What is in no split that a dataset declares."""
    declared = set().union(*_declared(dataset).values())
    return [i for i in range(len(dataset)) if i not in declared]


def _held_out(pool: list[int], ids: Sequence[str]) -> set[int]:
    """5 % of the positions, by the hash of their ids; at least one, and never all."""

    def number(position: int) -> int:
        digest = hashlib.blake2b(("val/" + ids[position]).encode("utf-8", "surrogatepass"), digest_size=8).digest()
        return int.from_bytes(digest, "big")

    chosen = {i for i in pool if number(i) < VAL_SHARE * (1 << 64)}
    return chosen if 0 < len(chosen) < len(pool) else {min(pool, key=number)}


def _check_unique(ids: Sequence[str]) -> None:
    first: dict[str, int] = {}
    for i, id in enumerate(ids):
        if first.setdefault(id, i) != i:
            raise DataError(
                f"samples {first[id]} and {i} have the same id {quoted(id)}", code="MMG-D07", fix="give each its own id"
            )


def checked_picture(sample: Sample, position: int) -> Tensor:
    """The picture of a sample that keeps the contract.

    Raises:
        DataError: MMG-D06, MMG-D09, it does not.
    """
    image = sample["image"]
    if not isinstance(image, Tensor) or image.dim() != 3 or image.shape[0] != 3 or not image.is_floating_point():
        raise _wrong(f"the picture of sample {position} is no float tensor (3,H,W)", sample["id"])
    if not bool(((image >= 0) & (image <= 1)).all()):
        raise _wrong(f"the picture of sample {position} has values outside [0,1]", sample["id"])
    if not isinstance(sample["caption"], str) or not sample["caption"].strip():
        raise DataError(
            f"the caption of sample {position} is empty",
            code="MMG-D06",
            where=quoted(sample["id"]),
            fix="write one, or take the sample out",
        )
    return image


def _wrong(what: str, id: str) -> DataError:
    return DataError(what, code="MMG-D09", where=quoted(id), fix="see the contract of Dataset in mmgen/protocols.py")
