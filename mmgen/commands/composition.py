"""From the command line to a checked config: every error told at once, before anything heavy is imported.

`prepare` composes the config a first time, with every override rewritten so that Hydra takes it whether or not a YAML
mentions its key, and holds the result against the types of `schema` and of the chosen components; an unknown key is
found there, wherever it was written and with whatever prefix. Hydra then composes again under `hydra.main`, which knows
sweeps and launchers, and `finish` gives the command a plain, complete mapping.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import hydra
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmgen import options as typed
from mmgen import registry
from mmgen.commands import presets
from mmgen.commands.presets import Place
from mmgen.commands.schema import COMMANDS, STAGES, TrainCommand, Training
from mmgen.errors import ConfigError, ConfigErrors, MmgenError, quoted

# Hydra 1.4 deprecates the argument, 1.3 wants it.
VERSION_BASE = {} if hydra.__version__ >= "1.4" else {"version_base": "1.3"}
QUICKSTART_FIX = "pip install -e plugins/mmgen-emoji, or give your own pictures: dataset=folder dataset.path=DIRECTORY"


@dataclass
class Request:
    """What was asked for, sorted: Hydra's own overrides, choices of groups, values, deletions."""

    command: str
    where: list[Place]
    multirun: bool = False
    hydra: list[str] = field(default_factory=list)
    choices: list[Override] = field(default_factory=list)
    values: list[Override] = field(default_factory=list)
    deletions: list[Override] = field(default_factory=list)
    errors: list[ConfigError] = field(default_factory=list)


def prepare(command: str, overrides: list[str], where: list[Place], multirun: bool = False) -> list[str]:
    """Checks the whole config; gives the overrides for Hydra.

    Args:
        where: the places of YAML (`presets.places`).

    Raises:
        ConfigErrors: everything that is wrong with the config.
        PluginError: a chosen component or preset is broken, or its name claimed twice.
    """
    presets.enable(where)
    request = read(command, overrides, where, multirun)
    if command == "run":
        _default_experiment(request)
    chosen = [_choice_text(request, c) for c in request.choices]
    values = _spread(request) + [f"++{o.key_or_group}={_text(o)}" for o in request.values]
    sweeps = [o for o in (*request.choices, *request.values) if o.is_sweep_override()]
    tree: DictConfig | None = None
    for variant in _variants(chosen + values, sweeps):
        tree = _compose_and_check(request, variant)
    kept = [o.input_line for o in request.deletions if tree is not None and _deletable(request, o, tree)]
    if kept and not request.errors:
        _compose_and_check(request, [*_first(chosen + values, sweeps), *kept])
    if request.errors:
        raise ConfigErrors(_distinct(request.errors))
    return [*request.hydra, *chosen, *values, *kept]


def read(command: str, overrides: list[str], where: list[Place], multirun: bool) -> Request:
    """Parses the overrides and sorts them; errors are collected in the request."""
    request = Request(command, where, multirun)
    known = presets.groups(where)
    for text in overrides:
        try:
            override = _parse(text)
            _sort(request, override, known)
        except ConfigError as error:
            request.errors += error.errors if isinstance(error, ConfigErrors) else [error]
    return request


def _parse(text: str) -> Override:
    """Hydra's grammar takes few characters outside quotes; a path or a caption that it refuses is taken as it stands."""
    parser = OverridesParser.create()
    try:
        return parser.parse_overrides([text])[0]
    except (OverrideParseException, HydraException) as error:
        key, sign, value = text.partition("=")
        if sign and re.fullmatch(r"[+~]{0,2}[A-Za-z_][\w./@-]*", key) and value[:1] not in tuple("'\"[{("):
            escaped = re.sub(r"(\\*)(['\\]|$)", lambda m: m[1] * 2 + ("\\'" if m[2] == "'" else m[2]), value)
            try:
                return parser.parse_overrides([f"{key}='{escaped}'"])[0]
            except (OverrideParseException, HydraException):
                pass
        raise ConfigError(
            f"cannot read the override {quoted(text)}",
            code="MMG-C06",
            where="command line",
            why=str(error).splitlines()[0],
            fix=f"quote the value: '{key}=\"…\"'" if sign else "write KEY=VALUE",
        ) from error


def _sort(request: Request, override: Override, known: list[str]) -> None:
    key, line = override.key_or_group, override.input_line
    if override.is_hydra_override():
        request.hydra.append(line)
        return
    if override.is_sweep_override() and not request.multirun:
        raise ConfigError(
            f"{quoted(line)} is a list of values to sweep over",
            code="MMG-C06",
            where="command line",
            fix=f"add -m to run them all, or write one value: '{key}=\"…\"', or a list: '{key}=[…]'",
        )
    if override.is_delete():
        request.deletions.append(override)
    elif key in known:
        _check_choices(request, override)
        request.choices.append(override)
    elif key.endswith(".name") and key.split(".")[0] in registry.KINDS:
        kind = key.split(".")[0]
        raise ConfigError(
            f"{key} cannot be set: the {kind} is chosen as a whole", code="MMG-C03", where=_place(override), fix=f"{kind}={_text(override)}"
        )
    else:
        request.values.append(override)


def _check_choices(request: Request, override: Override) -> None:
    group = override.key_or_group
    errors = []
    for value in _choices_of(override):
        if isinstance(value, Mapping):
            errors.append(_not_a_choice(group, override))
        elif value is not None and not presets.exists(group, str(value), request.where):
            error = registry.unknown_option(group, str(value), presets.options(group, request.where))
            error.where = _place(override)
            errors.append(error)
    if errors:
        raise ConfigErrors(list(errors))


def _not_a_choice(group: str, override: Override) -> ConfigError:
    return ConfigError(
        f"{group} takes the name of an option, got {quoted(_text(override))}", code="MMG-C03", where=_place(override), fix=f"{group}.KEY=VALUE sets one value"
    )


def _choices_of(override: Override) -> Iterable[Any]:
    if override.is_sweep_override():
        if override.is_glob_sweep() if hasattr(override, "is_glob_sweep") else type(override.value()).__name__ == "Glob":
            return []  # Hydra matches it against the options
        values = list(override.sweep_iterator())
    else:
        values = [override.value()]
    return [item for value in values for item in (value if isinstance(value, list) else [value])]


def _text(override: Override) -> str:
    return str(override.input_line).partition("=")[2]


def _place(override: Override) -> str:
    return f"command line: {override.input_line}"


def _choice_text(request: Request, override: Override) -> str:
    """The choice for Hydra, with a + where the command's own YAML does not mention the group."""
    package = f"@{override.package}" if override.package else ""
    key = f"{override.key_or_group}{package}"
    return f"{'' if key in _mentioned(request.command) else '+'}{key}={_text(override)}"


def _mentioned(command: str) -> set[str]:
    defaults = OmegaConf.load(presets.places()[0].directory / f"{command}.yaml")["defaults"]
    return {str(key) for item in defaults if isinstance(item, DictConfig) for key in item}


def _default_experiment(request: Request) -> None:
    if any(o.key_or_group in ("dataset", "experiment") for o in request.choices) or request.errors:
        return
    if not presets.exists("experiment", "quickstart", request.where):
        raise ConfigError(
            "`mmgen run` alone means experiment=quickstart, which is not installed", code="MMG-C05", where="experiment", fix=QUICKSTART_FIX
        )
    request.choices.append(_parse("experiment=quickstart"))


def _spread(request: Request) -> list[str]:
    """`trainer.KEY=…` counts for every stage, whatever a YAML said of a stage; what is said of a stage comes after."""
    sections = ("trainer.", "task.") if request.command == "train" else ("trainer.",) if request.command == "run" else ()
    keys = [o.key_or_group for o in request.values if o.key_or_group.startswith(sections)] if sections else []
    return [f"++stages.{stage}.{key}=${{{key}}}" for key in keys for stage in STAGES]


def _variants(overrides: list[str], sweeps: list[Override]) -> list[list[str]]:
    """The command lines to check: one, or in a sweep each value once, the other sweeps at their first."""
    first = _first(overrides, sweeps)
    found = [first]
    for sweep in sweeps:
        index = _index(overrides, sweep)
        for value in list(sweep.sweep_string_iterator())[1:] if index is not None else []:
            variant = list(first)
            variant[index] = f"{overrides[index].partition('=')[0]}={value.partition('=')[2] or value}"
            found.append(variant)
    return found


def _first(overrides: list[str], sweeps: list[Override]) -> list[str]:
    found = list(overrides)
    for sweep in sweeps:
        index = _index(overrides, sweep)
        if index is not None:
            value = next(iter(sweep.sweep_string_iterator()))
            found[index] = f"{overrides[index].partition('=')[0]}={value}"
    return found


def _index(overrides: list[str], sweep: Override) -> int | None:
    return next((i for i, text in enumerate(overrides) if text.lstrip("+") == sweep.input_line.lstrip("+")), None)


def _compose_and_check(request: Request, overrides: list[str]) -> DictConfig | None:
    try:
        cfg = compose(request.command, [*request.hydra, *overrides])
        _, errors = check(request.command, cfg)
    except ConfigError as error:
        cfg, errors = None, error.errors if isinstance(error, ConfigErrors) else [error]
    request.errors += [locate(error, request) for error in errors]
    return cfg


def compose(command: str, overrides: list[str]) -> DictConfig:
    """Composes a command's config as Hydra does.

    Raises:
        ConfigError: Hydra refuses; its words, without its advice to prefix a typo with a plus.
    """
    try:
        with hydra.initialize(config_path=None, **VERSION_BASE):
            return hydra.compose(config_name=command, overrides=overrides)
    except (HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        raise translate(error) from error


def translate(error: BaseException) -> ConfigError:
    """Hydra's exception as one of ours."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        return registry.unknown_option(group, name, list(error.options or []))
    text = str(error) if str(error) else str(error.__cause__ or type(error).__name__)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if "+" not in line and "HYDRA_FULL_ERROR" not in line] or ["the config cannot be composed"]
    cause = str(error.__cause__).splitlines()[0] if error.__cause__ and str(error.__cause__) else ""
    return ConfigError(kept[0], code="MMG-C06", why=" ".join(kept[1:3]) or (cause if cause != kept[0] else ""), fix="mmgen COMMAND --help lists keys and groups")


def finish(command: str, cfg: DictConfig) -> dict[str, Any]:
    """The config as a plain mapping: resolved, complete, checked.

    Raises: as `prepare`.
    """
    config, errors = check(command, cfg)
    if errors:
        raise ConfigErrors(_distinct(errors))
    return config


def check(command: str, cfg: DictConfig) -> tuple[dict[str, Any], list[ConfigError]]:
    """The composed config as a plain mapping, and all that is wrong with it; an error's `where` is its key."""
    unresolved: list[ConfigError] = []
    tree = _resolve(cfg, "", unresolved)
    config: dict[str, Any] = {}
    errors: list[ConfigError] = []
    root = typed.options_of(COMMANDS[command])
    kinds = [kind for kind in registry.KINDS if kind in root]
    if COMMANDS[command] is TrainCommand:
        errors += _overlay_stage(tree)
    for kind in kinds:
        config[kind] = _components(kind, tree.pop(kind, None), errors)
    sections, more = typed.check({name: option for name, option in root.items() if name not in kinds}, tree)
    errors += more
    lost = {error.where for error in unresolved}
    errors = [e for e in errors if e.where not in lost]
    return {**typed.plain(sections), **config}, errors or unresolved


def _resolve(node: Any, path: str, errors: list[ConfigError]) -> Any:
    """Plain mappings, lists and values; what an interpolation cannot find is an error."""
    if not isinstance(node, DictConfig | ListConfig):
        return node
    found: dict[Any, Any] = {}
    for key in range(len(node)) if isinstance(node, ListConfig) else list(node.keys()):
        place = f"{path}.{key}" if path else str(key)
        if OmegaConf.is_missing(node, key):
            found[key] = registry.MISSING
            continue
        try:
            found[key] = _resolve(node[key], place, errors)
        except OmegaConfBaseException as error:
            found[key] = None
            reason = str(error).splitlines()[0]
            errors.append(ConfigError(f"{place} cannot be resolved", code="MMG-C06", where=place, why=reason, fix=f"{place}=VALUE"))
    return list(found.values()) if isinstance(node, ListConfig) else found


def _components(kind: str, section: Any, errors: list[ConfigError]) -> Any:
    if kind in registry.SEVERAL:
        chosen = section if isinstance(section, Mapping) else {}
        return {key: _component(kind, sub, f"{kind}.{key}", errors) for key, sub in chosen.items()}
    return _component(kind, section, kind, errors)


def _component(kind: str, section: Any, place: str, errors: list[ConfigError]) -> Any:
    try:
        if isinstance(section, Mapping) and "name" not in section and place != kind:
            known = [f"{kind}.{name}" for name in registry.choices(kind)]
            raise typed.unknown_key(place, known)
        return registry.complete(kind, section if isinstance(section, Mapping) else {}, place=place)
    except ConfigErrors as several:
        errors += several.errors
    except ConfigError as error:
        errors.append(error)
    return section


def _overlay_stage(tree: dict[str, Any]) -> list[ConfigError]:
    """In `train`, an experiment's `stages.<task>` counts for the task that is trained; the other stages are only
    checked."""
    stages = tree.pop("stages", None) or {}
    if not isinstance(stages, Mapping):
        return [ConfigError(f"stages must be a section, got {quoted(stages)}", code="MMG-C02", where="stages", fix="leave it out")]
    _, errors = typed.check(typed.options_of(COMMANDS["run"])["stages"].type and _stage_options(), stages, "stages")
    errors = [e for e in errors if e.code != "MMG-C05"]
    task = tree.get("task")
    if isinstance(task, Mapping):
        own = stages.get(str(task.get("name")), {})
        for section in ("task", "trainer"):
            if isinstance(own, Mapping) and isinstance(own.get(section), Mapping):
                tree[section] = _merged(tree.get(section) or {}, own[section])
    return errors


def _stage_options() -> dict[str, typed.Option]:
    return typed.options_of(typed.options_of(COMMANDS["run"])["stages"].type)


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(under)
    for key, value in over.items():
        both[key] = _merged(both[key], value) if isinstance(value, Mapping) and isinstance(both.get(key), Mapping) else value
    return both


def _deletable(request: Request, override: Override, tree: DictConfig) -> bool:
    """Whether there is something to delete; a key that nobody knows is an error, a known one that is not there is not."""
    key = override.key_or_group
    if key in presets.groups(request.where):
        return key in _mentioned(request.command)
    if OmegaConf.select(tree, key, throw_on_missing=False) is not None:
        return True
    section = OmegaConf.select(tree, key.rpartition(".")[0]) if "." in key else tree
    prefix = f"{key.rpartition('.')[0]}." if "." in key else ""
    known = [f"{prefix}{name}" for name in section] if isinstance(section, DictConfig) else []
    if key not in known:
        request.errors.append(locate(typed.unknown_key(key, known), request))
    return False


def _distinct(errors: list[ConfigError]) -> list[ConfigError]:
    """Each error once: what `trainer` says of a whole run comes up again in each stage."""
    found: dict[tuple[str, str], ConfigError] = {}
    for error in errors:
        found.setdefault((error.code, error.what), error)
    return list(found.values())


def locate(error: ConfigError, request: Request) -> ConfigError:
    """The error with its place: the override that brought the key, or the YAML file and line."""
    return error
