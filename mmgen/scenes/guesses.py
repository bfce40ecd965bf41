"""What a picture of objects, pairs, corners, counted things or letters most likely shows: guesses, slot by slot.

Each function takes a `Sheet` of B pictures and gives for each the best few scenes of its kind, as (description,
layout), by errors that take no account of what one slot's layers do to another's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from mmgen.scenes.canvas import is_another
from mmgen.scenes.description import (
    COLOURS,
    FILLS,
    HOSTS,
    MAX_LETTERS,
    SHAPES,
    SIZES,
    Corner,
    Count,
    Object,
    Pair,
    Scene,
    Thing,
    Word,
)
from mmgen.scenes.drawing import Layer, filled, ink_on, lettering
from mmgen.scenes.font import LETTERS
from mmgen.scenes.layout import Layout, Place, layouts
from mmgen.scenes.masks import Masks, Sheet, TwoMasks, masks_of


@dataclass(frozen=True)
class Guess:
    """What a picture may show."""

    scene: Scene
    layout: Layout
    notes: tuple[str, ...] = ()  # what the description cannot tell


NAMES = tuple(COLOURS)
INK = (0, 0, 0)  # a layer's colour where only its mask is asked for
SLOT_KEPT = 2  # things kept of each slot, so that two equal ones can give way
INSIDES_KEPT = 32  # hypotheses of a thing inside another that are looked at in all colours
A, B = Thing("circle", "red"), Thing("square", "blue")  # any two


def split_number(number: int, shape: Sequence[int]) -> list[int]:
    """A place in a flattened table of this shape as its indices."""
    found = []
    for size in reversed(shape):
        number, index = divmod(number, size)
        found.append(index)
    return found[::-1]


class Slot:
    """Where one thing may stand.

    Args:
        places: all of them.
        cut, flip_x, flip_y: how it is drawn there.
    """

    def __init__(
        self, places: Sequence[Place], cut: str = "plain", flip_x: bool = False, flip_y: bool = False
    ) -> None:
        self.places = list(places)
        pieces = [Layer(shape, place, INK, cut, flip_x, flip_y) for shape in SHAPES for place in self.places]
        self.masks = Masks(masks_of(pieces))

    def table(self, sheet: Sheet, colours: Tensor | None = None) -> Tensor:
        """Gains (B,shape,place,colour)."""
        gains = self.masks.gains(sheet.rest, sheet.colours if colours is None else colours)
        return gains.view(len(gains), len(SHAPES), len(self.places), -1)

    def best(self, sheet: Sheet, kept: int = SLOT_KEPT) -> list[list[tuple[float, Thing, Place]]]:
        """The best few things of each picture, each in its best place, with their gains."""
        gains, places = self.table(sheet).min(dim=2)
        values, numbers = gains.flatten(1).topk(kept, dim=1, largest=False)
        chosen = places.flatten(1).gather(1, numbers)
        return [
            [
                (gain, Thing(SHAPES[number // len(NAMES)], NAMES[number % len(NAMES)]), self.places[place])
                for gain, number, place in zip(*row, strict=True)
            ]
            for row in zip(values.tolist(), numbers.tolist(), chosen.tolist(), strict=True)
        ]


@cache
def slots(scene: Scene) -> tuple[Slot, ...]:
    """One for each thing of the scene, with the places that any layout gives it."""
    return tuple(Slot(sorted(set(places), key=repr)) for places in zip(*layouts(scene), strict=True))


def guess_objects(sheet: Sheet) -> list[list[Guess]]:
    """Of `Object`."""
    (slot,) = slots(Object(A))
    found = zip(slot.best(sheet, kept=1), sheet.grounds, strict=True)
    return [[Guess(Object(t, background=ground), (place,)) for _, t, place in row] for row, ground in found]


def guess_corners(sheet: Sheet) -> list[list[Guess]]:
    """Of `Corner`."""
    found = _two(sheet, Corner(A, B), lambda first, second, ground: Corner(first, second, background=ground))
    return [[Guess(*weighed[1:])] for weighed in found]


def guess_pairs(sheet: Sheet) -> list[list[Guess]]:
    """Of `Pair`: the best above, left of and inside."""
    found = [
        _two(sheet, Pair(A, relation, B), lambda a, b, ground, r=relation: Pair(a, r, b, background=ground))  # type: ignore[misc]
        for relation in ("above", "left of")
    ]
    found.append(_inside(sheet))
    return [[Guess(*min(row, key=lambda weighed: weighed[0])[1:])] for row in zip(*found, strict=True)]


Weighed = tuple[float, Scene, Layout]


def _two(sheet: Sheet, example: Scene, make: Callable[[Thing, Thing, str], Scene]) -> list[Weighed]:
    """The best two different things in the two slots of a scene."""
    first, second = (slot.best(sheet) for slot in slots(example))
    found: list[Weighed] = []
    for ground, ones, others in zip(sheet.grounds, first, second, strict=True):
        pairs = [(a, b) for a in ones for b in others if a[1] != b[1]]
        a, b = min(pairs, key=lambda pair: pair[0][0] + pair[1][0])
        found.append((a[0] + b[0], make(a[1], b[1], ground), (a[2], b[2])))
    return found


@cache
def _insides() -> tuple[list[tuple[str, str, Layout]], TwoMasks]:
    """Host, shape inside, and layout of each hypothesis."""
    every = [(host, inner, layout) for host in HOSTS for inner in SHAPES for layout in _inside_layouts(host)]
    hosts: dict[tuple[str, Place], int] = {}
    under = [hosts.setdefault((host, layout[1]), len(hosts)) for host, _, layout in every]
    lower = masks_of([Layer(host, place, INK) for host, place in hosts])
    upper = masks_of([Layer(inner, layout[0], INK) for _, inner, layout in every])
    return every, TwoMasks(lower, upper, torch.tensor(under))


def _inside_layouts(host: str) -> list[Layout]:
    return list(layouts(Pair(Thing("circle", "red"), "inside", Thing(host, "blue"))))


def _inside(sheet: Sheet) -> list[Weighed]:
    every, masks = _insides()
    lower, upper = masks.gains(sheet.rest, sheet.colours, sheet.colours)
    hopeful = (lower.amin(dim=2) + upper.amin(dim=2)).topk(INSIDES_KEPT, dim=1, largest=False).indices
    row = torch.arange(len(hopeful))[:, None]
    gains = lower[row, hopeful][:, :, :, None] + upper[row, hopeful][:, :, None, :]
    gains += masks.crossed(sheet.colours, sheet.colours, hopeful)
    gains += torch.where(torch.eye(len(NAMES), dtype=torch.bool), torch.inf, 0.0)
    values, numbers = gains.flatten(1).min(dim=1)
    found: list[Weighed] = []
    for i, (value, number) in enumerate(zip(values.tolist(), numbers.tolist(), strict=True)):
        k, outer, inner = number // len(NAMES) ** 2, number // len(NAMES) % len(NAMES), number % len(NAMES)
        host, shape, layout = every[int(hopeful[i, k])]
        scene = Pair(Thing(shape, NAMES[inner]), "inside", Thing(host, NAMES[outer]), background=sheet.grounds[i])
        found.append((value, scene, layout))
    return found


# ---- counted things


class Cell:
    """One of the quarters in which counted things stand, with all fills and sizes."""

    def __init__(self, places: dict[str, list[Place]]) -> None:
        self.places = places  # by size
        keys = [(shape, place) for shape in SHAPES for size in SIZES for place in places[size]]
        whole = masks_of([Layer(shape, place, INK) for shape, place in keys])
        self.plain = Masks(whole)
        self.outlined = Masks(masks_of([Layer(shape, place, INK, "outlined") for shape, place in keys]))
        self.inked = {}
        for fill in ("striped", "dotted"):
            cut = masks_of([Layer(shape, place, INK, fill) for shape, place in keys])
            self.inked[fill] = TwoMasks(whole, cut, torch.arange(len(keys)))

    def table(self, sheet: Sheet) -> tuple[Tensor, Tensor]:
        """The gains of the best places (B,shape,size,fill,colour), and the places' numbers."""
        ink = sheet.ink[:, None]
        by_fill = {
            "plain": self.plain.gains(sheet.rest, sheet.colours),
            "outlined": self.outlined.gains(sheet.rest, sheet.colours),
        }
        every = torch.arange(len(self.plain.flat)).expand(len(sheet.rest), -1)
        for fill, masks in self.inked.items():
            lower, upper = masks.gains(sheet.rest, sheet.colours, ink)
            by_fill[fill] = lower + upper + masks.crossed(sheet.colours, ink, every)[..., 0]
        gains = torch.stack([by_fill[fill] for fill in FILLS], dim=2)  # (B,K,fill,colour)
        best = gains.view(len(gains), len(SHAPES), len(SIZES), -1, len(FILLS), len(NAMES)).min(dim=3)
        return best.values, best.indices


@cache
def cells() -> tuple[Cell, ...]:
    """The four, from the upper left."""
    found: dict[tuple[bool, bool], dict[str, list[Place]]] = {}
    for size in SIZES:
        for (place,) in layouts(Count(1, A, size, "plain")):
            quarter = found.setdefault((place.y > 16, place.x > 16), {})
            quarter.setdefault(size, []).append(place)
    return tuple(Cell(found[quarter]) for quarter in sorted(found))


def guess_counts(sheet: Sheet) -> list[list[Guess]]:
    """Of `Count`: one thing, size and fill for all quarters, each of which has it or is nearer to bare."""
    tables = [cell.table(sheet) for cell in cells()]
    gains = torch.stack([table for table, _ in tables], dim=1)  # (B,cell,shape,size,fill,colour)
    places = torch.stack([place for _, place in tables], dim=1)
    shape = gains.shape[2:]
    totals = gains.clamp(max=0).sum(dim=1).flatten(1)
    found = []
    for i, number in enumerate(totals.argmin(dim=1).tolist()):
        s, z, f, c = split_number(number, shape)
        own = gains[i, :, s, z, f, c].tolist()
        there = [cell for cell, gain in enumerate(own) if gain < 0] or [min(range(len(own)), key=own.__getitem__)]
        layout = tuple(cells()[cell].places[SIZES[z]][int(places[i, cell, s, z, f, c])] for cell in there)
        scene = Count(len(there), Thing(SHAPES[s], NAMES[c]), SIZES[z], FILLS[f], background=sheet.grounds[i])
        notes = [_odd_one(scene, cell, gains[i, cell, :, z, :, c], places[i, cell, :, z, :, c]) for cell in there]
        found.append([Guess(scene, layout, tuple(note for note in notes if note))])
    return found


def _odd_one(scene: Count, number: int, gains: Tensor, places: Tensor) -> str:
    """Whether one of the things is rather of another shape or fill, by its gains and places (shape,fill)."""
    best = int(gains.argmin())
    read = (SHAPES.index(scene.thing.shape), FILLS.index(scene.fill))
    rather = divmod(best, len(FILLS))
    if rather == read:
        return ""
    won = float(gains[read] - gains[rather])

    def drawn(s: int, f: int) -> list[Layer]:
        place = cells()[number].places[scene.size][int(places[s, f])]
        return filled(Thing(SHAPES[s], scene.thing.colour), place, FILLS[f], ink_on(scene.background))

    if not is_another(won, drawn(*rather), drawn(*read), scene.background):
        return ""
    return f"one of them {FILLS[best % len(FILLS)]}, a {SHAPES[best // len(FILLS)]}"


# ---- words


@cache
def _word_slots() -> tuple[Masks, list[tuple[Layout, list[int]]]]:
    """Masks of all letters in all places, place by place; and of each layout of each length its places' numbers."""
    numbers: dict[Place, int] = {}
    arrangements = []
    for length in range(1, MAX_LETTERS + 1):
        for layout in layouts(Word("A" * length, "red")):
            pieces = lettering("A" * length, layout[0], INK)
            arrangements.append((layout, [numbers.setdefault(piece.place, len(numbers)) for piece in pieces]))
    masks = masks_of([Layer(letter, place, INK) for place in numbers for letter in LETTERS])
    return Masks(masks), arrangements


def guess_words(sheet: Sheet) -> list[list[Guess]]:
    """Of `Word`: of each length and middle the best letters."""
    masks, arrangements = _word_slots()
    gains = masks.gains(sheet.rest, sheet.colours)
    best = gains.view(len(gains), -1, len(LETTERS), len(NAMES)).min(dim=2)  # (B,place,colour)
    totals = torch.stack([best.values[:, places].sum(dim=1) for _, places in arrangements], dim=1)
    found = []
    for i, number in enumerate(totals.flatten(1).argmin(dim=1).tolist()):
        (layout, places), colour = arrangements[number // len(NAMES)], number % len(NAMES)
        letters = "".join(LETTERS[n] for n in best.indices[i, places, colour].tolist())
        # A word may need a letter where there is rather none: between two, or beside one that stands off the middle.
        bare = [place + 1 for place, gain in enumerate(best.values[i, places, colour].tolist()) if gain > 0]
        notes = tuple(f"letter {place} missing" for place in bare)
        found.append([Guess(Word(letters, NAMES[colour], background=sheet.grounds[i]), layout, notes)])
    return found

