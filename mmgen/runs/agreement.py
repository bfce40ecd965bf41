"""Whether two runs logged the same numbers, to the last bit."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# Of the clock and the machine, not of what was computed.
NOT_COMPUTED = re.compile(r"(^|[/_])(time|seconds|throughput|speed|memory|per_second|eta)($|[/_])|^(system|speed)/")


@dataclass
class Agreement:
    """How far two lists of rows agree.

    Attributes:
        numbers: how many were compared.
        differing: how many of them are not equal.
        first: the first that differs, as (step, name, old, new), in the order of the old rows.
        largest: the largest relative difference; infinite where a number is finite in one run only.
        only_old, only_new: numbers that have no counterpart.
    """

    numbers: int = 0
    differing: int = 0
    first: tuple[int, str, float, float] | None = None
    largest: float = 0.0
    only_old: int = 0
    only_new: int = 0

    @property
    def exact(self) -> bool:
        return self.numbers > 0 and not (self.differing or self.only_old)

    def described(self) -> dict[str, Any]:
        """As JSON holds it: what is not finite is null."""
        first = self.first and (*self.first[:2], *map(_finite, self.first[2:]))
        return {**vars(self), "first": first, "largest": _finite(self.largest)}

    def told(self) -> str:
        """In words, such as "264 numbers, equal to the last bit"."""
        if self.numbers == 0:
            return "no numbers to compare"
        text = f"{self.numbers:,} numbers, equal to the last bit"
        if self.first is not None:
            step, name, old, new = self.first
            at = f" at step {step}" if step >= 0 else ""
            text = f"{self.differing:,} of {self.numbers:,} numbers differ, the first{at}: {name} {old!r} → {new!r}"
            far = f"by {self.largest:.1g} of the larger at most"
            text += f"; {far if math.isfinite(self.largest) else 'of some, one of the two is not finite'}"
        missing = f"; {self.only_old:,} are missing in the new run" if self.only_old else ""
        return text + missing + (f"; {self.only_new:,} are new" if self.only_new else "")


def _finite(value: Any) -> Any:
    return value if math.isfinite(value) else None


def compare_rows(old: Iterable[Mapping[str, Any]], new: Iterable[Mapping[str, Any]]) -> Agreement:
    """Holds rows of metrics.jsonl against each other, by step and name; a number that is not finite equals another."""
    ours, theirs = _numbers(new), _numbers(old)
    found = Agreement()
    for (step, name), before in theirs.items():
        if (step, name) not in ours:
            found.only_old += 1
            continue
        after = ours[step, name]
        found.numbers += 1
        if before == after or not (math.isfinite(before) or math.isfinite(after)):
            continue
        found.differing += 1
        found.first = found.first or (step, name, before, after)
        if math.isfinite(before) and math.isfinite(after):
            found.largest = max(found.largest, abs(before - after) / max(abs(before), abs(after)))
        else:
            found.largest = math.inf
    found.only_new = len(ours.keys() - theirs.keys())
    return found


def compare_evaluations(old: Mapping[str, Any], new: Mapping[str, Any]) -> Agreement:
    """The same of the numbers in two evaluation.json."""
    return compare_rows([_figures(old)], [_figures(new)])


def _numbers(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[int, str], float]:
    """By step and name; the last of a step counts, and whole numbers are numbers too."""
    return {
        (int(row["step"]), name): math.nan if value is None else float(value)
        for row in rows
        if isinstance(row.get("step"), int | float)
        for name, value in row.items()
        if name != "step" and not NOT_COMPUTED.search(name) and (value is None or isinstance(value, int | float))
    }


def _figures(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"step": -1}
    findings = evaluation.get("findings")
    for found in findings.values() if isinstance(findings, Mapping) else []:
        numbers = found.get("numbers") if isinstance(found, Mapping) else None
        row |= {str(n["name"]): n.get("value") for n in numbers or [] if isinstance(n, Mapping) and "name" in n}
    return row
