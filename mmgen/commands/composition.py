"""From the command line to a checked config: every error told at once, before anything heavy is imported.

`checked` composes the config a first time and holds it against the types of `schema` and of the chosen components; an
unknown key is found there, wherever it was written and with whatever prefix. Hydra then composes again under
`hydra.main`, which knows sweeps and launchers, and `finish` gives the command a plain, complete mapping.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

import hydra
import yaml
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmgen import options as typed
from mmgen import registry
from mmgen.commands import mistakes, places, presets
from mmgen.commands.overrides import Request, line_of, mentioned, read
from mmgen.commands.places import Place
from mmgen.commands.rivals import merged, read_rivals
from mmgen.commands.schema import COMMANDS, StagesConfig, TrainCommand
from mmgen.errors import ConfigError, ConfigErrors, PluginError, quoted

# Hydra 1.4 deprecates the argument; without it 1.3 warns and changes the working directory.
OF_A_WHOLE_RUN = ("drawing", "rivals", "wanted")  # sections of an experiment that `train` has no use for
VERSION_BASE: dict[str, Any] = {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}


class Checked(NamedTuple):
    """A config that was found good: the overrides to give Hydra, and what they make (of a sweep, its first job)."""

    overrides: list[str]
    config: dict[str, Any]


def prepare(command: str, texts: list[str], where: list[Place], multirun: bool = False) -> list[str]:
    """Checks the whole config; gives the overrides for Hydra. Arguments and errors are those of `checked`."""
    return checked(command, texts, where, multirun).overrides


def checked(command: str, texts: list[str], where: list[Place], multirun: bool = False) -> Checked:
    """Composes the config and checks all of it.

    Args:
        texts: the overrides as they were written.
        where: the places of YAML (`places.places`).

    Raises:
        ConfigErrors: everything that is wrong with the config.
        PluginError: a chosen component or preset is broken, or its name claimed twice.
    """
    presets.enable(where)
    request = read(command, texts, where, multirun)
    deleted: list[str] = []
    config: dict[str, Any] = {}
    try:
        for variant in reversed(request.variants()):
            cfg, config = _compose_and_check(request, variant)
        deleted += [line_of(o) for o in request.deletions if _deletable(request, o, cfg)]
        if deleted and not request.errors:
            _, config = _compose_and_check(request, [*request.variants()[0], *deleted])
    except PluginError:
        if not request.errors:
            raise  # else the config is to be mended first
    if request.errors:
        raise ConfigErrors(mistakes.distinct(request.errors))
    return Checked([*request.hydra, *request.rewritten(), *deleted], config)


def _compose_and_check(request: Request, overrides: list[str]) -> tuple[DictConfig, dict[str, Any]]:
    """As Hydra composes it, and as a command gets it; what is wrong is collected in the request."""
    presets.PresetSource.loaded.clear()
    try:
        cfg = compose(request.command, [*request.hydra, *overrides])
    except ConfigErrors as several:
        request.errors += several.errors
        return DictConfig({}), {}
    except ConfigError as error:
        request.errors.append(error)
        return DictConfig({}), {}
    config, errors = check(request.command, cfg)
    errors += _unused(request, config)
    request.errors += mistakes.told(errors, request, config, places.groups(request.where))
    return cfg, config


def _unused(request: Request, config: Mapping[str, Any]) -> list[ConfigError]:
    """An experiment may set what a command has no use for, as options of an evaluator that is not chosen; whoever types
    one means it."""
    errors = []
    for override in request.values:
        kind, _, rest = override.key_or_group.partition(".")
        name = rest.partition(".")[0]
        if kind in registry.SEVERAL and name not in config.get(kind, {}) and name in registry.components(kind):
            fix = f"{kind}=[{','.join((*config[kind], name))}]"
            errors.append(ConfigError(f"{kind} {name} is not chosen", code="MMG-C03", where=f"{kind}.{name}", fix=fix))
        if kind in OF_A_WHOLE_RUN and COMMANDS[request.command] is TrainCommand:
            what, key = f"train has no use for {kind}", override.key_or_group
            errors.append(ConfigError(what, code="MMG-C01", where=key, why="it is of a whole run", fix="leave it out"))
    return errors


def compose(command: str, overrides: list[str]) -> DictConfig:
    """Composes a command's config as Hydra does.

    Raises:
        ConfigError: Hydra refuses.
        PluginError: a chosen component or preset is broken, or its name claimed twice.
    """
    try:
        with hydra.initialize(config_path=None, **VERSION_BASE):
            return hydra.compose(config_name=command, overrides=overrides)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise mistakes.translate(error) from error


def finish(command: str, cfg: DictConfig) -> dict[str, Any]:
    """The composed config as a plain mapping: resolved, complete, checked. What it chooses is imported, so that a
    broken plugin is told before anything is done.

    Raises: as `checked`.
    """
    config, errors = check(command, cfg)
    if errors:
        raise ConfigErrors(mistakes.distinct(errors))
    for kind in registry.KINDS:
        section = config.get(kind) or {}
        for chosen in section.values() if kind in registry.SEVERAL else [section] if section else []:
            if not (kind == "sampler" and _of_the_run(chosen)):
                registry.find(kind, chosen["name"]).load()
    return config


def check(command: str, cfg: DictConfig) -> tuple[dict[str, Any], list[ConfigError]]:
    """The composed config as a plain mapping, and all that is wrong with it; an error's `where` is its key."""
    unresolved: list[ConfigError] = []
    tree = _resolve(cfg, "", unresolved)
    config, errors = check_tree(command, tree)
    lost = {error.where for error in unresolved}
    return config, [error for error in errors if error.where not in lost] or unresolved


def check_tree(
    command: str, tree: Mapping[str, Any], trusted: bool = True
) -> tuple[dict[str, Any], list[ConfigError]]:
    """As `check`, of a plain mapping.

    Args:
        trusted: whether the user wrote it; one from a file may only name registered components.
    """
    errors: list[ConfigError] = []
    tree = dict(tree)
    root = typed.options_of(COMMANDS[command])
    kinds = [kind for kind in registry.KINDS if kind in root]
    if COMMANDS[command] is TrainCommand:
        errors += _overlay_stage(tree)
    optional = {kind for kind in kinds if type(None) in typing.get_args(root[kind].type)}
    given = {kind: tree.pop(kind, None) for kind in kinds}
    components = {
        kind: section
        if kind in optional and (section is None or (kind == "sampler" and _of_the_run(section)))
        else _components(kind, section, errors, trusted)
        for kind, section in given.items()
    }
    sections, more = typed.check({name: o for name, o in root.items() if name not in kinds}, tree)
    if "task" in root and "task" not in tree:
        more = [_nothing_trained(), *(error for error in more if not error.where.startswith("task."))]
    config = {**typed.plain(sections), **components}
    errors += more
    if config.get("rivals") and not errors:
        errors += read_rivals(config, trusted)[1]
    return config, errors


def _resolve(node: Any, path: str, errors: list[ConfigError]) -> Any:
    """Plain mappings, lists and values; what an interpolation cannot find is an error."""
    if not isinstance(node, DictConfig | ListConfig):
        return node
    found: dict[Any, Any] = {}
    keys: list[Any] = list(range(len(node))) if isinstance(node, ListConfig) else list(node.keys())
    for key in keys:
        place = f"{path}.{key}" if path else str(key)
        try:
            found[key] = typed.MISSING if OmegaConf.is_missing(node, key) else _resolve(node[key], place, errors)
        except OmegaConfBaseException as error:
            found[key] = None
            reason = str(error).partition("\n")[0]
            text = f"{place} refers to what is not there"
            errors.append(ConfigError(text, code="MMG-C06", where=place, why=reason, fix=f"{place}=VALUE"))
    return list(found.values()) if isinstance(node, ListConfig) else found


def _components(kind: str, section: Any, errors: list[ConfigError], trusted: bool) -> Any:
    if kind in registry.SEVERAL:
        given = section if isinstance(section, Mapping) else {}
        chosen = {key: sub for key, sub in given.items() if _is_named(sub) or key not in registry.components(kind)}
        return {key: _component(kind, sub, f"{kind}.{key}", errors, trusted) for key, sub in chosen.items()}
    return _component(kind, section, kind, errors, trusted)


def _is_named(section: Any) -> bool:
    return isinstance(section, Mapping) and "name" in section


def _of_the_run(section: Any) -> bool:
    """Whether these are options of the sampler that the run was judged with, which is not known yet: no name stands by
    them."""
    return isinstance(section, Mapping) and len(section) > 0 and "name" not in section


def _component(kind: str, section: Any, place: str, errors: list[ConfigError], trusted: bool) -> Any:
    try:
        if kind in registry.SEVERAL and not _is_named(section):
            raise typed.UnknownKey(place, [f"{kind}.{name}" for name in registry.choices(kind)])
        return registry.complete(kind, section if isinstance(section, Mapping) else {}, trusted=trusted, place=place)
    except ConfigErrors as several:
        errors += several.errors
    except ConfigError as error:
        errors.append(error)
    return section


def _nothing_trained() -> ConfigError:
    tasks = [name for name, _ in places.presets("task", places.places())]
    why = f"available: {', '.join(tasks)}"
    return ConfigError("no task is chosen", code="MMG-C05", where="task", why=why, fix=f"task={tasks[0]}")


def _overlay_stage(tree: dict[str, Any]) -> list[ConfigError]:
    """In `train`, what an experiment says of `stages.TASK` counts for the task that is trained; what it says of the
    other stages is only checked, and what is of a whole run alone is left out."""
    for key in OF_A_WHOLE_RUN:
        tree.pop(key, None)
    stages = tree.pop("stages", None) or {}
    if not isinstance(stages, Mapping):
        return [ConfigError(f"stages must be a section, got {quoted(stages)}", code="MMG-C02", where="stages")]
    _, errors = typed.check(typed.options_of(StagesConfig), stages, "stages")
    task = tree.get("task")
    own = stages.get(str(task.get("name"))) if isinstance(task, Mapping) else None
    for section in ("task", "trainer"):
        if isinstance(own, Mapping) and isinstance(own.get(section), Mapping):
            tree[section] = merged(tree.get(section) or {}, own[section])
    return [error for error in errors if error.code != "MMG-C05"]


def _deletable(request: Request, override: Override, cfg: DictConfig) -> bool:
    """Whether there is something to delete. A key that nobody knows is an error; a known one that is not there, not."""
    key = override.key_or_group
    if key in places.groups(request.where):
        return key in mentioned(request.command)
    if not cfg:
        return False  # it could not be composed, which is told
    section, _, leaf = key.rpartition(".")
    holder = OmegaConf.select(cfg, section) if section else cfg
    if isinstance(holder, DictConfig) and leaf in holder:
        return True
    config, _ = check(request.command, cfg)
    known = list(mistakes.flat(config))
    if key not in known:
        siblings = [k for k in known if k.rpartition(".")[0] == section]
        request.errors += mistakes.told([typed.UnknownKey(key, siblings)], request, config, [])
    return False
