"""Files of `torch.save`, both formats, and of safetensors, read without torch's reader: nothing in them can run code.

The zip format (PyTorch 1.6 and later): `NAME/data.pkl`, and a member `NAME/data/KEY` for each storage, none compressed.
The older one: five pickles (a magic number, a version, facts about the machine, the value, the storages' keys), then
each storage as its number of elements (8 bytes) and its data.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from mmgen.errors import CheckpointError, quoted
from mmgen.files import size
from mmgen.interop.pickles import MAX_BYTES, read_pickle
from mmgen.interop.safe import looks_safe, open_safetensors
from mmgen.interop.stored import CALLS, Storage, StoredTensor, persistent
from mmgen.interop.stubs import AsksToRunCode, Foreign, Refused, weights_of

MAX_MEMBERS, MAX_DIRECTORY = 100_000, 32_000_000  # of a zip: members, and bytes of their list
# The older format's first pickle, whole: a number of ten bytes, in any protocol.
MAGIC = re.compile(rb"\x80[\x02-\x05](\x95[\s\S]{8})?\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19\.")
VERSION = 1001

_NAME = re.compile(r"[!-~]{1,300}")  # of a tensor: printable, and no spaces


class Archive:
    """An open file of `torch.save`, of TorchScript, or of safetensors.

    Attributes:
        path: the file.
        sha256: of the whole file, hex.
        size: bytes.
        weights: the tensors of the state dict or of the module by their names (see `stubs.weights_of`), unread.
    """

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path, self.size = path, size
        self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        self._read: Callable[[Storage], bytearray]
        file.seek(0)
        begin = file.read(24)
        file.seek(0)
        if begin.startswith(b"PK\x03\x04"):
            root, self._read = _open_zip(file, size)
        elif magic := MAGIC.match(begin):
            root, self._read = _open_legacy(file, magic.end(), size)
        elif looks_safe(begin):
            root, self._read = open_safetensors(file, size)
        else:
            raise Foreign(f"it is {_kind(begin)}")
        found = weights_of(root)
        if not all(_NAME.fullmatch(name) for name in found):
            raise Refused("names of tensors that are none")
        self.weights = {name: value for name, value in found.items() if isinstance(value, StoredTensor)}
        if not self.weights:
            raise Foreign("there is no tensor in it")

    def file_of(self, name: str) -> str:
        """The name of the file that a tensor is in: this one."""
        return self.path.name

    def load(self, names: Mapping[str, StoredTensor]) -> dict[str, Tensor]:
        """Reads tensors; those that share a storage read it once, and share nothing afterwards.

        Raises:
            CheckpointError: together they are more than twice the file, or a storage is damaged.
        """
        with _told(self.path):
            if sum(stored.num_bytes for stored in names.values()) > 2 * self.size:
                raise Refused("tensors of more than twice the file's size")
            tensors: dict[str, Tensor] = {}
            by_key = sorted(names, key=lambda name: names[name].storage.key)
            data, last = torch.empty(0), None
            for name in by_key:
                storage = names[name].storage
                if storage != last:
                    data, last = self._elements(storage), storage
                tensors[name] = names[name].of(data)
        return {name: tensors[name] for name in names}

    def _elements(self, storage: Storage) -> Tensor:
        raw = self._read(storage)
        if len(raw) < storage.count * storage.dtype.itemsize:
            raise Refused(f"a storage of {len(raw):,} bytes, {storage.count:,} elements of {storage.dtype} are claimed")
        if storage.dtype == torch.bool:
            raw = bytearray(map(bool, raw))  # any other byte than 0 and 1 is no bool
        return torch.frombuffer(raw, dtype=storage.dtype, count=storage.count) if storage.count else torch.empty(0)


@contextmanager
def open_archive(path: str | Path) -> Iterator[Archive]:
    """Opens a file of weights: its names and shapes are read, its data once they are asked for.

    Raises:
        CheckpointError: MMG-K05 it is missing or something else; MMG-K01 damaged; MMG-K06 it holds what no checkpoint
            needs; MMG-X01 it asks to run code.
    """
    path = Path(path)
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below; a pipe or a folder is an error of its own
    except OSError as error:
        why = error.strerror or str(error)
        raise CheckpointError(f"cannot read {path}", code="MMG-K05", why=why, fix="name a file") from None
    with file:
        if not os.path.isfile(path):
            raise CheckpointError(f"{path} is no regular file", code="MMG-K05", fix="name a file")
        with _told(path):
            archive = Archive(path, file, os.fstat(file.fileno()).st_size)
        yield archive


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turns what the readers refuse into the errors that a user sees."""
    try:
        yield
    except AsksToRunCode as error:
        raise CheckpointError(
            f"{path} asks to call {quoted(str(error))} when it is opened; refused",
            code="MMG-X01",
            why="a checkpoint of weights has no need to; nothing was called or imported",
            fix="get the file from where it was first published, and compare its SHA-256",
        ) from None
    except Refused as error:
        raise CheckpointError(
            f"{path} is refused: it holds {error}", code="MMG-K06", fix="get it again from where it was first published"
        ) from None
    except Foreign as error:
        raise CheckpointError(
            f"{path} is no file of torch.save with weights in it",
            code="MMG-K05",
            why=str(error),
            fix="download it again, or name another file",
        ) from None
    except (zipfile.BadZipFile, EOFError) as error:
        why = quoted(str(error))
        raise CheckpointError(f"{path} is damaged", code="MMG-K01", why=why, fix="download it again") from None


def _kind(begin: bytes) -> str:
    if not begin:
        return "empty"
    if begin.lstrip().startswith((b"<", b"{")):
        return "a web page or another text"
    if begin.startswith((b"\x1f\x8b", b"BZh", b"\xfd7z", b"7z\xbc\xaf", b"\x28\xb5\x2f\xfd")):
        return "a compressed archive: unpack it"
    return "a pickle of something else, or cut" if begin.startswith(b"\x80") else "something else"


def _open_zip(file: BinaryIO, size: int) -> tuple[Any, Callable[[Storage], bytearray]]:
    _check_directory(file, size)
    try:
        archive = zipfile.ZipFile(file)
        members = {info.filename: info for info in archive.infolist()}
    except (NotImplementedError, ValueError, OverflowError) as error:
        raise zipfile.BadZipFile(str(error)) from None
    prefixes = [name[:-8] for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(prefixes) != 1:
        raise Foreign("it is a zip without one data.pkl")
    data = [
        info for name, info in members.items() if name.startswith((f"{prefixes[0]}data", f"{prefixes[0]}byteorder"))
    ]
    plain = all(info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 0x1 for info in data)
    # Nothing compressed and no two members in one place: then what is read is no larger than the file.
    if not plain or len(members) != len(archive.infolist()) or sum(info.file_size for info in data) > size:
        raise Refused("members that torch.save does not write: compressed, encrypted, twice or overlapping")

    def read(name: str, limit: int) -> bytearray:
        info = members.get(prefixes[0] + name)
        if info is None:
            raise zipfile.BadZipFile(f"{name} is missing")
        if info.file_size > limit:
            raise Refused(f"{name} of {info.file_size:,} bytes, at most {limit:,}")
        content = bytearray(info.file_size)
        try:
            with archive.open(info) as member:  # the end of reading compares the CRC
                if member.readinto(content) != len(content):  # type: ignore[attr-defined]
                    raise zipfile.BadZipFile(f"{name} is cut")
        except (NotImplementedError, RuntimeError, ValueError, OSError) as error:
            raise zipfile.BadZipFile(str(error)) from None
        return content

    if prefixes[0] + "byteorder" in members and read("byteorder", 10) != b"little":
        raise Refused("numbers in another byte order than little")
    root = read_pickle(io.BytesIO(read("data.pkl", MAX_BYTES)), CALLS, persistent)
    return root, lambda storage: read(f"data/{storage.key}", size)


def _check_directory(file: BinaryIO, size: int) -> None:
    """Looks at the end of a zip, so that no list of members is read which is larger than any of torch.save.

    torch.save writes no comment, so the end record is the last 22 bytes; before it may stand a locator (20 bytes) and
    before that the end record of 64 bits (56 bytes). `zipfile` looks in just these places.
    """
    file.seek(max(0, size - 98))
    tail = file.read().rjust(98, b"\0")
    record64, locator, record = tail[:56], tail[56:76], tail[76:]
    if not record.startswith(b"PK\x05\x06") or record[20:] != b"\0\0":
        raise zipfile.BadZipFile("the end is missing: it was cut, or something was appended")
    members, length = int.from_bytes(record[10:12], "little"), int.from_bytes(record[12:16], "little")
    if locator.startswith(b"PK\x06\x07"):
        if not record64.startswith(b"PK\x06\x06") or int.from_bytes(locator[8:16], "little") != size - 98:
            raise zipfile.BadZipFile("its end does not add up")
        members, length = int.from_bytes(record64[32:40], "little"), int.from_bytes(record64[40:48], "little")
    if members > MAX_MEMBERS or length > MAX_DIRECTORY:
        raise Refused(f"{members:,} members")
    file.seek(0)


def _open_legacy(file: BinaryIO, begin: int, length: int) -> tuple[Any, Callable[[Storage], bytearray]]:
    head = io.BytesIO(file.read(MAX_BYTES))
    head.seek(begin)
    found: dict[str, Storage] = {}

    def remembered(id: Any) -> Any:
        value = persistent(id)
        if isinstance(value, Storage) and found.setdefault(value.key, value) != value:
            raise Refused("a storage of two sizes")
        return value

    version, machine, root, keys = (read_pickle(head, CALLS, remembered) for _ in range(4))
    if version != VERSION or not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise Refused(f"a version other than {VERSION}, or numbers in another byte order than little")
    if not isinstance(keys, list) or any(type(key) is not str for key in keys) or sorted(keys) != sorted(found):
        raise Refused("a list of storages that does not add up")
    places, place = {}, head.tell()
    for key in keys:
        file.seek(place)
        count = int.from_bytes(file.read(8), "little")
        places[key] = place + 8
        place += 8 + found[key].count * found[key].dtype.itemsize
        if count != found[key].count and place <= length:
            raise Refused(f"a storage of {count:,} elements, {found[key].count:,} are claimed")
    if place != length:
        raise EOFError(f"{size(place)} are described, {size(length)} are there")

    def read(storage: Storage) -> bytearray:
        data = bytearray(storage.count * storage.dtype.itemsize)
        file.seek(places[storage.key])
        if file.readinto(data) != len(data):  # type: ignore[attr-defined]
            raise EOFError("a storage is cut")
        return data

    return root, read
