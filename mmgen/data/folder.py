"""A folder of one's own captioned pictures, the built-in dataset."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from mmgen.data.captions import CAPTION_KEYS, FILE_KEYS, LISTS, beside, clean, clean_attributes, list_error, listed
from mmgen.data.class_folders import TEMPLATES, class_folders
from mmgen.errors import DataError, quoted
from mmgen.images import SUFFIXES, Resize, decode
from mmgen.protocols import Sample


@dataclass
class _Entry:
    file: Path
    captions: list[str]
    attributes: dict[str, str] = field(default_factory=dict)


class Folder:
    """Captioned pictures in a folder: JPEG, PNG, WebP, GIF and BMP.

    Captions stand either in a text file beside each picture (`cat.png`, `cat.txt`), a caption a line, or in one file in
    the folder itself: `captions.jsonl` with a line such as
    `{"file": "cats/1.png", "caption": "a cat", "attributes": {"animal": "cat"}}` for each picture (also `file_name` or
    `image`; `text`; `"captions": ["a cat", "a tabby"]`), or `captions.csv` with the columns `file` and `caption`. The
    first caption of a picture is the one it is judged by.

    A folder without any caption may hold folders of pictures instead, each named after what its pictures show: then
    that name is the caption and the attribute `class`. Such folders may lie in folders called train, val and test,
    which become the splits (see `mmgen.data.class_folders`).

    Args:
        path: the folder.
        image_size: the middle square of each picture is resized to this many pixels a side.
        recursive: also take the folders inside; hidden ones are left out.
        on_bad: what happens with a sample that cannot be used: "raise" names it, "skip" leaves it out and counts.
        resize: lanczos, or bicubic, as CLIP reads pictures: to judge one that was trained elsewhere.

    Attributes:
        ids: the path of each picture relative to the folder, with forward slashes.
        skipped: what was left out, and why.
        splits, templates: of class folders.

    Raises:
        DataError: MMG-D01, the folder is missing; MMG-D02, it holds no pictures; MMG-D03, no captions; MMG-D04 and
            MMG-D05, a picture (see `mmgen.images.decode`); MMG-D06, a caption; MMG-D07, a picture is listed twice;
            MMG-D08, `captions.jsonl` or `captions.csv`.
    """

    def __init__(
        self,
        path: str,
        image_size: int = 32,
        recursive: bool = True,
        on_bad: Literal["raise", "skip"] = "raise",
        resize: Resize = "lanczos",
    ) -> None:
        if image_size < 1:
            raise ValueError(f"image_size must be at least 1, got {image_size}")
        if on_bad not in ("raise", "skip"):
            raise ValueError(f"on_bad must be 'raise' or 'skip', got {on_bad!r}")
        if resize not in ("lanczos", "bicubic"):
            raise ValueError(f"resize must be 'lanczos' or 'bicubic', got {resize!r}")
        self.resize: Resize = resize
        self.root = Path(path).expanduser()
        self.image_size, self.recursive, self.on_bad = image_size, recursive, on_bad
        self.skipped: list[str] = []
        self.templates: tuple[str, ...] = ()
        self._splits: dict[str, list[Path]] = {}
        self._entries = self._all_entries()
        if on_bad == "skip":
            self._entries = [entry for entry in self._entries if self._decodes(entry)]
            self._report_skipped()
        self.ids = [entry.file.relative_to(self.root).as_posix() for entry in self._entries]
        place = {entry.file: position for position, entry in enumerate(self._entries)}
        self.splits: dict[str, list[int]] = {
            name: [place[file] for file in files if file in place] for name, files in self._splits.items()
        }

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> Sample:
        entry = self._entries[index]
        sample: Sample = {
            "image": decode(entry.file, self.image_size, resize=self.resize),
            "caption": entry.captions[0],
            "captions": list(entry.captions),
            "id": self.ids[index],
        }
        if entry.attributes:
            sample["attributes"] = dict(entry.attributes)
        return sample

    def original(self, index: int) -> Tensor:
        """The picture at its own size (3,H,W), float in [0,1]: what augmentations cut from."""
        return decode(self._entries[index].file)

    def _all_entries(self) -> list[_Entry]:
        if not os.path.isdir(self.root):  # unlike Path.is_dir no error of a name that none can have
            what = "is not a folder" if os.path.exists(self.root) else "does not exist"
            raise DataError(
                f"the folder {quoted(str(self.root))} {what}",
                code="MMG-D01",
                where="dataset.path",
                fix="dataset.path=FOLDER_WITH_PICTURES",
            )
        lists = [self.root / name for name in LISTS if (self.root / name).is_file()]
        if len(lists) == 2:
            raise DataError(
                "the folder has two lists of captions", code="MMG-D08", where=str(self.root), fix=f"rm {lists[1]}"
            )
        files = self._files()
        if not files:
            raise self._no_pictures()
        found = self._listed(lists[0]) if lists else self._beside(files)
        entries = sorted(found, key=lambda entry: entry.file.relative_to(self.root).as_posix())
        if not entries and not self.skipped and not lists:
            entries = self._by_class(files)
        if not entries and not self.skipped:
            raise self._no_captions(files[0], lists)
        return entries

    def _by_class(self, files: list[Path]) -> list[_Entry]:
        """Pictures in folders named after what they show; none where the pictures do not lie so."""
        found = class_folders(self.root, files)
        if found is None:
            return []
        self.templates, self._splits = TEMPLATES, found.splits
        entries = []
        for file, name in found.classes.items():
            try:
                entries.append(_Entry(self._inside(file, str(file)), [name], {"class": name}))
            except DataError as e:
                self._bad(e)
        return entries

    def _files(self) -> list[Path]:
        """All pictures, by their suffix; hidden files and folders left out."""
        paths = self.root.rglob("*") if self.recursive else self.root.iterdir()
        shown = (p for p in paths if not any(part.startswith(".") for part in p.relative_to(self.root).parts))
        return sorted(p for p in shown if p.suffix.lower() in SUFFIXES and p.is_file())

    def _no_pictures(self) -> DataError:
        kinds = Counter(p.suffix.lower() or "without suffix" for p in self.root.iterdir() if p.is_file())
        found = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(3))
        return DataError(
            f"the folder {quoted(str(self.root))} holds no pictures ({', '.join(SUFFIXES)})",
            code="MMG-D02",
            where="dataset.path",
            why=f"found: {found}" if found else "it is empty" if self.recursive else "dataset.recursive is false",
            fix="dataset.path=FOLDER_WITH_PICTURES",
        )

    def _no_captions(self, picture: Path, lists: list[Path]) -> DataError:
        without = f"there is no {LISTS[0]} or {LISTS[1]}, no text file beside any picture, and no two folders by class"
        return DataError(
            f"the pictures in {quoted(str(self.root))} have no captions",
            code="MMG-D03",
            where=str(self.root),
            why=f"{lists[0].name} lists no pictures" if lists else without,
            fix=f"echo 'what the picture shows' > {picture.with_suffix('.txt')}",
        )

    def _beside(self, files: list[Path]) -> Iterator[_Entry]:
        """Pictures with a text file each."""
        without = [picture for picture in files if not picture.with_suffix(".txt").is_file()]
        if len(without) == len(files):
            return
        if without and self.on_bad == "raise":
            raise DataError(
                f"{len(without)} of {len(files)} pictures have no caption, such as {quoted(without[0].name)}",
                code="MMG-D03",
                where=str(without[0]),
                fix=f"echo 'what the picture shows' > {without[0].with_suffix('.txt')}; or dataset.on_bad=skip",
            )
        for picture in files:
            try:
                yield _Entry(self._inside(picture, str(picture)), beside(picture))
            except DataError as e:
                self._bad(e)

    def _listed(self, listing: Path) -> Iterator[_Entry]:
        """Pictures of `captions.jsonl` or `captions.csv`."""
        first: dict[Path, str] = {}
        for where, row in listed(listing):
            try:
                if isinstance(row, DataError):
                    raise row
                entry = self._entry(row, where)
                if entry.file in first:
                    raise DataError(
                        f"{quoted(entry.file.name)} is listed twice",
                        code="MMG-D07",
                        where=f"{where} and {first[entry.file]}",
                        fix='keep one line, with "captions": ["one", "another"]',
                    )
                first[entry.file] = where
                yield entry
            except DataError as e:
                self._bad(e)

    def _entry(self, row: dict[str, Any], where: str) -> _Entry:
        name = next((row[key] for key in FILE_KEYS if row.get(key)), None)
        if not isinstance(name, str):
            raise list_error(f"there is no file name; keys: {quoted(sorted(map(str, row)))}", where, "file")
        texts = row.get("captions") or [next((row[key] for key in CAPTION_KEYS if row.get(key) is not None), None)]
        if texts == [None]:
            raise list_error(f"there is no caption; keys: {quoted(sorted(map(str, row)))}", where, "caption")
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise list_error("a caption is not a text", where, "caption")
        attributes = row.get("attributes") or {}
        if not isinstance(attributes, dict) or not all(isinstance(value, str) for value in attributes.values()):
            raise list_error("attributes must be texts by name", where, "attributes")
        try:
            file = self._inside(self.root / name, where)
            exists = file.is_file()
        except (OSError, ValueError, RuntimeError):  # too long, or with a NUL in it; links in a circle
            exists = False
        if not exists:
            raise DataError(
                f"the picture {quoted(name)} does not exist", code="MMG-D04", where=where, fix="check the path"
            )
        captions = [clean(text, where) for text in texts]
        return _Entry(file, captions, clean_attributes(attributes, f"{where}: attributes"))

    def _inside(self, file: Path, where: str) -> Path:
        """The file, if it lies in the folder after links and `..` are followed."""
        root = self.root.resolve()
        if not file.resolve().is_relative_to(root):
            raise DataError(
                f"the picture {quoted(str(file))} leaves the folder",
                code="MMG-D08",
                where=where,
                why="only pictures inside the folder are read, links included",
                fix=f"cp -L {file} {self.root}/",
            )
        return self.root / file.resolve().relative_to(root) if ".." in file.parts else file

    def _bad(self, error: DataError) -> None:
        if self.on_bad == "raise":
            raise error
        self.skipped.append(f"{error.where}: {error.what}")

    def _decodes(self, entry: _Entry) -> bool:
        try:
            decode(entry.file, self.image_size)
        except DataError as e:
            self._bad(e)
            return False
        return True

    def _report_skipped(self) -> None:
        if not self._entries:
            raise DataError(
                f"no sample can be used, the first: {self.skipped[0]}",
                code="MMG-D02",
                where=str(self.root),
                fix="mend the pictures and captions; dataset.on_bad=raise names them one at a time",
            )
        if self.skipped:
            total = len(self.skipped) + len(self._entries)
            shown = "; ".join(self.skipped[:3])
            warnings.warn(f"{len(self.skipped)} of {total} samples left out: {shown}", UserWarning, stacklevel=3)
