"""Opens a source: a folder that `save_to_disk` wrote, parquet or arrow files, an image folder, or a name on the hub.

The library `datasets` finds the files and their splits. Only readers of plain tables and pictures are let through; it
runs no code of a data set since its version 4.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import datasets
from datasets import config as settings
from datasets.utils import logging
from huggingface_hub.constants import HF_HUB_CACHE

from mmgen.images import DataError
from mmgen_huggingface.tables import ArrowTable, RowGroups, Table, cut_files, reason, unreadable

READERS = ("parquet", "arrow", "imagefolder")
SAVED = ("state.json", "dataset_dict.json")
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass
class Source:
    """An opened source.

    Args:
        splits: the rows of each, by the source's name of it.
        roots: folders that its pictures may lie in, where a row holds a path.
        left_out: files that were left out, and why.
    """

    splits: dict[str, Table]
    roots: tuple[Path, ...]
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Wanted:
    """What is asked for; see `HuggingFace`."""

    path: str
    subset: str | None
    revision: str | None
    skip: bool
    max_samples: int | None
    streaming: bool


def open_source(wanted: Wanted) -> Source:
    """Opens it; downloads, if at all, through `datasets`.

    Raises:
        DataError: MMG-D01, there is no such source; MMG-D02, it holds no data; MMG-D30, it cannot be read.
    """
    local = Path(wanted.path).expanduser()
    with _quiet(counted=not local.exists() and "://" not in wanted.path):
        if local.exists():
            return _saved(local) if any((local / name).is_file() for name in SAVED) else _built(wanted, local.resolve())
        if "://" not in wanted.path and not HUB_NAME.fullmatch(wanted.path):
            raise _missing(wanted.path, "it is no folder or file here, and no name on the hub (owner/name)")
        return _built(wanted, None)


def _saved(folder: Path) -> Source:
    """What `save_to_disk` wrote: mapped into memory as it lies there."""
    try:
        files = _noted(folder)
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as e:
        raise unreadable(str(folder), e) from e
    _check_inside(files, folder.resolve(), "copy it there, or mend state.json")
    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as e:  # damaged JSON and arrow files fail in many ways
        raise unreadable(str(folder), e) from e
    named = found if isinstance(found, datasets.DatasetDict) else {str(found.split or "train"): found}
    return Source({str(name): ArrowTable(data) for name, data in named.items()}, (folder.resolve(),))


def _noted(folder: Path) -> dict[str, list[str]]:
    """The files that a folder of `save_to_disk` says its rows lie in, by the folder of each split."""
    inside = [folder / "state.json"]
    if (listing := folder / "dataset_dict.json").is_file():
        inside += [folder / name / "state.json" for name in json.loads(listing.read_bytes())["splits"]]
    states = {state.parent: json.loads(state.read_bytes()) for state in inside if state.is_file()}
    return {str(of): [str(of / file["filename"]) for file in state["_data_files"]] for of, state in states.items()}


def _built(wanted: Wanted, local: Path | None) -> Source:
    builder = _builder(wanted, local)
    if builder.name not in READERS:
        why = f"its files are read by {builder.name!r}; read are {', '.join(READERS)}"
        raise unreadable(wanted.path, None, why, "write it as parquet: datasets.load_dataset(…)[…].to_parquet(…)")
    files = {str(split): [str(file) for file in found] for split, found in (builder.config.data_files or {}).items()}
    roots = (local if local.is_dir() else local.parent,) if local else _caches()
    left_out: list[str] = []

    def on_cut(error: DataError) -> None:
        if not wanted.skip:
            raise error
        left_out.append(f"{error.where}: {error.why}")

    if local:
        _check_inside(files, roots[0], "copy it there, or mend data_files in README.md")
    if builder.name == "parquet" and wanted.streaming:
        features, most = builder.info.features, wanted.max_samples
        groups = {split: RowGroups(found, features, most, on_cut) for split, found in files.items()}
        return _filled({split: rows for split, rows in groups.items() if len(rows)}, roots, left_out, wanted.path)
    if wanted.streaming and not local:
        fix = "dataset.revision=refs/convert/parquet, where the hub keeps a copy as parquet; or dataset.streaming=false"
        raise unreadable(wanted.path, None, f"{builder.name} has no rows that can be read one by one from afar", fix)
    if builder.name == "parquet" and local:
        builder = _without_cut(builder, files, on_cut)
    return _filled(_prepared(builder, wanted.path), roots, left_out, wanted.path)


def _filled(splits: dict[str, Table], roots: tuple[Path, ...], left_out: list[str], path: str) -> Source:
    if not splits:
        raise _empty(path, left_out[0] if left_out else "its files have no rows")
    return Source(splits, roots, left_out)


def _builder(wanted: Wanted, local: Path | None) -> datasets.DatasetBuilder:
    try:
        if (local and local.is_file()) or "://" in wanted.path:
            return _parquet({"train": [str(local or wanted.path)]})
        path = str(local) if local else wanted.path
        return datasets.load_dataset_builder(path, wanted.subset, revision=None if local else wanted.revision)
    except datasets.exceptions.DataFilesNotFoundError as e:
        raise _empty(wanted.path, reason(e)) from e
    except (FileNotFoundError, ConnectionError) as e:
        raise _empty(wanted.path, reason(e)) if local else _missing(wanted.path, _first_line(e)) from e
    except Exception as e:  # a subset that does not exist, a damaged README …
        raise unreadable(wanted.path, None, _first_line(e), "see the data set's page, or its files") from e


def _parquet(files: dict[str, list[str]]) -> datasets.DatasetBuilder:
    return datasets.load_dataset_builder("parquet", data_files=files)


def _without_cut(
    builder: datasets.DatasetBuilder, files: dict[str, list[str]], on_cut: Callable[[DataError], None]
) -> datasets.DatasetBuilder:
    """The builder, or one without the files that are cut."""
    cut = cut_files([file for found in files.values() for file in found], builder.info.features)
    for error in cut.values():
        on_cut(error)
    if not cut:
        return builder
    whole = {split: [file for file in found if file not in cut] for split, found in files.items()}
    if not any(whole.values()):
        raise next(iter(cut.values()))
    return _parquet({split: found for split, found in whole.items() if found})


def _prepared(builder: datasets.DatasetBuilder, path: str) -> dict[str, Table]:
    """The splits as arrow files in the cache of `datasets`, made the first time."""
    try:
        builder.download_and_prepare()
        filled = [str(name) for name, split in (builder.info.splits or {}).items() if split.num_examples]
        return {name: ArrowTable(builder.as_dataset(split=name)) for name in filled}
    except Exception as e:
        raise unreadable(path, e) from e


def _check_inside(files: dict[str, list[str]], root: Path, fix: str) -> None:
    """A README or state.json in the folder may name its files; they must lie in it."""
    for found in files.values():
        for file in found:
            try:
                inside = "://" not in file and Path(file).resolve().is_relative_to(root)
            except (OSError, ValueError, RuntimeError):  # no file has such a name
                inside = False
            if not inside:
                raise unreadable(file, None, f"it lies outside {root}", fix)


def _caches() -> tuple[Path, ...]:
    """Where `datasets` puts what it downloaded."""
    found = (settings.HF_DATASETS_CACHE, HF_HUB_CACHE)
    return tuple(Path(folder).expanduser().resolve() for folder in found)


@contextlib.contextmanager
def _quiet(counted: bool) -> Iterator[None]:
    """What goes wrong is told once, by us. Unless `counted`, no count of what is read is sent to the hub."""
    level, counts = logging.get_verbosity(), settings.HF_UPDATE_DOWNLOAD_COUNTS
    logging.set_verbosity(logging.CRITICAL)
    settings.HF_UPDATE_DOWNLOAD_COUNTS = counted and counts
    try:
        yield
    finally:
        logging.set_verbosity(level)
        settings.HF_UPDATE_DOWNLOAD_COUNTS = counts


def _first_line(error: BaseException) -> str:
    return f"{error}".splitlines()[0][:300] if f"{error}" else type(error).__name__


def _missing(path: str, why: str) -> DataError:
    what = f"there is no data set {path[:120]!r}"
    return DataError(what, code="MMG-D01", where="dataset.path", why=why, fix="dataset.path=FOLDER, or owner/name")


def _empty(path: str, why: str) -> DataError:
    fix = "dataset.path=FOLDER with *.parquet, with pictures, or written by save_to_disk"
    return DataError(f"{path[:120]!r} holds no data", code="MMG-D02", where="dataset.path", why=why, fix=fix)


def check_split(names: Sequence[str], wanted: str, path: str) -> None:
    """Raises DataError, MMG-D10, where the split asked for does not exist."""
    if wanted not in names:
        raise DataError(
            f"the data set has no split {wanted!r}",
            code="MMG-D10",
            where=path,
            why=f"there are {', '.join(names) or 'none'}",
            fix=f"dataset.split={names[0]}" if names else "choose another",
        )
