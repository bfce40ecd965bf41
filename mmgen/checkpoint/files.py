"""Directories that are whole or absent, and proven whole before any parser sees them. Imports no torch.

A directory's `manifest.json` holds size and SHA-256 of every other file; it is valid once that is in place. Reading
follows no symbolic link and opens only names that the manifest lists and the caller allows.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from mmgen.errors import CheckpointError, quoted
from mmgen.files import (
    beside,
    cannot_write,
    parse_json,
    read_json,
    refused,
    remove,
    remove_leftovers,
    require_space,
    size,
    sync_directory,
    write_atomic,
    write_json,
)

__all__ = [
    "MANIFEST",
    "Entry",
    "read_json",
    "read_manifest",
    "read_verified",
    "remove_leftovers",
    "require_space",
    "seal",
    "verify_directory",
    "write_atomic",
    "write_directory_atomic",
]

MANIFEST = "manifest.json"
FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}(/[A-Za-z0-9][A-Za-z0-9._-]{0,120}){0,2}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Entry:
    """What the manifest says of a file."""

    size: int  # bytes
    sha256: str  # hex


def write_directory_atomic(destination: str | Path, fill: Callable[[Path], None], needed: int = 0) -> None:
    """Writes a directory of files so that a crash at any moment leaves the old one or the new one.

    Args:
        destination: a directory; one that was written by this function is replaced, any other is left alone.
        fill: writes the files into the directory it is given.
        needed: estimate in bytes, checked against the free space first; 0 to skip.

    Raises:
        CheckpointError: no space, not writable, or something else lies there. Nothing was overwritten.
    """
    destination = Path(destination)
    refuse_foreign(destination)
    temp = beside(destination)
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        if needed:
            require_space(destination, needed)
        temp.mkdir()
        fill(temp)
        seal(temp)
        publish(temp, destination)
    except OSError as error:
        remove(temp)
        raise cannot_write(destination, error, needed) from error
    except BaseException:
        remove(temp)
        raise


def refuse_foreign(destination: Path) -> None:
    """Raises CheckpointError MMG-K07 where something lies that is not to be overwritten."""
    if not destination.exists() and not destination.is_symlink():
        return
    if destination.is_dir() and ((destination / MANIFEST).is_file() or not any(destination.iterdir())):
        return
    raise CheckpointError(
        f"{destination} holds something else and is not overwritten", code="MMG-K07", fix="name another directory"
    )


def seal(directory: Path) -> None:
    """Syncs every file and writes the manifest last, from what the disk gives back."""
    files, directories = {}, [directory]
    for path in sorted(directory.rglob("*")):
        if path.is_dir():
            directories.append(path)
            continue
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            files[path.relative_to(directory).as_posix()] = {"size": path.stat().st_size, "sha256": _sha256(file)}
    write_json(directory / MANIFEST, {"format": FORMAT, "files": files})
    for path in directories:
        sync_directory(path)


def publish(temp: Path, destination: Path) -> None:
    """Renames into place. A directory cannot take another's name: that one steps aside (see `remove_leftovers`)."""
    aside = beside(destination, "old") if destination.exists() else None
    if aside:
        os.replace(destination, aside)
    try:
        os.replace(temp, destination)
    except OSError:
        if aside:
            os.replace(aside, destination)
        raise
    sync_directory(destination.parent)
    if aside:
        remove(aside)


def _sha256(file: BufferedReader) -> str:
    return hashlib.file_digest(file, "sha256").hexdigest()


def damaged(directory: Path, reason: str) -> CheckpointError:
    """The error of a directory that is not what its writer wrote."""
    return CheckpointError(f"{directory} is damaged ({reason})", code="MMG-K01", fix="copy it again, or use another")


def foreign(path: Path, reason: str, fix: str = "name a directory written by mmgen") -> CheckpointError:
    """The error of something that mmgen did not write."""
    return CheckpointError(f"{path} is no checkpoint, part or export of mmgen", code="MMG-K05", why=reason, fix=fix)


def read_manifest(path: str | Path) -> dict[str, Entry]:
    """The manifest of a directory: name to size and SHA-256.

    Raises:
        CheckpointError: nothing lies there, no manifest, or not one of ours.
    """
    path = Path(path)
    _require_directory(path)
    try:
        with _inside(path, MANIFEST) as file:
            data = file.read(1_000_001)
    except FileNotFoundError:
        raise foreign(path, f"it has no {MANIFEST}: never finished, or not written by mmgen") from None
    manifest = parse_json(data, str(path / MANIFEST))
    if not isinstance(manifest, dict) or manifest.keys() != {"format", "files"}:
        raise damaged(path, f"{MANIFEST} is not a manifest")
    if manifest["format"] != FORMAT:
        reason = f"format {quoted(manifest['format'])}, this version reads {FORMAT}"
        raise foreign(path, reason, "pip install -U mmgen-lightning")
    if not isinstance(manifest["files"], dict):
        raise damaged(path, f"{MANIFEST} is not a manifest")
    return {name: _entry(path, name, entry) for name, entry in manifest["files"].items()}


def _entry(path: Path, name: str, entry: object) -> Entry:
    if not _NAME.fullmatch(name):
        raise refused(str(path / MANIFEST), f"file name {quoted(name)}")
    if isinstance(entry, dict) and entry.keys() == {"size", "sha256"}:
        count, sha256 = entry["size"], entry["sha256"]
        if type(count) is int and count >= 0 and isinstance(sha256, str) and _SHA256.fullmatch(sha256):
            return Entry(count, sha256)
    raise damaged(path, f"{MANIFEST} is not a manifest: {quoted(entry)}")


def verify_directory(path: str | Path, allowed: Collection[str] | None = None) -> dict[str, Entry]:
    """Compares every file with the manifest, reading each once, in constant memory.

    Args:
        path: the directory.
        allowed: the names that may be in it; None for any.

    Returns:
        The manifest.

    Raises:
        CheckpointError: MMG-K01 with the file and what differs; MMG-K05 or K06 for what mmgen did not write.
    """
    path = Path(path)
    manifest = read_manifest(path)
    for name, entry in manifest.items():
        if allowed is not None and name not in allowed:
            raise refused(str(path / MANIFEST), f"file name {quoted(name)}")
        with _checked(path, name, entry) as file:
            if _sha256(file) != entry.sha256:
                raise damaged(path, f"sha256 differs in {name}")
    return manifest


def read_verified(path: str | Path, name: str, manifest: Mapping[str, Entry], limit: int) -> bytes:
    """The bytes of one file, compared with the manifest: what is parsed is what was hashed.

    Args:
        path: the directory.
        name: the file, listed in the manifest.
        limit: the most bytes it may have.

    Raises:
        CheckpointError: damaged, missing or too large.
    """
    path = Path(path)
    entry = manifest.get(name)
    if entry is None:
        raise foreign(path, f"it has no {name}")
    if entry.size > limit:
        raise refused(str(path / name), f"{size(entry.size)}, at most {size(limit)}")
    with _checked(path, name, entry) as file:
        data = file.read(entry.size + 1)
    if len(data) != entry.size or hashlib.sha256(data).hexdigest() != entry.sha256:
        raise damaged(path, f"sha256 differs in {name}")
    return data


@contextmanager
def _checked(path: Path, name: str, entry: Entry) -> Iterator[BufferedReader]:
    try:
        with _inside(path, name) as file:
            actual = os.fstat(file.fileno()).st_size
            if actual != entry.size:
                raise damaged(path, f"{name} has {actual:,} bytes, {entry.size:,} were written")
            yield file
    except FileNotFoundError:
        raise damaged(path, f"{name} is missing") from None


@contextmanager
def _inside(path: Path, name: str) -> Iterator[BufferedReader]:
    """Opens a regular file below `path` for reading. No symbolic link is followed, no pipe waited for."""
    try:
        descriptor = _open_inside(path, name)
    except FileNotFoundError:
        raise
    except OSError as error:  # ELOOP: a symbolic link; ENOTDIR: a file where a folder should be; EACCES
        raise refused(str(path / name), f"cannot be opened as a regular file ({error.strerror})") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise refused(str(path / name), "not a regular file")
    with open(descriptor, "rb") as file:
        yield file


def _open_inside(path: Path, name: str) -> int:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    *folders, last = name.split("/")
    # `path` itself is the user's, and may be a link.
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for folder in folders:
            inner = os.open(folder, flags | os.O_DIRECTORY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        return os.open(last, flags | os.O_NONBLOCK, dir_fd=descriptor)
    finally:
        os.close(descriptor)


def _require_directory(path: Path) -> None:
    # os.path rather than pathlib: a name that no file can have is simply not there.
    if os.path.isdir(path):
        return
    if not os.path.exists(path):
        raise CheckpointError(
            f"nothing lies at {path}", code="MMG-K05", fix="give the path of a finished run or an export"
        )
    begin = b""
    if os.path.isfile(path) and os.access(path, os.R_OK):
        with open(path, "rb") as file:
            begin = file.read(2048)
    if begin.startswith((b"PK\x03\x04", b"\x80")):
        raise CheckpointError(
            f"{path} is a pickle file and can run code when opened; refused",
            code="MMG-X01",
            fix="ask its author for an export, or read it with `mmgen import FORMAT FILE to=DIR` (see --help)",
        )
    kind = (
        "empty or unreadable"
        if not begin
        else "a web page"
        if begin.lstrip().startswith(b"<")
        else "a file, not a directory"
    )
    raise foreign(path, f"it is {kind}")
