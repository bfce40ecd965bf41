"""Where configs come from: YAML of mmgen, of plugins and of the user, and installed components.

Three kinds of place hold YAML: `conf/`, the packages that plugins name in the entry-point group `mmgen.configs`, and
the user's `--config-dir`. No plugin's code is imported to list any of them, and neither is Hydra (see `presets`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from mmgen import registry
from mmgen.packages import directory_of

YOURS = "--config-dir"


@dataclass(frozen=True)
class Place:
    """A directory of YAML and whose it is: a distribution's, or the user's (`YOURS`)."""

    owner: str
    directory: Path


def places(config_dir: Path | None = None) -> list[Place]:
    """Every directory of YAML: mmgen's, each plugin's, the user's."""
    found = [ours()]
    for entry in sorted(entry_points(group="mmgen.configs"), key=lambda e: (e.dist.name if e.dist else "", e.name)):
        directory = directory_of(entry.value)  # one that cannot be found misses its own presets only
        if directory is not None and all(place.directory != directory for place in found):
            found.append(Place(entry.dist.name if entry.dist else entry.value, directory))
    return [*found, Place(YOURS, config_dir.resolve())] if config_dir else found


def ours() -> Place:
    """The YAML that mmgen ships."""
    directory = directory_of("mmgen.conf")
    assert directory is not None, "mmgen.conf is missing from the installation"
    return Place(registry.OURS, directory)


def presets(group: str, where: list[Place]) -> Iterator[tuple[str, Path]]:
    """The names of a group's YAML, with their files; a name may come twice."""
    for place in where:
        for file in sorted((place.directory / group).glob("*.yaml")):
            yield file.stem, file


def yaml_groups(where: list[Place]) -> list[str]:
    """The groups that have YAML: the folders of all places."""
    files = [file.relative_to(place.directory) for place in where for file in place.directory.rglob("*.yaml")]
    return sorted({file.parent.as_posix() for file in files if file.parent.name})


def groups(where: list[Place]) -> list[str]:
    """Every group: the folders of all places and the kinds of components."""
    return sorted({*yaml_groups(where), *registry.KINDS})


def options(group: str, where: list[Place]) -> list[str]:
    """What can be chosen in a group: presets and components."""
    kinds = registry.choices(group) if group in registry.KINDS else []
    return sorted({name for name, _ in presets(group, where)} | set(kinds))


def exists(group: str, name: str, where: list[Place]) -> bool:
    """Whether a group has this option; `name@distribution` and `module:Class` count as components."""
    if any(name == preset for preset, _ in presets(group, where)):
        return True
    return group in registry.KINDS and is_component(group, name)


def is_component(kind: str, name: str) -> bool:
    """Whether a name is an installed component's, or of the form `module:Class`."""
    short, _, wanted = name.partition("@")
    claims = registry.components(kind).get(short, [])
    return ":" in name or any(not wanted or registry.normal(c.distribution) == registry.normal(wanted) for c in claims)
