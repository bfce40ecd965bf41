"""`mmgen config show | diff | why`: a command's resolved config, how two differ, and where a value comes from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mmgen.commands import composition
from mmgen.commands.actions import action_of, only
from mmgen.commands.places import Place, places
from mmgen.commands.schema import COMMANDS
from mmgen.commands.sources import Said, Sources, flat
from mmgen.errors import ConfigError, quoted
from mmgen.options import written
from mmgen.runs.config import ABSENT, differences, plain
from mmgen.runs.origin import config_of
from mmgen.spelling import nearest


def main(words: list[str], overrides: list[str], config_dir: Path | None = None) -> int:
    """Prints what was asked for; gives the exit code.

    Args:
        words: the action, then a command's name or a run's directory, then keys.
        overrides: of that command.
    """
    action, rest = action_of("config", words)
    where = places(config_dir)
    if action == "show":
        only(rest, 1, None, "mmgen config show COMMAND [KEY]… [KEY=VALUE]…, or mmgen config show RUN")
        _show(_side(rest[0], overrides, where), rest[1:])
    elif action == "diff":
        only(rest, 2, 2, "mmgen config diff RUN RUN, or mmgen config diff RUN COMMAND [KEY=VALUE]…")
        if overrides and not any(side in COMMANDS for side in rest):
            raise _no_composition(overrides[0])
        _diff(*(_side(side, overrides if side in COMMANDS else [], where) for side in rest))
    else:
        only(rest, 1, None, "mmgen config why COMMAND [KEY]… [KEY=VALUE]…")
        if rest[0] not in COMMANDS:
            raise _unknown(rest[0])
        _why(Sources(rest[0], overrides, where), rest[1:])
    return 0


def _side(name: str, overrides: list[str], where: list[Place]) -> dict[str, Any]:
    """A command's composed config, or a run's, without secrets."""
    if name in COMMANDS:
        config = composition.checked(name, overrides, where).config
    elif Path(name).is_dir():
        if overrides:
            raise _no_composition(overrides[0])
        config = config_of(Path(name))
    else:
        raise _unknown(name)
    found: dict[str, Any] = plain(config)
    return found


def _show(config: dict[str, Any], keys: list[str]) -> None:
    chosen = config if not keys else _nested({key: value for name in keys for key, value in _below(config, name)})
    print(yaml.safe_dump(chosen, sort_keys=False, allow_unicode=True), end="")


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        *sections, leaf = key.split(".")
        place = found
        for section in sections:
            place = place.setdefault(section, {})
        place[leaf] = value
    return found


def _below(config: Mapping[str, Any], name: str) -> list[tuple[str, Any]]:
    """A key and all below it.

    Raises:
        ConfigError: there is none.
    """
    every = dict(flat(config))
    found = [(key, value) for key, value in every.items() if key == name or key.startswith(f"{name}.")]
    if not found:
        parts = [key.split(".") for key in every]
        depth = name.count(".") + 1
        near = nearest(name, sorted({".".join(part[:depth]) for part in parts}) + list(every))
        fix = f"did you mean {near}?" if near else "mmgen config show COMMAND lists all keys"
        raise ConfigError(f"the config has no key {quoted(name)}", code="MMG-C01", where="command line", fix=fix)
    return found


def _diff(old: dict[str, Any], new: dict[str, Any]) -> None:
    """One line for each key that differs, `key: old → new`; nothing where none does."""
    for key, before, after in differences(old, new):
        print(f"{key}: {_text(before)} → {_text(after)}")


def _why(sources: Sources, keys: list[str]) -> None:
    if not keys:
        for key, value in sources.flat.items():
            print(f"{key} = {_text(value)}    {sources.of(key)[0].place}")
        return
    for key in keys:
        group = key.removesuffix(".name")
        if chosen := sources.chosen(group):
            print(f"{group}: {chosen[0].value}")
            _print(chosen, "chosen by")
            if group not in sources.config:  # an experiment leaves no section
                continue
        for name, value in _below(sources.config, key):
            said = sources.of(name)
            via = f"    from {said[0].value}" if isinstance(said[0].value, str) and "${" in said[0].value else ""
            print(f"{name} = {_text(plain({name.rpartition('.')[2]: value}).popitem()[1])}{via}")
            _print(said, "set by")


def _print(said: list[Said], first: str) -> None:
    for place, one in enumerate(said):
        value = f"{_text(one.value)}    " if place else ""
        print(f"  {'over' if place else first:<10} {value}{one.place}")


def _text(value: Any) -> str:
    return str(value) if value is ABSENT else written(value)


def _unknown(name: str) -> ConfigError:
    near = nearest(name, list(COMMANDS))
    return ConfigError(
        f"{quoted(name)} is no command with a config and no run's directory",
        code="MMG-C07",
        where="command line",
        why=f"commands are {', '.join(COMMANDS)}",
        fix=f"did you mean {near}?" if near else "mmgen config show run",
    )


def _no_composition(override: str) -> ConfigError:
    return ConfigError(
        f"{quoted(override)} changes nothing: a run's config is as it was",
        code="MMG-C07",
        where="command line",
        fix=f"mmgen config diff RUN run {override}",
    )
