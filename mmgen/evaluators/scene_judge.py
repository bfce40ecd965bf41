"""`scene_judge`: whether a drawing shows what its caption says, read back exactly and by nothing learned."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from mmgen.evaluators.scene_figures import Judgements
from mmgen.evaluators.scene_sheets import Judged, failures_of, judged, sheet_of
from mmgen.evaluators.sheets import Chosen
from mmgen.protocols import Evidence, Findings, Needs, Sample, Setting
from mmgen.scenes.description import Scene, from_json
from mmgen.scenes.grammar import captions
from mmgen.scenes.marking import ATTRIBUTES, WHOLE, Region, Verdict, attributes_of, judge
from mmgen.scenes.reading import Reading

FAILURES = 24  # shown and listed


class SceneJudge:
    """Is all that the caption says in the drawing, and nothing else? Each drawing of a scene is read back into a
    description by analysis and synthesis (`mmgen.scenes.reading`): what could have been drawn is drawn, and the nearest
    is taken. Nothing is learned, and of the caption no more is used than the kind of scene that it asks for.

    How often the judge itself is wrong is measured first, and stands beside every figure: on the true pictures, on them
    with noise, and on their reconstructions by the image tokenizer. Pictures without a scene, such as those of another
    part of a mixture, are left out.

    Args:
        split: whose captions are drawn.
        drawings: how many of each; 0 judges the true pictures and their reconstructions alone.
        max_pictures: captions drawn; null: all of the split.
        redrawn_from: shares of height and width from which on the pictures are drawn anew, such as [0.5, 0.0] for the
            bottom half of transformations and [0.5, 0.5] for the lower right of corners; what is above and at the left
            counts as given. Null: all is drawn from the captions.
        shown: how many drawings the sheet has; the seed chooses them.
        noise: its sigma, of pixels in [0,1], where the judge itself is judged.
        attributes: those that have to be right for "all right", where a scene has them; one with none of them is left
            out. Null: all but the background.

    Raises:
        ValueError: a negative number of drawings, a share outside [0,1), an unknown attribute, or none.
    """

    def __init__(
        self,
        split: str = "heldout_pairs",
        drawings: int = 4,
        max_pictures: int | None = 200,
        redrawn_from: list[float] | None = None,
        shown: int = 32,
        noise: float = 0.05,
        attributes: list[str] | None = None,
    ) -> None:
        if drawings < 0 or shown < 1 or noise < 0:
            raise ValueError(f"drawings={drawings}, shown={shown}, noise={noise}: none may be negative, nor shown 0")
        if redrawn_from is not None and not (len(redrawn_from) == 2 and all(0 <= share < 1 for share in redrawn_from)):
            raise ValueError(f"redrawn_from is {redrawn_from}; it must be two shares in [0,1)")
        unknown = [name for name in attributes or () if name not in ATTRIBUTES]
        if unknown:
            raise ValueError(f"attributes has {unknown[0]!r}; known are {', '.join(ATTRIBUTES)}")
        if attributes is not None and not attributes:
            raise ValueError(f"attributes is empty; known are {', '.join(ATTRIBUTES)}, and null is all but the last")
        self.drawings, self.shown, self.noise, self.attributes = drawings, shown, noise, attributes
        self.region = WHOLE if redrawn_from is None else Region(*redrawn_from)
        self.redraws = redrawn_from is not None and drawings > 0
        self.needs = Needs(
            split,
            or_val=False,
            max_pictures=max_pictures,
            reconstructions=True,
            teacher_forced=drawings > 0,
            drawings=0 if self.redraws else drawings,
            redrawings=drawings if self.redraws else 0,
            redrawn_from=(self.region.row, self.region.column) if self.redraws else (0.5, 0.0),
        )

    def begin(self, setting: Setting) -> None:
        """Starts anew."""
        self._seed, self._region = setting.seed, self.region
        self._had: dict[str, None] = {}  # the attributes of the split's scenes
        self._found = Judgements(f"of {setting.split}{self._given()}", self.attributes, self.noise)
        self._sheet: Chosen[Judged] = Chosen(self.shown, setting.seed)
        self._failures: Chosen[Judged] = Chosen(FAILURES, setting.seed)

    def _given(self) -> str:
        shares = [(self.region.row, "above"), (self.region.column, "at the left")]
        given = " and ".join(f"{share:.0%} {where}" for share, where in shares if share)
        return f", {given} given" if given else ""

    def update(self, evidence: Evidence) -> None:
        """Judges the pictures, and every drawing of them."""
        numbers, scenes = [], []
        for number, sample in enumerate(evidence.samples):
            scene = _scene_of(sample)
            if scene is None:
                continue
            had = sorted(attributes_of(scene), key=ATTRIBUTES.index)
            self._had.update(dict.fromkeys(had))
            if self.attributes is None or not set(had).isdisjoint(self.attributes):
                numbers.append(number)
                scenes.append(scene)
        if not numbers:
            return
        if evidence.indices is not None:
            self._region = self.region.on(tuple(evidence.indices.shape[1:]))
        samples = [evidence.samples[i] for i in numbers]
        images = evidence.images[numbers].cpu().float()
        assert evidence.reconstructions is not None
        asked = {
            "true": images,
            "noisy": self._noisy(images, samples),
            "reconstructions": evidence.reconstructions[numbers].cpu().float(),
        }
        if evidence.teacher_forced is not None:
            asked["teacher_forced"] = evidence.teacher_forced[numbers].cpu().float()
        for name, pictures in asked.items():
            self._found.controls[name] += [verdict for _, verdict in self._judged(pictures, images, scenes)]
        self._found.scenes += scenes
        drawn = evidence.redrawings if self.redraws else evidence.drawings
        if self.drawings:
            assert drawn is not None
            kept = None
            if self.redraws and evidence.kept_codes is not None:
                kept = evidence.kept_codes[numbers].cpu()
                self._found.kept.append(kept)
            self._judge_drawings(drawn[numbers].cpu().float(), images, scenes, samples, kept)

    def _judge_drawings(
        self, drawn: Tensor, images: Tensor, scenes: list[Scene], samples: list[Sample], kept: Tensor | None
    ) -> None:
        """Kept: (B,n), the share of the given codes that each drawing kept; one that did not keep all is not right."""
        batch, n = drawn.shape[:2]
        every = [scene for scene in scenes for _ in range(n)]
        found = self._judged(drawn.flatten(0, 1), images.repeat_interleave(n, dim=0), every)
        right = torch.tensor([verdict.right(self.attributes) for _, verdict in found]).view(batch, n)
        if kept is not None:
            right &= kept == 1
        self._found.right.append(right)
        for i, sample in enumerate(samples):
            reading, verdict = found[i * n]
            self._found.best.append(verdict)
            shown = judged(sample["id"], sample["caption"], images[i], drawn[i, 0], reading, verdict, bool(right[i, 0]))
            self._sheet.offer(shown)
            if not shown.right:
                self._failures.offer(shown)

    def _judged(self, pictures: Tensor, images: Tensor, scenes: Sequence[Scene]) -> list[tuple[Reading, Verdict]]:
        """What was not drawn anew is read from the true pictures."""
        if self._region != WHOLE:
            row, column = (
                round(share * size)  # a whole number, where the picture has as many pixels for each code
                for share, size in zip((self._region.row, self._region.column), images.shape[2:], strict=True)
            )
            whole = images.clone()
            whole[:, :, row:, column:] = pictures[:, :, row:, column:]
            pictures = whole
        return judge(pictures, scenes, self._region)

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
        if not self._had:
            return Findings([], depends_on=parts, stood_aside="no picture of the split has a scene to be read back")
        if missing := [name for name in self.attributes or () if name not in self._had]:
            why = f"no scene of the split has the attribute {missing[0]}; they have {', '.join(self._had)}"
            return Findings([], depends_on=parts, stood_aside=why)
        if not self.drawings:
            return Findings(found.itself(), {"The judge itself": found.by_attribute()}, depends_on=parts)
        wrong = [
            {"caption": each.caption, "read as": captions(each.reading.scene)[0], "what is wrong": each.verdict.wrong}
            for each in self._failures
        ]
        tables = {
            "By attribute, and the judge itself": found.by_attribute(),
            "All right, the best of N drawings": found.curve(),
            "All right, by combination": found.by_combination(),
            "Not all right, chosen by the seed": wrong,
        }
        shown = f"{len(self._sheet)} drawings chosen by the seed: the true picture, and what was drawn"
        pictures = {shown: sheet_of(list(self._sheet))}
        if wrong:
            pictures["Not all right, chosen by the seed"] = failures_of(list(self._failures))
        parts = (*parts, "generator", "encoder", "sampler")
        return Findings([*found.drawn(), *found.itself()], tables, pictures, parts)


def _scene_of(sample: Sample) -> Scene | None:
    """What a sample of `scenes` shows; None for a picture of another dataset, whatever its attributes are called."""
    text = sample.get("attributes", {}).get("scene", "")
    return from_json(text).canonical() if text.startswith("{") else None
