"""What is promised to plugins: the version of the contracts, and how something old goes away.

`API_VERSION` counts the contracts of `mmgen.protocols` and the public modules (docs/plugins/promise.md). It is raised
when a plugin would have to change; what is only added raises nothing. A plugin says in its packaging which version it
was made for, so that nothing of it has to be imported to know:

    [project.entry-points."mmgen.api"]
    1 = "mmgen_squares"
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

API_VERSION = 1
OLDEST_API = 1  # the oldest that is still kept; for one minor release after a change, the one before
GROUP = "mmgen.api"

Function = TypeVar("Function", bound=Callable[..., Any])


def declared(distribution: str) -> frozenset[str]:
    """The versions that a distribution says it was made for; none where it says nothing."""
    return _declared(tuple(sys.path)).get(distribution, frozenset())


@functools.lru_cache(maxsize=4)
def _declared(path: tuple[str, ...]) -> dict[str, frozenset[str]]:
    """By distribution; remembered for a search path."""
    found: dict[str, frozenset[str]] = {}
    for entry in entry_points(group=GROUP):
        if entry.dist:
            found[entry.dist.name] = found.get(entry.dist.name, frozenset()) | {entry.name}
    return found


def unfit(versions: frozenset[str]) -> str:
    """Why a plugin made for these versions cannot be used; empty where it can, and where it declares none."""
    kept = range(OLDEST_API, API_VERSION + 1)
    if not versions or any(version.isdecimal() and int(version) in kept for version in versions):
        return ""
    here = f"{OLDEST_API} to {API_VERSION}" if OLDEST_API < API_VERSION else f"{API_VERSION}"
    return f"it is made for plugin API {' and '.join(sorted(versions))}; this mmgen has {here}"


def newer(versions: frozenset[str]) -> bool:
    """Whether they were made for an mmgen that is newer than this one."""
    return all(version.isdecimal() and int(version) > API_VERSION for version in versions)


class DeprecatedWarning(FutureWarning):
    """Something public that goes away in the next minor release; a FutureWarning, which Python does not hide."""


@dataclass(frozen=True)
class Deprecation:
    """Args:
    name: what goes away, as it is imported: "mmgen.images.old_name".
    successor: what stands in its place.
    since: the minor release that says so first, such as "0.2".
    """

    name: str
    successor: str
    since: str

    @property
    def removed_in(self) -> str:
        """The minor release without it: the one after the next."""
        major, minor = map(int, self.since.split("."))
        return f"{major}.{minor + 1}"

    def warn(self, stacklevel: int = 3) -> None:
        text = f"{self.name} goes away in mmgen {self.removed_in}: use {self.successor}"
        warnings.warn(text, DeprecatedWarning, stacklevel=stacklevel)


DEPRECATIONS: list[Deprecation] = []  # all there are; a test finds those that outlived their release


def deprecated(successor: str, *, since: str) -> Callable[[Function], Function]:
    """Marks a public function, or a class by its constructor's function: it works as before, and says what to use.

    Args:
        successor: as it is imported, such as "mmgen.images.decode".
        since: the minor release in which it is first said.
    """

    def mark(function: Function) -> Function:
        note = Deprecation(f"{function.__module__}.{function.__qualname__}", successor, since)
        DEPRECATIONS.append(note)

        @functools.wraps(function)
        def wrapped(*arguments: Any, **options: Any) -> Any:
            note.warn()
            return function(*arguments, **options)

        return wrapped  # type: ignore[return-value]

    return mark


def renamed(module: str, names: dict[str, str], *, since: str) -> Callable[[str], Any]:
    """For a public module whose names moved: `__getattr__ = renamed(__name__, {"old": "module:new"}, since="0.2")`.

    Args:
        names: the old name to where it is now, `module:name`.
        since: the minor release in which it is first said.
    """
    notes = {old: Deprecation(f"{module}.{old}", new.replace(":", "."), since) for old, new in names.items()}
    DEPRECATIONS.extend(notes.values())

    def find(name: str) -> Any:
        if name not in notes:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        notes[name].warn()
        return EntryPoint(name=name, value=names[name], group="").load()

    return find
