"""Where the files of an installed package lie, found without running any of its code."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import entry_points
from pathlib import Path

MODELS = "mmgen.models"  # the entry-point group of trained models: name to a package of data files, an export


@dataclass(frozen=True)
class Model:
    """A trained model that an installed plugin brings."""

    name: str
    distribution: str
    path: Path


def models() -> dict[str, Model]:
    """The trained models of the installed plugins, by name. A name that two plugins use, and a directory that is not
    there, is left out."""
    found: dict[str, list[Model]] = {}
    for entry in entry_points(group=MODELS):
        if path := directory_of(entry.value):
            found.setdefault(entry.name, []).append(Model(entry.name, entry.dist.name if entry.dist else "", path))
    return {name: several[0] for name, several in sorted(found.items()) if len(several) == 1}


def directory_of(package: str) -> Path | None:
    """The directory of a package of data files, such as `mmgen_emoji.conf`; None where there is none.

    The package is not imported, unless its packages are mapped to odd directories.
    """
    top, *rest = package.split(".")
    try:
        if top != "mmgen":
            spec = importlib.util.find_spec(top)
            for location in (spec.submodule_search_locations or []) if spec else []:
                if Path(location, *rest).is_dir():
                    return Path(location, *rest).resolve()
        spec = importlib.util.find_spec(package)
        return Path(next(iter(spec.submodule_search_locations or []))).resolve() if spec else None
    except KeyboardInterrupt:
        raise
    except BaseException:  # importing a stranger's package may raise anything
        return None


def top_spec(module: str) -> ModuleSpec | None:
    """The spec of a module's top-level package, which is not imported for that."""
    try:
        return importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        return None


def file_of(module: str) -> Path | None:
    """A module's file, found without importing its packages; None where there is none."""
    spec = top_spec(module)
    for part in module.split(".")[1:]:
        if spec is None or not spec.submodule_search_locations:
            return None
        spec = PathFinder.find_spec(part, list(spec.submodule_search_locations))
    return Path(spec.origin) if spec and spec.origin and Path(spec.origin).is_file() else None
