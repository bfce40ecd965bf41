"""Optuna's samplers, pruners and storages, by name and with their own options."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import inspect
import logging
import os
import random
import re
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmgen.errors import ConfigError, quoted
from mmgen.spelling import nearest
from mmgen.sweeps.space import Space

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage

PIP = 'pip install "mmgen-lightning[sweep]"'
_NEEDS = {"CmaEsSampler": "cmaes", "GPSampler": "scipy"}
_BY_NUMBER = ("GridSampler", "QMCSampler")  # their one seed orders the trials; each trial takes its place in that order


def require_optuna() -> None:
    """Raises ConfigError MMG-C63, with what to install, where Optuna is missing; quietens it where it is there."""
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            "a sweep needs Optuna, which is not installed",
            code="MMG-C63",
            why=str(error),
            fix=f"{PIP}, or `mmgen run -m KEY=A,B` for every combination",
        ) from None
    if int(optuna.__version__.partition(".")[0]) < 4:
        raise ConfigError(f"Optuna {optuna.__version__} is too old", code="MMG-C63", fix=PIP)
    optuna.logging.set_verbosity(logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def sampler(options: Mapping[str, Any], space: Space, number: int = 0) -> BaseSampler:
    """Optuna's sampler for one trial. Its random numbers are a function of `seed` and the trial's number, so that a
    sweep that was interrupted goes on as if it had not been, and never starts its random numbers over.

    Args:
        options: `name`, and the sampler's own, such as `{name: tpe, multivariate: true}`; `seed` is 1 by default.
        space: a grid takes its values from it.
        number: the trial's.

    Raises:
        ConfigError: an unknown name or option, or a space that the sampler cannot search.
    """
    import optuna

    kinds = _classes(optuna.samplers, optuna.samplers.BaseSampler, "Sampler")
    chosen = _named(options, kinds, "sweep.sampler")
    takes = inspect.signature(chosen).parameters
    more: dict[str, Any] = {}
    if tries_all(options):
        _refuse_endless(space)
    if "search_space" in takes:
        more["search_space"] = _grid(space)
    if "seed" in takes:
        seed = int(options.get("seed", 1))
        more["seed"] = seed if chosen.__name__ in _BY_NUMBER else _mixed(seed, number)
    elif "seed" in options:
        raise ConfigError(f"{chosen.__name__} takes no seed", code="MMG-C64", where="sweep.sampler", fix="leave it out")
    return _built(chosen, options, more, kinds, "sweep.sampler")


def is_grid(options: Mapping[str, Any]) -> bool:
    """Whether the sampler tries every point of a grid, and nothing else."""
    return _short(str(options.get("name"))) == "grid"


def tries_all(options: Mapping[str, Any]) -> bool:
    """Whether the sampler tries every point of the space once; a brute force knows conditions, a grid does not."""
    return _short(str(options.get("name"))) in ("grid", "bruteforce")


def size(options: Mapping[str, Any], space: Space) -> int | None:
    """How many trials there are at most: where all points are tried, their number."""
    return space.count() if tries_all(options) else None


def pruner(options: Mapping[str, Any]) -> BasePruner:
    """Optuna's pruner: `{name: median, n_startup_trials: 5}`; `{name: none}` prunes nothing.

    Raises:
        ConfigError: an unknown name or option.
    """
    import optuna

    kinds = _classes(optuna.pruners, optuna.pruners.BasePruner, "Pruner")
    kinds["none"] = optuna.pruners.NopPruner
    return _built(_named(options, kinds, "sweep.pruner"), options, {}, kinds, "sweep.pruner")


def prunes(options: Mapping[str, Any]) -> bool:
    """Whether a pruner is chosen at all."""
    return _short(str(options.get("name", "none"))) not in ("none", "nop")


def _classes(module: Any, kind: type, ending: str) -> dict[str, type]:
    found = {name: getattr(module, name) for name in module.__all__ if inspect.isclass(getattr(module, name))}
    return {
        _short(name.removesuffix(ending)): one
        for name, one in found.items()
        if issubclass(one, kind) and not inspect.isabstract(one) and not name.startswith("Base")
    }


def _short(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "").removesuffix("sampler").removesuffix("pruner")


def _named(options: Mapping[str, Any], kinds: Mapping[str, type], where: str) -> type:
    name = str(options.get("name"))
    if _short(name) not in kinds:
        near = nearest(_short(name), list(kinds))
        raise ConfigError(
            f"no {where.rpartition('.')[2]} {quoted(name)}",
            code="MMG-C64",
            where=f"{where}.name",
            why=f"Optuna has {', '.join(kinds)}",
            fix=f"did you mean {near}?" if near else f"{where}.name={next(iter(kinds))}",
        )
    return kinds[_short(name)]


def _built(
    chosen: type, options: Mapping[str, Any], more: Mapping[str, Any], kinds: Mapping[str, type], where: str
) -> Any:
    """The object; an option that is a section with a name is another of its kind, as `wrapped_pruner` is."""
    given = {key: value for key, value in options.items() if key not in ("name", "seed", "search_space")}
    takes = [name for name in inspect.signature(chosen).parameters if name not in ("seed", "search_space")]
    for key, value in given.items():
        if key not in takes:
            near = nearest(key, takes)
            raise ConfigError(
                f"{chosen.__name__} has no option {quoted(key)}",
                code="MMG-C64",
                where=f"{where}.{key}",
                why=f"it has {', '.join(takes) or 'none'}",
                fix=f"did you mean {near}?" if near else "leave it out",
            )
        if isinstance(value, Mapping) and "name" in value:
            given[key] = _built(_named(value, kinds, f"{where}.{key}"), value, {}, kinds, f"{where}.{key}")
    from optuna.exceptions import ExperimentalWarning

    needed = _NEEDS.get(chosen.__name__)
    if needed and importlib.util.find_spec(needed) is None:  # Optuna would say so in the middle of the sweep
        text = f"{chosen.__name__} needs the package {needed}"
        raise ConfigError(text, code="MMG-C63", where=where, fix=f"pip install {needed}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return chosen(**given, **more)
    except (TypeError, ValueError) as error:
        text = f"{chosen.__name__} refuses its options"
        raise ConfigError(text, code="MMG-C64", where=where, why=str(error)) from None


def _refuse_endless(space: Space) -> None:
    endless = next((p.key for p in space.parameters if p.grid() is None), None)
    if endless is not None:
        raise ConfigError(
            f"{endless} has infinitely many values",
            code="MMG-C64",
            where="sweep.sampler",
            why="the sampler tries them all",
            fix=f"{endless}=choice(A,B) or range(…), or sweep.sampler=tpe",
        )


def _grid(space: Space) -> dict[str, list[Any]]:
    grid = space.grid()
    if grid is None:
        text = "a grid knows no conditions"
        raise ConfigError(text, code="MMG-C64", where="sweep.sampler", fix="sweep.sampler.name=brute_force")
    return grid


def _mixed(seed: int, number: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{number}".encode()).digest()[:4], "big")


def storage(address: str | None, directory: Path) -> BaseStorage:
    """Where the trials are kept.

    Args:
        address: None: a file in the sweep's directory; a path: such a file elsewhere; `redis://…`,
            `grpc://HOST:PORT`, or whatever SQLAlchemy takes, such as `sqlite:///sweeps.db` or `postgresql://…`.
        directory: the sweep's.

    Raises:
        ConfigError: there is no such storage, or it does not answer.
    """
    from optuna import storages
    from optuna.storages.journal import JournalRedisBackend

    try:
        if address is None or "://" not in address:
            return storages.JournalStorage(_journal(Path(address) if address else directory / "journal.log"))
        if address.startswith("redis"):
            return storages.JournalStorage(JournalRedisBackend(address))
        if address.startswith("grpc://"):
            host, _, port = address.removeprefix("grpc://").partition(":")
            return storages.GrpcStorageProxy(host=host, port=int(port or 13000))
        return _database(address)
    except Exception as error:  # whatever a driver of a database raises
        raise ConfigError(
            f"the storage {hidden(address or str(directory))} cannot be used",
            code="MMG-C65",
            where="storage",
            why=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:300],
            fix="storage=sqlite:///sweeps.db, or leave it out: a file in the sweep's directory",
        ) from error


def out_of_reach() -> tuple[type[Exception], ...]:
    """What storages raise that do not answer: Optuna wraps a database's errors, but not those of these clients."""
    from optuna.exceptions import StorageInternalError

    found: list[type[Exception]] = [OSError, StorageInternalError]
    for client, error in (("grpc", "RpcError"), ("redis", "RedisError")):
        if client in sys.modules:
            found.append(getattr(sys.modules[client], error))
    return tuple(found)


def _database(address: str) -> BaseStorage:
    """A database's tables are made by whoever comes first; of several at once, all but one find them made amid it."""
    from optuna.storages import RDBStorage

    wait = {"connect_args": {"timeout": 60}} if address.startswith("sqlite") else {"pool_pre_ping": True}
    for attempt in range(10):
        try:
            return RDBStorage(address, engine_kwargs=wait)
        except Exception as error:
            raced = re.search(r"already exists|UNIQUE|duplicate", str(error), re.IGNORECASE)
            if not raced or attempt == 9:
                raise
            time.sleep(random.uniform(0.05, 0.3))  # noqa: S311 - so that they do not meet again
    raise AssertionError


def hidden(address: str) -> str:
    """An address without what may be a password."""
    scheme, sign, rest = address.partition("://")
    return f"{scheme}://…@{rest.rpartition('@')[2]}" if sign and "@" in rest else address


def _journal(file: Path) -> Any:
    """Optuna's journal file with a lock that dies with its holder, and a last line that a crash tore taken away.

    Optuna's own lock is a file: one that a killed process left keeps everybody waiting for half a minute. A torn line
    with another behind it makes its whole journal unreadable.
    """
    from optuna.storages.journal import JournalFileBackend
    from optuna.storages.journal._file import BaseJournalFileLock

    class KernelLock(BaseJournalFileLock):
        """flock on a file beside the journal."""

        def __init__(self) -> None:
            self._held: int | None = None

        def acquire(self) -> bool:
            self._held = os.open(f"{file}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(self._held, fcntl.LOCK_EX)
                _cut_torn_line(file)
            except BaseException:
                self.release()
                raise
            return True

        def release(self) -> None:
            if self._held is not None:
                os.close(self._held)
            self._held = None

    file.parent.mkdir(parents=True, exist_ok=True)
    return JournalFileBackend(str(file), lock_obj=KernelLock())


def _cut_torn_line(file: Path) -> None:
    with open(file, "rb+") as journal:
        end = journal.seek(0, os.SEEK_END)
        if end == 0:
            return
        journal.seek(end - 1)
        if journal.read(1) != b"\n":
            whole = file.read_bytes()
            journal.truncate(whole.rfind(b"\n") + 1)
