"""One process a run's directory: a kernel lock, which dies with its holder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from mmgen.errors import ConfigError, RunLockedError

_held: set[int] = set()  # descriptors of the locks of this process


def _release_in_child() -> None:
    """A forked loader worker inherits the lock and would hold it after its parent was killed."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_release_in_child)


@contextmanager
def locked(lock_file: Path, free_name: str) -> Iterator[None]:
    """Holds the lock of a run's directory.

    Args:
        lock_file: `.lock` in the directory; it stays there, and says who holds it while somebody does.
        free_name: a name for another run, for the error's fix.

    Raises:
        RunLockedError: another process, or another place in this one, holds it.
        ConfigError: the directory cannot be written, or its file system knows no locks.
    """
    try:
        descriptor = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(
            f"cannot write in {lock_file.parent}", code="MMG-R04", why=error.strerror or "", fix="`run.dir=DIR`"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            os.close(descriptor)
            raise ConfigError(
                f"the file system of {lock_file.parent} knows no locks",
                code="MMG-R04",
                why=error.strerror or "",
                fix="`run.dir=DIR` on a local disk",
            ) from error
        holder = _holder(descriptor)
        os.close(descriptor)
        raise _in_use(lock_file.parent, holder, free_name) from None
    _held.add(descriptor)
    try:
        start = datetime.now().astimezone().isoformat(timespec="seconds")
        me = {"pid": os.getpid(), "host": socket.gethostname(), "start": start}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(me).encode(), 0)
        yield
    finally:
        if descriptor in _held:  # not in a forked child, where the number may mean another file by now
            _held.remove(descriptor)
            os.ftruncate(descriptor, 0)
            os.close(descriptor)


def holder_of(lock_file: Path) -> dict[str, Any] | None:
    """Who holds a lock, as `pid`, `host` and `start`; None where nobody does. Takes no lock that a run could want: the
    file is empty unless somebody holds it, or died with it."""
    try:
        if lock_file.stat().st_size == 0:
            return None
        descriptor = os.open(lock_file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        holder: dict[str, Any] = {}
        with suppress(ValueError):
            found = json.loads(os.pread(descriptor, 4096, 0))
            holder = found if isinstance(found, dict) else {}
        if holder.get("host") == socket.gethostname() and not _alive(holder.get("pid")):
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # another process may have that number by now
    except OSError as error:
        return holder if error.errno in (errno.EWOULDBLOCK, errno.EACCES) else None
    finally:
        os.close(descriptor)
    return None


def _holder(descriptor: int) -> dict[str, Any]:
    """Who holds it. A holder writes its name just after locking, so an old name or none is read once more."""
    holder: dict[str, Any] = {}
    for _ in range(20):
        with suppress(ValueError):
            found = json.loads(os.pread(descriptor, 4096, 0))
            holder = found if isinstance(found, dict) else {}
        if holder and (holder.get("host") != socket.gethostname() or _alive(holder.get("pid"))):
            break
        time.sleep(0.02)
    return holder


def _alive(pid: Any) -> bool:
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (OSError, TypeError, ValueError, OverflowError):
        return False
    return True


def _in_use(directory: Path, holder: dict[str, Any], free_name: str) -> RunLockedError:
    pid, host, start = (holder.get(key, "?") for key in ("pid", "host", "start"))
    since = f" (since {str(start)[11:16]})" if len(str(start)) > 16 else ""
    where = "" if host == socket.gethostname() else f" on {host}"
    return RunLockedError(
        f"run directory {directory} is in use by pid {pid} on host {host}{since}",
        code="MMG-R01",
        fix=f"wait, or stop it with `kill {pid}`{where} (it saves first), or `run.name={free_name}`",
    )
