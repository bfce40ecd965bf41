"""Where each value of a composed config comes from: which file, preset, component or override said it, and over what.

Hydra merges the configs of its defaults list one after the other and lays the command line over them. Here the same
configs are read in the same order and kept apart, so that every key has all that was said of it, the last word first.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Override
from hydra.types import RunMode
from omegaconf import OmegaConf

from mmgen import registry
from mmgen.commands import composition, mistakes
from mmgen.commands.overrides import QUICKSTART, line_of, read, text_of
from mmgen.commands.places import Place
from mmgen.commands.schema import STAGES
from mmgen.options import MISSING


@dataclass(frozen=True)
class Said:
    """What one place says of a key. `value` is as it stands there, interpolations unresolved."""

    value: Any
    place: str


@dataclass
class Layer:
    """One config of the defaults list, by dotted keys, with how to say where a key of it stands."""

    values: dict[str, Any]
    group: str
    package: str
    file: Path | None = None
    component: registry.Component | None = None

    def place(self, key: str) -> str:
        if self.component is not None:
            return self._default
        assert self.file is not None
        return _line(self.file, self._inside(key))

    @functools.cached_property
    def _default(self) -> str:
        assert self.component is not None
        return _default_of(self.component)

    def _inside(self, key: str) -> list[str]:
        """What the key may be called in the file; `trainer` of an experiment stands for its stages'."""
        own = key[len(self.package) + 1 :] if self.package and key.startswith(f"{self.package}.") else key
        parts = own.split(".", 2)
        return [own, parts[2]] if parts[0] == "stages" and len(parts) == 3 else [own]


class Sources:
    """A command's composed config with everything that was said of each key.

    Args:
        command, texts, where: as for `composition.checked`.

    Raises: as `composition.checked`.
    """

    def __init__(self, command: str, texts: list[str], where: list[Place]) -> None:
        checked = composition.checked(command, texts, where)
        self.command, self.config = command, checked.config
        self._request = read(command, texts, where, multirun=False)
        with hydra.initialize(config_path=None, **composition.VERSION_BASE):
            loader: Any = GlobalHydra.instance().config_loader()
            defaults = loader.compute_defaults_list(command, checked.overrides, RunMode.RUN)
            self._choices: dict[str, Any] = dict(defaults.overrides.known_choices)
            self._layers = [
                layer for default in defaults.defaults if (layer := _layer(default, loader.repository)) is not None
            ]

    @functools.cached_property
    def flat(self) -> dict[str, Any]:
        """The final values by dotted keys."""
        return dict(flat(self.config))

    def of(self, key: str) -> list[Said]:
        """All that was said of a key, what counts first."""
        found = self._said(key)
        task = self.config.get("task", {}).get("name") if self.command == "train" else None
        if task and key.startswith(("task.", "trainer.")):  # what an experiment says of the stage counts here
            found = self._said(f"stages.{task}.{key}") + found
        found = [one for i, one in enumerate(found) if one.place not in {other.place for other in found[:i]}]
        default = Said(self.flat.get(key), f"default of mmgen {self.command}")
        if gone := [o for o in self._request.deletions if f"{key}.".startswith(f"{o.key_or_group}.")]:
            return [Said(default.value, f"default, after {_command_line(gone[0])}"), *found]
        if not found or all(one.value == MISSING for one in found):
            found.append(default)
        return [one for one in found if one.value != MISSING] or found[-1:]

    def chosen(self, group: str) -> list[Said]:
        """Who chose the option of a group, the choice that counts first; empty for what is no group."""
        if group not in self._choices:
            return []
        actual = _names(self._choices[group])
        found = [Said(text_of(o), _command_line(o)) for o in self._request.choices if _full_name(o) == group]
        outer_first = reversed([layer for layer in self._layers if layer.file is not None])
        for layer in outer_first:
            assert layer.file is not None
            found += [
                Said(value, f"{shown_path(layer.file)}:{line}")
                for line, value in _choices_in(layer.file, group, overriding=layer.group != "")
            ]
        setter = [one for one in found if _names(one.value) == actual]
        return setter[:1] + [one for one in found if one not in setter[:1]]

    def _said(self, key: str) -> list[Said]:
        found = [one for override in reversed(self._request.values) if (one := self._typed(override, key))]
        for layer in reversed(self._layers):
            if key in layer.values:
                found.append(Said(layer.values[key], layer.place(key)))
        return found

    def _typed(self, override: Override, key: str) -> Said | None:
        """What an override says of a key: `trainer.KEY` is said of every stage too."""
        name = override.key_or_group
        spread = {"run": ("trainer.",), "train": ("trainer.", "task.")}.get(self.command, ())
        names = [name, *(f"stages.{stage}.{name}" for stage in STAGES if spread and name.startswith(spread))]
        for said in names:
            values = dict(flat({said: _plain(override.value())}))
            if key in values:
                return Said(values[key], _command_line(override))
        return None


def flat(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value of a config by its dotted key; an empty section is a value."""
    for key, value in section.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def shown_path(file: Path) -> str:
    """A file as one would open it from here."""
    return str(file.relative_to(Path.cwd())) if file.is_relative_to(Path.cwd()) else str(file)


def _layer(default: Any, repository: Any) -> Layer | None:
    """A config of Hydra's defaults list; None for Hydra's own."""
    path = default.config_path
    if path is None or path.startswith("hydra/"):
        return None
    result = repository.load_config(config_path=path)
    config = OmegaConf.to_container(result.config, resolve=False)
    assert isinstance(config, dict)
    config.pop("defaults", None)
    config.pop("hydra", None)
    package = default.package if default.package is not None else (result.header.get("package") or "")
    package = "" if package == "_global_" else package
    prefix = f"{package}." if package else ""
    values = {f"{prefix}{key}": value for key, value in flat({str(key): value for key, value in config.items()})}
    group, _, name = path.rpartition("/")
    if result.path.startswith("presets:"):
        directory = str(result.path).removeprefix("presets://")
        return Layer(values, group, package, file=Path(directory, f"{path.removesuffix('.yaml')}.yaml"))
    kind, name = _component_named(path)
    return Layer(values, group, package, component=registry.find(kind, name))


def _component_named(path: str) -> tuple[str, str]:
    """`generator/x` and `component/generator/x/distribution` to kind and name."""
    parts = path.split("/")
    return (parts[1], "@".join(parts[2:])) if parts[0] == "component" else (parts[0], "/".join(parts[1:]))


def _default_of(component: registry.Component) -> str:
    target = component.load()
    try:
        line = inspect.getsourcelines(target)[1]
        place = f"{shown_path(Path(inspect.getfile(target)))}:{line}"
    except (OSError, TypeError):
        place = component.value
    return f"default of {component.kind} {component.name}, {component.owner} ({place})"


def _line(file: Path, keys: list[str]) -> str:
    """`file:line` of the first of these keys that the file has, or the file."""
    lines = [line for line, _ in mistakes.lines(file, keys)]
    return f"{shown_path(file)}:{lines[0]}" if lines else shown_path(file)


def _command_line(override: Override) -> str:
    return f"command line: {line_of(override)}" if line_of(override) != QUICKSTART else "mmgen run alone means this"


def _full_name(override: Override) -> str:
    return str(override.key_or_group) + (f"@{override.package}" if override.package else "")


def _names(value: Any) -> list[str]:
    """A choice as a list of names, however it was written."""
    if value is None or value == "null":
        return []
    if isinstance(value, str):
        value = value.strip("[]").split(",")
    return [str(name).strip() for name in value]


def _choices_in(file: Path, group: str, overriding: bool) -> Iterator[tuple[int, str]]:
    """What a file's defaults list chooses in a group, with the line."""
    root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    lists = [node for key, node in pairs if key.value == "defaults" and isinstance(node, yaml.SequenceNode)]
    for item in lists[0].value if lists else []:
        for key, node in item.value if isinstance(item, yaml.MappingNode) else []:
            words = key.value.split()
            if words[-1].lstrip("/") != group or ("override" in words) != overriding:
                continue
            names = [n.value for n in node.value] if isinstance(node, yaml.SequenceNode) else node.value
            yield key.start_mark.line + 1, f"[{','.join(names)}]" if isinstance(names, list) else names


def _plain(value: Any) -> Any:
    """The value of an override as YAML would hold it."""
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return getattr(value, "text", value)


