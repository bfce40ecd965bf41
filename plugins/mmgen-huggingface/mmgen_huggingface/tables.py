"""The rows of one split, by number: an arrow table of the library `datasets`, or parquet files read by row groups."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from mmgen.images import DataError

CACHE_BYTES = 256 << 20  # of row groups kept by a process; the last one always is
LARGEST_GROUP = 2 << 30  # bytes of a row group, as its file tells
AT_ONCE = 16  # files whose footers are read together

FAULTS = (pa.ArrowException, OSError, ValueError)  # what damaged files raise

Row = dict[str, Any]


class Table(Protocol):
    """Rows of one split, each as plain values by column; nothing in them is decoded."""

    features: datasets.Features

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Row: ...
    def only(self, columns: Sequence[str]) -> Table: ...
    def column(self, name: str) -> Iterator[Any]: ...


class ArrowTable:
    """A data set on the disk, mapped into memory. Its own decoding is off: an arrow row is what was stored."""

    def __init__(self, data: datasets.Dataset) -> None:
        self.features = data.features
        self._data = data.with_format("arrow")

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Row:
        try:
            row = self._data[index]
            row.validate(full=True)  # a damaged file may point outside its own memory
            return row.to_pylist()[0]
        except FAULTS as e:
            raise unreadable(f"row {index}", e) from e

    def only(self, columns: Sequence[str]) -> ArrowTable:
        return ArrowTable(self._data.select_columns(list(columns)))

    def column(self, name: str) -> Iterator[Any]:
        try:
            for rows in self._data.select_columns([name]).iter(1024):
                rows.validate(full=True)
                yield from rows[name].to_pylist()
        except FAULTS as e:
            raise unreadable(f"column {name}", e) from e


class RowGroups:
    """Parquet files, local or at addresses of fsspec, from which the row groups asked for are read and a few kept.

    Row i is always the same one, counted through the files in the order given: their footers tell how many rows each
    group has. Rows asked for in order cost one reading of the files; rows at random cost a row group each.

    Args:
        files: paths or addresses.
        features: what the columns hold, where the source says so beside its files; None: what the first file says.
        max_rows: rows behind these are left out, and files behind them not opened.
        on_cut: called with the error of a file whose footer cannot be read; raises it, or leaves the file out.
    """

    def __init__(
        self,
        files: Sequence[str],
        features: datasets.Features | None,
        max_rows: int | None,
        on_cut: Callable[[DataError], None],
    ) -> None:
        self.features = features or datasets.Features()
        self._told = bool(features)
        self._columns: list[str] | None = None
        self._groups: list[tuple[str, int]] = []
        self._ends: list[int] = []  # rows up to the end of each group
        self._forget()
        for chunk in _batched(files, AT_ONCE):
            if max_rows is not None and self._rows() >= max_rows:
                break
            with ThreadPoolExecutor(AT_ONCE) as threads:
                footers = list(threads.map(_footer, chunk))
            for file, footer in zip(chunk, footers, strict=True):
                if isinstance(footer, DataError):
                    on_cut(footer)
                else:
                    self._add(file, *footer)
        self._length = self._rows() if max_rows is None else min(max_rows, self._rows())

    def _rows(self) -> int:
        return self._ends[-1] if self._ends else 0

    def _add(self, file: str, groups: list[tuple[int, int]], own: datasets.Features) -> None:
        if not self._told:
            check_classes(self.features, own, file)
        self.features = self.features or own
        if missing := [name for name in self.features if name not in own]:
            raise unreadable(file, None, f"it lacks the columns {', '.join(missing)}, which the first file has")
        for number, (rows, size) in enumerate(groups):
            if size > LARGEST_GROUP:
                what = f"row group {number} holds {size:,} bytes, more than {LARGEST_GROUP:,}"
                raise unreadable(file, None, what, "write it anew with smaller row groups; or dataset.streaming=false")
            self._groups.append((file, number))
            self._ends.append(self._rows() + rows)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Row:
        place = bisect_right(self._ends, index)
        first = self._ends[place - 1] if place else 0
        try:
            return self._group(place).slice(index - first, 1).to_pylist()[0]
        except UnicodeDecodeError as e:
            raise unreadable(f"{self._groups[place][0]}, row {index}", e) from e

    def only(self, columns: Sequence[str]) -> RowGroups:
        self._columns = list(columns)
        self._forget()
        return self

    def column(self, name: str) -> Iterator[Any]:
        try:
            values = (v for place in range(len(self._groups)) for v in self._read(place, [name])[name].to_pylist())
            yield from itertools.islice(values, self._length)
        except UnicodeDecodeError as e:
            raise unreadable(f"column {name}", e) from e

    def _group(self, place: int) -> pa.Table:
        """The row group, from memory if it was read lately."""
        if place in self._kept:
            self._kept.move_to_end(place)
            return self._kept[place]
        table = self._kept[place] = self._read(place, self._columns)
        self._bytes += table.nbytes
        while self._bytes > CACHE_BYTES and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return table

    def _read(self, place: int, columns: list[str] | None) -> pa.Table:
        file, number = self._groups[place]
        try:
            # Opened anew each time: a handle that two processes share would be read in two places at once.
            with fsspec.open(file, "rb") as opened:
                return pq.ParquetFile(opened).read_row_group(number, columns=columns, use_threads=False)
        except Exception as e:  # each store has errors of its own
            raise unreadable(f"{file}, row group {number}", e) from e

    def _forget(self) -> None:
        self._kept: OrderedDict[int, pa.Table] = OrderedDict()
        self._bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_kept": OrderedDict(), "_bytes": 0}


def _batched(files: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (files[start : start + size] for start in range(0, len(files), size))


def _footer(file: str) -> tuple[list[tuple[int, int]], datasets.Features] | DataError:
    """Rows and bytes of each row group, and what the columns hold; or why there are none."""
    try:
        with fsspec.open(file, "rb") as opened:
            parquet = pq.ParquetFile(opened)
            groups = [parquet.metadata.row_group(i) for i in range(parquet.num_row_groups)]
            features = datasets.Features.from_arrow_schema(parquet.schema_arrow)
            return [(group.num_rows, group.total_byte_size) for group in groups], features
    except Exception as e:  # each store has errors of its own
        return unreadable(file, e)


def other_classes(one: datasets.Features, other: datasets.Features, columns: Iterable[str]) -> str | None:
    """The first of the columns whose class labels have other names, or another order, in one than in the other."""
    for column in columns:
        names = [getattr(features.get(column), "names", None) for features in (one, other)]
        if names[0] != names[1]:
            return column
    return None


def check_classes(first: datasets.Features, own: datasets.Features, file: str) -> None:
    """Raises DataError, MMG-D30, where a file counts its classes otherwise than the first: `datasets` would keep the
    numbers and give them the first file's names."""
    if first and (column := other_classes(first, own, own)):
        why = f"the classes of {column} are others, or in another order, than in the first file"
        raise unreadable(file, None, why, "cast the column to one ClassLabel in all files")


def cut_files(files: Sequence[str], told: datasets.Features | None) -> dict[str, DataError]:
    """Those parquet files whose footers cannot be read, and why.

    Args:
        told: what the columns hold, where the source says so beside its files; None: all files must agree on classes.
    """
    found, first = {}, datasets.Features()
    for file in files:
        footer = _footer(file)
        if isinstance(footer, DataError):
            found[file] = footer
        elif told is None:
            check_classes(first, footer[1], file)
            first = first or footer[1]
    return found


def unreadable(where: str, error: BaseException | None, why: str = "", fix: str = "") -> DataError:
    """MMG-D30, a table or a file of it cannot be read."""
    return DataError(
        "the data set cannot be read",
        code="MMG-D30",
        where=where,
        why=why or reason(error),
        fix=fix or "fetch or write the file anew, or take it out",
    )


def reason(error: BaseException | None) -> str:
    """What lies at the bottom of an error: `datasets` wraps what happened in words of its own."""
    while error is not None and (error.__cause__ or error.__context__) is not None:
        error = error.__cause__ or error.__context__
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
