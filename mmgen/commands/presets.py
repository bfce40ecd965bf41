"""The sources that Hydra reads: the YAML of every place (`places`), and installed components.

A name has one owner here too: two places with one preset are refused, when it is chosen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import Container, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmgen import options as typed
from mmgen import registry
from mmgen.commands.places import YOURS, Place, is_component, presets
from mmgen.commands.schema import STAGES
from mmgen.errors import ConfigError, PluginError, quoted


class PresetSource(FileConfigSource):
    """One place's YAML. Differs from Hydra's own source of files in what a config that starts from a component needs:
    `defaults: [transformer]` means the component, also in a preset called transformer; presets of a kind of which
    several may be chosen each go into a section of their own; `trainer` set for the whole run is set for its stages."""

    where: ClassVar[list[Place]] = []
    loaded: ClassVar[list[tuple[str, Path]]] = []  # group and file, in the order in which Hydra asked for them

    @staticmethod
    def scheme() -> str:
        return "presets"

    def load_config(self, config_path: str) -> ConfigResult:
        name = config_path.removesuffix(".yaml")
        file = Path(self.path, f"{name}.yaml")
        self._refuse_second(name, file)
        result = _read(lambda: super(PresetSource, self).load_config(config_path), file)
        group, _, preset = name.rpartition("/")
        self.loaded.append((group, file))
        if group in registry.KINDS:
            self._start_from_components(group, preset, result)
        elif not group or result.header.get("package") == "_global_":
            _spread_trainer(result.config)
        return result

    def _refuse_second(self, name: str, file: Path) -> None:
        owners = [place.owner for place in self.where if (place.directory / f"{name}.yaml").is_file()]
        group, _, preset = name.rpartition("/")
        if group in registry.KINDS and owners != [YOURS]:
            claims = registry.components(group).get(preset, [])
            owners += [
                c.distribution for c in claims if registry.normal(c.distribution) not in map(registry.normal, owners)
            ]
        if len(owners) > 1:
            files = [str(p.directory / f"{name}.yaml") for p in self.where if (p.directory / f"{name}.yaml").is_file()]
            raise PluginError(
                f"the preset {quoted(name)} is claimed by {' and '.join(owners)}",
                code="MMG-P02",
                where=", ".join(files),
                why="a name has one owner; none is preferred",
                fix=f"rename yours ({file})" if YOURS in owners else f"pip uninstall {owners[-1]}",
            )

    def _start_from_components(self, kind: str, preset: str, result: ConfigResult) -> None:
        if kind in registry.SEVERAL and result.header.get("package") is None:
            result.header["package"] = f"{kind}.{preset}"
        config = result.config
        if not isinstance(config, DictConfig) or not isinstance(config.get("defaults"), ListConfig):
            return
        for i, item in enumerate(config.defaults):
            if not isinstance(item, str) or item == "_self_":
                continue
            is_preset = item != preset and any(item == name for name, _ in presets(kind, self.where))
            if not is_preset and is_component(kind, item):
                config.defaults[i] = f"/component/{kind}/{item.replace('@', '/')}@_here_"
            elif is_preset and kind in registry.SEVERAL:
                config.defaults[i] = f"{item}@_here_"


def _read(load: Any, file: Path) -> ConfigResult:
    try:
        result: ConfigResult = load()
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, OmegaConfBaseException, OSError) as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigError(
            f"{file.name} is not a config that can be read",
            code="MMG-C06",
            where=f"{file}:{mark.line + 1}" if mark else str(file),
            why=str(getattr(error, "problem", None) or error).splitlines()[0],
            fix="mend the YAML there",
        ) from error
    if not isinstance(result.config, DictConfig):
        raise ConfigError(
            f"{file.name} holds no mapping", code="MMG-C06", where=str(file), fix="write `key: value` lines"
        )
    return result


def _spread_trainer(config: Container) -> None:
    """Lays `trainer` under each stage's own, so that whoever speaks later wins for a stage too."""
    trainer = OmegaConf.select(config, "trainer")
    if not isinstance(trainer, DictConfig):
        return
    for stage in STAGES:
        own = OmegaConf.select(config, f"stages.{stage}.trainer") or {}
        OmegaConf.update(config, f"stages.{stage}.trainer", OmegaConf.merge(trainer, own), force_add=True)


class ComponentSource(ConfigSource):
    """Installed components, each a config of its options with their defaults, plus `name`."""

    @staticmethod
    def scheme() -> str:
        return "components"

    def available(self) -> bool:
        return True

    def is_group(self, config_path: str) -> bool:
        return config_path.strip("/") in ("", *registry.KINDS)

    def is_config(self, config_path: str) -> bool:
        kind, name = self._split(config_path)
        return kind in registry.KINDS and bool(name) and is_component(kind, name)

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        group = config_path.strip("/")
        if group == "":
            return [] if results_filter is ObjectType.CONFIG else sorted(registry.KINDS)
        return [] if results_filter is ObjectType.GROUP or group not in registry.KINDS else registry.choices(group)

    def load_config(self, config_path: str) -> ConfigResult:
        kind, name = self._split(config_path)
        if kind not in registry.KINDS:
            raise ConfigLoadError(f"no such component: {config_path}")
        component = registry.find(kind, name)
        config: dict[str, Any] = {"name": component.name}
        for option in component.options().values():
            default = typed.MISSING if option.default is typed.REQUIRED else typed.plain(option.default)
            try:
                config[option.name] = OmegaConf.create({"it": default})["it"]
            except OmegaConfBaseException:  # a default that no config can hold: the component's own stands
                continue
        short = name.partition("@")[0].rpartition(":")[2].rpartition(".")[2]
        header = {"package": f"{kind}.{short}" if kind in registry.SEVERAL else None}
        return ConfigResult(
            provider=component.owner, path=self.full_path(), config=OmegaConf.create(config), header=header
        )

    @staticmethod
    def _split(config_path: str) -> tuple[str, str]:
        """ "generator/x", "generator/x@dist" and "component/generator/x/dist" to kind and name."""
        parts = config_path.removesuffix(".yaml").strip("/").split("/")
        if parts[0] == "component":
            return parts[1], "@".join(parts[2:])
        return parts[0], "/".join(parts[1:])


class SearchPath(SearchPathPlugin):
    """Puts the sources into Hydra's search path; presets go before the component of the same name."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for place in PresetSource.where:
            search_path.append(provider=place.owner, path=f"presets://{place.directory}")
        search_path.append(provider="installed components", path="components://installed")


def enable(where: list[Place]) -> None:
    """Makes Hydra see these places and the installed components, from now on."""
    PresetSource.where[:] = where
    PresetSource.loaded.clear()
    plugins = Plugins.instance()
    if SearchPath not in plugins.discover(SearchPathPlugin):
        for plugin in (PresetSource, ComponentSource, SearchPath):
            plugins.register(plugin)
