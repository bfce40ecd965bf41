"""Options: what a component or a section of the config may be told, read from its signature, and values checked.

Plain Python and nothing else, because a config that came with a file from elsewhere is checked here too, and such a
config never reaches Hydra or OmegaConf. Part of the registry (`mmgen.registry`).
"""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import enum
import inspect
import pathlib
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mmgen.errors import ConfigError, quoted

REQUIRED: Any = type("Required", (), {"__repr__": lambda self: "required"})()
MISSING = "???"  # how YAML says that a value has to be given


@dataclasses.dataclass(frozen=True)
class Option:
    """One option: its type as `typing` writes it, and its default, or `REQUIRED`."""

    name: str
    type: Any
    default: Any = REQUIRED
    help: str = ""


class _Unfit(Exception):
    """The value does not fit the type; the message says what would."""


def options_of(target: Callable[..., Any], skip: Iterable[str] = ()) -> dict[str, Option]:
    """The options of a class, a function or a dataclass, in the order of its signature.

    `*args`, `**kwargs` and the parameters named in `skip` are left out. An annotation that cannot be resolved (a name
    imported under TYPE_CHECKING only) counts as Any. A dataclass field's help is its metadata's.
    """
    function = target.__init__ if inspect.isclass(target) else target
    names = getattr(function, "__globals__", None) or vars(sys.modules.get(target.__module__, types))
    if dataclasses.is_dataclass(target):
        names = vars(sys.modules[target.__module__])
    helps = {f.name: f.metadata.get("help", "") for f in dataclasses.fields(target)} if dataclasses.is_dataclass(target) else {}
    found = {}
    for p in inspect.signature(target).parameters.values():
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY) or p.name in skip:
            continue
        default = REQUIRED if p.default is p.empty else p.default
        if dataclasses.is_dataclass(target) and default is not REQUIRED:
            default = _field_default(target, p.name)
        hint = _hint(p.annotation, names)
        if default is None and hint is not Any and not _admits_none(hint):
            hint = typing.Optional[hint]  # noqa: UP045 - built at run time
        found[p.name] = Option(p.name, hint, default, helps.get(p.name, ""))
    return found


def _field_default(target: Any, name: str) -> Any:
    field = next(f for f in dataclasses.fields(target) if f.name == name)
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _hint(annotation: Any, names: dict[str, Any]) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(holder, globalns=names)["it"]
    except Exception:  # whatever a stranger's annotation raises, it is only an annotation
        return Any


def _admits_none(hint: Any) -> bool:
    return type(None) in typing.get_args(hint) or hint is type(None)


def describe(hint: Any) -> str:
    """The type in words: "a whole number", "one of 'a', 'b'", "a list of numbers"."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
    if hint in words:
        return words[hint]
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(arm) for arm in args)
    if origin is typing.Literal:
        return "one of " + ", ".join(str(arm) for arm in args)
    if inspect.isclass(hint) and issubclass(hint, enum.Enum):
        return "one of " + ", ".join(member.name for member in hint)
    if origin is tuple and args and args[-1] is not Ellipsis:
        return "a list of " + ", ".join(describe(arm) for arm in args)
    if _is_list(hint, origin):
        return f"a list of {describe(args[0])}" if args and args[0] is not Any else "a list"
    if _is_mapping(hint, origin) or dataclasses.is_dataclass(hint):
        return "a section"
    return "a path" if hint is pathlib.Path else "any value"


def _is_list(hint: Any, origin: Any) -> bool:
    kinds = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable)
    return (origin or hint) in kinds


def _is_mapping(hint: Any, origin: Any) -> bool:
    return (origin or hint) in (dict, collections.abc.Mapping)


def check(options: Mapping[str, Option], values: Mapping[str, Any], place: str = "") -> tuple[dict[str, Any], list[ConfigError]]:
    """The values, converted to their types and completed by the defaults, and every error there is.

    Args:
        place: the section's key, such as "generator"; keys in messages start with it.
    """
    found, errors = {}, []
    for key, value in values.items():
        path = f"{place}.{key}" if place else str(key)
        if key not in options:
            errors.append(unknown_key(path, [f"{place}.{name}" if place else name for name in options]))
        elif isinstance(value, str) and value == MISSING:
            errors.append(missing(path, options[key]))
        else:
            found[str(key)] = _checked(value, options[key].type, path, errors)
    for name, option in options.items():
        path = f"{place}.{name}" if place else name
        if name in values:
            continue
        if option.default is REQUIRED and dataclasses.is_dataclass(option.type):
            found[name] = _checked({}, option.type, path, errors)
        elif option.default is REQUIRED:
            errors.append(missing(path, option))
        else:
            found[name] = option.default
    return found, errors


def unknown_key(path: str, known: list[str]) -> ConfigError:
    """The error for a key that is not among the known ones, with the nearest of them."""
    near = nearest(path, known)
    section = path.rpartition(".")[0]
    listed = ", ".join(name.rpartition(".")[2] for name in known)
    listed = listed if len(listed) <= 300 else listed[:297] + "…"
    return ConfigError(
        f"unknown config key {quoted(path)}",
        code="MMG-C01",
        where=path,
        why="" if near else f"{section or 'the config'} knows: {listed or 'no options'}",
        fix=f"did you mean {near}?" if near else "leave it out",
    )


def missing(path: str, option: Option) -> ConfigError:
    """The error for a value that has to be given and was not."""
    return ConfigError(
        f"{path} is required ({describe(option.type)})", code="MMG-C05", where=path, fix=f"{path}=VALUE"
    )


def _checked(value: Any, hint: Any, path: str, errors: list[ConfigError]) -> Any:
    """The value as its type wants it; what does not fit is added to `errors`."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        found, more = check(options_of(hint), value, path)
        errors += more
        return found
    try:
        return convert(value, hint)
    except _Unfit:
        example = f"one that is {describe(hint)}" if hint is not Any else "another value"
        error = ConfigError(
            f"{path} must be {describe(hint)}, got {quoted(value)}", code="MMG-C02", where=path, fix=f"{path}=VALUE, {example}"
        )
        errors.append(error)
        return value


def convert(value: Any, hint: Any) -> Any:
    """The value as its type wants it: 3 for "3" where a whole number is wanted, a tuple for a list.

    Raises:
        _Unfit: it does not fit.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, args)
    if origin is typing.Literal:
        return _member(value, {arm: arm for arm in args})
    if hint is type(None):
        return value if value is None else _refuse()
    if hint in _SCALARS:
        return _SCALARS[hint](value)
    if inspect.isclass(hint) and issubclass(hint, enum.Enum):
        return value if isinstance(value, hint) else _member(value, {member.name: member for member in hint})
    if hint is pathlib.Path:
        return pathlib.Path(_text(value))
    if _is_list(hint, origin):
        return _convert_list(value, origin or hint, args)
    if _is_mapping(hint, origin):
        if not isinstance(value, Mapping):
            _refuse()
        return {k: convert(v, args[1]) if len(args) == 2 else v for k, v in value.items()}
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else _refuse()  # type: ignore[arg-type]
    return value  # Any, or a class whose values no config can hold


def _refuse() -> Any:
    raise _Unfit


def _convert_union(value: Any, arms: tuple[Any, ...]) -> Any:
    if any(type(value) is arm for arm in arms):
        return value
    for arm in sorted(arms, key=lambda arm: arm is str):  # text takes anything, so it is asked last
        try:
            return convert(value, arm)
        except _Unfit:
            continue
    return _refuse()


def _convert_list(value: Any, wanted: Any, args: tuple[Any, ...]) -> Any:
    if isinstance(value, str | Mapping) or not isinstance(value, collections.abc.Sequence):
        _refuse()
    if wanted is tuple and args and args[-1] is not Ellipsis:
        if len(value) != len(args):
            _refuse()
        return tuple(convert(item, arm) for item, arm in zip(value, args, strict=True))
    items = [convert(item, args[0]) if args else item for item in value]
    return wanted(items) if wanted in (tuple, set, frozenset) else items


def _member(value: Any, members: dict[Any, Any]) -> Any:
    for name, member in members.items():
        if (name == value and type(name) is type(value)) or (isinstance(name, str) and name == str(value)):
            return member
    return _refuse()


def _whole(value: Any) -> int:
    if isinstance(value, str):
        value = _number(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or value in (float("inf"), -float("inf")):
        _refuse()
    return int(value) if int(value) == value else _refuse()


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        _refuse()
    try:
        return int(value) if isinstance(value, str) and value.strip().lstrip("+-").isdecimal() else float(value)
    except ValueError:
        return _refuse()


def _truth(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    return value if isinstance(value, bool) else _refuse()


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, str | int | float | pathlib.PurePath) else _refuse()


_SCALARS: dict[Any, Callable[[Any], Any]] = {int: _whole, float: lambda v: float(_number(v)), bool: _truth, str: _text}


def plain(value: Any) -> Any:
    """The value as JSON can hold it: tuples and sets as lists, paths as text, members of an enum by name."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    if isinstance(value, enum.Enum):
        return value.name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return str(value) if isinstance(value, pathlib.PurePath) else value


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that was most likely meant, or None when nothing is near."""
    known = list(known)
    lowest = min(known, key=lambda name: (distance(word, name), -_alike(word, name), name), default=None)
    leaf = word.rpartition(".")[2]
    if lowest is not None and distance(word, lowest) <= (1 if len(leaf) < 3 else 2 if len(leaf) < 9 else 3):
        return lowest
    inside = [name for name in known if len(leaf) > 2 and leaf.lower() in name.rpartition(".")[2].lower()]
    if inside:
        return max(inside, key=lambda name: _alike(word, name))
    close = difflib.get_close_matches(leaf, [name.rpartition(".")[2] for name in known], n=1, cutoff=0.7)
    return next((name for name in known if close and name.rpartition(".")[2] == close[0]), None)


def _alike(word: str, name: str) -> float:
    return difflib.SequenceMatcher(None, word, name).ratio()


def distance(a: str, b: str) -> int:
    """How many letters are to be added, dropped, changed or swapped with their neighbour to make `b` of `a`."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        earlier, before, row = before, row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y)))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                row[j] = min(row[j], earlier[j - 2] + 1)
    return row[-1]
