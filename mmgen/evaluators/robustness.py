"""`robustness`: what is left of an encoder's accuracy when the pictures are spoilt."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from mmgen.evaluators.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from mmgen.evaluators.retrieval import Retrieval
from mmgen.evaluators.zero_shot import ZeroShot
from mmgen.images import sheet
from mmgen.protocols import Evidence, Finding, Findings, Setting

Condition = tuple[str, int]  # the kind of corruption and its severity; ("clean", 0)
CLEAN: Condition = ("clean", 0)


class Robustness:
    """One accuracy on the pictures as they are, and again on the same pictures spoilt in several ways and degrees.

    What is random about a spoilt picture follows from its id and the seed: every encoder is shown the same.

    Args:
        split: the pictures judged.
        of: which accuracy: finding a picture's caption among those of all pictures (R@1), or `zero_shot`.
        attribute: of zero_shot: what is told apart; null: the first attribute of the dataset that it can judge.
        templates: of zero_shot: captions as there; null: the dataset's.
        corruptions: kinds; null: noise, salt, blur, pixelate, jpeg, contrast, brightness, darkness, crop, cover.
        severities: of 1 to 5.
        seed: of what is random.
        max_pictures: judge no more than these; null: all.

    Raises:
        ValueError: an unknown kind, no severity or one that is none.
    """

    def __init__(
        self,
        split: str = "heldout_pairs",
        of: Literal["retrieval", "zero_shot"] = "retrieval",
        attribute: str | None = None,
        templates: list[str] | None = None,
        corruptions: list[str] | None = None,
        severities: tuple[int, ...] = (1, 3, 5),
        seed: int = 0,
        max_pictures: int | None = 500,
    ) -> None:
        self.kinds = list(CORRUPTIONS) if corruptions is None else corruptions
        if not self.kinds or (unknown := [kind for kind in self.kinds if kind not in CORRUPTIONS]):
            raise ValueError(
                f"corruptions has {unknown[0] if self.kinds else 'none'}; there are {', '.join(CORRUPTIONS)}"
            )
        if not severities or any(not 1 <= severity <= SEVERITIES for severity in severities):
            raise ValueError(f"severities are {severities}; they are numbers from 1 to {SEVERITIES}")
        self.severities, self.seed, self.attribute = sorted(set(severities)), seed, attribute
        self._make: Callable[[], Retrieval | ZeroShot] = lambda: Retrieval(split)
        if of == "zero_shot":
            asked = None if attribute is None else [attribute]
            self._make = lambda: ZeroShot(split, choices=None, attributes=asked, templates=templates)
        self.needs = dataclasses.replace(self._make().needs, max_pictures=max_pictures)

    def begin(self, setting: Setting) -> None:
        """Starts anew."""
        captions, classes = setting.encode_captions, setting.encode_classes
        assert captions is not None
        self._setting = dataclasses.replace(
            setting, encode_captions=_remembered(captions), encode_classes=_remembered(classes or captions)
        )
        conditions = [CLEAN, *((kind, severity) for kind in self.kinds for severity in self.severities)]
        self._judges = {condition: self._make() for condition in conditions}
        for judge in self._judges.values():
            judge.begin(self._setting)
        self._shown: dict[Condition, Tensor] = {}

    def update(self, evidence: Evidence) -> None:
        """Judges a chunk of pictures under every condition."""
        assert self._setting.image_features is not None
        light = dataclasses.replace(evidence, images=evidence.images[:0])
        for (kind, severity), judge in self._judges.items():
            if (kind, severity) == CLEAN:
                judge.update(light)
                self._shown.setdefault(CLEAN, evidence.images[0].cpu().float())
                continue
            ids = [sample["id"] for sample in evidence.samples]
            pairs = zip(evidence.images.cpu(), ids, strict=True)
            images = torch.stack([corrupted(image, kind, severity, self.seed, id) for image, id in pairs])
            self._shown.setdefault((kind, severity), images[0])
            judge.update(dataclasses.replace(light, image_features=self._setting.image_features(images)))

    def compute(self) -> Findings:
        """The accuracies over everything since `begin`."""
        results = {condition: self._measured(judge.compute()) for condition, judge in self._judges.items()}
        clean = results[CLEAN]
        if isinstance(clean, str):
            return Findings([], stood_aside=clean)
        found = {condition: result for condition, result in results.items() if isinstance(result, Finding)}
        spoilt = [result.value for condition, result in found.items() if condition != CLEAN]
        mean = sum(spoilt) / len(spoilt)
        numbers = [dataclasses.replace(clean, name="robustness/clean", note=f"{clean.name}; {clean.note}")]
        lost = 100 * (clean.value - mean)
        said = f"of {len(spoilt)} ways and degrees of spoiling; {lost:.1f} points less than clean"
        numbers.append(Finding("robustness/mean_corrupted", mean, clean.n, "%", clean.chance, said))
        for (kind, severity), result in found.items():
            if (kind, severity) != CLEAN:
                name = f"robustness/{kind}_{severity}"
                note = f"severity {severity} of {SEVERITIES}"
                numbers.append(Finding(name, result.value, result.n, "%", result.chance, note))
        columns: list[dict[str, Any]] = [
            {
                "spoilt by": kind,
                "clean, %": round(100 * clean.value, 1),
                **{f"severity {s}, %": round(100 * found[kind, s].value, 1) for s in self.severities},
            }
            for kind in self.kinds
        ]
        return Findings(numbers, {"Robustness": columns}, self._pictures(), ("dataset", "encoder"))

    def _measured(self, findings: Findings) -> Finding | str:
        """The one number of what judged, or why there is none."""
        wanted = "retrieval/picture_to_caption_r1"
        if findings.numbers and findings.numbers[0].name.startswith("zero_shot/"):
            wanted = findings.numbers[0].name
        return next((n for n in findings.numbers if n.name == wanted), findings.stood_aside or "nothing was judged")

    def _pictures(self) -> dict[str, Tensor]:
        """The first picture under every condition."""
        clean = self._shown[CLEAN]
        rows = [(kind, [clean, *(self._shown[kind, s] for s in self.severities)]) for kind in self.kinds]
        headers = ["clean", *(f"severity {severity}" for severity in self.severities)]
        return {"What the encoder was shown": sheet(rows, headers=headers)}


def _remembered(encode: Callable[[Sequence[str]], Tensor]) -> Callable[[Sequence[str]], Tensor]:
    """The same, each caption encoded once: every condition asks for the same ones."""
    known: dict[str, Tensor] = {}

    def remembered(captions: Sequence[str]) -> Tensor:
        if new := [caption for caption in dict.fromkeys(captions) if caption not in known]:
            known.update(zip(new, encode(new).cpu(), strict=True))
        return torch.stack([known[caption] for caption in captions])

    return remembered
