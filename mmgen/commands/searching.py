"""From `mmgen sweep`'s command line and YAML to a search: which keys are the sweep's, which the trials'.

Every value at the ends of the search is composed and checked before the first trial begins.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra

from mmgen.commands import composition, mistakes, places
from mmgen.commands.overrides import line_of, parse, place_of
from mmgen.commands.places import Place
from mmgen.commands.schema import SweepCommand
from mmgen.errors import ConfigError, ConfigErrors, quoted
from mmgen.options import options_of
from mmgen.sweeps import search
from mmgen.sweeps.definition import Sweep
from mmgen.sweeps.goals import Goal
from mmgen.sweeps.goals import parse as parse_goals
from mmgen.sweeps.reading import from_override, from_yaml
from mmgen.sweeps.space import Parameter, Space, Value, override, text

CONFIG_DIR = "--config-dir="
BOUNDS = ("n_trials", "total_time", "total_steps")
TRIALS = 20  # where no bound is given
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_SWEEPS_OWN = {"run.name": "sweep.name", "run.dir": "sweep.dir", "resume": None}


def divide(overrides: Sequence[str], config_dir: Path | None, multirun: bool = False) -> tuple[list[str], list[str]]:
    """The sweep's own overrides, and what is the trials': the directory of YAML if there is one, their overrides.

    Raises:
        ConfigError: -m, which is Hydra's own way to run several.
    """
    if multirun:
        text_ = "-m is Hydra's own way to run several configs of mmgen run and mmgen train"
        raise ConfigError(text_, code="MMG-C67", where="command line", fix="leave -m out, or mmgen run -m …")
    heads = {*options_of(SweepCommand), "hydra"}
    own: list[str] = []
    theirs: list[str] = []
    for given in overrides:
        head = re.split(r"[.=@/]", given.lstrip("+~"), maxsplit=1)[0]
        (own if head in heads else theirs).append(given)
    return own, [*([f"{CONFIG_DIR}{config_dir}"] if config_dir else []), *theirs]


@dataclass(frozen=True)
class Asked:
    """What `mmgen sweep` was asked to do, checked.

    Args:
        sweep: the search.
        command: train or run.
        where: the places of YAML.
        config: of the first trial.
        config_dir: the user's own YAML, if there is any.
        begins_as_it_is: whether the first trial was to be the recipe.
        notes: what the user should know before it begins.
    """

    sweep: Sweep
    command: str
    where: list[Place]
    config: dict[str, Any]
    config_dir: str | None
    begins_as_it_is: bool
    notes: list[str]

    @property
    def has_baseline(self) -> bool:
        """Whether the first trial is the recipe as it is, in everything that is searched."""
        first = self.sweep.first
        return self.begins_as_it_is and bool(first) and not _missing(self.sweep.space, first[0])


def asked(config: Mapping[str, Any], given: Sequence[str], chosen: str | None) -> Asked:
    """The search, from the sweep's config and the trials' overrides.

    Args:
        config: of `mmgen sweep`.
        given: the trials' part of `divide`.
        chosen: the name of the preset, if one is chosen.

    Raises:
        ConfigErrors: whatever is wrong with the search or with the config of a trial.
    """
    config_dir = next((g.removeprefix(CONFIG_DIR) for g in given if g.startswith(CONFIG_DIR)), None)
    where = places.places(Path(config_dir) if config_dir else None)
    about = config["sweep"]
    notes: list[str] = []
    fixed, space = _searched(about, [g for g in given if not g.startswith(CONFIG_DIR)], where, notes)
    command = _command(about["command"], fixed, space)
    name = about["name"] or chosen or _named(fixed) or command
    checked = _checked(command, fixed, space, where, name)
    goals = parse_goals(about["goal"], about["direction"], about["value"], command == "train")
    pruner = _with_name(about["pruner"])
    program = [sys.executable, "-P", "-m", "mmgen.cli", command]
    sweep = Sweep(
        name=name,
        directory=Path(about["dir"]) / name,
        program=(*program, *([f"{CONFIG_DIR}{config_dir}"] if config_dir else [])),
        overrides=(f"tracking.group={name}", *fixed),
        space=space,
        goals=goals,
        sampler=_with_name(about["sampler"]),
        pruner=pruner,
        watched=_watched(about["prune_on"], goals, pruner, command == "train"),
        first=_first(about, checked, space, notes),
        trials=config["n_trials"] if any(config[bound] for bound in BOUNDS) else TRIALS,
        seconds=seconds(config["total_time"]),
        steps=config["total_steps"],
        workers=config["workers"],
        devices=tuple(config["devices"] or ()),
        storage=config["storage"],
        stops_on_failures=config["stop_on_failures"],
        grace=config["grace"],
    )
    return Asked(sweep, command, where, checked, config_dir, about["baseline"], notes)


def _searched(
    about: Mapping[str, Any], given: Sequence[str], where: list[Place], notes: list[str]
) -> tuple[list[str], Space]:
    """What is fixed and what is searched; a key of the command line goes before the preset's."""
    parameters = {key: from_yaml(key, value) for key, value in about["space"].items()}
    fixed: list[str] = []
    for one in [*about["overrides"], *given]:
        parsed = parse(one)
        key = str(parsed.key_or_group) + (f"@{parsed.package}" if parsed.package else "")
        if key in _SWEEPS_OWN:
            instead = _SWEEPS_OWN[key]
            fix = f"{instead}=…" if instead else "leave it out: interrupted trials always go on"
            raise ConfigError(f"{key} is the sweep's to set", code="MMG-C67", where=place_of(parsed), fix=fix)
        if parsed.is_sweep_override():
            parameters[key] = from_override(parsed, place_of(parsed), places.options(key, where))
            fixed = [text_ for text_ in fixed if parse(text_).key_or_group != key]
        else:
            if key in parameters:
                notes.append(f"{key} is not searched: the command line sets it")
                del parameters[key]
            fixed.append(line_of(parsed))
    if not parameters:
        raise ConfigError(
            "nothing is searched",
            code="MMG-C67",
            where="sweep.space",
            fix="'task.optimizer.lr=tag(log,interval(1e-4,1e-2))', or sweep=NAME: "
            + ", ".join(places.options("sweep", where)),
        )
    return fixed, Space(list(parameters.values()))


def _command(wanted: str, fixed: Sequence[str], space: Space) -> str:
    if wanted != "auto":
        return wanted
    chosen = {re.split(r"[=@]", one, maxsplit=1)[0].lstrip("+") for one in fixed} | set(space.keys)
    return "train" if "task" in chosen else "run"


def _named(fixed: Sequence[str]) -> str | None:
    chosen = dict(one.split("=", 1) for one in fixed if one.startswith(("experiment=", "task=")))
    return chosen.get("experiment") or chosen.get("task")


def _checked(command: str, fixed: Sequence[str], space: Space, where: list[Place], name: str) -> dict[str, Any]:
    """The config of the fixed part; all that is wrong with it or with any end of the search is told at once."""
    errors: list[ConfigError] = []
    config: dict[str, Any] = {}
    settings = [[override(key, value) for key, value in variant.items()] for variant in space.variants()]
    keys = {"task", "dataset", *(p.key for p in space.parameters if "." not in p.key)}
    required = keys & set(space.keys)  # what the fixed part lacks, since it is searched
    with _hydra_aside():
        for setting in [*([] if required else [[]]), *settings]:
            try:
                found = composition.checked(command, [*fixed, *setting, f"run.name={name}"], where).config
                config = config or found
            except ConfigErrors as several:
                errors += several.errors
            except ConfigError as error:
                errors.append(error)
    for told in errors:
        for key in space.keys:
            if told.where.startswith(f"command line: {key}="):  # as we wrote it there; nobody else did
                told.where = f"the search of {key}"
    if errors:
        raise ConfigErrors(mistakes.distinct(errors))
    return config


@contextmanager
def _hydra_aside() -> Iterator[None]:
    """We run under `hydra.main`, which holds the one Hydra there is; to compose another config it stands aside."""
    holder = GlobalHydra.instance()
    running = holder.hydra
    holder.clear()
    try:
        yield
    finally:
        holder.hydra = running


def _with_name(given: str | Mapping[str, Any]) -> dict[str, Any]:
    return {"name": given} if isinstance(given, str) else dict(given)


def _watched(name: str | None, goals: Sequence[Goal], pruner: Mapping[str, Any], trains: bool) -> Goal | None:
    """By what trials are pruned.

    Raises:
        ConfigError: there are several goals, or one that is known only at the end.
    """
    if not search.prunes(pruner):
        return None
    if len(goals) > 1:
        text_ = "trials with several goals cannot be pruned: no one of them is simply worse"
        raise ConfigError(text_, code="MMG-C67", where="sweep.pruner", fix="sweep.pruner=none, or one goal")
    if name is None:
        if goals[0].is_evaluated:
            fix = "sweep.prune_on=generator:val/loss, or sweep.pruner=none"
            text_ = f"{goals[0].name} is known only after training"
            raise ConfigError(text_, code="MMG-C67", where="sweep.prune_on", fix=fix)
        return None
    direction = "minimize" if "loss" in name else goals[0].direction
    return parse_goals(name, direction, "last", trains)[0]


def _first(
    about: Mapping[str, Any], config: Mapping[str, Any], space: Space, notes: list[str]
) -> tuple[Mapping[str, Value], ...]:
    """The settings to begin with: the recipe as it is, then those asked for."""
    if search.is_grid(_with_name(about["sampler"])):
        return ()
    found: list[Mapping[str, Value]] = []
    if about["baseline"]:
        recipe = {p.key: value for p in space.parameters if (value := _now(p, config)) is not _UNKNOWN}
        left = _missing(space, recipe)
        if left and recipe:
            notes.append(f"the first trial is the recipe as it is, but for {', '.join(left)}")
        found += [recipe] if recipe else []
    for i, setting in enumerate(about["first"]):
        unknown = [key for key in setting if key not in space.keys]
        if unknown:
            text_ = f"sweep.first[{i}] sets {quoted(unknown[0])}, which is not searched"
            raise ConfigError(text_, code="MMG-C67", where="sweep.first", fix=f"one of {', '.join(space.keys)}")
        proposed = {key: _proposed(space[key], text(value)) for key, value in setting.items()}
        for key, value in proposed.items():
            if value is _UNKNOWN:
                given = quoted(override(key, text(setting[key])))
                text_ = f"sweep.first[{i}] has {given}, which the search could not propose"
                raise ConfigError(text_, code="MMG-C67", where="sweep.first", fix=_all_of(space[key]))
        found.append(proposed)
    return tuple(found)


def _all_of(parameter: Parameter) -> str:
    if parameter.choices:
        return "one of " + ", ".join(override(parameter.key, one) for one in parameter.choices)
    steps = f" in steps of {parameter.step}" if parameter.step else ", whole numbers" if parameter.whole else ""
    return f"{parameter.key} from {parameter.low} to {parameter.high}{steps}"


def _missing(space: Space, setting: Mapping[str, Value]) -> list[str]:
    """The keys that exist beside these values, and have none among them."""
    return [p.key for p in space.parameters if p.key not in setting and p.is_active(setting)]


_UNKNOWN: Any = object()


def _now(parameter: Parameter, config: Mapping[str, Any]) -> Value:
    """The value that a searched key has now, if the search could propose it."""
    at: Any = config
    for part in parameter.key.split("."):
        if not isinstance(at, Mapping) or part not in at:
            return _UNKNOWN
        at = at[part]
    return _proposed(parameter, text(at["name"] if isinstance(at, Mapping) and "name" in at else at))


def _proposed(parameter: Parameter, value: Value) -> Value:
    """A value as the search would propose it; `_UNKNOWN` if it could not."""
    if parameter.choices:
        return next((c for c in parameter.choices if c == value and type(c) is type(value)), _UNKNOWN)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return _UNKNOWN
    distribution = parameter.distribution()
    number = int(value) if parameter.whole and value == int(value) else float(value)
    return number if distribution._contains(distribution.to_internal_repr(number)) else _UNKNOWN


def seconds(given: str | float | None) -> float | None:
    """A time budget: 5400, 90m, 1h30m, or Lightning's DD:HH:MM:SS.

    Raises:
        ConfigError: it is none.
    """
    if given is None or isinstance(given, int | float):
        return given
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(min|[smhd]?)", given.strip())
    clock = given.strip().split(":")
    total = 0.0
    if len(clock) > 1 and all(part.isdecimal() for part in clock) and len(clock) <= 4:
        for part, unit in zip(reversed(clock), (1, 60, 3600, 86400), strict=False):
            total += int(part) * unit
    elif parts and "".join("".join(part) for part in parts) == re.sub(r"\s", "", given):
        total = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if total <= 0:
        raise ConfigError(f"{quoted(given)} is no time", code="MMG-C67", where="total_time", fix="total_time=2h")
    return total
