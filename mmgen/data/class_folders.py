"""Folders named after what their pictures show: cats/1.png, dogs/2.png; or train/cats/1.png, test/cats/2.png."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmgen.data.captions import clean

# Names of split folders, as people write them, and the splits they become.
SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
TEMPLATES = ("a photo of a {class}.", "a picture of a {class}.", "an image of a {class}.")


@dataclass
class Found:
    """Pictures by class."""

    classes: dict[Path, str]
    splits: dict[str, list[Path]]  # empty where there are no folders of splits


def class_folders(root: Path, files: Sequence[Path]) -> Found | None:
    """The class of each picture: the outermost folder it lies in, below that of its split. None where a picture lies in
    no such folder, or all lie in one.

    Args:
        root: of the dataset.
        files: its pictures, inside it.
    """
    paths = {file: file.relative_to(root).parts[:-1] for file in files}
    tops = {parts[0].lower() if parts else "" for parts in paths.values()}
    deep = all(len(parts) > 1 for parts in paths.values())  # else a folder `test` without `train` may be a class
    divided = tops <= SPLITS.keys() and (deep or "train" in {SPLITS[top] for top in tops})
    first = 1 if divided else 0
    if any(len(parts) <= first for parts in paths.values()):
        return None
    names = {file: clean(_spaced(parts[first]), str(file.parent)) for file, parts in paths.items()}
    if len(set(names.values())) < 2:
        return None
    splits: dict[str, list[Path]] = {}
    for file, parts in paths.items() if divided else ():
        splits.setdefault(SPLITS[parts[0].lower()], []).append(file)
    return Found(names, splits)


def _spaced(name: str) -> str:
    """A folder's name as words: golden_retriever is "golden retriever"."""
    return name.replace("_", " ")
