"""The best of N of n drawings, by a ranking and by one that knows the truth: expectations over all subsets of N.

Letters: B captions, n drawings of each.
"""

from __future__ import annotations

from math import comb

import torch
from torch import Tensor


def powers(drawings: int) -> list[int]:
    """1, 2, 4 … and the number of drawings itself."""
    found = [2**i for i in range(drawings.bit_length()) if 2**i <= drawings]
    return found if found[-1] == drawings else [*found, drawings]


def by_ranking(right: Tensor, count: int) -> Tensor:
    """(B,), the share of all subsets of `count` drawings whose first by the ranking is right.

    Args:
        right: (B,n) bool, best first by the ranking.
    """
    n = right.shape[1]
    # Number i is the first of a subset when all others of it come after.
    weights = torch.tensor([comb(n - 1 - i, count - 1) / comb(n, count) for i in range(n)], dtype=torch.float64)
    return right.double() @ weights


def by_truth(right: Tensor, count: int) -> Tensor:
    """(B,), the share of all subsets of `count` drawings in which any is right; `right` as above, in any order."""
    n = right.shape[1]
    missing = torch.tensor([comb(n - r, count) / comb(n, count) for r in range(n + 1)], dtype=torch.float64)
    return 1 - missing[right.sum(dim=1)]
