"""`retrieval`: finding a picture by its caption, and a caption by its picture, among all of a split."""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import Tensor

from mmgen.protocols import Evidence, Finding, Findings, Needs, Setting

CUTS = (1, 5, 10)


class Retrieval:
    """R@1, R@5 and R@10, both ways: how often a right one is among the first 1, 5, 10 (CLIP, table 13).

    Ties count against the encoder: one that gives the same features to everything finds nothing.

    Args:
        split: the pictures searched, with their captions.
        max_pictures: search no more than these; null: all. Fewer are easier to find.
    """

    def __init__(self, split: str = "heldout_pairs", max_pictures: int | None = None) -> None:
        self.needs = Needs(split, max_pictures=max_pictures, features=True)

    def begin(self, setting: Setting) -> None:
        """Starts anew."""
        self._split = setting.split
        self._captions: list[str] = []
        self._images: list[Tensor] = []
        self._texts: list[Tensor] = []

    def update(self, evidence: Evidence) -> None:
        """Adds pictures and captions by their features."""
        assert evidence.image_features is not None
        assert evidence.text_features is not None
        self._captions += [sample["caption"] for sample in evidence.samples]
        self._images.append(evidence.image_features.cpu().float())
        self._texts.append(evidence.text_features.cpu().float())

    def compute(self) -> Findings:
        """Over everything since `begin`."""
        n = len(self._captions)
        scores = torch.cat(self._texts) @ torch.cat(self._images).T
        number = {caption: i for i, caption in enumerate(dict.fromkeys(self._captions))}
        label = torch.tensor([number[caption] for caption in self._captions])
        right = label[:, None] == label[None, :]
        repeats = Counter(self._captions)
        shared = sum(count for count in repeats.values() if count > 1)
        note = f"among all {n} of {self._split}"
        if shared:
            note += f"; {shared} share their caption with another, any picture with an equal caption counts as right"
        numbers = []
        for way, table in (("caption_to_picture", scores), ("picture_to_caption", scores.T)):
            ranks = rank_of_right(table, right)
            for cut in CUTS:
                chance = sum(_chance(n, repeats[caption], cut) for caption in self._captions) / n
                share = (ranks <= cut).float().mean().item()
                numbers.append(Finding(f"retrieval/{way}_r{cut}", share, n, "%", chance, note))
        return Findings(numbers, depends_on=("dataset", "encoder"))


def rank_of_right(scores: Tensor, right: Tensor) -> Tensor:
    """Scores (A,B), and which are right (A,B) bool, at least one a row: the rank (A,) of the best right one, from 1.
    Whatever is wrong and scores as much stands before it."""
    best = scores.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
    # "not lower" rather than "as high": scores that are no numbers must not win.
    return 1 + (~right & ~(scores < best)).sum(dim=1)


def _chance(n: int, right: int, cut: int) -> float:
    """How often one of `right` among n is in the first `cut` of a random order."""
    return 1 - math.comb(n - right, cut) / math.comb(n, cut) if cut <= n else 1.0
