"""Which tar files a path means, and reading pieces of them from any process."""

from __future__ import annotations

import itertools
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmgen.errors import DataError, quoted

MAX_SHARDS = 100_000
_OPEN = 16  # files kept open in a process
_PACKED = {b"\x1f\x8b": "gunzip", b"BZh": "bunzip2", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def shard_files(path: str) -> tuple[Path, list[Path]]:
    """The shards of a directory (every `*.tar` in and under it), of a brace pattern, or of one file; by name.

    Returns:
        The directory that their names are told from, and the shards. Those that a pattern names need not exist, but one
        does.

    Raises:
        DataError: MMG-D01, there is no such place, or a pattern matches nothing; MMG-D02, a directory holds no shards.
    """
    if "://" in path or path.startswith("pipe:"):
        raise _missing(f"{quoted(path)} is no place on a disk of this machine", "dataset.path=DIRECTORY_WITH_TAR_FILES")
    root = Path(path).expanduser()
    if os.path.isdir(root):  # unlike Path.is_dir no error of a list in braces that is longer than a name may be
        return root, _of_directory(root)
    if os.path.exists(root):
        return root.parent, [root]
    if "{" not in path:
        raise _missing(f"{quoted(path)} does not exist", "dataset.path=DIRECTORY_WITH_TAR_FILES")
    files = [Path(name).expanduser() for name in itertools.islice(expanded(path), MAX_SHARDS + 1)]
    if len(files) > MAX_SHARDS:
        raise _missing(f"the pattern {quoted(path)} names more than {MAX_SHARDS:,} shards", "narrow the range")
    if not any(map(os.path.exists, files)):
        raise _missing(
            f"none of the {len(files):,} shards of {quoted(path)} exists",
            f"ls {files[0].parent}",
            f"the first would be {quoted(str(files[0]))}",
        )
    files = list(dict.fromkeys(files))
    return Path(os.path.commonpath([os.path.abspath(file.parent) for file in files])), files


def expanded(pattern: str) -> Iterator[str]:
    """What a shell makes of braces: `{00..10}`, digits kept, and `{a,b}`; one after another, not nested."""
    found = _BRACES.search(pattern)
    if found is None:
        yield pattern
        return
    for middle in _alternatives(found[1]):
        for rest in expanded(pattern[found.end() :]):
            yield pattern[: found.start()] + middle + rest


def _alternatives(inside: str) -> Iterator[str]:
    numbers = _RANGE.fullmatch(inside)
    if numbers is None:
        yield from inside.split(",")
        return
    first, last = int(numbers[1]), int(numbers[2])
    width = max(map(len, numbers.groups())) if any(n.startswith("0") and len(n) > 1 for n in numbers.groups()) else 0
    for number in range(first, last + 1) if first <= last else range(first, last - 1, -1):
        yield f"{number:0{width}d}"


def _of_directory(root: Path) -> list[Path]:
    shown = [p for p in root.rglob("*") if not any(part.startswith(".") for part in p.relative_to(root).parts)]
    shards = sorted(p for p in shown if p.suffix.lower() == ".tar" and p.is_file())
    if shards:
        return shards
    packed = sorted(p for p in shown if re.search(r"\.(tar\.\w+|tgz)$", p.name))
    raise DataError(
        f"the directory {quoted(str(root))} holds no tar files",
        code="MMG-D02",
        where="dataset.path",
        why=f"{quoted(packed[0].name)} is compressed: nothing in it can be read by itself" if packed else "",
        fix=f"gunzip {packed[0]}; and so on" if packed else "dataset.path=DIRECTORY_WITH_TAR_FILES",
    )


def _missing(what: str, fix: str, why: str = "") -> DataError:
    return DataError(what, code="MMG-D01", where="dataset.path", why=why, fix=fix)


def shard_error(what: str, path: Path, why: str = "", fix: str = "copy or download it again") -> DataError:
    """MMG-D50, of a whole shard."""
    return DataError(what, code="MMG-D50", where=str(path), why=why, fix=f"{fix}; or dataset.on_bad=skip")


def not_a_tar(path: Path, start: bytes) -> DataError:
    """What a file is that begins with these bytes, instead of a shard."""
    for magic, tool in _PACKED.items():
        if start.startswith(magic):
            why = "nothing in a compressed file can be read by itself, and pictures are compressed already"
            return shard_error("the shard is compressed", path, why, f"{tool} {path}")
    if not start:
        return shard_error("the shard is an empty file", path)
    return shard_error("the shard is no tar file", path, f"it begins with {quoted(start[:24])}")


class Pieces:
    """Reads pieces of files by offset. Files are opened when they are needed, in each process by itself, few at a time.

    Args:
        files: with the (size, mtime_ns) that each had when it was indexed.

    Raises:
        DataError: MMG-D50, a shard is gone, or another than was indexed, or cannot be read.
    """

    def __init__(self, files: list[tuple[Path, int, int]]) -> None:
        self.files = files
        self._open: OrderedDict[int, int] = OrderedDict()
        self._mutex = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"files": self.files}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["files"])  # type: ignore[misc]

    def read(self, number: int, offset: int, size: int) -> bytes:
        """`size` bytes of file `number`."""
        path = self.files[number][0]
        with self._mutex:
            try:
                descriptor = self._descriptor(number)
                content = piece = os.pread(descriptor, size, offset)
                while piece and len(content) < size:  # a read gives two gigabytes at most, and may give less
                    piece = os.pread(descriptor, size - len(content), offset + len(content))
                    content += piece
            except OSError as error:
                raise shard_error("the shard cannot be read", path, error.strerror or str(error)) from error
        if len(content) < size:
            raise _changed(path)
        return content

    def _descriptor(self, number: int) -> int:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        while len(self._open) >= _OPEN:
            os.close(self._open.popitem(last=False)[1])
        path, size, mtime = self.files[number]
        descriptor = os.open(path, os.O_RDONLY)
        self._open[number] = descriptor
        now = os.fstat(descriptor)
        if (now.st_size, now.st_mtime_ns) != (size, mtime):
            os.close(self._open.pop(number))
            raise _changed(path)
        return descriptor

    def close(self) -> None:
        """Closes what is open; reading opens it again."""
        while self._open:
            os.close(self._open.popitem()[1])

    def __del__(self) -> None:
        self.close()


def _changed(path: Path) -> DataError:
    return shard_error("the shard has changed since it was indexed", path, fix="start again, and leave it as it is")
