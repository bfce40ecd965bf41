"""Compares what was read with what was asked for, attribute by attribute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor

from mmgen.scenes.description import (
    Corner,
    Count,
    Hybrid,
    Object,
    Pair,
    Scene,
    Thing,
    Transformation,
    Word,
    kind_of,
)
from mmgen.scenes.drawing import draw_many
from mmgen.scenes.masks import SIZE
from mmgen.scenes.reading import Reading, read
from mmgen.scenes.remainder import Blob

ATTRIBUTES = (  # in the order in which they are reported
    "shape",  # of each thing; of a transformation, of the originals
    "colour",  # of each thing, or of a word
    "relation",  # of a pair, whichever is above or left of the other
    "number",
    "size",
    "fill",
    "letters",  # all of a word's, or of those written on a picture
    "letter",  # each of them
    "parts",  # all of a hybrid's and no other
    "body",  # its shape and colour
    "transformation",  # and the new colour of one recoloured
    "background",
)
Marks = dict[str, tuple[bool, ...]]


@dataclass(frozen=True)
class Region:
    """What was drawn anew: the shares of height and width from which on it was."""

    row: float = 0.0
    column: float = 0.0

    def holds(self, blob: Blob) -> bool:
        """Whether the blob's middle lies in it."""
        return blob.y >= SIZE * self.row and blob.x >= SIZE * self.column

    def on(self, grid: tuple[int, ...]) -> Region:
        """The region as a grid of (h, w) codes allows it: drawn from the whole code on in which it begins."""
        return Region(*(int(share * size) / size for share, size in zip((self.row, self.column), grid, strict=True)))


WHOLE = Region()


@dataclass(frozen=True)
class Verdict:
    """A picture's marks, and what else is wrong with it."""

    marks: Marks
    unexplained: tuple[str, ...]

    def right(self, attributes: Sequence[str] | None = None) -> bool:
        """Whether nothing is unexplained and all of these attributes that the scene has are right; null: all but the
        background. The scene has to have one of them (see `attributes_of`)."""
        asked = [name for name in self.marks if name != "background"] if attributes is None else attributes
        return not self.unexplained and all(all(self.marks.get(name, ())) for name in asked)

    @property
    def wrong(self) -> str:
        """What is wrong, in words."""
        names = [name for name, marks in self.marks.items() if not all(marks)]
        return ", ".join([*names, *self.unexplained])


def attributes_of(scene: Scene) -> frozenset[str]:
    """Which of `ATTRIBUTES` a scene has."""
    return frozenset(_marks(scene, scene))


def mark(truth: Scene, reading: Reading, region: Region = WHOLE) -> Verdict:
    """How well a picture of this scene was drawn.

    Args:
        truth: canonical.
        reading: of the picture, confined to the same kind of scene.
        region: what was drawn anew, where not all was; what differs elsewhere does not count, and of a corner's things
            the one in the lower right alone does where its quarter was redrawn.
    """
    read = reading.scene
    if read != truth and _look_the_same(truth, read, reading):
        read = truth
    marks = _marks(truth, read)
    if isinstance(truth, Corner) and region.row and region.column:
        marks = {name: values[-1:] for name, values in marks.items()}
    blobs = (f"{blob.area} pixels around ({blob.x:.0f}, {blob.y:.0f})" for blob in reading.blobs if region.holds(blob))
    return Verdict(marks, (*reading.notes, *blobs))


def _look_the_same(truth: Scene, read: Scene, reading: Reading) -> bool:
    """Whether there is one picture for both, as there is for a small cross plain and outlined."""
    if kind_of(truth) != kind_of(read) or not isinstance(truth, Count) or not isinstance(read, Count):
        return False
    if (truth.number, truth.size) != (read.number, read.size):
        return False  # the size is in the layout alone, and both are drawn in the one that was read
    one, other = draw_many([(truth, reading.layout), (read, reading.layout)], SIZE)
    return torch.equal(one, other)


def _marks(truth: Scene, read: Scene) -> Marks:
    """Of two scenes of one kind."""
    assert kind_of(truth) == kind_of(read)
    marks: Marks = {}
    if isinstance(truth, Object) and isinstance(read, Object):
        marks = _things([truth.thing], [read.thing])
    elif isinstance(truth, Pair) and isinstance(read, Pair):
        pair = [truth.first, truth.second]
        straight, turned = _things(pair, [read.first, read.second]), _things(pair, [read.second, read.first])
        is_turned = _sum(turned) > _sum(straight)
        marks = turned if is_turned else straight
        marks["relation"] = (truth.relation == read.relation and not is_turned,)
    elif isinstance(truth, Corner) and isinstance(read, Corner):
        marks = _things([truth.first, truth.second], [read.first, read.second])
    elif isinstance(truth, Count) and isinstance(read, Count):
        marks = _things([truth.thing], [read.thing])
        marks |= {name: (getattr(truth, name) == getattr(read, name),) for name in ("number", "size", "fill")}
    elif isinstance(truth, Word) and isinstance(read, Word):
        marks = {"colour": (truth.colour == read.colour,)} | _letters(truth.letters, read.letters)
    elif isinstance(truth, Hybrid) and isinstance(read, Hybrid):
        marks = _things([truth.body], [read.body])
        marks |= {"parts": (truth.parts == read.parts,), "body": (truth.body == read.body,)}
    elif isinstance(truth, Transformation) and isinstance(read, Transformation):
        marks = _things(truth.originals, read.originals)
        said, seen = ((scene.transformation, scene.colour) for scene in (truth, read))
        marks["transformation"] = (said == seen,)
        if truth.letters is not None:
            marks |= _letters(truth.letters, read.letters or "")
    return marks | {"background": (truth.background == read.background,)}


def _sum(marks: Marks) -> int:
    return sum(sum(values) for values in marks.values())


def _things(truth: Sequence[Thing], read: Sequence[Thing]) -> Marks:
    pairs = list(zip_longest(truth, read))
    return {
        "shape": tuple(a is not None and b is not None and a.shape == b.shape for a, b in pairs),
        "colour": tuple(a is not None and b is not None and a.colour == b.colour for a, b in pairs),
    }


def _letters(truth: str, read: str) -> Marks:
    return {"letters": (truth == read,), "letter": tuple(a == b for a, b in zip_longest(truth, read))}


@torch.no_grad()
def judge(images: Tensor, truths: Sequence[Scene], region: Region = WHOLE) -> list[tuple[Reading, Verdict]]:
    """Reads pictures, each confined to the kind of scene that was asked for, and marks them.

    Args:
        images: (B,3,S,S) float in [0,1].
        truths: B canonical descriptions.
        region: what was drawn anew.
    """
    by_kind: dict[str, list[int]] = {}
    for number, truth in enumerate(truths):
        by_kind.setdefault(kind_of(truth), []).append(number)
    found: dict[int, tuple[Reading, Verdict]] = {}
    for kind, numbers in by_kind.items():
        for number, reading in zip(numbers, read(images[numbers], kind), strict=True):
            found[number] = (reading, mark(truths[number], reading, region))
    return [found[number] for number in range(len(truths))]
