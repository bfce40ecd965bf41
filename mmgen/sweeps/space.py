"""The search space: parameters named by the keys of a config.

A value is None, true or false, or a number; everything else (a text, a list) is kept as the text that stands on a
command line after `KEY=`, since Optuna's storages hold nothing richer.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmgen.errors import ConfigError, ConfigErrors
from mmgen.spelling import nearest

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

Value = None | bool | int | float | str
_PLAIN = re.compile(r"[A-Za-z_/][\w./@:-]*")
_WORDS = ("null", "true", "false", "nan", "inf")


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

    def count(self) -> int | None:
        """How many settings there are beside the conditions; None where a parameter has infinitely many values."""
        if any(p.grid() is None for p in self.parameters):
            return None
        return self._below(0, {}, {key for p in self.parameters for key in p.when})

    def _below(self, i: int, chosen: Mapping[str, Value], asked: Collection[str]) -> int:
        """Of the parameters from the i-th on; only those that a condition asks for are tried value by value."""
        if i == len(self.parameters):
            return 1
        parameter = self.parameters[i]
        values = (parameter.grid() or []) if parameter.is_active(chosen) else [None]
        if parameter.key not in asked or not parameter.is_active(chosen):
            return len(values) * self._below(i + 1, chosen, asked)
        return sum(self._below(i + 1, {**chosen, parameter.key: value}, asked) for value in values)

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
