"""What `emoji_judge` reports: figures with the judge's own error beside each, and tables.

Letters: B captions, n drawings of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import comb, log10
from typing import Any

import torch
from torch import Tensor

from mmgen.protocols import Finding
from mmgen_emoji.reading import EMOJI, Reading, Verdict

CONTROLS = {
    "true": "true pictures",
    "noisy": "them with noise",
    "reconstructions": "reconstructions",
    "teacher_forced": "the likeliest tokens after true ones",  # where there is a generator
}
ATTRIBUTES = (*EMOJI, "both", "relation")
WORST = 10  # pairs listed
Row = dict[str, Any]
Judged = tuple[Reading, Verdict]


@dataclass
class Judgements:
    """All verdicts of a split.

    Attributes:
        split: its name.
        noise: the sigma of the noise.
        names: what was asked for, of each caption.
        controls: what was found in pictures that no generator drew, by the names of `CONTROLS`.
        best: what was found in the encoder's first drawing of each caption.
        right: (B,n) bool in pieces, whether each drawing is right, best first by the encoder.
    """

    split: str
    noise: float
    names: list[tuple[str, ...]] = field(default_factory=list)
    controls: dict[str, list[Judged]] = field(default_factory=lambda: {name: [] for name in CONTROLS})
    best: list[Judged] = field(default_factory=list)
    right: list[Tensor] = field(default_factory=list)

    def drawn(self) -> list[Finding]:
        """All right, and each attribute."""
        right = torch.cat(self.right)
        n = right.shape[1]
        best = f"the best of {n} by the encoder" if n > 1 else "one drawing"
        note = f"all emoji and their relation right, {best}, of {self.split}; {self._beside(None)}"
        numbers = [_finding("right", right[:, 0].tolist(), note)]
        if n > 1:
            # The drawings of a caption are no independent cases: the interval is that of so many captions.
            every = right.double().mean().item()
            note = f"the same of one drawing, unranked: the mean over all {n}; n counts captions; {self._beside(None)}"
            numbers.append(Finding("emoji_judge/right_unranked", every, len(right), "%", note=note))
        for name in ATTRIBUTES:
            if marks := _marks(self.best, name):
                numbers.append(_finding(name, marks, f"{best}; {self._beside(name)}"))
        drawn, made = psnr(self.best), psnr(self.controls["reconstructions"])
        note = f"of a drawing against what it was read as: how clean it is; {best}; reconstructions {made:.1f} dB"
        return [*numbers, Finding("emoji_judge/psnr", drawn, len(self.best), "dB", note=note)]

    def itself(self) -> list[Finding]:
        """How often the judge is right about pictures that no generator drew."""
        numbers = []
        for control, what in self._told().items():
            what = what.replace("noise", f"noise of sigma {self.noise:g}")
            note = f"the judge itself: {what} read all right, of {self.split}"
            numbers.append(_finding(control, _marks(self.controls[control], None), note))
        return numbers

    def _told(self) -> dict[str, str]:
        return {control: what for control, what in CONTROLS.items() if self.controls[control]}

    def _beside(self, name: str | None) -> str:
        told = self._told().items()
        shares = [f"{what} {_share(_marks(self.controls[control], name)):.1%}" for control, what in told]
        return "the judge on " + ", ".join(shares)

    def by_attribute(self) -> list[Row]:
        """Of the drawings and of the controls."""
        rows: list[Row] = []
        for name in (*ATTRIBUTES, None):
            own = {what: _marks(self.controls[control], name) for control, what in self._told().items()}
            if not own["true pictures"]:
                continue
            row: Row = {"attribute": name or "all right"}
            if self.best:
                row["drawn %"] = _percent(_marks(self.best, name))
            row |= {f"{what} %": _percent(marks) for what, marks in own.items()}
            rows.append({**row, "n": len(own["true pictures"])})
        return rows

    def curve(self) -> list[Row]:
        """Over N, the expectations of the best of N."""
        right = torch.cat(self.right)
        return [
            {
                "N": count,
                "ranked by the encoder %": _percent(by_ranking(right, count)),
                "by a perfect ranker %": _percent(by_truth(right, count)),
            }
            for count in powers(right.shape[1])
        ]

    def worst(self) -> list[Row]:
        """The emoji that together were drawn right least often, in any relation."""
        right = torch.cat(self.right)
        groups: dict[str, list[int]] = {}
        for number, names in enumerate(self.names):
            groups.setdefault(", ".join(sorted(names)), []).append(number)
        rows = [
            {
                "emoji": names,
                f"best of {right.shape[1]} %": _percent(right[numbers, 0]),
                "unranked %": _percent(right[numbers]),
                "captions": len(numbers),
            }
            for names, numbers in groups.items()
        ]
        # Of those that are equally bad, first what was asked for most often.
        return sorted(rows, key=lambda row: (row["unranked %"], -row["captions"], row["emoji"]))[:WORST]


def powers(drawings: int) -> list[int]:
    """1, 2, 4 … and the number of drawings itself."""
    return sorted({*(2**i for i in range(drawings.bit_length())), drawings})


def by_ranking(right: Tensor, count: int) -> Tensor:
    """(B,), the share of all subsets of `count` drawings whose first is right: `right` (B,n), best first."""
    n = right.shape[1]
    # Number i is the first of a subset when all others of it come after.
    weights = torch.tensor([comb(n - 1 - i, count - 1) / comb(n, count) for i in range(n)], dtype=torch.float64)
    return right.double() @ weights


def by_truth(right: Tensor, count: int) -> Tensor:
    """(B,), the share of all subsets of `count` drawings in which any is right: `right` (B,n), in any order."""
    n = right.shape[1]
    missing = torch.tensor([comb(n - r, count) / comb(n, count) for r in range(n + 1)], dtype=torch.float64)
    return 1 - missing[right.sum(dim=1)]


def psnr(found: Sequence[Judged]) -> float:
    """Of pictures against what they were read as: the mean over them in dB, each at most 100."""
    return sum(-10 * log10(max(reading.error, 1e-10)) for reading, _ in found) / len(found)


def _marks(found: Sequence[Judged], name: str | None) -> list[bool]:
    """Of an attribute, from the pictures that have it; null: all right."""
    if name is None:
        return [verdict.right for _, verdict in found]
    return [verdict.marks[name] for _, verdict in found if name in verdict.marks]


def _finding(name: str, marks: Sequence[bool], note: str) -> Finding:
    return Finding(f"emoji_judge/{name}", _share(marks), len(marks), "%", note=note)


def _share(marks: Sequence[bool]) -> float:
    return sum(marks) / len(marks)


def _percent(right: Tensor | Sequence[bool]) -> float:
    return round(100 * torch.as_tensor(right).double().mean().item(), 1)
