"""The evaluator `example`: how far reconstructions are from their pictures, by colour and by brightness."""

from __future__ import annotations

import torch
from torch import Tensor

from mmgen.protocols import Evidence, Finding, Findings, Needs, Setting

CHANNELS = ("red", "green", "blue")


class Example:
    """The mean absolute error of reconstructed pictures, of 255 levels.

    Args:
        split: whose pictures are judged; `val` stands in where the dataset has no such split.
        max_pictures: how many at most, chosen by the seed; null is all.
    """

    def __init__(self, split: str = "val", max_pictures: int | None = 500) -> None:
        self.needs = Needs(split=split, max_pictures=max_pictures, reconstructions=True)

    def begin(self, setting: Setting) -> None:
        self._sum = torch.zeros(3, dtype=torch.float64)
        self._n = 0
        self._worst: tuple[float, Tensor | None] = (-1.0, None)

    def update(self, evidence: Evidence) -> None:
        assert evidence.reconstructions is not None
        errors = (evidence.reconstructions - evidence.images).abs().double()  # (B,3,H,W)
        self._sum += errors.mean((2, 3)).sum(0)
        self._n += len(errors)
        worst, row = errors.mean((1, 2, 3)).max(0)
        if worst > self._worst[0]:
            pair = torch.cat([evidence.images[row], evidence.reconstructions[row]], 2)  # beside each other
            self._worst = (float(worst), pair.clone())

    def compute(self) -> Findings:
        means = (255 * self._sum / self._n).tolist()
        numbers = [Finding("example/error", sum(means) / 3, self._n, note="mean absolute error, of 255 levels")]
        table = [{"channel": name, "error": mean} for name, mean in zip(CHANNELS, means, strict=True)]
        pictures = {"The picture that is reconstructed worst": self._worst[1]} if self._worst[1] is not None else {}
        return Findings(numbers, {"Error by channel": table}, pictures, depends_on=("dataset", "tokenizer"))
