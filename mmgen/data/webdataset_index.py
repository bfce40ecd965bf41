"""Where the samples of a tar shard lie: one pass over its headers, kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from mmgen.data.text import MAX_CAPTION_BYTES
from mmgen.data.webdataset_files import not_a_tar, shard_error
from mmgen.errors import CheckpointError, DataError, quoted
from mmgen.files import cache_directory, size, write_atomic

PICTURES = ("jpg", "jpeg", "png", "webp")
ROLES = ("picture", "txt", "json", "cls")  # the columns of `offsets` and `sizes`
LIMITS = {"picture": 1 << 28, "txt": MAX_CAPTION_BYTES, "json": 1 << 20, "cls": MAX_CAPTION_BYTES}  # bytes
_VERSION = 1  # of what is kept; another one is not read
_HEADER_LIMIT = 1 << 16  # bytes of one header: names longer than this are nobody's
_BLOCK = 512
_MEMBER = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)  # as the webdataset package divides names
_META = re.compile(r"__[^/]*__($|/)")

Fault = dict[str, str]  # of a sample or the shard: what DataError takes, and `member`


@dataclass
class ShardIndex:
    """The samples of a shard as arrays."""

    offsets: np.ndarray  # (M,4) int64, of the member of each of ROLES; -1 where there is none
    sizes: np.ndarray  # (M,4) int64, bytes
    kinds: np.ndarray  # (M,) uint8, the picture's ending in PICTURES
    ends: np.ndarray  # (M,) int64, where each key ends in `keys`
    keys: np.ndarray  # uint8, all keys after one another
    faults: list[Fault]
    digest: str  # of the headers: names, sizes, times
    state: tuple[int, int] = (0, 0)  # size and mtime_ns of the file it was made of

    def __len__(self) -> int:
        return len(self.kinds)

    def key(self, row: int) -> str:
        start = int(self.ends[row - 1]) if row else 0
        return self.keys[start : int(self.ends[row])].tobytes().decode()

    def packed_keys(self) -> Iterator[bytes]:
        """All keys, in UTF-8."""
        content, start = self.keys.tobytes(), 0
        for end in self.ends.tolist():
            yield content[start:end]
            start = end

    def error(self, path: Path, fault: Fault) -> DataError:
        """A fault as what is told of it."""
        where = f"{path}: {fault['member']}" if fault.get("member") else str(path)
        rest = {name: fault[name] for name in ("code", "why", "fix") if name in fault}
        return DataError(fault["what"], where=where, **rest)


def indexed(path: Path, progress: Callable[[int], None] = lambda count: None) -> ShardIndex:
    """The index of a shard, kept from before or made now. `progress` is called with bytes that were passed.

    Raises:
        DataError: MMG-D50, the file cannot be read. What is wrong inside stands in `faults`.
    """
    try:
        state = path.stat()
        place = _place(path, state)
        index = _kept(place)
        if index is not None:
            progress(state.st_size)
        else:
            with open(path, "rb") as file:
                index = scan(file, path, state.st_size, progress)
            _keep(place, index)
    except OSError as error:
        raise shard_error("the shard cannot be read", path, error.strerror or str(error)) from error
    index.state = (state.st_size, state.st_mtime_ns)
    return index


def is_kept(path: Path) -> bool:
    """Whether the index was made before."""
    try:
        return _place(path, path.stat()).is_file()
    except OSError:
        return False


def _place(path: Path, state: os.stat_result) -> Path:
    told = [_VERSION, str(path.resolve()), state.st_size, state.st_mtime_ns]
    return cache_directory() / "shards" / (hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32] + ".index")


def _keep(place: Path, index: ShardIndex) -> None:
    rest = json.dumps([index.digest, index.faults]).encode()
    arrays = {name: getattr(index, name) for name in ("offsets", "sizes", "kinds", "ends", "keys")}
    content = save({**arrays, "rest": np.frombuffer(rest, dtype=np.uint8)})
    # A cache that cannot be written costs the pass over the headers each time, and nothing else.
    with suppress(CheckpointError, OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(place, hashlib.sha256(content).digest() + content)


def _kept(place: Path) -> ShardIndex | None:
    """What was kept; None where nothing was, or it is damaged."""
    try:
        content = place.read_bytes()
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            return None
        arrays: dict[str, Any] = load(content[32:])
        digest, faults = json.loads(arrays.pop("rest").tobytes())
        return ShardIndex(**arrays, digest=digest, faults=faults)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None


class _Bounded:
    """A file of which tarfile reads headers and nothing else, however long a header claims to be."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, count: int) -> bytes:
        if not 0 <= count <= _HEADER_LIMIT:
            raise tarfile.ReadError(f"a header of {count:,} bytes")
        return self.file.read(count)


def scan(file: BinaryIO, path: Path, total: int, progress: Callable[[int], None] = lambda count: None) -> ShardIndex:
    """Goes through the headers of a shard of `total` bytes. Where they end in a fault, the samples before it count; the
    last of them does not, as it may have had more members."""
    rows, passed = _Rows(), 0
    try:
        for count, member in enumerate(_members(file, path, total)):
            rows.add(member)
            if count % 1000 == 999:
                progress(member.offset - passed)
                passed = member.offset
        rows.finish()
        _check_end(file, path)
        if not rows.kinds and not rows.faults:
            why = "there is no " + ", ".join(f"KEY.{kind}" for kind in PICTURES)
            raise shard_error("the shard holds no samples", path, why, f"rm {path}")
    except DataError as error:
        rows.faults.insert(0, {"what": error.what, "code": error.code, "why": error.why, "fix": error.fix})
    progress(total - passed)
    return rows.index()


def _members(file: BinaryIO, path: Path, total: int) -> Iterator[tarfile.TarInfo]:
    """The members whose headers and contents are whole.

    Raises:
        DataError: MMG-D50, at the first that is not.
    """
    start = file.read(_BLOCK)
    file.seek(0)
    if not start.strip(b"\0") and len(start) == _BLOCK:
        file.seek(_BLOCK)
        return  # an end mark and nothing before it
    try:
        tarfile.TarInfo.frombuf(start, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        raise not_a_tar(path, start) from None
    tar, offset = None, 0
    while True:
        try:
            tar = tar or tarfile.TarFile(fileobj=_Bounded(file), mode="r")  # type: ignore[arg-type]
            member = tar.next()
            tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
        except Exception as error:  # whatever tarfile trips over in a stranger's header means the same here
            raise _broken(path, offset, total, quoted(str(error))) from None
        if member is None:
            break
        if member.size < 0 or tar.offset <= offset:
            raise _broken(path, offset, total, "a member of a negative size")
        if member.isreg() and member.offset_data + member.size > total:
            raise _broken(path, total, total, f"in the middle of {quoted(member.name)}")
        offset = tar.offset
        yield member
    file.seek(offset)
    mark = file.read(_BLOCK)
    if len(mark) < _BLOCK or mark.strip(b"\0"):
        raise _broken(path, offset, total, "there is no header where one should be")


def _check_end(file: BinaryIO, path: Path) -> None:
    """Raises DataError, MMG-D50, where something follows the end mark that the file was read up to."""
    place = file.tell()
    if file.read(1 << 16).strip(b"\0"):
        why = "tar files that were joined by cat end at the first one's end mark"
        fix = "join them with tar -Af FIRST.tar SECOND.tar, or leave them apart"
        raise shard_error(f"the shard goes on behind its end mark at byte {place:,}", path, why, fix)


def _broken(path: Path, offset: int, total: int, why: str) -> DataError:
    if offset + _BLOCK > total or any(word in why for word in ("empty header", "truncated header", "unexpected end")):
        return shard_error(f"the shard is cut: it has {total:,} bytes and no end mark", path, why)
    return shard_error(f"the shard is damaged at byte {offset:,} of {total:,}", path, why)


@dataclass
class _Rows:
    """Members that follow one another, put together to samples by their key."""

    offsets: list[list[int]] = field(default_factory=list)
    sizes: list[list[int]] = field(default_factory=list)
    kinds: list[int] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    digest: Any = field(default_factory=hashlib.sha256)
    _seen: set[bytes] = field(default_factory=set)
    _key: str | None = None
    _members: dict[str, tarfile.TarInfo] = field(default_factory=dict)

    def add(self, member: tarfile.TarInfo) -> None:
        name = member.name.encode("utf-8", "backslashreplace").decode()
        self.digest.update(repr((name, member.size, member.mtime)).encode())
        parts = _MEMBER.fullmatch(name)
        if parts is None or _META.match(name) or member.isdir():
            return
        key, ending = parts[1], parts[2].lower()
        if key != self._key:
            self.finish()
            self._key = key
        if ending not in (*PICTURES, *ROLES[1:]):
            return
        if ending in self._members:
            self._members["twice"] = member
        else:
            self._members[ending] = member

    def finish(self) -> None:
        """Ends the sample that is being put together."""
        key, members = self._key, self._members
        self._key, self._members = None, {}
        if key is None or not members:
            return
        packed = key.encode()
        fault = _fault(key, members)
        if fault is None and packed in self._seen:
            fault = {"what": f"the key {quoted(key)} occurs twice in the shard", "member": key[:80]}
        self._seen.add(packed)
        if fault:
            self.faults.append({"code": "MMG-D51", "fix": "write the shard again; or dataset.on_bad=skip"} | fault)
            return
        kind = next(kind for kind in PICTURES if kind in members)
        found = [members.get(kind if role == "picture" else role) for role in ROLES]
        self.kinds.append(PICTURES.index(kind))
        self.keys.append(packed)
        self.offsets.append([-1 if member is None else member.offset_data for member in found])
        self.sizes.append([-1 if member is None else member.size for member in found])

    def index(self) -> ShardIndex:
        return ShardIndex(
            offsets=np.array(self.offsets, dtype=np.int64).reshape(-1, len(ROLES)),
            sizes=np.array(self.sizes, dtype=np.int64).reshape(-1, len(ROLES)),
            kinds=np.array(self.kinds, dtype=np.uint8),
            ends=np.cumsum([len(key) for key in self.keys], dtype=np.int64),
            keys=np.frombuffer(b"".join(self.keys), dtype=np.uint8),
            faults=self.faults,
            digest=self.digest.hexdigest(),
        )


def _fault(key: str, members: dict[str, tarfile.TarInfo]) -> Fault | None:
    """Why a sample cannot be used, as far as headers tell."""
    pictures = [kind for kind in PICTURES if kind in members]
    if "twice" in members:
        return {"what": "the shard holds a member twice", "member": members["twice"].name[:80]}
    for ending, member in members.items():
        if not member.isreg() or member.issparse():
            what = "the member is a link or no ordinary file, and is not followed"
            return {"what": what, "member": member.name[:80], "fix": "write the shard with tar --dereference"}
        role = "picture" if ending in PICTURES else ending
        if member.size > LIMITS[role]:
            what = f"the member has {size(member.size)}, more than {size(LIMITS[role])}"
            return {"what": what, "member": member.name[:80]}
    if len(pictures) != 1:
        found = f"{len(pictures)} pictures" if pictures else f"no picture ({', '.join(PICTURES)})"
        return {"what": f"the sample has {found}", "member": key[:80]}
    if "txt" not in members and "json" not in members:
        fault = {"what": "the picture has no caption", "member": members[pictures[0]].name[:80], "code": "MMG-D03"}
        return fault | {"fix": f"write a member {key[:40]}.txt or .json beside it; or dataset.on_bad=skip"}
    return None
