"""Rows of a table as samples: captions cleaned, labels named, pictures decoded by mmgen. No row is trusted."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import ClassLabel
from torch import Tensor

from mmgen.images import DataError, Resize, decode
from mmgen.protocols import Sample
from mmgen_huggingface.columns import Columns
from mmgen_huggingface.tables import Row, Table, other_classes

MAX_CAPTION_BYTES = 8192
MAX_CLASSES = 100_000


@dataclass(frozen=True)
class Labels:
    """What the columns of labels say.

    Args:
        names: of each column, its attribute.
        listed: of each attribute that is a ClassLabel, what a number stands for.
        classes: the possible values of each attribute with two or more.
        templates: captions with places for attributes.
    """

    names: Mapping[str, str]
    listed: Mapping[str, Sequence[str]]
    classes: Mapping[str, Sequence[str]]
    templates: Sequence[str]

    @staticmethod
    def attribute(column: str) -> str:
        """A column's name as a template can name it."""
        return re.sub(r"\W+", "_", column).strip("_") or "label"

    @classmethod
    def of(cls, columns: Columns, tables: Sequence[Table], templates: Sequence[str], path: str) -> Labels:
        """The labels of all splits.

        Raises:
            DataError: MMG-D31, a column has more different values than labels have, or other classes in another split.
        """
        for table in tables[1:]:
            if column := other_classes(tables[0].features, table.features, columns.labels):
                what = f"the classes of {column!r} differ between splits, in their names or their order"
                raise DataError(what, code="MMG-D31", where=path, fix="cast the column to one ClassLabel in all splits")
        names = {column: cls.attribute(column) for column in columns.labels}
        listed, classes = {}, {}
        for column, name in names.items():
            feature = tables[0].features[column]
            if isinstance(feature, ClassLabel):
                classes[name] = listed[name] = _shown(feature.names)
            else:
                classes[name] = sorted(_distinct(column, tables, path))
        return cls(names, listed, {name: found for name, found in classes.items() if len(found) > 1}, templates)

    def attributes(self, row: Row, where: str) -> dict[str, str]:
        """Those that the row has: null, and the -1 of unlabelled splits, are none."""
        found = {}
        for column, name in self.names.items():
            value = row[column]
            if value is None or (name in self.listed and value == -1):
                continue
            if name not in self.listed:
                found[name] = clean(str(value), where)
            elif isinstance(value, int) and 0 <= value < len(self.listed[name]):
                found[name] = self.listed[name][value]
            else:
                what = f"{column} is {value!r}, and there are {len(self.listed[name])} classes"
                raise DataError(what[:200], code="MMG-D06", where=where, fix="mend the row; or dataset.on_bad=skip")
        return found

    def captions(self, attributes: Mapping[str, str]) -> list[str]:
        """The templates that can be filled."""
        fields = [{name for _, name, _, _ in string.Formatter().parse(template) if name} for template in self.templates]
        return [
            template.format(**attributes)
            for template, named in zip(self.templates, fields, strict=True)
            if named <= attributes.keys()
        ]


def _shown(names: Sequence[str]) -> list[str]:
    """Names of classes as words, as long as they stay different: golden_retriever is "golden retriever"."""
    words = [clean(name.replace("_", " "), "class names") for name in names]
    return words if len(set(words)) == len(words) else [clean(name, "class names") for name in names]


def _distinct(column: str, tables: Sequence[Table], path: str) -> set[str]:
    found: set[str] = set()
    for table in tables:
        for value in table.column(column):
            if value is not None:
                found.add(" ".join(str(value).split()))
            if len(found) > MAX_CLASSES:
                what = f"the column {column!r} has more than {MAX_CLASSES:,} different values"
                raise DataError(what, code="MMG-D31", where=path, fix="dataset.label_column=ANOTHER")
    return {clean(value, column) for value in found if value}


class Rows:
    """The samples of one split.

    Args:
        table: its rows.
        roots: folders that pictures may lie in, where a row holds a path; a relative one counts from the first.
        split: its name in the source.
        path: of the source, as the user gave it.
        most: rows behind these are left out.
    """

    def __init__(
        self,
        table: Table,
        columns: Columns,
        labels: Labels,
        roots: Sequence[Path],
        split: str,
        path: str,
        most: int | None,
    ) -> None:
        self.columns, self.labels, self.roots, self.split, self.path = columns, labels, roots, split, path
        if missing := [name for name in columns.all if name not in table.features]:
            what = f"the split {split!r} has no column {missing[0]!r}"
            raise DataError(what, code="MMG-D31", where=path, fix="choose a column that every split has")
        self._table = table.only(columns.all)
        self._length = min(len(table), most) if most else len(table)
        self.ids: list[str] | None = None
        if columns.id:
            values = zip(range(self._length), table.column(columns.id), strict=False)
            self.ids = [self._id(value, row) for row, value in values]

    def __len__(self) -> int:
        return self._length

    def where(self, row: int) -> str:
        """The row, as an error names it."""
        return f"{self.path}, split {self.split}, row {row}"

    def id(self, row: int) -> str:
        """The same on every machine: of the id column, or split and row."""
        return self.ids[row] if self.ids is not None else f"{self.split}-{row:07d}"

    def sample(self, row: int, size: int, resize: Resize = "lanczos") -> Sample:
        """The row as a sample.

        Raises:
            DataError: MMG-D04 to MMG-D06, the picture, a caption or a label cannot be used; MMG-D30, the row not read.
        """
        values, where = self._read(row), self.where(row)
        attributes = self.labels.attributes(values, where)
        captions = self._captions(values, attributes, where)
        image = self._picture(values, where, size, resize)
        sample: Sample = {"image": image, "caption": captions[0], "captions": captions, "id": self.id(row)}
        if attributes:
            sample["attributes"] = attributes
        return sample

    def picture(self, row: int) -> Tensor:
        """The row's picture at its own size (3,H,W), float in [0,1]."""
        return self._picture(self._read(row), self.where(row), None)

    def _read(self, row: int) -> Row:
        try:
            return self._table[row]
        except DataError as e:
            e.where = f"{self.path}: {e.where}" if self.path not in e.where else e.where
            raise

    def _id(self, value: Any, row: int) -> str:
        if value is None or not str(value).strip():
            raise DataError("the id is empty", code="MMG-D07", where=self.where(row), fix="dataset.id_column=ANOTHER")
        return str(value)

    def _captions(self, values: Row, attributes: Mapping[str, str], where: str) -> list[str]:
        """Every caption of the row, each once."""
        if self.columns.caption is None:
            found = self.labels.captions(attributes)
        else:
            value = values[self.columns.caption]
            texts = [text for text in value if text is not None] if isinstance(value, list) else [value]
            if any(text is not None and not isinstance(text, str) for text in texts):
                fix = "dataset.caption_column=ANOTHER"
                raise DataError(f"a caption is no text: {texts!r}"[:200], code="MMG-D06", where=where, fix=fix)
            found = [text for text in texts if text is not None and (text.strip() or len(texts) == 1)]
        if not found:
            what = "the row has no caption" if self.columns.caption else "the row has no label"
            raise DataError(what, code="MMG-D06", where=where, fix="write one; or dataset.on_bad=skip")
        return list(dict.fromkeys(clean(text, where) for text in found))

    def _picture(self, values: Row, where: str, size: int | None, resize: Resize = "lanczos") -> Tensor:
        value = values[self.columns.image]
        stored = value.get("bytes") if isinstance(value, dict) else value
        path = value.get("path") if isinstance(value, dict) else value
        if stored is None and path is None:
            raise DataError("the row has no picture", code="MMG-D04", where=where, fix="dataset.on_bad=skip")
        try:
            if isinstance(stored, bytes):
                return decode(stored, size, resize=resize)
            if isinstance(path, str):
                return decode(self._inside(path, where), size, resize=resize)
        except DataError as e:
            e.where = where
            e.fix = f"{e.fix}; or dataset.on_bad=skip"
            raise
        why = f"it is a {type(value).__name__}, neither the bytes of a file nor a path"
        fix = "dataset.image_column=ANOTHER"
        raise DataError("the row's picture is no file", code="MMG-D04", where=where, why=why, fix=fix)

    def _inside(self, path: str, where: str) -> Path:
        """The file, if it lies in a folder of the source after links and `..` are followed."""
        try:
            file = (self.roots[0] / path).resolve()
            inside = "://" not in path and any(file.is_relative_to(root) for root in self.roots)
        except (OSError, ValueError, RuntimeError):  # a null byte, a name too long, links in a circle
            inside = False
        if not inside:
            raise DataError(
                f"the picture {path[:80]!r} lies outside the data set",
                code="MMG-D04",
                where=where,
                why="a row may name files of its own data set only",
                fix="store the pictures in the table: cast_column(…, Image()) and to_parquet",
            )
        return file


def clean(text: str, where: str) -> str:
    """A caption as it is trained on, as mmgen's `folder` has it: NFC, one line, no control characters."""
    if (size := len(text.encode("utf-8", "replace"))) > MAX_CAPTION_BYTES:
        what = f"the caption has {size:,} bytes, more than {MAX_CAPTION_BYTES:,}"
        raise DataError(what, code="MMG-D06", where=where, fix="shorten it; or dataset.on_bad=skip")
    spaced = "".join(" " if c.isspace() else c for c in text)
    kept = "".join(c for c in spaced if unicodedata.category(c) not in ("Cc", "Cs"))
    caption = unicodedata.normalize("NFC", " ".join(kept.split()))
    if not caption:
        raise DataError("the caption is empty", code="MMG-D06", where=where, fix="write one; or dataset.on_bad=skip")
    return caption
