"""The search space: parameters named by the keys of a config, in YAML or in Hydra's own sweep syntax.

A value is None, true or false, or a number; everything else (a text, a list) is kept as the text that stands on a
command line after `KEY=`, since Optuna's storages hold nothing richer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mmgen.errors import ConfigError, ConfigErrors, quoted
from mmgen.spelling import nearest

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

Value = None | bool | int | float | str
_PLAIN = re.compile(r"[A-Za-z_/][\w./@:-]*")
_WORDS = ("null", "true", "false", "nan", "inf")
_FIELDS = ("low", "high", "step", "log", "choices", "values", "when")


@dataclass(frozen=True)
class Parameter:
    """One key that is searched: either `choices`, or the numbers from `low` to `high`, both included.

    Args:
        key: as on the command line, such as `task.optimizer.lr` or `tokenizer`.
        step: the distance of two values; None: any number between, or every whole number.
        log: whether equal factors count as equal steps.
        when: the values of other parameters under which this one exists, each a tuple of choices or (low, high).
    """

    key: str
    choices: tuple[Value, ...] = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False
    when: Mapping[str, tuple[Value, ...] | Range] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether it takes whole numbers only."""
        return not self.choices and all(isinstance(n, int) for n in (self.low, self.high, self.step or 0))

    def distribution(self) -> BaseDistribution:
        """As Optuna has it."""
        from optuna import distributions as optuna

        if self.choices:
            return optuna.CategoricalDistribution(self.choices)
        if self.whole:
            return optuna.IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return optuna.FloatDistribution(float(self.low), float(self.high), log=self.log, step=self.step)

    def suggest(self, trial: Trial) -> Value:
        """A value of Optuna's choice."""
        if self.choices:
            return trial.suggest_categorical(self.key, self.choices)
        if self.whole:
            return trial.suggest_int(
                self.key, int(self.low), int(self.high), log=self.log, step=int(self.step or 1)
            )
        return trial.suggest_float(self.key, float(self.low), float(self.high), log=self.log, step=self.step)

    def is_active(self, chosen: Mapping[str, Value]) -> bool:
        """Whether it exists beside these values of the others."""
        return all(key in chosen and _holds(wanted, chosen[key]) for key, wanted in self.when.items())

    def grid(self) -> list[Value] | None:
        """All its values; None where there are infinitely many."""
        if self.choices:
            return list(self.choices)
        step = self.step or (1 if self.whole and not self.log else None)
        if step is None:
            return list(range(int(self.low), int(self.high) + 1)) if self.whole else None
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        return [self.low + i * step for i in range(count)]

    def extremes(self) -> list[Value]:
        """Values that say whether a config takes all of them: every choice, or both ends."""
        return list(self.choices) or list(dict.fromkeys((self.low, self.high)))

    def described(self) -> dict[str, Any]:
        """As a file holds it: two spaces are one if this is equal."""
        found: dict[str, Any] = {"low": self.low, "high": self.high}
        found = {"choices": list(self.choices)} if self.choices else found
        found |= {"step": self.step} if self.step else {}
        found |= {"log": True} if self.log else {}
        conditions = {k: list(v) if isinstance(v, tuple) else [[v.low, v.high]] for k, v in self.when.items()}
        return {**found, **({"when": conditions} if conditions else {})}


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included."""

    low: float
    high: float


def _holds(wanted: tuple[Value, ...] | Range, value: Value) -> bool:
    if isinstance(wanted, Range):
        return isinstance(value, int | float) and wanted.low <= value <= wanted.high
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in wanted)


class Space:
    """Parameters in an order in which conditions come after what they depend on.

    Raises:
        ConfigErrors: a condition names a parameter that is not searched, or itself in a circle.
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self.parameters = _ordered(parameters)
        self.keys = [parameter.key for parameter in self.parameters]

    def __getitem__(self, key: str) -> Parameter:
        return self.parameters[self.keys.index(key)]

    def suggest(self, trial: Trial) -> dict[str, Value]:
        """A value for every parameter that exists beside the others."""
        chosen: dict[str, Value] = {}
        for parameter in self.parameters:
            if parameter.is_active(chosen):
                chosen[parameter.key] = parameter.suggest(trial)
        return chosen

    def variants(self) -> list[dict[str, Value]]:
        """Settings in which every extreme of every parameter comes at least once, for checking; few of them."""
        wanted = {(p.key, i) for p in self.parameters for i in range(len(p.extremes()))}
        found: list[dict[str, Value]] = []
        for turn in range(max((len(p.extremes()) for p in self.parameters), default=0)):
            found.append(self._variant(turn, {}, wanted))
        for key, i in sorted(wanted):  # those of parameters whose condition did not hold by itself
            found.append(self._variant(i, self._needed(self[key]), wanted))
        return found

    def _variant(self, turn: int, forced: Mapping[str, Value], wanted: set[tuple[str, int]]) -> dict[str, Value]:
        chosen: dict[str, Value] = {}
        for parameter in self.parameters:
            if parameter.is_active(chosen):
                values = parameter.extremes()
                at = turn % len(values)
                chosen[parameter.key] = forced.get(parameter.key, values[at])
                wanted -= {(parameter.key, at)} if parameter.key not in forced else set()
        return chosen

    def _needed(self, parameter: Parameter) -> dict[str, Value]:
        needed: dict[str, Value] = {}
        for key, wanted in parameter.when.items():
            needed |= self._needed(self[key])
            needed[key] = wanted.low if isinstance(wanted, Range) else wanted[0]
        return needed

    def grid(self) -> dict[str, list[Value]] | None:
        """Every parameter's values, for a grid; None where a parameter has infinitely many or a condition."""
        grids = {p.key: p.grid() for p in self.parameters}
        if any(grid is None for grid in grids.values()) or any(p.when for p in self.parameters):
            return None
        return {key: grid for key, grid in grids.items() if grid is not None}

    def described(self) -> dict[str, Any]:
        """As a file holds it."""
        return {p.key: p.described() for p in self.parameters}


def _ordered(parameters: Sequence[Parameter]) -> list[Parameter]:
    known = {p.key for p in parameters}
    errors = [
        ConfigError(
            f"{p.key} is searched when {key} has a value, and {key} is not searched",
            code="MMG-C61",
            where=f"sweep.space.{p.key}.when",
            fix=f"did you mean {near}?" if (near := nearest(key, sorted(known - {p.key}))) else f"search {key} too",
        )
        for p in parameters
        for key in p.when
        if key not in known
    ]
    if errors:
        raise ConfigErrors(errors)
    found: list[Parameter] = []
    left = list(parameters)
    while left:
        ready = [p for p in left if all(key in {q.key for q in found} for key in p.when)]
        if not ready:
            names = ", ".join(p.key for p in left)
            text = f"the conditions of {names} depend on each other"
            raise ConfigError(text, code="MMG-C61", where="sweep.space", fix="take one out")
        found += ready
        left = [p for p in left if p not in ready]
    return found


def override(key: str, value: Value) -> str:
    """`KEY=VALUE` for a command line."""
    if isinstance(value, bool) or value is None:
        return f"{key}={ {None: 'null', True: 'true', False: 'false'}[value]}"
    return f"{key}={value if isinstance(value, str) else repr(value)}"


def text(value: Any) -> Value:
    """A value of YAML as the module's head describes."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_word(k)}:{_word(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(_word(item) for item in value) + "]"
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and value.lower() not in _WORDS else _quoted(value)
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _word(value: Any) -> str:
    return override("", text(value))[1:]


def _quoted(value: str) -> str:
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value) + "'"


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
