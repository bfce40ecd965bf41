"""`retrieval`: finding a picture by its caption, and a caption by its picture, among all of a split."""

from __future__ import annotations

import math
from collections import Counter
from typing import Literal

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
        captions: `first` searches each picture's first caption, the one it is judged by everywhere; `all` every caption
            of every picture, of which any own one is right, as on COCO and Flickr30k.
    """

    def __init__(
        self,
        split: str = "heldout_pairs",
        max_pictures: int | None = None,
        captions: Literal["first", "all"] = "first",
    ) -> None:
        self.needs = Needs(split, max_pictures=max_pictures, features=True)
        self.captions = captions

    def begin(self, setting: Setting) -> None:
        """Starts anew."""
        self._split, self._encode = setting.split, setting.encode_captions
        self._captions: list[str] = []
        self._owners: list[int] = []  # whose caption each is, by the picture's number
        self._images: list[Tensor] = []
        self._texts: list[Tensor] = []
        self._pictures = 0

    def update(self, evidence: Evidence) -> None:
        """Adds pictures and captions by their features."""
        assert evidence.image_features is not None
        texts, captions = evidence.text_features, [[sample["caption"]] for sample in evidence.samples]
        if self.captions == "all":
            assert self._encode is not None
            captions = [list(dict.fromkeys([s["caption"], *s.get("captions", [])])) for s in evidence.samples]
            texts = self._encode([caption for own in captions for caption in own])
        assert texts is not None
        for own in captions:
            self._captions += own
            self._owners += [self._pictures] * len(own)
            self._pictures += 1
        self._images.append(evidence.image_features.cpu().float())
        self._texts.append(texts.cpu().float())

    def compute(self) -> Findings:
        """Over everything since `begin`."""
        scores = torch.cat(self._texts) @ torch.cat(self._images).T
        number = {caption: i for i, caption in enumerate(dict.fromkeys(self._captions))}
        label = torch.tensor([number[caption] for caption in self._captions])
        has = torch.zeros(len(number), self._pictures, dtype=torch.bool)
        has[label, torch.tensor(self._owners)] = True
        right, note = has[label], self._note()
        numbers = []
        for way, table, truth in (("caption_to_picture", scores, right), ("picture_to_caption", scores.T, right.T)):
            n, searched = truth.shape
            ranks, counts = rank_of_right(table, truth), truth.sum(dim=1).tolist()
            for cut in CUTS:
                chance = sum(_chance(searched, count, cut) for count in counts) / n
                share = (ranks <= cut).float().mean().item()
                numbers.append(Finding(f"retrieval/{way}_r{cut}", share, n, "%", chance, note))
        return Findings(numbers, depends_on=("dataset", "encoder"))

    def _note(self) -> str:
        """Among how many was searched, and what else counts as right."""
        shared = sum(count for count in Counter(self._captions).values() if count > 1)
        if self.captions == "all":
            note = f"among all {len(self._captions)} captions of all {self._pictures} of {self._split}"
            also = f"; {shared} captions are shared by pictures, each of which counts as right"
        else:
            note = f"among all {self._pictures} of {self._split}"
            also = f"; {shared} share their caption with another, any picture with an equal caption counts as right"
        return note + also if shared else note


def rank_of_right(scores: Tensor, right: Tensor) -> Tensor:
    """Scores (A,B), and which are right (A,B) bool, at least one a row: the rank (A,) of the best right one, from 1.
    Whatever is wrong and scores as much stands before it."""
    best = scores.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
    # "not lower" rather than "as high": scores that are no numbers must not win.
    return 1 + (~right & ~(scores < best)).sum(dim=1)


def _chance(n: int, right: int, cut: int) -> float:
    """How often one of `right` among n is in the first `cut` of a random order."""
    return 1 - math.comb(n - right, cut) / math.comb(n, cut) if cut <= n else 1.0
