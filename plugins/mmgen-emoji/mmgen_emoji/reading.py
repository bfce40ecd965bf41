"""Reads a picture of `emoji_scenes` back into names and a relation, by analysis and synthesis: nothing is learned.

Letters: B pictures, P pieces of one place, T templates of a place, D = 3·h·w numbers of a piece.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from mmgen_emoji.scenes import MOVED, NAMES, PLACES, emoji_pictures, emoji_side, first_pixel

SIDE = 32  # pixels a side that pictures are compared at; larger ones are averaged
SLACK = (-1, 0, 1)  # in 1/32 of the side: how far an emoji may stand beside where the dataset puts it
NOTHING = "nothing"  # the name of an empty place
EMOJI = ("first", "second", "third")
CHUNK = 256

Place = tuple[int, int, str]  # as in `PLACES`


@dataclass(frozen=True)
class Reading:
    """What a picture shows.

    Attributes:
        relation: "left of", "above" or "three".
        names: as the dataset's attribute has them, one for each place; `NOTHING` where a place is empty.
        error: the mean squared error of the picture against what it was read as.
    """

    relation: str
    names: tuple[str, ...]
    error: float

    def __str__(self) -> str:
        """ "guitar left of rocket"."""
        if self.relation == "three":
            first, second, below = self.names
            return f"{first} and {second} above {below}"
        return f" {self.relation} ".join(self.names)


@dataclass(frozen=True)
class Verdict:
    """Which of what was asked for is in the picture.

    Attributes:
        emoji: of each that was asked for, whether it is there.
        relation: whether they stand as asked.
    """

    emoji: tuple[bool, ...]
    relation: bool

    @property
    def marks(self) -> dict[str, bool]:
        """By the attribute's name. `both` are all that were asked for, also of three."""
        return {**dict(zip(EMOJI, self.emoji, strict=False)), "both": all(self.emoji), "relation": self.relation}

    @property
    def right(self) -> bool:
        """Whether all is."""
        return all(self.emoji) and self.relation

    @property
    def wrong(self) -> str:
        """What is, in words."""
        return ", ".join(name for name, mark in self.marks.items() if not mark and name != "both")


def mark(relation: str, names: Sequence[str], reading: Reading) -> Verdict:
    """Emoji that stand in each other's places are right, and their relation is not."""
    places = max(len(names), len(reading.names))
    seen = [*reading.names, *[NOTHING] * (places - len(reading.names))]
    orders = itertools.permutations(seen)  # as they stand comes first, and wins a draw
    found = [tuple(name == other for name, other in zip(names, order, strict=False)) for order in orders]
    best = max(range(len(found)), key=lambda number: sum(found[number]))
    return Verdict(found[best], relation == reading.relation and best == 0)


class Reader:
    """Reads pictures of one size. Each relation cuts the picture into pieces, one for each emoji; a piece is compared
    with every emoji wherever it may stand there, and with white paper, by one product of matrices. The relation is the
    one whose pieces are explained best, so none is assumed.

    Args:
        image_size: pixels a side, 32 to 144. Larger pictures than 32, and what they are compared with, are averaged
            down to 32, so that all sizes take the same time.
    """

    def __init__(self, image_size: int) -> None:
        self._pictures = torch.stack(list(emoji_pictures(emoji_side(image_size)).values()))
        self._size = image_size
        self._templates = {place: self._made(place) for place in dict.fromkeys(itertools.chain(*PLACES.values()))}
        self._lengths = {place: templates.square().sum(dim=1) for place, templates in self._templates.items()}

    def _made(self, place: Place) -> Tensor:
        """(T,D): white paper, then all emoji at one shift after another."""
        x, y, axis = place
        made = [torch.ones(1, 3, self._size, self._size)]
        for left, top in itertools.product(self._starts(x, axis == "x"), self._starts(y, axis == "y")):
            made.append(self._placed(left, top))
        return torch.cat([_piece(adaptive_avg_pool2d(pictures, SIDE), place) for pictures in made])

    def _starts(self, centre: int, moves: bool) -> list[int]:
        """Where an emoji may begin along an axis: where the dataset puts it, and a little beside."""
        pixels = self._size // SIDE
        centres = range(centre - MOVED * moves, centre + MOVED * moves + 1)
        return sorted({first_pixel(at, self._size) + slack * pixels for at in centres for slack in SLACK})

    def _placed(self, left: int, top: int) -> Tensor:
        """(64,3,S,S): each emoji on white, cut off where it leaves the picture."""
        paper = torch.ones(len(self._pictures), 3, self._size, self._size)
        side = self._pictures.shape[-1]
        (first, until), (begin, end) = ((max(at, 0), min(at + side, self._size)) for at in (top, left))
        paper[:, :, first:until, begin:end] = self._pictures[:, :, first - top : until - top, begin - left : end - left]
        return paper

    @torch.no_grad()
    def read(self, images: Tensor) -> list[Reading]:
        """Pictures (B,3,S,S) in [0,1]."""
        return [reading for chunk in images.split(CHUNK) for reading in self._read(chunk.float())]

    def _read(self, images: Tensor) -> list[Reading]:
        images = adaptive_avg_pool2d(images, SIDE)
        found = {place: self._nearest(_piece(images, place), place) for place in self._templates}
        errors = torch.stack([sum(found[place][0] for place in places) for places in PLACES.values()])  # (3,B)
        least, chosen = errors.min(dim=0)
        numbers = {place: number.tolist() for place, (_, number) in found.items()}
        relations = list(PLACES)
        return [
            Reading(
                relations[relation],
                tuple(_name(numbers[place][i]) for place in PLACES[relations[relation]]),
                error / images[0].numel(),
            )
            for i, (relation, error) in enumerate(zip(chosen.tolist(), least.tolist(), strict=True))
        ]

    def _nearest(self, pieces: Tensor, place: Place) -> tuple[Tensor, Tensor]:
        """(B,D) to the squared distance from the nearest template, and its number, (B,) each."""
        templates = self._templates[place]
        number = torch.addmm(self._lengths[place], pieces, templates.T, alpha=-2).argmin(dim=1)
        return (pieces - templates[number]).square().sum(dim=1), number


@lru_cache(maxsize=1)  # a second to make; every chunk and evaluator of a run asks for the same
def reader(image_size: int) -> Reader:
    """Of pictures of this size."""
    return Reader(image_size)


def _piece(images: Tensor, place: Place) -> Tensor:
    """(B,3,SIDE,SIDE) to the half or quarter around a place, (B,D): the pieces of a relation make up the picture."""
    columns, rows = (_half(at) for at in place[:2])
    return images[:, :, rows, columns].flatten(1)


def _half(centre: int) -> slice:
    middle = SIDE // 2
    return slice(0, SIDE) if centre == middle else slice(0, middle) if centre < middle else slice(middle, SIDE)


def _name(template: int) -> str:
    return NAMES[(template - 1) % len(NAMES)] if template else NOTHING
