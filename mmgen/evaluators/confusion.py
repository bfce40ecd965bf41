"""What was taken for what: tables of a classification, from pairs (truth, answer)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

Pairs = Sequence[tuple[str, str]]
Rows = list[dict[str, Any]]

LONG = 100  # classes that a table of classes shows
MISTAKES = 10  # that are listed


def mean_per_class(pairs: Pairs) -> tuple[float, int, float]:
    """The mean of the accuracies of the classes that occur, how many these are, and the share of the commonest."""
    total = Counter(truth for truth, _ in pairs)
    right = Counter(truth for truth, answer in pairs if truth == answer)
    mean = sum(right[name] / count for name, count in total.items()) / len(total)
    return mean, len(total), max(total.values()) / len(pairs)


def by_class(title: str, pairs: Pairs, values: Sequence[str]) -> dict[str, Rows]:
    """The accuracy of every class; of very many classes, those with the lowest."""
    total = Counter(truth for truth, _ in pairs)
    right = Counter(truth for truth, answer in pairs if truth == answer)
    rows = [
        {
            "class": value,
            "pictures": total[value],
            "right, %": round(100 * right[value] / total[value], 1) if total[value] else None,
        }
        for value in values
    ]
    if len(rows) <= LONG:
        return {title: rows}
    hardest = sorted((value for value in values if total[value]), key=lambda value: right[value] / total[value])[:LONG]
    by_name = {row["class"]: row for row in rows}
    return {f"{title}, the {LONG} classes hardest to tell": [by_name[value] for value in hardest]}


def confusion(pairs: Pairs, values: Sequence[str]) -> Rows:
    """A row for each class, a column for each answer, the number of pictures in each cell."""
    counts = Counter(pairs)
    return [{"class": truth, **{answer: counts[truth, answer] for answer in values}} for truth in values]


def mistakes(pairs: Pairs) -> Rows:
    """The commonest."""
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for truth, answer in pairs:
        if truth != answer:
            counts[truth, answer] += 1
    worst = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MISTAKES]
    return [{"class": truth, "taken for": answer, "times": count} for (truth, answer), count in worst]
