"""All the pictures of a dataset, to find the nearest in.

Letters: B pictures asked about, M different pictures of the dataset.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Gallery:
    """The different pictures among all: those with equal pixels are one, found under each of their ids.

    Args:
        images: (…,3,H,W) in [0,1].
        ids: of each.
    """

    def __init__(self, images: Tensor, ids: Sequence[str]) -> None:
        first: dict[bytes, int] = {}
        self._place: dict[str, int] = {}
        kept: list[int] = []
        for position, (image, id) in enumerate(zip((images * 255).round().to(torch.uint8), ids, strict=True)):
            place = first.setdefault(image.numpy().tobytes(), len(first))
            self._place[id] = place
            if place == len(kept):
                kept.append(position)
        self.images, self.ids = images[kept].float(), [ids[position] for position in kept]

    def __len__(self) -> int:
        return len(self.ids)

    def places(self, ids: Sequence[str]) -> Tensor:
        """Where the pictures with these ids are, (B,) long."""
        return torch.tensor([self._place[id] for id in ids])

    def distances(self, images: Tensor) -> Tensor:
        """(B,3,H,W) to mean squared errors (B,M), in double precision: a difference of large squares."""
        asked, all_of_them = images.flatten(1).double(), self.images.flatten(1)
        columns = []
        for chunk in all_of_them.split(1024):
            pictures = chunk.double()
            products = asked @ pictures.T
            columns.append(asked.square().sum(1)[:, None] - 2 * products + pictures.square().sum(1)[None])
        return torch.cat(columns, dim=1) / asked.shape[1]

    def ranks(self, images: Tensor, truth: Tensor) -> Tensor:
        """How near the picture at place `truth` (B,) is to each of (B,3,H,W): 1 for the nearest, (B,) long. Another one
        just as near comes before it."""
        distances = self.distances(images)
        right = distances.gather(1, truth[:, None])
        # As near but for rounding: a flat grey picture is as far from a picture as from its negative.
        nearer = ~(distances > right + 1e-12)
        return 1 + nearer.scatter(1, truth[:, None], False).sum(dim=1)

    def nearest(self, images: Tensor) -> Tensor:
        """The place of the nearest picture (B,)."""
        return self.distances(images).argmin(dim=1)
