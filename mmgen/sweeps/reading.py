"""Parameters of a search as people write them: in YAML, or in Hydra's own sweep syntax."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mmgen.errors import ConfigError, quoted
from mmgen.spelling import nearest
from mmgen.sweeps.space import Parameter, Range, Value, text

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

_FIELDS = ("low", "high", "step", "log", "choices", "values", "when")


def from_yaml(key: str, given: Any) -> Parameter:
    """A parameter as a sweep's YAML has it: a list of choices, a text in Hydra's syntax, or a section.

    Raises:
        ConfigError: it is none of these, or does not say what to choose from.
    """
    where = f"sweep.space.{key}"
    if isinstance(given, str):
        return from_text(key, given, where)
    if isinstance(given, list | tuple):
        return _checked(Parameter(key, choices=tuple(text(item) for item in given)), where)
    if not isinstance(given, Mapping):
        raise _unclear(key, given, where)
    unknown = [name for name in given if name not in _FIELDS]
    if unknown:
        near = nearest(str(unknown[0]), _FIELDS)
        raise ConfigError(
            f"a parameter has no {quoted(unknown[0])}",
            code="MMG-C60",
            where=where,
            why=f"it has {', '.join(_FIELDS)}",
            fix=f"did you mean {near}?" if near else f"write `{key}: {{low: 1, high: 8}}`",
        )
    when = {str(name): _condition(name, value, f"{where}.when") for name, value in (given.get("when") or {}).items()}
    rest = {name: value for name, value in given.items() if name != "when"}
    if set(rest) == {"values"}:
        return replace(from_text(key, str(rest["values"]), where), when=when)
    if set(rest) == {"choices"} and isinstance(rest["choices"], list | tuple):
        return _checked(Parameter(key, choices=tuple(text(c) for c in rest["choices"]), when=when), where)
    if not {"low", "high"} <= set(rest) or {"choices", "values"} & set(rest):
        raise _unclear(key, given, where)
    numbers = {name: _number(rest.get(name), f"{where}.{name}") for name in ("low", "high", "step") if name in rest}
    return _checked(Parameter(key, **numbers, log=rest.get("log") is True, when=when), where)  # type: ignore[arg-type]


def _condition(key: Any, value: Any, where: str) -> tuple[Value, ...] | Range:
    if isinstance(value, Mapping):
        if set(value) != {"low", "high"}:
            fix = f"{key}: VALUE, {key}: [VALUE, VALUE], or {key}: {{low: 1, high: 8}}"
            raise ConfigError(f"cannot read the condition {quoted(dict(value))}", code="MMG-C60", where=where, fix=fix)
        return Range(_number(value["low"], where), _number(value["high"], where))
    return tuple(text(item) for item in value) if isinstance(value, list | tuple) else (text(value),)


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ConfigError(f"{where} must be a number, got {quoted(value)}", code="MMG-C60", where=where, fix="0.001")
    return value


def _unclear(key: str, given: Any, where: str) -> ConfigError:
    return ConfigError(
        f"{key} does not say what to choose from: {quoted(given)}",
        code="MMG-C60",
        where=where,
        fix=f"`{key}: [A, B]`, `{key}: {{low: 1.0e-4, high: 1.0e-2, log: true}}` or `{key}: interval(1e-4,1e-2)`",
    )


def from_text(key: str, given: str, where: str) -> Parameter:
    """A parameter in Hydra's syntax: `interval(1e-4,1e-2)`, `tag(log, …)`, `choice(a,b)`, `range(1,8)`, `a,b`.

    Raises:
        ConfigError: it is no sweep.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides([f"{key}={given}"])[0]
    except HydraException as error:
        raise ConfigError(
            f"cannot read {quoted(given)}", code="MMG-C60", where=where, why=" ".join(str(error).splitlines()[1:2])
        ) from error
    if not parsed.is_sweep_override():
        raise _unclear(key, given, where)
    return from_override(parsed, where)


def from_override(given: Override, where: str, options: Sequence[str] = ()) -> Parameter:
    """A parameter from an override of a command line that is a sweep.

    Args:
        options: what a glob chooses from: the options of the group.
    """
    from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, RangeSweep

    key = given.key_or_group + (f"@{given.package}" if given.package else "")
    value = given.value()
    if isinstance(value, Glob):
        return _checked(Parameter(key, choices=tuple(value.filter(list(options)))), where)
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        return _checked(Parameter(key, low=value.start, high=value.end, log="log" in value.tags), where)
    if isinstance(value, RangeSweep):
        assert value.start is not None
        assert value.stop is not None
        values = list(value.range())
        low, high = (min(values), max(values)) if values else (value.start, value.start)
        step = None if "log" in value.tags else abs(value.step)
        return _checked(Parameter(key, low=low, high=high, step=step, log="log" in value.tags), where)
    assert isinstance(value, ChoiceSweep)
    items = list(zip(given.sweep_iterator(), given.sweep_string_iterator(), strict=True))
    plain = tuple(v if v is None or isinstance(v, bool | int | float) else s for v, s in items)
    return _checked(Parameter(key, choices=plain), where)


def _checked(parameter: Parameter, where: str) -> Parameter:
    """The parameter, if Optuna could search it.

    Raises:
        ConfigError: nothing to choose from, or numbers that make no range.
    """
    reason = ""
    if parameter.choices:
        if len({(type(choice), choice) for choice in parameter.choices}) < len(parameter.choices):
            reason = "a choice comes twice"
    elif parameter.high < parameter.low:
        reason = f"from {parameter.low} to {parameter.high} there is nothing"
    elif parameter.log and parameter.low <= 0:
        reason = "a logarithm wants numbers above 0"
    elif parameter.log and parameter.step not in (None, 1):
        reason = "a logarithm has no steps"
    elif parameter.step is not None and parameter.step <= 0:
        reason = "a step must be above 0"
    elif where and not parameter.choices and parameter.low == parameter.high == 0:
        reason = "there is nothing to choose from"
    if reason:
        raise ConfigError(
            f"{parameter.key} cannot be searched: {reason}",
            code="MMG-C60",
            where=where,
            fix=f"{parameter.key}=interval(1e-4,1e-2), or {parameter.key}=choice(A,B)",
        )
    return replace(parameter, step=None) if parameter.log else parameter
