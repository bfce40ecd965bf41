"""Options: what a component or a section of the config may be told, read from its signature, and values checked.

Plain Python and nothing else, because a config that came with a file from elsewhere is checked here too, and such a
config never reaches Hydra or OmegaConf. Part of the registry (`mmgen.registry`).
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import inspect
import math
import pathlib
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mmgen.errors import ConfigError, quoted
from mmgen.spelling import nearest

REQUIRED: Any = type("Required", (), {"__repr__": lambda self: "required"})()
MISSING = "???"  # how YAML says that a value has to be given


@dataclasses.dataclass(frozen=True)
class Option:
    """One option: its type as `typing` writes it, its default or `REQUIRED`, and the numbers it may be, both ends
    included."""

    name: str
    type: Any
    default: Any = REQUIRED
    help: str = ""
    low: float = -math.inf
    high: float = math.inf


class UnknownKey(ConfigError):
    """A key that is not among the known ones. `known` are all that could stand in its place."""

    def __init__(self, path: str, known: Iterable[str], suggestion: str | None = None) -> None:
        self.path, self.known = path, list(known)
        near = suggestion or nearest(path, self.known)
        names = ", ".join(name.rpartition(".")[2] for name in self.known) or "no options"
        listed = names if len(names) <= 300 else names[:299] + "…"
        super().__init__(
            f"unknown config key {quoted(path)}",
            code="MMG-C01",
            where=path,
            why="" if near else f"{path.rpartition('.')[0] or 'the config'} knows {listed}",
            fix=f"did you mean {near}?" if near else "leave it out",
        )


class _Unfit(Exception):
    """The value does not fit the type."""


def options_of(target: Callable[..., Any], skip: Iterable[str] = ()) -> dict[str, Option]:
    """The options of a class, a function or a dataclass, in the order of its signature.

    `*args`, `**kwargs` and the parameters named in `skip` are left out. An annotation that cannot be resolved (a name
    imported under TYPE_CHECKING only) counts as Any. A dataclass field's help, low and high are its metadata's.
    """
    skip = set(skip)
    fields = {f.name: f for f in dataclasses.fields(target)} if dataclasses.is_dataclass(target) else {}
    names = _namespace(target)
    found = {}
    for p in inspect.signature(target).parameters.values():
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD, p.POSITIONAL_ONLY) or p.name in skip:
            continue
        default = REQUIRED if p.default is p.empty else p.default
        if p.name in fields and default is not REQUIRED:
            made = fields[p.name].default_factory
            default = p.default if made is dataclasses.MISSING else made()
        hint = _hint(p.annotation, names)
        if default is None and hint is not Any and type(None) not in typing.get_args(hint):
            hint = typing.Union[hint, None]  # noqa: UP007 - made of what was found at run time
        found[p.name] = Option(p.name, hint, default, **(fields[p.name].metadata if p.name in fields else {}))
    return found


def _namespace(target: Any) -> dict[str, Any]:
    """The names that the annotations of a signature may use: those of the module that holds them."""
    if inspect.isclass(target) and not dataclasses.is_dataclass(target):
        target = target.__init__
    names = getattr(target, "__globals__", None)
    return names if names is not None else dict(vars(sys.modules.get(getattr(target, "__module__", ""), types)))


def _hint(annotation: Any, names: dict[str, Any]) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        return typing.get_type_hints(holder, globalns=names)["it"]
    except Exception:  # whatever a stranger's annotation raises, it is only an annotation
        return Any


def describe(hint: Any) -> str:
    """The type in words: "a whole number", "one of a, b", "a list of a number, a number"."""
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
    if _is_list(origin or hint):
        return f"a list of {describe(args[0])}" if args and args[0] is not Any else "a list"
    if _is_mapping(origin or hint) or dataclasses.is_dataclass(hint):
        return "a section"
    return "a path" if hint is pathlib.Path else "any value"


def _is_list(hint: Any) -> bool:
    return hint in (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable)


def _is_mapping(hint: Any) -> bool:
    return hint in (dict, collections.abc.Mapping)


def check(
    options: Mapping[str, Option], values: Mapping[str, Any], place: str = ""
) -> tuple[dict[str, Any], list[ConfigError]]:
    """The values, converted to their types and completed by the defaults, and every error there is.

    Args:
        place: the section's key, such as "generator"; keys in messages start with it. An error's `where` is its key.
    """
    errors: list[ConfigError] = []
    given: dict[str, Any] = {}
    prefix = f"{place}." if place else ""
    for key, value in values.items():
        if key in options:
            given[key] = value
        else:
            errors.append(UnknownKey(f"{prefix}{key}", [f"{prefix}{name}" for name in options]))
    found = {}
    for name, option in options.items():
        if name in given and not (isinstance(given[name], str) and given[name] == MISSING):
            found[name] = _checked(given[name], option, f"{prefix}{name}", errors)
        elif option.default is REQUIRED and dataclasses.is_dataclass(option.type):
            found[name] = _checked({}, option, f"{prefix}{name}", errors)
        elif option.default is REQUIRED or name in given:
            errors.append(missing(f"{prefix}{name}", option.type))
        else:
            found[name] = option.default
    return found, errors


def missing(path: str, hint: Any) -> ConfigError:
    """The error for a value that has to be given and was not."""
    return ConfigError(f"{path} is required ({describe(hint)})", code="MMG-C05", where=path, fix=f"{path}=VALUE")


def _checked(value: Any, option: Option, path: str, errors: list[ConfigError]) -> Any:
    """The value as its type wants it; what does not fit is added to `errors`."""
    arms = [arm for arm in (option.type, *typing.get_args(option.type)) if dataclasses.is_dataclass(arm)]
    if arms and isinstance(value, Mapping):
        found, more = check(options_of(arms[0]), value, path)  # type: ignore[arg-type]
        errors += more
        return found
    wanted = describe(option.type)
    try:
        value = convert(value, option.type)
        if not isinstance(value, int | float) or option.low <= value <= option.high:
            return value
        wanted += f" from {option.low:g}" if option.low > -math.inf else ""
        wanted += f" up to {option.high:g}" if option.high < math.inf else ""
    except _Unfit:
        pass
    example = "" if option.default in (REQUIRED, None) else f", such as {path}={written(option.default)}"
    text = f"{path} must be {wanted}, got {quoted(value)}"
    errors.append(ConfigError(text, code="MMG-C02", where=path, fix=f"give {wanted}{example}"))
    return value


def written(value: Any) -> str:
    """A default as it is written on the command line."""
    if isinstance(value, list | tuple):
        return f"[{','.join(written(item) for item in value)}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(plain(value))


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
    if _is_list(origin or hint):
        return _convert_list(value, origin or hint, args)
    if _is_mapping(origin or hint):
        mapping = value if isinstance(value, Mapping) else _refuse()
        return {k: convert(v, args[1]) if len(args) == 2 else v for k, v in mapping.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else _refuse()
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
        return tuple(map(convert, value, args)) if len(value) == len(args) else _refuse()
    items = [convert(item, args[0]) if args else item for item in value]
    return wanted(items) if wanted in (tuple, set, frozenset) else items


def _member(value: Any, members: dict[Any, Any]) -> Any:
    for name, member in members.items():
        if (name == value and type(name) is type(value)) or (isinstance(name, str) and name == str(value)):
            return member
    return _refuse()


def _whole(value: Any) -> int:
    number = value if type(value) is int else _number(value)
    return int(number) if math.isfinite(number) and number == int(number) else _refuse()


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        _refuse()
    try:
        return int(value) if isinstance(value, str) and value.strip().lstrip("+-").isdecimal() else float(value)
    except (ValueError, OverflowError):
        return _refuse()


def _truth(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    return value if isinstance(value, bool) else _refuse()


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, str | int | float | pathlib.PurePath) else _refuse()


_SCALARS: dict[Any, Callable[[Any], Any]] = {
    int: _whole,
    float: lambda value: float(_number(value)),
    bool: _truth,
    str: _text,
    pathlib.Path: lambda value: pathlib.Path(_text(value)),
}


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
