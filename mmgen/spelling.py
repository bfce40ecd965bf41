"""The name that was most likely meant, for every message about an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that was most likely meant, or None when nothing is near.

    Names and word may be dotted; the last part decides how far is still near.
    """
    known = list(known)
    leaf = word.rpartition(".")[2]
    lowest = min(known, key=lambda name: (distance(word, name), -_alike(word, name), name), default=None)
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
