"""`redraw`: how much the kept part of a picture helps to draw the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from mmgen.evaluators.gallery import Gallery
from mmgen.images import grid
from mmgen.protocols import Evidence, Finding, Findings, Needs, Setting

SHOWN = 10


class Redraw:
    """Of all the dataset's pictures, is the one nearest to the drawing (mean squared error of pixels) the right one:
    when part of the picture is kept and the rest drawn to its caption, and when all is drawn from the caption alone?

    Both are asked of the same pictures, and both drawings go through the image tokenizer whole; no pixel of the kept
    part is pasted. Equal pixels count as `nearest_picture` counts them. Beside them stand what the kept codes alone
    reach, with white where they end, and the right picture through the image tokenizer, which no drawing can pass.

    Args:
        split: whose pictures are redrawn.
        drawings: how many of each, both ways; the encoder's best is judged.
        max_pictures: pictures redrawn; null: all of the split.
        row: the share of the height that is kept above; the lower half is redrawn at 0.5.
        column: the share of the width that is kept at the left.

    Raises:
        ValueError: no drawings, or a share outside [0,1).
    """

    def __init__(
        self,
        split: str = "heldout_pairs",
        drawings: int = 8,
        max_pictures: int | None = 200,
        row: float = 0.5,
        column: float = 0.0,
    ) -> None:
        if drawings < 1:
            raise ValueError(f"drawings is {drawings}; it must be ≥ 1")
        for name, share in (("row", row), ("column", column)):
            if not 0 <= share < 1:
                raise ValueError(f"{name} is {share}; it must lie in [0,1)")
        self.needs = Needs(
            split,
            max_pictures=max_pictures,
            reconstructions=True,
            drawings=drawings,
            redrawings=drawings,
            redrawn_from=(row, column),
            all_pictures=True,
        )

    def begin(self, setting: Setting) -> None:
        """Starts anew, and looks for equal pixels among all pictures."""
        assert setting.all_images is not None
        self._split = setting.split
        self._gallery = Gallery(setting.all_images.cpu(), setting.all_ids)
        self._right: dict[str, list[Tensor]] = {name: [] for name in ("share", "sample", "kept_alone", "tokenizer")}
        self._shown: list[Tensor] = []

    def update(self, evidence: Evidence) -> None:
        """Asks for the nearest picture of every drawing."""
        assert evidence.drawings is not None
        assert evidence.redrawings is not None
        assert evidence.reconstructions is not None
        truth = self._gallery.places([sample["id"] for sample in evidence.samples])
        asked = {
            "share": evidence.redrawings[:, 0],
            "sample": evidence.drawings[:, 0],
            "kept_alone": self._without_the_rest(evidence.reconstructions),
            "tokenizer": evidence.reconstructions,
        }
        for name, images in asked.items():
            self._right[name].append(self._gallery.ranks(images.cpu(), truth) == 1)
        rows = [evidence.images, asked["kept_alone"], asked["share"], asked["sample"]]
        self._shown.append(torch.stack([row[:SHOWN].cpu().float() for row in rows]))

    def _without_the_rest(self, images: Tensor) -> Tensor:
        """(B,3,H,W) with white where the picture is redrawn."""
        row, column = (int(share * size) for share, size in zip(self.needs.redrawn_from, images.shape[2:], strict=True))
        white = images.clone()
        white[:, :, row:, column:] = 1
        return white

    def compute(self) -> Findings:
        """Over everything since `begin`."""
        right = {name: torch.cat(found) for name, found in self._right.items()}
        n, count, chance = len(right["share"]), self.needs.drawings, 1 / len(self._gallery)
        row, column = self.needs.redrawn_from
        kept = " and ".join(
            f"{share:.0%} {where}" for share, where in ((row, "above"), (column, "at the left")) if share
        )
        best = f"the best of {count} drawings by the encoder" if count > 1 else "one drawing"
        notes = {
            "share": f"nearest of all {len(self._gallery)} pictures, {self._split}: {kept or 'nothing'} kept, {best}",
            "sample": f"the same pictures drawn from their captions alone, {best}",
            "kept_alone": "baseline: the kept codes, and white where they end",
            "tokenizer": "the right picture itself through the image tokenizer",
        }
        numbers = [
            Finding(f"redraw/{name}", found.float().mean().item(), n, "%", chance, notes[name])
            for name, found in right.items()
        ]
        won, lost = ((right[a] & ~right[b]).sum().item() for a, b in (("share", "sample"), ("sample", "share")))
        note = f"redraw less sample; of the pictures {won} are right only with the kept part, {lost} only without"
        numbers.insert(2, Finding("redraw/gain", 100 * (won - lost) / n, n, "points", None, note))
        shown = torch.cat(self._shown, 1)[:, :SHOWN]
        title = "The picture, what is kept, redrawn, drawn from the caption"
        return Findings(
            numbers,
            pictures={title: grid(shown.flatten(0, 1), shown.shape[1])},
            depends_on=("dataset", "tokenizer", "generator", "encoder", "sampler"),
        )
