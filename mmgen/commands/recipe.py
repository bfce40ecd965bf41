"""A command line as an experiment's YAML: what a sweep found best, ready to run again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from mmgen.commands.overrides import parse, read
from mmgen.commands.places import Place
from mmgen.files import write_atomic


def write_experiment(
    directory: Path, name: str, command: str, overrides: Sequence[str], where: list[Place], about: Sequence[str]
) -> Path:
    """Writes DIRECTORY/experiment/NAME.yaml; with `--config-dir=DIRECTORY experiment=NAME` the command is as if it had
    these overrides.

    Args:
        overrides: of the command, without the run's place.
        about: lines of comment for its head.
    """
    file = directory / "experiment" / f"{name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    defaults, values = _contents(command, overrides, where)
    values = {"run": {"name": name}, **values}
    head = "# @package _global_\n" + "".join(f"# {line}\n" for line in about)
    body = {"defaults": defaults, **values} if defaults else values
    write_atomic(file, head + yaml.safe_dump(body, sort_keys=False, allow_unicode=True))
    return file


def _contents(command: str, overrides: Sequence[str], where: list[Place]) -> tuple[list[Any], dict[str, Any]]:
    """The defaults list and the values that say the same as the overrides do."""
    request = read(command, list(overrides), where, multirun=False)
    starts: list[Any] = []
    chosen: dict[str, Any] = {}
    for choice in request.choices:
        group = str(choice.key_or_group) + (f"@{choice.package}" if choice.package else "")
        if group == "experiment":
            starts.append(_plain(choice.value()))
        else:
            chosen[f"override /{group}"] = _plain(choice.value())
    values: dict[str, Any] = {}
    task = next((str(choice.value()) for choice in request.choices if choice.key_or_group == "task"), "")
    for line in request.rewritten():
        spread = line.startswith("++stages.") and "=${" in line
        if spread and command == "train" and not (starts and line.startswith(f"++stages.{task}.")):
            continue  # what an experiment says of other stages does not count here
        if line.startswith("++"):
            parsed = parse(line.removeprefix("++"))
            _set(values, str(parsed.key_or_group).split("."), _plain(parsed.value()))
    return [*starts, *({key: value} for key, value in chosen.items())], values


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return getattr(value, "text", value)  # a quoted string


def _set(values: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        below = values.setdefault(part, {})
        if not isinstance(below, dict):
            below = values[part] = {}
        values = below
    values[path[-1]] = value
