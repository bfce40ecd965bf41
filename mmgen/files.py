"""Files that a crash leaves whole, and JSON read from strangers. For checkpoints and runs alike; imports no torch."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from mmgen.errors import CheckpointError, quoted

# What a killed writer leaves beside the destination: `.NAME.PID-RANDOM.tmp`, unfinished, and `.NAME.PID-RANDOM.old`,
# the predecessor of a directory that was being replaced.
_LEFTOVER = re.compile(r"\.(?P<name>.+)\.\d+-[0-9a-f]{8}\.(?P<suffix>tmp|old)")
_DEPTH = 100  # far below Python's own limit, so that whoever walks the value later is safe
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def beside(path: Path, suffix: str = "tmp") -> Path:
    """A new name in the directory of `path`: the same file system, whatever TMPDIR says, so that renaming is atomic."""
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.{suffix}")


def write_atomic(path: str | Path, content: bytes | str | Callable[[BinaryIO], None]) -> None:
    """Writes a file so that a crash at any moment leaves the old one or the new one, never a part.

    Args:
        path: the destination, in an existing directory.
        content: what to write, or a function that writes it to the open file.

    Raises:
        CheckpointError: the disk is full or the place cannot be written; the old file is as it was.
    """
    path = Path(path)
    temp = beside(path)
    try:
        with open(temp, "xb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, path)
        sync_directory(path.parent)
    except OSError as error:
        temp.unlink(missing_ok=True)
        needed = len(content) if isinstance(content, bytes | str) else 0
        raise cannot_write(path, error, needed) from error
    except BaseException:
        temp.unlink(missing_ok=True)
        raise


def write_json(path: str | Path, value: Any) -> None:
    """Writes JSON atomically, indented, keys in the order given. NaN and infinities are a ValueError."""
    write_atomic(path, json_bytes(value, allow_nan=False) + b"\n")


def json_bytes(value: Any, *, allow_nan: bool = True) -> bytes:
    """JSON in UTF-8, indented, keys in the order given. The lone surrogates of file names that are no UTF-8 become the
    escapes that JSON has for them."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=allow_nan)
    return text.encode("utf-8", "backslashreplace")


def sync_directory(path: Path) -> None:
    """Makes the names in a directory durable: without it, a rename may be lost with the power."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:  # some network file systems refuse to sync a directory; the files themselves are synced
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def remove_leftovers(directory: str | Path) -> list[str]:
    """Removes what a killed writer left in a directory and puts back what it had moved aside.

    Call it only while nobody else writes there (a run's lock is held). Returns the names dealt with.
    """
    directory, found = Path(directory), []
    for entry in sorted(directory.iterdir()) if directory.is_dir() else []:
        match = _LEFTOVER.fullmatch(entry.name)
        if match is None:
            continue
        original = directory / match["name"]
        if match["suffix"] == "old" and not original.exists():
            os.replace(entry, original)
        else:
            remove(entry)
        found.append(entry.name)
    return found


def is_leftover(name: str) -> bool:
    """Whether a file of this name is what a killed writer left."""
    return _LEFTOVER.fullmatch(name) is not None


def remove(path: Path) -> None:
    """Removes a file or a directory. A directory loses its name first, so that nobody sees half of it."""
    if path.is_dir() and not path.is_symlink():
        doomed = path if is_leftover(path.name) else beside(path)
        if doomed != path:
            os.replace(path, doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def free_bytes(path: Path) -> tuple[int, Path]:
    """Free bytes for an ordinary user where `path` is or would be, and the nearest directory that exists."""
    existing = path.absolute()
    while not existing.is_dir():
        existing = existing.parent
    return shutil.disk_usage(existing).free, existing


def cache_directory() -> Path:
    """Where caches lie: `MMGEN_CACHE`, or `mmgen` under `XDG_CACHE_HOME`, or `~/.cache/mmgen`."""
    own, common = os.environ.get("MMGEN_CACHE"), os.environ.get("XDG_CACHE_HOME")
    return Path(own) if own else Path(common or Path.home() / ".cache") / "mmgen"


def require_space(path: str | Path, needed: int) -> None:
    """Raises CheckpointError MMG-K04, naming path, needed and free, where fewer than `needed` bytes are free."""
    free, place = free_bytes(Path(path))
    if free < needed:
        raise no_space(Path(path), needed, free, place)


def no_space(path: Path, needed: int, free: int, place: Path, why: str = "") -> CheckpointError:
    """The error of a full disk."""
    return CheckpointError(
        f"cannot write {path}: {size(needed)} needed, {size(free)} free on {place}",
        code="MMG-K04",
        why=why,
        fix="free some space, or put the run elsewhere with `run.dir=DIR`",
    )


def cannot_write(path: Path, error: OSError, needed: int = 0) -> CheckpointError:
    """The error of a failed write. `needed`: bytes, 0 if unknown."""
    why = (error.strerror or str(error)) + "; nothing was overwritten"
    if error.errno in _FULL:
        free, place = free_bytes(path.parent)
        return no_space(path, needed, free, place, why)
    return CheckpointError(
        f"cannot write {path}", code="MMG-K04", why=why, fix="make it writable, or put the run elsewhere: `run.dir=DIR`"
    )


def size(count: int) -> str:
    """Bytes for people: 1.1 GB, 300 kB."""
    number = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit in ("B", "kB") else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def read_json(path: str | Path, *, limit: int = 1_000_000, trusted: bool = False) -> Any:
    """Reads a JSON file of at most `limit` bytes; see `parse_json`.

    Raises:
        CheckpointError: missing, too large, or no JSON of the allowed form.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}", code="MMG-K05", why=error.strerror or str(error)) from error
    return parse_json(data, str(path), limit=limit, trusted=trusted)


def parse_json(data: bytes | str, where: str, *, limit: int = 1_000_000, trusted: bool = False) -> Any:
    """JSON with one meaning: no duplicate keys, no NaN. Unless `trusted`, also no `${` (an interpolation would copy
    secrets of this machine into the config), no key beginning with `_` (Hydra's own words) and no broken Unicode.

    Args:
        data: the text.
        where: its file, for the error.
        limit: in bytes, or characters of a str.

    Raises:
        CheckpointError: anything else.
    """
    if len(data) > limit:
        raise refused(where, f"larger than {size(limit)}")
    try:
        text = data if isinstance(data, str) else data.decode("utf-8")
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        _check(value, trusted)
    except _Refused as error:
        raise refused(where, str(error)) from None
    except RecursionError:
        raise refused(where, "nested too deeply") from None
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, an integer of 5,000 digits
        raise CheckpointError(f"{where} is not JSON", code="MMG-K05", why=quoted(str(error))) from None
    return value


class _Refused(Exception):
    """What a stranger's JSON may not hold."""


def refused(where: str, reason: str) -> CheckpointError:
    """The error of a file that is well-formed and yet not allowed."""
    return CheckpointError(
        f"{where} is refused: {reason}", code="MMG-K06", fix="ask its author for an export made with `mmgen export`"
    )


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        raise _Refused(f"key {quoted(next(n for n in names if names.count(n) > 1))} twice")
    return value


def _no_constant(name: str) -> Any:
    raise _Refused(f"{name} is no JSON number")


def _check(value: Any, trusted: bool, depth: int = 0) -> None:
    if depth > _DEPTH:
        raise _Refused(f"nested more than {_DEPTH} deep")
    if isinstance(value, dict):
        for key, item in value.items():
            if key.startswith("_") and not trusted:
                raise _Refused(f"key {quoted(key)} begins with an underscore")
            _check(key, trusted, depth + 1)
            _check(item, trusted, depth + 1)
    elif isinstance(value, list):
        for item in value:
            _check(item, trusted, depth + 1)
    elif isinstance(value, str) and not trusted:
        if "${" in value:
            raise _Refused(f"{quoted(value)} holds an interpolation")
        if any(0xD800 <= ord(character) <= 0xDFFF for character in value):
            raise _Refused(f"{quoted(value)} is broken Unicode")
