"""`nearest_picture`: whether an unseen combination was drawn, or a picture remembered."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mmgen.evaluators.families import guesses
from mmgen.evaluators.gallery import Gallery
from mmgen.evaluators.kmeans import PatchCodes, fits
from mmgen.images import grid
from mmgen.protocols import Evidence, Finding, Findings, Needs, Sample, Setting

WORST = 10


class NearestPicture:
    """Of all the dataset's pictures, is the one nearest to the drawing (mean squared error of pixels) the right one?

    A picture with equal pixels counts as right; another one just as near counts as nearer. Beside it stand baselines
    made of the pictures themselves: guesses from the trained pictures of the same family, and the true picture through
    k-means codes.

    Args:
        split: whose captions are drawn.
        drawings: how many of each; the encoder's best is judged.
        max_pictures: captions drawn; null: all of the split.
        family: the attribute that pictures of one family share, for the baselines.
        varied: the attribute that tells them apart, with its classes in their natural order.
        centres: of k-means.
        patch: pixels a side of its patches.

    Raises:
        ValueError: no drawings, no centres or no pixels.
    """

    def __init__(
        self,
        split: str = "heldout_pairs",
        drawings: int = 8,
        max_pictures: int | None = 300,
        family: str = "name",
        varied: str = "tone",
        centres: int = 1024,
        patch: int = 4,
    ) -> None:
        for name, value in (("drawings", drawings), ("centres", centres), ("patch", patch)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be ≥ 1")
        self.needs = Needs(split, max_pictures=max_pictures, drawings=drawings, all_pictures=True)
        self.family, self.varied, self.centres, self.patch = family, varied, centres, (patch, patch)

    def begin(self, setting: Setting) -> None:
        """Starts anew, and looks for equal pixels among all pictures."""
        assert setting.all_images is not None
        self._setting = setting
        self._gallery = Gallery(setting.all_images.cpu(), setting.all_ids)
        self._drawn: list[Tensor] = []
        self._ranks: list[Tensor] = []
        self._samples: list[Sample] = []

    def update(self, evidence: Evidence) -> None:
        """Ranks the right picture of every drawing by nearness."""
        assert evidence.drawings is not None
        batch, drawings = evidence.drawings.shape[:2]
        truth = self._gallery.places([sample["id"] for sample in evidence.samples])
        flat = evidence.drawings.cpu().flatten(0, 1)
        self._ranks.append(self._gallery.ranks(flat, truth.repeat_interleave(drawings)).view(batch, drawings))
        self._drawn.append(evidence.drawings[:, 0].cpu().float())
        self._samples += evidence.samples

    def compute(self) -> Findings:
        """Over everything since `begin`."""
        ranks, split = torch.cat(self._ranks), self._setting.split
        n, drawings = ranks.shape
        chance = 1 / len(self._gallery)
        best = ranks[:, 0].float()
        among = f"nearest of all {len(self._gallery)} different pictures"
        numbers = [
            Finding(
                "nearest_picture/share",
                (best == 1).float().mean().item(),
                n,
                "%",
                chance,
                f"{among}, for captions of {split}, the best of {drawings} drawings by the encoder",
            ),
            Finding("nearest_picture/mean_rank", best.mean().item(), n, note=f"of the right picture; {among}"),
        ]
        if drawings > 1:
            every = (ranks == 1).float().mean().item()
            numbers.append(Finding("nearest_picture/share_unranked", every, n, "%", chance, "of all drawings"))
        numbers += self._baselines(chance)
        worst = best.argsort(descending=True, stable=True)[:WORST]
        drawn = torch.cat(self._drawn)[worst]
        right = self._gallery.places([self._samples[i]["id"] for i in worst])
        nearest = self._gallery.nearest(drawn)
        rows: list[dict[str, Any]] = [
            {
                "caption": self._samples[i]["caption"],
                "rank of the right picture": int(best[i]),
                "nearest": self._gallery.ids[place],
            }
            for i, place in zip(worst.tolist(), nearest.tolist(), strict=True)
        ]
        shown = torch.cat([drawn, self._gallery.images[right], self._gallery.images[nearest]])
        return Findings(
            numbers,
            tables={"Farthest from the right picture": rows},
            pictures={"Farthest from the right picture: as drawn, the right one, the nearest": grid(shown, len(worst))},
            depends_on=("dataset", "tokenizer", "generator", "encoder", "sampler"),
        )

    def _baselines(self, chance: float) -> list[Finding]:
        """The same share for pictures that no generator drew."""
        setting = self._setting
        assert setting.all_images is not None
        made = guesses(setting, self._samples, self.family, self.varied) if setting.all_attributes else {}
        truth = self._gallery.places([sample["id"] for sample in self._samples])
        if setting.train_positions and fits(setting.all_images, self.patch):
            codes = PatchCodes.fit(setting.all_images[setting.train_positions], centres=self.centres, patch=self.patch)
            quantised = dict(enumerate(codes.quantise(self._gallery.images[truth])))
            how = f"the right picture itself through k-means codes, {len(codes.centres)} centres"
            made["kmeans"] = (how, quantised)
        numbers = []
        for name, (how, pictures) in made.items():
            if pictures:
                ranks = self._gallery.ranks(torch.stack(list(pictures.values())), truth[list(pictures)])
                share = (ranks == 1).float().mean().item()
                numbers.append(
                    Finding(f"nearest_picture/{name}", share, len(pictures), "%", chance, f"baseline: {how}")
                )
        return numbers
