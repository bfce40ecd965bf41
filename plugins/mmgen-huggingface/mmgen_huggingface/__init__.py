"""The dataset `huggingface`: captioned or labelled pictures that the library `datasets` can open."""

from __future__ import annotations

import string
import warnings
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from torch import Tensor

from mmgen.images import DataError, Resize
from mmgen.protocols import Sample
from mmgen_huggingface.columns import Columns, find_columns
from mmgen_huggingface.opening import Source, Wanted, check_split, open_source
from mmgen_huggingface.rows import Labels, Rows

__all__ = ["HuggingFace"]

VAL = ("validation", "val", "valid", "dev")
PLACES = ("a photo of a {0}.", "a picture of a {0}.", "an image of a {0}.")


class HuggingFace:
    """Captioned or labelled pictures from a folder of parquet files, from `save_to_disk`, an image folder, or the hub.

    The source's `split` is trained on. Its validation split becomes `val`, and every other split keeps its name and is
    held out; of a source with a single split, mmgen holds out 5 %. Columns are found by type and name where that leaves
    no doubt. Every column of class labels becomes an attribute, and captions where there are none. No code of a data
    set is run, and pictures are decoded by mmgen alone.

    Args:
        path: a folder, a parquet file, an address such as s3://bucket/*.parquet, or a name on the hub, owner/name.
        subset: of a data set with several, its "config".
        revision: of a data set on the hub: a branch, a tag or a commit.
        split: the one trained on.
        val_split: the one that becomes `val`; null: `validation`, `val`, `valid` or `dev`, if there is one.
        image_column, caption_column, label_column, id_column: names; null: found by themselves, without doubt or not at
            all. A caption column holds texts, or lists of them. Without an id column, ids are made of split and row.
        templates: captions with places for labels, "a photo of a {label}." or "a photo of a {}."; null: three plain
            ones.
        image_size: the middle square of each picture is resized to this many pixels a side.
        on_bad: what happens with a sample that cannot be used: "raise" names it; "skip" reads every sample once, leaves
            it out and counts. A parquet file that is cut is left out whole.
        max_samples: take the first so many rows of each split.
        streaming: read row groups from parquet files as they are asked for, instead of keeping the whole source as
            arrow in the cache of `datasets`: for sources larger than the disk.
        resize: lanczos, or bicubic, as CLIP reads pictures: to judge one that was trained elsewhere.

    Attributes:
        skipped: what was left out, and why.

    Raises:
        DataError: MMG-D01, there is no such source; MMG-D02, it holds nothing to use; MMG-D03, neither captions nor
            labels; MMG-D04 and MMG-D05, a picture; MMG-D06, a caption; MMG-D07, an id occurs twice; MMG-D10, no such
            split; MMG-D30, the source cannot be read; MMG-D31, a column.
    """

    def __init__(
        self,
        path: str,
        subset: str | None = None,
        revision: str | None = None,
        split: str = "train",
        val_split: str | None = None,
        image_column: str | None = None,
        caption_column: str | None = None,
        label_column: str | None = None,
        id_column: str | None = None,
        templates: list[str] | None = None,
        image_size: int = 32,
        on_bad: Literal["raise", "skip"] = "raise",
        max_samples: int | None = None,
        streaming: bool = False,
        resize: Resize = "lanczos",
    ) -> None:
        if image_size < 1:
            raise ValueError(f"image_size must be at least 1, got {image_size}")
        if max_samples is not None and max_samples < 1:
            raise ValueError(f"max_samples must be at least 1, got {max_samples}")
        if on_bad not in ("raise", "skip"):
            raise ValueError(f"on_bad must be 'raise' or 'skip', got {on_bad!r}")
        if resize not in ("lanczos", "bicubic"):
            raise ValueError(f"resize must be 'lanczos' or 'bicubic', got {resize!r}")
        self.image_size, self.resize = image_size, resize
        source = open_source(Wanted(path, subset, revision, on_bad == "skip", max_samples, streaming))
        chosen = _chosen(list(source.splits), split, val_split, path)
        features = source.splits[chosen["train"]].features
        columns = find_columns(features, image_column, caption_column, label_column, id_column, path)
        self._parts = _parts(source, chosen, columns, templates, path, max_samples)
        self._ends = [sum(map(len, self._parts[: i + 1])) for i in range(len(self._parts))]
        labels = self._parts[0].labels
        self.classes = labels.classes
        self.templates = labels.templates
        self.skipped = source.left_out
        self._rows: Sequence[int] = range(self._ends[-1])
        if on_bad == "skip":
            self._rows = [row for row in self._rows if self._is_sound(row)]
            self._report_skipped(path)
        if not self._rows:
            raise DataError(f"{path!r} holds no rows", code="MMG-D02", where="dataset.path", fix="choose another")
        self.splits = self._split_positions(list(chosen))
        if self.splits and "train" not in self.splits:
            what = f"the split {split!r} holds nothing to use"
            raise DataError(what, code="MMG-D02", where=path, fix="dataset.split=ANOTHER")

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        part, row = self._place(index)
        return part.sample(row, self.image_size, self.resize)

    def original(self, index: int) -> Tensor:
        """The picture at its own size (3,H,W), float in [0,1]: what augmentations cut from."""
        part, row = self._place(index)
        return part.picture(row)

    @property
    def ids(self) -> Sequence[str]:
        """The id of each sample, without reading its picture."""
        return Ids(self)

    def id(self, index: int) -> str:
        """The id of the sample [index]."""
        part, row = self._place(index)
        return part.id(row)

    def _place(self, index: int) -> tuple[Rows, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._row(self._rows[index])

    def _row(self, row: int) -> tuple[Rows, int]:
        part = bisect_right(self._ends, row)
        return self._parts[part], row - (self._ends[part - 1] if part else 0)

    def _is_sound(self, row: int) -> bool:
        part, inside = self._row(row)
        try:
            part.sample(inside, self.image_size, self.resize)
        except DataError as e:
            self.skipped.append(f"{e.where}: {e.what}")
            return False
        return True

    def _split_positions(self, names: list[str]) -> dict[str, Sequence[int]]:
        """Positions by split; none where there is a single one, of which mmgen holds out a part."""
        if len(names) == 1:
            return {}
        counts = [0] * len(names)
        for row in self._rows if not isinstance(self._rows, range) else ():
            counts[bisect_right(self._ends, row)] += 1
        if isinstance(self._rows, range):
            counts = [len(part) for part in self._parts]
        starts = [sum(counts[:i]) for i in range(len(counts))]
        found = zip(names, starts, counts, strict=True)
        return {name: range(start, start + count) for name, start, count in found if count}

    def _report_skipped(self, path: str) -> None:
        if not self._rows and self.skipped:
            fix = "mend the pictures and captions; dataset.on_bad=raise names them one at a time"
            what = f"no sample can be used, the first: {self.skipped[0]}"
            raise DataError(what, code="MMG-D02", where=path, fix=fix)
        if self.skipped:
            total, shown = len(self.skipped) + len(self._rows), "; ".join(self.skipped[:3])
            warnings.warn(f"{len(self.skipped)} of {total} samples left out: {shown}", UserWarning, stacklevel=3)


class Ids(Sequence[str]):
    """The ids of a dataset, made as they are asked for."""

    def __init__(self, dataset: HuggingFace) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self._dataset.id(i) for i in range(len(self))[index]]
        return self._dataset.id(index)

    def __iter__(self) -> Iterator[str]:
        return (self._dataset.id(i) for i in range(len(self)))


def _chosen(names: Sequence[str], split: str, val_split: str | None, path: str) -> dict[str, str]:
    """The source's split for each of mmgen's: `train`, `val`, and the others under their own names."""
    check_split(names, split, path)
    if val_split is not None:
        check_split(names, val_split, path)
    if val_split == split:
        raise ValueError(f"split and val_split are both {split!r}; leave out val_split, and 5 % are held out")
    val = val_split or next((name for name in VAL if name in names and name != split), None)
    others = {name: name for name in names if name not in (split, val, "train", "val")}
    return {"train": split, **({"val": val} if val else {}), **others}


def _parts(
    source: Source, chosen: dict[str, str], columns: Columns, templates: list[str] | None, path: str, most: int | None
) -> list[Rows]:
    """The rows of each split, with the ids and labels checked over all of them."""
    tables = {name: source.splits[name] for name in chosen.values()}
    labels = Labels.of(columns, list(tables.values()), _filled(templates, columns), path)
    parts = [Rows(table, columns, labels, source.roots, name, path, most) for name, table in tables.items()]
    first: dict[str, str] = {}
    for part in parts:
        for row, id in enumerate(part.ids or ()):
            if id in first:
                raise DataError(
                    f"the id {id[:80]!r} occurs twice",
                    code="MMG-D07",
                    where=f"{part.where(row)} and {first[id]}",
                    fix="dataset.id_column=ANOTHER, or null: ids are then made of split and row",
                )
            first[id] = part.where(row)
    return parts


def _filled(templates: list[str] | None, columns: Columns) -> list[str]:
    """Templates with named places.

    Raises:
        ValueError: one without a place, or with one for something else than a label.
    """
    if not columns.labels:
        if templates:
            raise ValueError("templates were given, and no column holds labels: give label_column")
        return []
    names = [Labels.attribute(name) for name in columns.labels]
    if templates is None:
        templates = list(PLACES)
    found = [template.replace("{}", f"{{{names[0]}}}").replace("{0}", f"{{{names[0]}}}") for template in templates]
    for template in found:
        fields = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
        if not fields or not fields <= set(names):
            places = ", ".join(f"{{{name}}}" for name in names)
            raise ValueError(f"the template {template[:80]!r} has no place, or another than {places}")
    return found
