"""`emoji_judge`: whether a drawing of `emoji_scenes` shows the emoji that its caption names, in their relation."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from mmgen.protocols import Evidence, Findings, Needs, Sample, Setting
from mmgen_emoji.judge_figures import Judged, Judgements
from mmgen_emoji.judge_sheets import Chosen, Shown, failures_of, sheet_of
from mmgen_emoji.reading import mark, reader
from mmgen_emoji.scenes import NAMES, PLACES

FAILURES = 24  # shown and listed


class EmojiJudge:
    """Are the emoji that the caption names in the drawing, where it says? The picture is cut into the places where
    emoji stand in each relation, what stands in a place is the nearest of all 64 emoji (or nothing), over small shifts
    and by the mean squared error, and the relation is the one that explains the picture best. Nothing is learned, and
    nothing of the caption is used.

    How often the judge itself is wrong is measured first, and stands beside every figure: on the true pictures, on them
    with noise, on their reconstructions by the image tokenizer, and, where drawings are judged, on those that the
    likeliest token after the true ones before it gives. Pictures of another dataset, such as those of
    another part of a mixture, are left out.

    Args:
        split: whose captions are drawn.
        drawings: how many of each; 0 judges the true pictures and their reconstructions alone.
        max_pictures: captions drawn; null: all of the split.
        shown: how many drawings the sheet has; the seed chooses them.
        noise: its sigma, of pixels in [0,1], where the judge itself is judged.

    Raises:
        ValueError: a negative number of drawings, or none shown.
    """

    def __init__(
        self,
        split: str = "heldout_emoji",
        drawings: int = 4,
        max_pictures: int | None = 200,
        shown: int = 32,
        noise: float = 0.05,
    ) -> None:
        if drawings < 0 or shown < 1 or noise < 0:
            raise ValueError(f"drawings={drawings}, shown={shown}, noise={noise}: none may be negative, nor shown 0")
        self.drawings, self.shown, self.noise = drawings, shown, noise
        self.needs = Needs(
            split,
            or_val=False,
            max_pictures=max_pictures,
            reconstructions=True,
            teacher_forced=drawings > 0,
            drawings=drawings,
        )

    def begin(self, setting: Setting) -> None:
        """Starts anew."""
        self._seed = setting.seed
        self._found = Judgements(setting.split, self.noise)
        self._sheet, self._failures = Chosen(self.shown, setting.seed), Chosen(FAILURES, setting.seed)

    def update(self, evidence: Evidence) -> None:
        """Judges the pictures, and every drawing of them."""
        numbers = [i for i, sample in enumerate(evidence.samples) if _asked(sample)]
        if not numbers:
            return
        samples = [evidence.samples[i] for i in numbers]
        images = evidence.images[numbers].cpu().float()
        assert evidence.reconstructions is not None
        controls = {
            "true": images,
            "noisy": self._noisy(images, samples),
            "reconstructions": evidence.reconstructions[numbers].cpu().float(),
        }
        if evidence.teacher_forced is not None:
            controls["teacher_forced"] = evidence.teacher_forced[numbers].cpu().float()
        for name, pictures in controls.items():
            self._found.controls[name] += self._judged(pictures, samples)
        self._found.names += [_names(sample) for sample in samples]
        if self.drawings:
            assert evidence.drawings is not None
            self._judge_drawings(evidence.drawings[numbers].cpu().float(), samples, images)

    def _judge_drawings(self, drawn: Tensor, samples: Sequence[Sample], images: Tensor) -> None:
        n = drawn.shape[1]
        found = self._judged(drawn.flatten(0, 1), [sample for sample in samples for _ in range(n)])
        self._found.right.append(torch.tensor([verdict.right for _, verdict in found]).view(-1, n))
        self._found.best += found[::n]
        for i, (sample, (reading, verdict)) in enumerate(zip(samples, found[::n], strict=True)):
            shown = Shown(sample["id"], sample["caption"], images[i], drawn[i, 0], reading, verdict)
            self._sheet.offer(shown)
            if not verdict.right:
                self._failures.offer(shown)

    def _judged(self, pictures: Tensor, samples: Sequence[Sample]) -> list[Judged]:
        """Pictures (B,3,S,S), and what was asked for in each."""
        readings = reader(pictures.shape[-1]).read(pictures)
        return [
            (reading, mark(sample["attributes"]["relation"], _names(sample), reading))
            for reading, sample in zip(readings, samples, strict=True)
        ]

    def _noisy(self, images: Tensor, samples: Sequence[Sample]) -> Tensor:
        """Each picture's noise is a function of the seed and its id."""
        noisy = images.clone()
        for image, sample in zip(noisy, samples, strict=True):
            key = hashlib.sha256(f"{self._seed}/{sample['id']}".encode()).digest()
            source = torch.Generator().manual_seed(int.from_bytes(key[:7], "big"))
            image += self.noise * torch.randn(image.shape, generator=source)
        return noisy.clamp_(0, 1)

    def compute(self) -> Findings:
        """Over everything since `begin`."""
        parts: tuple[str, ...] = ("dataset", "tokenizer")
        found = self._found
        if not found.names:
            return Findings([], depends_on=parts, stood_aside="no picture of the split is one of emoji_scenes")
        if not self.drawings:
            return Findings(found.itself(), {"The judge itself": found.by_attribute()}, depends_on=parts)
        wrong = [
            {"caption": each.caption, "read as": str(each.reading), "what is wrong": each.verdict.wrong}
            for each in self._failures
        ]
        tables = {
            "By attribute, and the judge itself": found.by_attribute(),
            "All right, the best of N drawings": found.curve(),
            "All right, the worst pairs": found.worst(),
            "Not all right, chosen by the seed": wrong,
        }
        shown = f"{len(self._sheet)} drawings chosen by the seed: the true picture, and what was drawn"
        pictures = {shown: sheet_of(list(self._sheet))}
        if wrong:
            pictures["Not all right, chosen by the seed"] = failures_of(list(self._failures))
        parts = (*parts, "generator", "encoder", "sampler")
        return Findings([*found.drawn(), *found.itself()], tables, pictures, parts)


def _names(sample: Sample) -> tuple[str, ...]:
    return tuple(sample["attributes"]["names"].split(" | "))


def _asked(sample: Sample) -> bool:
    """Whether it is a picture of `emoji_scenes`."""
    attributes = sample.get("attributes", {})
    return attributes.get("relation") in PLACES and {*attributes.get("names", "").split(" | ")} <= {*NAMES}
