"""What `scene_judge` reports: figures with the judge's own error beside each, and tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmgen.evaluators.best_of import by_ranking, by_truth, powers
from mmgen.protocols import Finding
from mmgen.scenes.description import Hybrid, Scene, Transformation, Word, kind_of
from mmgen.scenes.heldout import HELD_OUT_PARTS, HELD_OUT_THINGS, HELD_OUT_TRANSFORMATIONS
from mmgen.scenes.lexicon import thing
from mmgen.scenes.marking import ATTRIBUTES, Verdict
from mmgen.scenes.words import held_out_words

CONTROLS = {
    "true": "true pictures",
    "noisy": "noisy ones",
    "reconstructions": "reconstructions",
    "teacher_forced": "the likeliest tokens after true ones",
}
Row = dict[str, Any]
TOLD = 16  # where more are drawn, the gain of the best of so many is told as well
NORMAL = 1.96  # an interval of 95 %


@dataclass
class Judgements:
    """All verdicts of a split.

    Attributes:
        where: the split, and what of the pictures was given.
        attributes: those that make "all right"; null: all but the background.
        noise: the sigma of the noise.
        scenes: what was asked for.
        controls: verdicts on pictures that no generator drew, by the names of `CONTROLS`.
        best: verdicts on the encoder's first drawing of each caption.
        right: (B,n) bool in pieces, whether each drawing is all right, best first by the encoder.
        kept: (B,n) in pieces, of the codes that each drawing should keep, the share that it kept.
    """

    where: str
    attributes: list[str] | None
    noise: float
    scenes: list[Scene] = field(default_factory=list)
    controls: dict[str, list[Verdict]] = field(default_factory=lambda: {name: [] for name in CONTROLS})
    best: list[Verdict] = field(default_factory=list)
    right: list[Tensor] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)

    def drawn(self) -> list[Finding]:
        """All right, and each attribute."""
        right = torch.cat(self.right)
        n = right.shape[1]
        best = f"the best of {n} by the encoder" if n > 1 else "one drawing"
        asked = "all" if self.attributes is None else ", ".join(self.attributes)
        note = f"{asked} right and nothing else in it, {best}, {self.where}; {self._beside(None)}"
        numbers = [_finding("right", right[:, 0].tolist(), note)]
        if n > 1:
            # The drawings of a caption are no independent cases: the interval is that of so many captions.
            every = right.double().mean().item()
            note = f"the same of one drawing, unranked: the mean over all {n}; n counts captions; {self._beside(None)}"
            numbers.append(Finding("scene_judge/right_unranked", every, len(right), "%", note=note))
            numbers += [_gain("gain", right, n), *([_gain(f"gain_{TOLD}", right, TOLD)] if n > TOLD else [])]
        for name in ATTRIBUTES:
            if marks := _marks(self.best, name):
                # The things of a drawing are no independent cases: the interval is that of so many drawings.
                n = _having(self.best, name)
                several = f"the share of {len(marks)} marks, n counts drawings; " if len(marks) > n else ""
                note = f"{best}; {several}{self._beside(name)}"
                numbers.append(Finding(f"scene_judge/{name}", _share(marks), n, "%", note=note))
        clean = [not verdict.unexplained for verdict in self.best]
        numbers.append(_finding("nothing_else", clean, f"{best}; {self._beside('nothing_else')}"))
        if self.kept:
            whole = (torch.cat(self.kept) == 1).all(1).tolist()
            note = "every code outside of what was drawn anew is as it was given, in all drawings"
            numbers.append(_finding("kept_codes", whole, note))
        return numbers

    def itself(self) -> list[Finding]:
        """How often what was not drawn freely is read all right: the judge's own error, and tokens after true ones."""
        numbers = []
        for control, what in self._judged():
            what = f"true pictures with noise of sigma {self.noise:g}" if control == "noisy" else what
            note = f"the judge itself: {what} read all right, {self.where}"
            numbers.append(_finding(control, self._control(None, control), note))
        return numbers

    def _judged(self) -> list[tuple[str, str]]:
        """The controls that there are."""
        return [(control, what) for control, what in CONTROLS.items() if self.controls[control]]

    def _control(self, name: str | None, control: str) -> list[bool]:
        """Of an attribute, or all right."""
        verdicts = self.controls[control]
        if name is None:
            return [verdict.right(self.attributes) for verdict in verdicts]
        return _marks(verdicts, name)

    def _beside(self, name: str | None) -> str:
        shares = [f"{what} {_share(self._control(name, control)):.1%}" for control, what in self._judged()]
        return "the judge on " + ", ".join(shares)

    def by_attribute(self) -> list[Row]:
        """Of the drawings and of the controls."""
        rows: list[Row] = []
        for name in (*ATTRIBUTES, "nothing_else", None):
            own = {what: self._control(name, control) for control, what in self._judged()}
            if not own["true pictures"]:
                continue
            row: Row = {"attribute": (name or "all right").replace("_", " ")}
            if self.best:
                right = torch.cat(self.right)[:, 0].tolist()
                row["drawn %"] = _percent(right if name is None else _marks(self.best, name))
            row |= {f"{what} %": _percent(marks) for what, marks in own.items()}
            true = self.controls["true"]
            rows.append({**row, "n": _having(true, name) if name in ATTRIBUTES else len(true)})
        return rows

    def curve(self) -> list[Row]:
        """Over N, the expectations of the best of N."""
        right = torch.cat(self.right)
        return [
            {
                "N": count,
                "ranked by the encoder %": _rounded(by_ranking(right, count)),
                "by a perfect ranker %": _rounded(by_truth(right, count)),
            }
            for count in powers(right.shape[1])
        ]

    def by_combination(self) -> list[Row]:
        """Of each held-out combination; of scenes without one, of each kind."""
        right = torch.cat(self.right)
        groups: dict[str, list[int]] = {}
        for number, scene in enumerate(self.scenes):
            for name in combinations(scene) or [f"{kind_of(scene)}, as trained on"]:
                groups.setdefault(name, []).append(number)
        return [
            {
                "combination": name,
                f"best of {right.shape[1]} %": _rounded(right[numbers, 0]),
                "unranked %": _rounded(right[numbers]),
                "captions": len(numbers),
            }
            for name, numbers in sorted(groups.items())
        ]


def combinations(scene: Scene) -> list[str]:
    """What is never trained on in it."""
    found = [thing(each) for each in HELD_OUT_THINGS if each in scene.things]
    if isinstance(scene, Hybrid):
        held = [part for part, shape in HELD_OUT_PARTS if shape == scene.body.shape]
        found += [f"{scene.body.shape} with {part}" for part in held if part in scene.parts]
    if isinstance(scene, Transformation):
        changed = [each for name, each in HELD_OUT_TRANSFORMATIONS if name == scene.transformation]
        found += [f"{thing(each)} {scene.transformation}" for each in changed if each in scene.originals]
    letters = scene.letters if isinstance(scene, Word | Transformation) else None
    return [*found, letters] if letters and letters in held_out_words() else found


def _gain(name: str, right: Tensor, count: int) -> Finding:
    """What the best of so many drawings (B,n) by the encoder has over one, with its interval over captions."""
    alone = right.double().mean(1)
    gains, perfect = (100 * (best(right, count) - alone) for best in (by_ranking, by_truth))
    note = f"the best of {count} by the encoder over one drawing, of a hundred"
    if len(right) > 1:
        note += f", ± {NORMAL * gains.std().item() / len(right) ** 0.5:.1f}"
    note += f"; a perfect ranker's is {perfect.mean().item():.1f}"
    return Finding(f"scene_judge/{name}", gains.mean().item(), len(right), "points", note=note)


def _marks(verdicts: Iterable[Verdict], name: str) -> list[bool]:
    if name == "nothing_else":
        return [not verdict.unexplained for verdict in verdicts]
    return [mark for verdict in verdicts for mark in verdict.marks.get(name, ())]


def _having(verdicts: Iterable[Verdict], name: str) -> int:
    """How many drawings have an attribute, some of them several times."""
    return sum(bool(verdict.marks.get(name)) for verdict in verdicts)


def _finding(name: str, marks: Sequence[bool], note: str) -> Finding:
    return Finding(f"scene_judge/{name}", _share(marks), len(marks), "%", note=note)


def _share(marks: Sequence[bool]) -> float:
    return sum(marks) / len(marks) if marks else 0.0


def _percent(marks: Sequence[bool]) -> float:
    return round(100 * _share(marks), 1)


def _rounded(right: Tensor) -> float:
    return round(100 * right.double().mean().item(), 1)
