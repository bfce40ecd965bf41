"""Rivals: further encoders of a run, trained as its own but for some values, and judged beside it.

What an encoder loses by wrong captions, say, takes two trainings on the same data and one table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmgen import options as typed
from mmgen import registry
from mmgen.commands.schema import StageConfig
from mmgen.errors import ConfigError, ConfigErrors, quoted


@dataclass
class RivalConfig:
    """Of one rival: what differs from the run's encoder."""

    encoder: dict[str, Any] = field(default_factory=dict)
    task: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    evaluator: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Rival:
    """Another encoder: its options whole, and which of the run's evaluators judge it too."""

    name: str
    component: dict[str, Any]
    task: dict[str, Any]
    trainer: dict[str, Any]
    evaluators: tuple[str, ...]

    @property
    def directory(self) -> str:
        """Where it is trained, in the run's directory."""
        return f"encoder-{self.name}"

    @property
    def section(self) -> str:
        """Of the config that says it."""
        return f"rivals.{self.name}"

    def figures(self, evaluator: str) -> str:
        """What its figures of an evaluator are called."""
        return f"{evaluator}_{self.name}"


def rivals(config: Mapping[str, Any]) -> list[Rival]:
    """Those of a checked config of `mmgen run`."""
    found, errors = read_rivals(config)
    assert not errors, errors
    return found


def read_rivals(config: Mapping[str, Any], trusted: bool = True) -> tuple[list[Rival], list[ConfigError]]:
    """Every rival, complete, and all that is wrong with them; an error's `where` is its key.

    Args:
        trusted: whether the user wrote the config; one from a file may only name registered components.
    """
    found: list[Rival] = []
    errors: list[ConfigError] = []
    for name, given in (config.get("rivals") or {}).items():
        place = f"rivals.{name}"
        if not re.fullmatch(r"\w+", str(name)):
            text = f"a rival is called {quoted(str(name))}; letters, digits and _ only"
            errors.append(ConfigError(text, code="MMG-C02", where="rivals", fix="rivals.NAME.task.KEY=VALUE"))
            continue
        own, more = typed.check(typed.options_of(RivalConfig), given if isinstance(given, Mapping) else {}, place)
        errors += more
        if more:
            continue
        encoder = config["stages"]["encoder"]
        laid = {section: merged(encoder[section], own[section]) for section in ("task", "trainer")}
        stage, more = typed.check(typed.options_of(StageConfig), laid, place)
        errors += more
        component = _component({**config["encoder"], **own["encoder"]}, trusted, place, errors)
        unknown = [key for key in own["evaluator"] if key not in config["evaluator"]]
        errors += [_not_chosen(key, config["evaluator"], place) for key in unknown]
        errors += [
            ConfigError(
                f"the figures of {place} by {key} would be called {key}_{name}, which is an evaluator of the run",
                code="MMG-C02",
                where=place,
                fix="another name for the rival",
            )
            for key in own["evaluator"]
            if f"{key}_{name}" in config["evaluator"]
        ]
        sections = {name: typed.plain(stage[name]) for name in ("task", "trainer")}
        found.append(Rival(str(name), component, **sections, evaluators=tuple(own["evaluator"])))
    return found, errors


def _component(encoder: dict[str, Any], trusted: bool, place: str, errors: list[ConfigError]) -> Any:
    try:
        return registry.complete("encoder", encoder, trusted=trusted, place=f"{place}.encoder")
    except ConfigErrors as several:
        errors += several.errors
    except ConfigError as error:
        errors.append(error)
    return encoder


def _not_chosen(name: str, evaluators: Mapping[str, Any], place: str) -> ConfigError:
    return ConfigError(
        f"{place} is to be judged by {quoted(name)}, which the run does not choose",
        code="MMG-C03",
        where=f"{place}.evaluator",
        why=f"chosen: {', '.join(evaluators) or 'none'}",
        fix=f"evaluator.{name}.name=EVALUATOR, or leave it out",
    )


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A section with another laid over it, key by key."""
    both = dict(under)
    for key, value in over.items():
        nested = isinstance(value, Mapping) and isinstance(both.get(key), Mapping)
        both[key] = merged(both[key], value) if nested else value
    return both
