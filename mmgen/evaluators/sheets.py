"""Pictures of what was judged: which ones are shown, and how."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from torch import Tensor
from torch.nn import functional as F

SMALLEST = 64  # pictures are enlarged to so many pixels a side


class _Named(Protocol):
    @property
    def id(self) -> str: ...


Case = TypeVar("Case", bound=_Named)


class Chosen(Generic[Case]):
    """The first few by a hash of the seed and their ids: by chance, and the same however the pictures come in chunks.

    Args:
        most: how many are kept.
        seed: of the choice.
    """

    def __init__(self, most: int, seed: int) -> None:
        self.most, self.seed = most, seed
        self._kept: list[tuple[str, Case]] = []

    def wants(self, id: str) -> bool:
        """Whether it would be among the first: asked before a case of many pixels is made."""
        return len(self._kept) < self.most or self._key(id) < self._kept[-1][0]

    def offer(self, case: Case) -> None:
        """Keeps it, if it is among the first."""
        if self.wants(case.id):
            self._kept = sorted([*self._kept, (self._key(case.id), case)], key=lambda pair: pair[0])[: self.most]

    def _key(self, id: str) -> str:
        return hashlib.sha256(f"{self.seed}/{id}".encode("utf-8", "surrogatepass")).hexdigest()

    def __iter__(self) -> Iterator[Case]:
        return (case for _, case in self._kept)

    def __len__(self) -> int:
        return len(self._kept)


def enlarged(image: Tensor) -> Tensor:
    """(3,H,W) uint8 to [0,1], of at least `SMALLEST` pixels a side, without smoothing."""
    scale = max(1, -(-SMALLEST // image.shape[1]))
    return F.interpolate(image[None].float().div(255), scale_factor=scale)[0]
