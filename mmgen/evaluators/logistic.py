"""Multinomial logistic regression by L-BFGS, and the search for its strength, as CLIP's linear probes (appendix A.3).

Letters: N pictures, F features, L classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

DOUBLE = 1 << 26  # numbers of features; more than these stay in single precision
# Strengths C tried first; then those half as far, on a logarithmic scale, from the best, until there are 8 a decade.
COARSE = tuple(10.0**power for power in range(-6, 7, 2))
HALVINGS = 4


@dataclass
class Linear:
    """A linear classifier of features. `weights` (L,F), `bias` (L,)."""

    weights: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """(N,F) to (N,L)."""
        return features.to(self.weights) @ self.weights.T + self.bias


def fit(
    features: Tensor,
    labels: Tensor,
    classes: int,
    strength: float,
    start: Linear | None = None,
    steps: int = 1000,
    tolerance: float = 1e-5,
) -> Linear:
    """The minimum of Σ cross-entropy + |weights|² / (2·strength), as in scikit-learn, whose `C` the strength is.

    Args:
        features: (N,F).
        labels: (N,) long, in [0,classes).
        strength: the larger, the closer the pictures are fitted.
        start: where to begin; it changes the time, not the result.
        steps: of L-BFGS at most; the paper's 1,000.
        tolerance: of the mean loss's largest derivative, below which it ends (scikit-learn's default is 1e-4).
    """
    rows = features.double() if features.numel() <= DOUBLE else features.float()
    count, width = rows.shape
    with torch.enable_grad():
        table = torch.zeros(classes, width + 1, dtype=rows.dtype, device=rows.device)
        if start is not None:
            table[:, :width], table[:, width] = start.weights, start.bias
        table.requires_grad_()
        search = torch.optim.LBFGS(
            [table],
            max_iter=steps,
            tolerance_grad=tolerance,
            tolerance_change=1e-12,
            history_size=10,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            search.zero_grad()
            loss = cross_entropy(rows @ table[:, :width].T + table[:, width], labels)
            loss = loss + table[:, :width].square().sum() / (2 * strength * count)
            loss.backward()
            return loss

        search.step(closure)
    found = table.detach()
    return Linear(found[:, :width].clone(), found[:, width].clone())


def search(judge: Callable[[float], tuple[float, float]]) -> tuple[float, dict[float, float]]:
    """The best strength, and the accuracy of each that was tried, weakest first.

    Args:
        judge: a strength to (accuracy, loss) on pictures that it was not fitted on; of equally many right the one with
            the lower loss wins.
    """
    tried: dict[float, tuple[float, float]] = {}

    def best_of(strengths: list[float]) -> float:
        for strength in strengths:
            if strength not in tried:
                tried[strength] = judge(strength)
        return min(tried, key=lambda strength: (-tried[strength][0], tried[strength][1], strength))

    best, gap = best_of(list(COARSE)), 2.0
    for _ in range(HALVINGS):
        gap /= 2
        power = math.log10(best)
        around = [10.0**p for p in (round(power - gap, 6), round(power + gap, 6)) if -6 <= p <= 6]
        best = best_of(around)
    return best, {strength: tried[strength][0] for strength in sorted(tried)}
