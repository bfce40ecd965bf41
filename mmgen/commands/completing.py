"""What could stand next on a command line: commands, actions, groups, options, values, runs.

Asked for at every press of the tab key, so nothing heavy is imported: a component's options are read from its source
text.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import shlex
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from mmgen import registry
from mmgen.commands.actions import ACTIONS
from mmgen.commands.help import PAGES
from mmgen.commands.places import Place, options, places, presets, yaml_groups
from mmgen.commands.plugins import ACTIONS as PLUGIN_ACTIONS
from mmgen.commands.schema import COMMANDS
from mmgen.options import Option, options_of
from mmgen.packages import file_of
from mmgen.runs.listing import find_runs

FLAGS = ("--help", "--multirun", "--config-dir", "--cfg")
# Whose values are runs.
RUN_KEYS = ("run", "runs", "tokenizer_from", "generator_from", "encoder_from", "init_from", "against")
BASES = 4  # classes up to which inherited options are looked for


def complete(line: str) -> list[str]:
    """The candidates for the last word of a line that begins with the command's name; none: files, as shells do."""
    words = _split(line)[1:] or [""]
    *before, word = words
    return sorted({one for one in _candidates(before, word) if one.startswith(word) and one != word})


def _split(line: str) -> list[str]:
    """The words of an unfinished line; the last is empty after a space."""
    for quote in ("", "'", '"'):
        try:
            words = shlex.split(line + quote)
        except ValueError:  # an open quote
            continue
        return [*words, ""] if not line or (line[-1].isspace() and not quote) else words
    return line.split(" ")


def _candidates(before: list[str], word: str) -> Iterable[str]:
    if not before:
        return [*PAGES, "--help", "--version"]
    command, *rest = before
    if command == "plugins":
        return _of_plugins(rest)
    if command not in ACTIONS:
        return _of_command(command, rest, word)
    if command == "config":
        return _of_config(rest, word)
    if not rest and list(ACTIONS[command]) != [""]:
        return ACTIONS[command]
    kind = ACTIONS[command].get("") or ACTIONS[command].get(rest[0])
    return _of_action(options_of(kind), word) if kind else []


def _of_plugins(rest: list[str]) -> Iterable[str]:
    if not rest:
        return PLUGIN_ACTIONS
    return [name for kind in registry.KINDS for name in registry.choices(kind)] if rest[0] in ("info", "check") else []


def _of_config(rest: list[str], word: str) -> Iterable[str]:
    if not rest:
        return ACTIONS["config"]
    command = next((one for one in rest[1:] if one in COMMANDS), None)
    if command is None:
        return [*(COMMANDS if len(rest) < 3 else ()), *runs()]
    found = list(_of_command(command, rest, word))
    keys = [one.rstrip("=") for one in found if not one.startswith("-")] if "=" not in word else []
    return [*found, *keys, *(runs() if rest[0] == "diff" else ())]


def _of_action(known: dict[str, Option], word: str) -> Iterable[str]:
    key, sign, _ = word.partition("=")
    if sign:
        return [f"{key}={value}" for value in _values(known[key])] if key in known else []
    return [*(f"{name}=" for name in known), *runs(), "--help"]


def _of_command(command: str, rest: list[str], word: str) -> Iterable[str]:
    if command not in COMMANDS:
        return []
    where = places(next((Path(w.partition("=")[2]) for w in rest if w.startswith("--config-dir=")), None))
    root = options_of(COMMANDS[command])
    groups = [g for g in (*registry.KINDS, *yaml_groups(where)) if g in root or command in ("run", "train")]
    key, sign, value = word.partition("=")
    if sign:
        return [f"{key}={one}" for one in _values_of(command, key, value, groups, root, rest, where)]
    keys = [*_keys(root, word), *(f"{group}=" for group in groups)]
    kind = word.partition(".")[0]
    if kind in registry.KINDS and kind in root and "." in word:
        keys += [f"{key}=" for key in component_keys(kind, command, rest, where)]
    keys += [f"{kind}." for kind in registry.KINDS if kind in root]
    return [*keys, *FLAGS] if word.startswith("-") or not word else keys


def _keys(known: dict[str, Option], word: str, prefix: str = "") -> Iterator[str]:
    """The keys of one level: `trainer.` before its keys, those once it is written."""
    for name, option in known.items():
        held = _section(option)
        path = f"{prefix}{name}"
        if held is None:
            yield f"{path}="
        elif word.startswith(f"{path}."):
            yield from _keys(options_of(held), word, f"{path}.")
        else:
            yield f"{path}."


def _section(option: Option) -> Any:
    return next((t for t in (option.type, *typing.get_args(option.type)) if dataclasses.is_dataclass(t)), None)


def _values_of(
    command: str, key: str, value: str, groups: list[str], root: dict[str, Option], rest: list[str], where: list[Place]
) -> Iterable[str]:
    if key in groups:
        names = options(key, where)
        if key not in registry.SEVERAL:
            return names
        opened = value[: max(value.rfind("["), value.rfind(",")) + 1]  # [a,b,
        return [f"{opened or '['}{name}" for name in names]
    if key.rpartition(".")[2] in RUN_KEYS:
        return runs()
    option: Option | None = None
    known = root
    for part in key.split("."):
        option = known.get(part)
        held = _section(option) if option else None
        known = options_of(held) if held is not None else {}
    return _values(option) if option else []


def _values(option: Option) -> list[str]:
    """What an option may be, where that is a few words."""
    found: list[str] = []
    for hint in (option.type, *typing.get_args(option.type)):
        if hint is bool:
            found += ["true", "false"]
        elif hint is type(None):
            found.append("null")
        elif typing.get_origin(hint) is typing.Literal:
            found += [str(one) for one in typing.get_args(hint)]
        elif inspect.isclass(hint) and issubclass(hint, enum.Enum):
            found += [one.name for one in hint]
    return found if found != ["null"] else []


def runs() -> list[str]:
    """The runs under runs/."""
    return [str(path) for path in find_runs("runs")]


def component_keys(kind: str, command: str, rest: list[str], where: list[Place]) -> list[str]:
    """`generator.num_layers` and so on, of the component that the line chooses; of several, of all that it chooses."""
    found = []
    for name in _chosen(kind, command, rest, where):
        component = _component(kind, name, where)
        prefix = f"{kind}.{name}." if kind in registry.SEVERAL else f"{kind}."
        if component is not None:
            skip = registry.BUILD_ARGUMENTS[kind]
            found += [f"{prefix}{option}" for option in _written_options(component.value) if option not in skip]
    return found


def _chosen(kind: str, command: str, rest: list[str], where: list[Place]) -> list[str]:
    """What is chosen of a kind: on the line, else by its experiment, else by the command's own YAML."""
    said = dict(word.partition("=")[::2] for word in rest if "=" in word)
    if kind in said:
        return _names(said[kind])
    experiment = said.get("experiment", "quickstart" if command == "run" and "dataset" not in said else "")
    files = [file for name, file in presets("experiment", where) if name == experiment]
    for file in [*files, *(place.directory / f"{command}.yaml" for place in where[:1])]:
        for item in _defaults(file):
            for key, value in item.items() if isinstance(item, dict) else []:
                if str(key).split()[-1].lstrip("/") == kind:
                    return _names(value)
    return []


def _component(kind: str, name: str, where: list[Place]) -> registry.Component | None:
    """The component of a name, or the one that a preset of that name starts from."""
    for _ in range(BASES):
        if claims := registry.components(kind).get(name.partition("@")[0]):
            return claims[0]
        files = [file for preset, file in presets(kind, where) if preset == name]
        bases = [item for file in files for item in _defaults(file) if isinstance(item, str) and item != "_self_"]
        if not bases:
            return None
        name = bases[0]
    return None


def _defaults(file: Path) -> list[Any]:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return []
    defaults = found.get("defaults") if isinstance(found, dict) else None
    return defaults if isinstance(defaults, list) else []


def _names(value: Any) -> list[str]:
    if isinstance(value, str):
        value = value.strip("[]").split(",")
    return [str(one).strip() for one in value or []]


def _written_options(value: str) -> list[str]:
    """The parameters of `module:Class` as its source says them, inherited ones from the same file too."""
    module, _, name = value.partition(":")
    file = file_of(module)
    if file is None or file.suffix != ".py":
        return []
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return []
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return _parameters(node)
    for _ in range(BASES):
        if name not in classes:
            return []
        for node in classes[name].body:
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                return _parameters(node)[1:]
        name = next((base.id for base in classes[name].bases if isinstance(base, ast.Name)), "")
    return []


def _parameters(node: ast.FunctionDef) -> list[str]:
    return [one.arg for one in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
