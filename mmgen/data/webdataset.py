"""`webdataset`: captioned pictures in tar shards, read in place."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from mmgen.data.captions import clean, clean_attributes
from mmgen.data.webdataset_files import Pieces, shard_files
from mmgen.data.webdataset_index import PICTURES, ROLES, ShardIndex, indexed, is_kept
from mmgen.errors import DataError, quoted
from mmgen.images import Resize, decode
from mmgen.progress import Bar
from mmgen.protocols import Sample

_MEGABYTE = 1_000_000


class Webdataset:
    """Captioned pictures in tar shards as the webdataset community writes them: `KEY.jpg` (`jpeg`, `png`, `webp`) with
    `KEY.txt`, a caption a line, or `KEY.json`, or both, one after another. A key is the path up to the first dot of the
    file's name.

    One pass over the headers of each shard tells where its samples lie; that is kept in the user's cache, by the
    shard's path, size and time. A sample is then read alone, from where it lies. Nothing is unpacked, and names are
    never used as paths.

    Args:
        path: a directory with `*.tar`, one tar file, or a pattern such as `shards/{00000..00099}.tar`.
        image_size: the middle square of each picture is resized to this many pixels a side.
        caption_key: the field of `KEY.json` that holds the caption, or a list of captions, where there is no `KEY.txt`.
        attributes: fields of `KEY.json` that become attributes; `KEY.cls` always becomes the attribute `class`.
        on_bad: what happens with a sample or shard that cannot be used: "raise" names it, "skip" leaves it out and
            counts; then every picture is read once to find those.
        resize: lanczos, or bicubic, as CLIP reads pictures: to judge one that was trained elsewhere.

    Attributes:
        ids: the keys; with the shard's name before it where a key occurs in several shards.
        blocks: for each position, the number of the shard that it lies in.
        skipped: what was left out, and why.
        fingerprint: of the shards' names, sizes and headers, and of the options; pixels are not read for it.

    Raises:
        DataError: MMG-D01, there is no such place, or a pattern matches nothing; MMG-D02, it holds no shards or
            samples; MMG-D03, no caption; MMG-D04 and MMG-D05, a picture (see `mmgen.images.decode`); MMG-D06, a
            caption; MMG-D50, a shard is no tar file, compressed, cut, damaged or gone; MMG-D51, a sample's members.
    """

    def __init__(
        self,
        path: str,
        image_size: int = 32,
        caption_key: str = "caption",
        attributes: list[str] | None = None,
        on_bad: Literal["raise", "skip"] = "raise",
        resize: Resize = "lanczos",
    ) -> None:
        if image_size < 1:
            raise ValueError(f"image_size must be at least 1, got {image_size}")
        if on_bad not in ("raise", "skip"):
            raise ValueError(f"on_bad must be 'raise' or 'skip', got {on_bad!r}")
        if resize not in ("lanczos", "bicubic"):
            raise ValueError(f"resize must be 'lanczos' or 'bicubic', got {resize!r}")
        self.image_size, self.caption_key, self.on_bad = image_size, caption_key, on_bad
        self.resize: Resize = resize
        self.attributes = list(attributes or [])
        self.skipped: list[str] = []
        self.root, self.shards = shard_files(path)
        self._indices = self._all_indices()
        sizes = [len(index) for index in self._indices]
        self._block = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
        self._row = np.concatenate([np.arange(size, dtype=np.int64) for size in sizes])
        self._pieces = Pieces([(path, *index.state) for path, index in zip(self.shards, self._indices, strict=True)])
        if on_bad == "skip":
            self._leave_out_bad()
        elif not len(self._row):
            raise self._nothing()
        self.ids: Sequence[str] = _Ids(self._indices, self._names(), self._block, self._row)
        self.fingerprint = self._fingerprint()

    def __len__(self) -> int:
        return len(self._row)

    @property
    def blocks(self) -> np.ndarray:
        """(M,) int32, the number of the shard of each sample: to read shard after shard (`task.shuffle=blocks`)."""
        return self._block.copy()

    def __getitem__(self, index: int) -> Sample:
        picture, captions, attributes = self._read(index, self.image_size)
        sample: Sample = {"image": picture, "caption": captions[0], "captions": captions, "id": self.ids[index]}
        if attributes:
            sample["attributes"] = attributes
        return sample

    def original(self, index: int) -> Tensor:
        """The picture at its own size (3,H,W), float in [0,1]: what augmentations cut from."""
        return self._picture(index, None)

    def _read(self, index: int, image_size: int) -> tuple[Tensor, list[str], dict[str, str]]:
        fields = self._json(index)
        return self._picture(index, image_size), self._captions(index, fields), self._attributes(index, fields)

    def _picture(self, index: int, image_size: int | None) -> Tensor:
        content = self._member(index, "picture")
        assert content is not None
        try:
            return decode(content, image_size, resize=self.resize)
        except DataError as e:
            fix = "write the shard again without it; or dataset.on_bad=skip"
            raise DataError(e.what, code=e.code, where=self._where(index, "picture"), why=e.why, fix=fix) from e

    def _captions(self, index: int, fields: dict[str, Any]) -> list[str]:
        where = self._where(index, "txt")
        text = self._text(index, "txt")
        if text is not None:
            return [clean(line, where) for line in text.splitlines() if line.strip()] or [clean(text, where)]
        where, found = self._where(index, "json"), fields.get(self.caption_key)
        texts: list[Any] = found if isinstance(found, list) and found else [found]
        if not all(isinstance(one, str) for one in texts):
            raise DataError(
                f"the json has no text under {quoted(self.caption_key)}; keys: {quoted(sorted(fields))}",
                code="MMG-D03",
                where=where,
                fix="dataset.caption_key=KEY; or dataset.on_bad=skip",
            )
        return [clean(one, where) for one in texts]

    def _attributes(self, index: int, fields: dict[str, Any]) -> dict[str, str]:
        found = {}
        for name in self.attributes:
            value = fields.get(name)
            if isinstance(value, dict | list):
                where = self._where(index, "json")
                raise _bad_member(f"the field {quoted(name)} of the json is no text or number", where)
            if value is not None:
                found[name] = value if isinstance(value, str) else json.dumps(value)
        found = clean_attributes(found, self._where(index, "json"))
        label = self._text(index, "cls") or ""
        return found | {"class": clean(label, self._where(index, "cls"))} if label.strip() else found

    def _json(self, index: int) -> dict[str, Any]:
        text = self._text(index, "json")
        if text is None:
            return {}
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as e:
            raise _bad_member("the member is not JSON", self._where(index, "json"), quoted(str(e))) from e
        if not isinstance(fields, dict):
            raise _bad_member("the member is not a JSON object", self._where(index, "json"))
        return fields

    def _text(self, index: int, role: str) -> str | None:
        content = self._member(index, role)
        try:
            return None if content is None else content.decode("utf-8-sig")
        except UnicodeDecodeError as e:
            what = f"the member is not UTF-8 (byte {e.start} is 0x{content[e.start]:02x})" if content else ""
            fix = "write the shard again in UTF-8; or dataset.on_bad=skip"
            raise DataError(what, code="MMG-D06", where=self._where(index, role), fix=fix) from e

    def _member(self, index: int, role: str) -> bytes | None:
        shard, row, column = int(self._block[index]), int(self._row[index]), ROLES.index(role)
        found = self._indices[shard]
        offset, size = int(found.offsets[row, column]), int(found.sizes[row, column])
        return None if offset < 0 else self._pieces.read(shard, offset, size)

    def _where(self, index: int, role: str) -> str:
        shard, row = int(self._block[index]), int(self._row[index])
        found = self._indices[shard]
        ending = PICTURES[found.kinds[row]] if role == "picture" else role
        return f"{self.shards[shard]}: {found.key(row)[:80]}.{ending}"

    # --- what is read before the first sample -------------------------------------------------------------------------

    def _all_indices(self) -> list[ShardIndex]:
        known, indices = list(self.shards), []
        self.shards = []
        with ExitStack() as stack:
            bar = None
            if not all(map(is_kept, known)):
                total = -(-sum(path.stat().st_size for path in known if path.is_file()) // _MEGABYTE)
                bar = stack.enter_context(Bar("shards", total=total, unit="MB"))
            for path, index in self._readable(known, bar):
                for fault in index.faults:
                    self._bad(index.error(path, fault))
                self.shards.append(path)
                indices.append(index)
        if not indices:
            raise self._nothing()
        return indices

    def _readable(self, known: list[Path], bar: Bar | None) -> Iterator[tuple[Path, ShardIndex]]:
        passed = 0

        def progress(count: int) -> None:
            nonlocal passed
            before, passed = passed, passed + count
            if bar is not None:
                bar.advance(-(-passed // _MEGABYTE) - -(-before // _MEGABYTE))

        for path in known:
            try:
                yield path, indexed(path, progress)
            except DataError as e:
                self._bad(e)

    def _leave_out_bad(self) -> None:
        """Reads every sample once."""
        good = np.ones(len(self._row), dtype=bool)
        with Bar("reading", total=len(self._row), unit="pictures") as bar:
            for position in range(len(self._row)):
                try:
                    self._read(position, self.image_size)
                except DataError as e:
                    self._bad(e)
                    good[position] = False
                bar.advance()
        self._block, self._row = self._block[good], self._row[good]
        if not len(self._row):
            raise self._nothing()
        if self.skipped:
            total = len(self.skipped) + len(self._row)
            shown = "; ".join(self.skipped[:3])
            warnings.warn(f"{len(self.skipped)} of {total} samples left out: {shown}", UserWarning, stacklevel=4)

    def _bad(self, error: DataError) -> None:
        if self.on_bad == "raise":
            raise error
        self.skipped.append(f"{error.where}: {error.what}")

    def _nothing(self) -> DataError:
        return DataError(
            f"no sample can be used, the first: {self.skipped[0]}" if self.skipped else "the shards hold no samples",
            code="MMG-D02",
            where=str(self.root),
            fix="mend the shards; dataset.on_bad=raise names what is wrong one at a time",
        )

    def _names(self) -> list[str]:
        """Each shard's path from the directory, without `.tar`."""
        return [Path(os.path.relpath(path, self.root)).with_suffix("").as_posix() for path in self.shards]

    def _fingerprint(self) -> str:
        shards = [[name, i.state[0], i.digest] for name, i in zip(self._names(), self._indices, strict=True)]
        options = [self.image_size, self.caption_key, self.attributes, len(self)]
        options += [self.resize] if self.resize != "lanczos" else []
        digest = hashlib.sha256(json.dumps([shards, options]).encode())
        digest.update(self._block.tobytes() + self._row.tobytes())
        return "webdataset-" + digest.hexdigest()[:16]


class _Ids(Sequence[str]):
    """Keys, made when they are asked for: a text for each of ten million samples would take a gigabyte."""

    def __init__(self, indices: list[ShardIndex], names: list[str], block: np.ndarray, row: np.ndarray) -> None:
        self._indices, self._names, self._block, self._row = indices, names, block, row
        counted = Counter(key for index in indices for key in index.packed_keys()) if len(indices) > 1 else Counter()
        self._shared = {key.decode() for key, count in counted.items() if count > 1}

    def __len__(self) -> int:
        return len(self._row)

    def __getitem__(self, position: Any) -> Any:
        if isinstance(position, slice):
            return [self[i] for i in range(*position.indices(len(self)))]
        shard = int(self._block[position])
        key = self._indices[shard].key(int(self._row[position]))
        return f"{self._names[shard]}/{key}" if key in self._shared else key


def _bad_member(what: str, where: str, why: str = "") -> DataError:
    fix = "write the shard again without it; or dataset.on_bad=skip"
    return DataError(what, code="MMG-D51", where=where, why=why, fix=fix)
