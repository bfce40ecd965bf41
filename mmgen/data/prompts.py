"""Packs of prompts: the class names and templates that a published benchmark is classified with, as data.

A pack is a YAML (or JSON) file. Plugins name a package of such files in the entry-point group `mmgen.prompts`; none of
their code is imported. A pack of the user's own is named by its path.

    source: where the lists were published, and their licence
    labels:                      # or the name of another pack, to have its labels
      - cat
      - [happy, smiling]         # several names of one class; the first is the one that is shown
    templates:
      - "a photo of a {}."
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import yaml

from mmgen import registry
from mmgen.data.asked import MAX_LABELS, check_templates
from mmgen.errors import DataError, MmgenError, PluginError, quoted
from mmgen.packages import directory_of

GROUP = "mmgen.prompts"
SUFFIXES = (".yaml", ".yml", ".json")
MAX_BYTES = 16 << 20
KEYS = {"source", "labels", "templates"}

Labels = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Prompts:
    """A pack.

    Args:
        name: as it was asked for.
        labels: the classes in the benchmark's order: what each is shown as, none twice, and the names it goes by. Where
            two classes have one name, the later is shown with its number, "missile (class 744)".
        templates: captions with one place `{}` for the name.
        source: where the lists come from.
    """

    name: str
    labels: Labels
    templates: tuple[str, ...]
    source: str = ""


def prompt_names() -> list[str]:
    """The installed packs; of a name that is claimed twice, each with its distribution."""
    found = []
    for name, files in _installed(tuple(sys.path)).items():
        found += [name] if len(files) == 1 else [f"{name}@{owner}" for owner, _ in files]
    return sorted(found)


def read_prompts(name: str) -> Prompts:
    """A pack, by the name of an installed one or by the path of a file.

    Raises:
        ConfigError: there is no such pack; the nearest name is told.
        DataError: the file cannot be read, or is no pack.
        PluginError: two distributions have a pack of that name.
    """
    path = _file(name)
    content = _content(path)
    unknown = sorted(set(content) - KEYS)
    if unknown:
        raise _unfit(path, f"the key {quoted(unknown[0])} is unknown; there are {', '.join(sorted(KEYS))}")
    templates = _strings(path, "templates", content.get("templates", ["{}"]))
    try:
        check_templates(templates)
    except MmgenError as error:
        raise _unfit(path, error.what) from error
    labels = content.get("labels", [])
    if isinstance(labels, str):
        path = _file(labels)
        labels = _content(path).get("labels")
    found = _labels(path, labels)
    if not found and "labels" in content:
        raise _unfit(path, "`labels` holds no class")
    source = content.get("source", "")
    return Prompts(name, found, tuple(templates), source if isinstance(source, str) else "")


@functools.lru_cache(maxsize=4)
def _installed(path: tuple[str, ...]) -> dict[str, list[tuple[str, Path]]]:
    """Owner and file of every installed pack, by name; remembered for a search path."""
    found: dict[str, list[tuple[str, Path]]] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda e: (e.dist.name if e.dist else "", e.name)):
        directory = directory_of(entry.value)
        for file in sorted(directory.iterdir()) if directory is not None else []:
            place = (entry.dist.name if entry.dist else entry.value, file)
            if file.suffix in SUFFIXES and place not in found.setdefault(file.stem, []):
                found[file.stem].append(place)
    return {name: files for name, files in found.items() if files}


def _file(name: str) -> Path:
    if name.endswith(SUFFIXES):
        return Path(name)
    packs = _installed(tuple(sys.path))
    short, _, wanted = name.partition("@")
    claims = [(o, f) for o, f in packs.get(short, []) if not wanted or registry.normal(o) == registry.normal(wanted)]
    if not claims:
        error = registry.unknown_option("prompts", name, prompt_names())
        if not packs:
            error.fix = "pip install mmgen-prompts, or prompts=FILE.yaml"
        raise error
    if len(claims) > 1:
        raise PluginError(
            f"the prompts {quoted(name)} are claimed by {' and '.join(owner for owner, _ in claims)}",
            code="MMG-P02",
            where=", ".join(str(file) for _, file in claims),
            why="a name has one owner; none is preferred",
            fix=" or ".join(f"prompts={short}@{owner}" for owner, _ in claims),
        )
    return claims[0][1]


def _content(path: Path) -> Mapping[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise _unfit(path, f"it is larger than {MAX_BYTES >> 20} MiB")
        content = yaml.load(data, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506  both are safe
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise _unfit(path, str(getattr(error, "problem", None) or error).splitlines()[0]) from error
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise _unfit(path, "it holds no `labels:` and no `templates:`")
    return content


def _labels(path: Path, items: object) -> Labels:
    if not isinstance(items, list) or len(items) > MAX_LABELS:
        raise _unfit(path, f"`labels` is no list of at most {MAX_LABELS:,} classes")
    found: Labels = {}
    for number, item in enumerate(items):
        names = tuple(_strings(path, "labels", item if isinstance(item, list) else [item]))
        title = names[0] if names and names[0] not in found else f"{names[0] if names else ''} (class {number})"
        if not names or title in found or any(not name.strip() for name in names):
            raise _unfit(path, f"class {number} of `labels` has no name, or an empty one")
        found[title] = names
    return found


def _strings(path: Path, key: str, items: object) -> list[str]:
    if not isinstance(items, list) or len(items) > MAX_LABELS:
        raise _unfit(path, f"`{key}` is no list")
    for item in items:
        if not isinstance(item, str):
            plain = item is None or isinstance(item, bool | int | float)  # what holds aliases may grow without end
            told = quoted(item) if plain else f"a {type(item).__name__}"
            raise _unfit(path, f"{told} in `{key}` is no text; put it in quotes")
    return items


def _unfit(path: Path, why: str) -> DataError:
    fix = "prompts=FILE.yaml with `labels:` and `templates:`, each a list (see docs/classify.md)"
    return DataError(f"{quoted(str(path))} is no pack of prompts", code="MMG-D21", where="prompts", why=why, fix=fix)
