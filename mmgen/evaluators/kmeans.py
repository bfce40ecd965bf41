"""Picture codes that learn nothing of context: k-means over square patches, the baseline of an image tokenizer.

Letters: B pictures, P patches, D = 3·patch² numbers of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

MAX_PICTURES = 4_000  # fitted on
MAX_PATCHES = 200_000  # different ones
WORK = 2e9  # distances in all; of many centres that is fewer iterations, never below 4


class PatchCodes:
    """A codebook of patches.

    Args:
        centres: (k,D).
        patch: pixels a side.
    """

    def __init__(self, centres: Tensor, patch: tuple[int, int]) -> None:
        self.centres, self.patch = centres, patch

    @classmethod
    def fit(cls, images: Tensor, *, centres: int, patch: tuple[int, int], seed: int = 0) -> PatchCodes:
        """Lloyd's iterations, 4 to 10, from `centres` different patches drawn by the seed.

        Args:
            images: (B,3,H,W) in [0,1], H and W divisible by the patch.
            centres: at most as many come out as there are different patches.
        """
        random = torch.Generator().manual_seed(seed)
        if len(images) > MAX_PICTURES:
            images = images[torch.randperm(len(images), generator=random)[:MAX_PICTURES]]
        rows = (_cut(images, patch) * 255).round().to(torch.uint8).numpy()
        return cls(_lloyd(np.ascontiguousarray(rows).tobytes(), rows.shape[1], centres, seed), patch)

    def quantise(self, images: Tensor) -> Tensor:
        """(B,3,H,W) with every patch replaced by its nearest centre."""
        patches = _cut(images, self.patch)
        return _join(self.centres[_nearest(patches, self.centres)], images.shape, self.patch)


def fits(images: Tensor, patch: Sequence[int]) -> bool:
    """Whether the pictures (…,H,W) can be cut into such patches."""
    return images.shape[-2] % patch[0] == 0 and images.shape[-1] % patch[1] == 0


@lru_cache(maxsize=1)  # two evaluators of one run ask for the same centres
def _lloyd(patches: bytes, dim: int, k: int, seed: int) -> Tensor:
    """Patches of uint8 to centres (k,D) in [0,1]. Equal patches (half of flat drawings is paper) count by weight."""
    different, counts = np.unique(np.frombuffer(patches, f"V{dim}"), return_counts=True)
    points = torch.from_numpy(np.frombuffer(different.tobytes(), np.uint8).reshape(-1, dim).copy()).float() / 255
    weights = torch.from_numpy(counts).float()
    chosen = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))[:MAX_PATCHES]
    points, weights = points[chosen], weights[chosen]
    centres = points[:k].clone()
    weighted = points * weights[:, None]
    for _ in range(min(10, max(4, int(WORK / (len(points) * len(centres)))))):
        nearest = _nearest(points, centres)
        mass = torch.zeros(len(centres)).index_add_(0, nearest, weights)
        sums = torch.zeros_like(centres).index_add_(0, nearest, weighted)
        # A centre that lost all its patches stays where it was.
        centres = torch.where(mass[:, None] > 0, sums / mass.clamp(min=1)[:, None], centres)
    return centres


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    """(P,D) to the nearest centre of each, (P,) long; half the squared distance less the point's own length."""
    half = centres.square().sum(dim=1) / 2
    return torch.cat([torch.addmm(half, rows, centres.T, alpha=-1).argmin(dim=1) for rows in points.split(4096)])


def _cut(images: Tensor, patch: tuple[int, int]) -> Tensor:
    """(B,3,H,W) to patches (P,D), picture after picture in raster order."""
    batch, channels, height, width = images.shape
    grid = images.reshape(batch, channels, height // patch[0], patch[0], width // patch[1], patch[1])
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(-1, channels * patch[0] * patch[1])


def _join(patches: Tensor, shape: Sequence[int], patch: tuple[int, int]) -> Tensor:
    """Undoes `_cut`."""
    batch, channels, height, width = shape
    grid = patches.view(batch, height // patch[0], width // patch[1], channels, *patch)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, height, width)
