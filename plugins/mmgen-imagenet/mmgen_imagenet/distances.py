"""Distances between two sets of features: Fréchet's, and the kernel's. Both in double precision.

Letters: n pictures of a set, F features.
"""

from __future__ import annotations

import torch
from torch import Tensor


def frechet(one: Tensor, other: Tensor) -> float:
    """The Fréchet distance between normal distributions fitted to features (n,F) and (m,F) (Heusel et al. 2017, arXiv
    1706.08500, equation 6): |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½).

    Where n ≤ F a covariance is singular and the root of Σ₁Σ₂ ill-conditioned. With Σ = RᵀR, the trace of that root is
    the sum of the singular values of R₁R₂ᵀ, which needs no root and is exact at any n.

    Raises:
        ValueError: fewer than two pictures on a side.
    """
    if min(len(one), len(other)) < 2:
        raise ValueError("a covariance needs two pictures")
    means, roots = [], []
    for features in (one.double(), other.double()):
        mean = features.mean(0)
        means.append(mean)
        roots.append(torch.linalg.qr((features - mean) / (len(features) - 1) ** 0.5, mode="r").R)
    traces = sum(root.square().sum() for root in roots)
    shared = torch.linalg.svdvals(roots[0] @ roots[1].T).sum()
    distance = (means[0] - means[1]).square().sum() + traces - 2 * shared
    return max(0.0, float(distance))  # never below 0 but by rounding


def kernel(one: Tensor, other: Tensor) -> Tensor:
    """(n,F), (m,F) to (n,m): (x·y / F + 1)³ (Bińkowski et al. 2018, arXiv 1801.01401, equation 4)."""
    return (one.double() @ other.double().T / one.shape[1] + 1) ** 3


class PairedKernels:
    """The kernel between all pictures of two sets of equal size, of which number i of one belongs to number i of the
    other, and the squared maximum mean discrepancy of any subset.

    Args:
        one, other: features (n,F).
    """

    def __init__(self, one: Tensor, other: Tensor) -> None:
        if len(one) != len(other):
            raise ValueError(f"{len(one)} pictures stand beside {len(other)}")
        across = kernel(one, other)
        # Gretton et al. 2012, JMLR 13, lemma 6: h = k(x,x') + k(y,y') − k(x,y') − k(x',y) over pairs i ≠ j.
        self._table = kernel(one, one) + kernel(other, other) - across - across.T

    def discrepancy(self, chosen: Tensor | None = None) -> float:
        """Unbiased, of all pairs or of the `chosen` (k,), k ≥ 2. It may be negative.

        A drawing and the true picture of its caption are not independent: such pairs are left out. With them, as in the
        usual formula for independent sets, good drawings would seem too good.
        """
        table = self._table if chosen is None else self._table[chosen][:, chosen]
        count = len(table)
        return float((table.sum() - table.trace()) / (count * (count - 1)))
