"""Guesses of transformations: a thing of the top half and what became of it below are read together."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from mmgen.scenes.canvas import is_another
from mmgen.scenes.description import (
    BACKGROUNDS,
    GREYSCALE_ON,
    MAX_WRITTEN,
    SHAPES,
    TRANSFORMATIONS,
    Scene,
    Thing,
    Transformation,
)
from mmgen.scenes.drawing import Layer, layers
from mmgen.scenes.font import LETTERS
from mmgen.scenes.guesses import NAMES, A, B, Guess, Weighed, split_number
from mmgen.scenes.layout import Layout, Place, layouts
from mmgen.scenes.masks import SIZE, Masks, Sheet, masks_of

SIDES = (0, 1)  # left, right
CHANGES = [(name, None) for name in TRANSFORMATIONS if name not in ("recoloured", "written")]
OPTIONS: list[tuple[str, str | None]] = [*CHANGES, *(("recoloured", colour) for colour in NAMES)]
THINGS_KEPT = 3  # of each side, so that two equal ones can give way
LOWER = slice(SIZE // 2, None)


class Side:
    """A thing at the left or at the right of the top half, and what each transformation makes of it."""

    def __init__(self, side: int) -> None:
        example = Transformation("mirrored", (A, B))
        places = {layout[side] for layout in layouts(example)}
        self.places = sorted(places, key=lambda place: (place.y, place.x))
        self.heights = sorted({place.y for place in places})
        keys = [(shape, place) for shape in SHAPES for place in self.places]
        drawn = {name: [_drawn(name, shape, place) for shape, place in keys] for name in (*dict(CHANGES), "recoloured")}
        self.top = Masks(masks_of([pieces[0] for pieces in drawn["recoloured"]]))
        self.below = {name: Masks(masks_of([pieces[-1] for pieces in rows])) for name, rows in drawn.items()}

    def shaped(self, gains: Tensor) -> Tensor:
        """(B,K,C) to (B,shape,height,across,colour)."""
        return gains.view(len(gains), len(SHAPES), len(self.heights), -1, gains.shape[2])


def _drawn(name: str, shape: str, place: Place) -> list[Layer]:
    name = "mirrored" if name == "written" else name
    other = "blue" if name == "recoloured" else None
    return layers(Transformation(name, (Thing(shape, "red"),), colour=other), (place,))


@cache
def sides() -> tuple[Side, ...]:
    """Left and right."""
    return tuple(Side(side) for side in SIDES)


@dataclass(frozen=True)
class Tables:
    """Gains of a batch, of one thing on one side (B,shape,height,across,colour)."""

    top: Tensor
    below: dict[str, Tensor]
    ground: Tensor  # (B,), of the bottom half in grey

    def linked(self) -> Tensor:
        """(B,option,shape,height,across,colour), by what is above and below together."""
        found = [self.top + self.below[name] for name, _ in CHANGES]
        for number in range(len(NAMES)):
            both = self.top + self.below["recoloured"][..., number : number + 1]
            both[..., number] = torch.inf
            found.append(both)
        return torch.stack(found, dim=1)


def tables(sheet: Sheet, side: Side) -> Tables:
    """Of every option."""
    # On dark, the grey ground below is not quite the background: things in grey stand on it.
    ground = torch.tensor([_ground(name) for name in sheet.grounds])
    grey_rest = sheet.rest.clone()
    grey_rest[:, :, LOWER] -= ground[:, :, None, None]
    changed = grey_rest[:, :, LOWER].square().sum((1, 2, 3)) - sheet.rest[:, :, LOWER].square().sum((1, 2, 3))
    below = {}
    for name, masks in side.below.items():
        if name == "greyscale":
            below[name] = side.shaped(masks.gains(grey_rest, sheet.greys - ground[:, None]))
        else:
            below[name] = side.shaped(masks.gains(sheet.rest, sheet.colours))
    changed += torch.tensor([0.0 if name in GREYSCALE_ON else torch.inf for name in sheet.grounds])
    return Tables(side.shaped(side.top.gains(sheet.rest, sheet.colours)), below, changed)


def _ground(name: str) -> tuple[float, ...]:
    if name not in GREYSCALE_ON:
        return (0.0, 0.0, 0.0)
    half = layers(Transformation("greyscale", (A,), background=name), (Place(8, 8, 5),))[1]
    return tuple((new - old) / 255 for new, old in zip(half.colour, BACKGROUNDS[name], strict=True))


def guess_transformations(sheet: Sheet) -> list[list[Guess]]:
    """Of `Transformation`: the best of one thing, of two, and of one with letters written on it."""
    both = [tables(sheet, side) for side in sides()]
    linked = [table.linked() for table in both]
    for table, gains in zip(both, linked, strict=True):
        gains[:, 0] += table.ground[:, None, None, None, None]
    single = [_single(sheet, side, gains) for side, gains in zip(sides(), linked, strict=True)]
    # The grey ground was counted with each of the two.
    linked[1][:, 0] -= torch.nan_to_num(both[1].ground, posinf=0.0)[:, None, None, None, None]
    found = [*single, _double(sheet, linked), *(_written(sheet, side, both[side]) for side in SIDES)]
    best = [min(row, key=lambda weighed: weighed[0]) for row in zip(*found, strict=True)]
    return [[Guess(scene, layout, _odd_ones(i, scene, layout, both))] for i, (_, scene, layout) in enumerate(best)]


def _odd_ones(i: int, scene: Scene, layout: Layout, both: list[Tables]) -> tuple[str, ...]:
    """Whether what stands above or below is rather of another shape, or not there, picture i."""
    assert isinstance(scene, Transformation)
    notes = []
    for thing, place in zip(scene.originals, layout, strict=False):
        number = int(place.x > SIZE / 2)
        side, table = sides()[number], both[number]
        below = table.below["recoloured" if scene.transformation == "written" else scene.transformation]
        at = side.places.index(place)
        y, x = divmod(at, below.shape[3])
        s = SHAPES.index(thing.shape)
        for where, gains, colour, layer in (
            ("above", table.top, thing.colour, 0),
            ("below", below, scene.colour or thing.colour, -1),
        ):
            own = gains[i, :, y, x, NAMES.index(colour)]
            if own[s] > 0:  # nearer to bare: what is pale in greyscale leaves no blob where it is missing
                notes.append(f"{where} no {thing.shape}")
            other = int(own.argmin())
            if other == s:
                continue
            rather, read = ([_drawn(scene.transformation, SHAPES[n], place)[layer]] for n in (other, s))
            if is_another(float(own[s] - own[other]), rather, read, scene.background):
                notes.append(f"{where} rather a {SHAPES[other]}")
    return tuple(notes)


def _scene(option: int, things: tuple[Thing, ...], ground: str) -> Transformation:
    name, colour = OPTIONS[option]
    return Transformation(name, things, colour=colour, background=ground)


def _single(sheet: Sheet, side: Side, gains: Tensor) -> list[Weighed]:
    values, numbers = gains.flatten(1).min(dim=1)
    found: list[Weighed] = []
    for value, number, ground in zip(values.tolist(), numbers.tolist(), sheet.grounds, strict=True):
        o, s, y, x, c = split_number(number, gains.shape[1:])
        place = side.places[y * gains.shape[4] + x]
        found.append((value, _scene(o, (Thing(SHAPES[s], NAMES[c]),), ground), (place,)))
    return found


def _double(sheet: Sheet, linked: list[Tensor]) -> list[Weighed]:
    """Two different things at one height."""
    best = [gains.min(dim=4) for gains in linked]  # (B,option,shape,height,colour)
    totals = sum(each.values.amin(dim=(2, 4)) for each in best)
    assert isinstance(totals, Tensor)
    found: list[Weighed] = []
    for i, number in enumerate(totals.flatten(1).argmin(dim=1).tolist()):
        o, y = divmod(number, totals.shape[2])
        kept = []
        for each, side in zip(best, sides(), strict=True):
            values, places = each.values[i, o, :, y], each.indices[i, o, :, y]  # (shape,colour)
            kept.append(_things(values, places, side.places[y * linked[0].shape[4] :], OPTIONS[o][0] == "recoloured"))
        pairs = [(a, b) for a in kept[0] for b in kept[1] if _differ(a[1], b[1], OPTIONS[o][0])]
        a, b = min(pairs, key=lambda pair: pair[0][0] + pair[1][0])
        found.append((a[0] + b[0], _scene(o, (a[1], b[1]), sheet.grounds[i]), (a[2], b[2])))
    return found


def _things(values: Tensor, places: Tensor, row: list[Place], one_a_shape: bool) -> list[tuple[float, Thing, Place]]:
    """The best few of (shape,colour), with their gains and places."""
    if one_a_shape:
        numbers = (values.argmin(dim=1) + torch.arange(len(SHAPES)) * len(NAMES)).tolist()
        numbers.sort(key=lambda number: float(values.flatten()[number]))
    else:
        numbers = values.flatten().topk(THINGS_KEPT, largest=False).indices.tolist()
    return [
        (
            float(values.flatten()[n]),
            Thing(SHAPES[n // len(NAMES)], NAMES[n % len(NAMES)]),
            row[int(places.flatten()[n])],
        )
        for n in numbers[:THINGS_KEPT]
    ]


def _differ(first: Thing, second: Thing, name: str) -> bool:
    return first.shape != second.shape if name == "recoloured" else first != second


@cache
def _lettering(side: int) -> tuple[Masks, list[tuple[Place, list[int]]]]:
    """Masks of all letters in all places beside a thing on that side; for one letter and for two the middle and the
    places' numbers."""
    numbers: dict[Place, int] = {}
    arrangements = []
    pieces: list[Layer] = []
    for length in range(1, MAX_WRITTEN + 1):
        scene = Transformation("written", (A,), letters="A" * length)
        layout = next(each for each in layouts(scene) if (each[0].x > SIZE / 2) == bool(side))
        written = layers(scene, layout)[2:]
        arrangements.append((layout[-1], [numbers.setdefault(piece.place, len(numbers)) for piece in written]))
        pieces += [piece for piece in written if numbers[piece.place] >= len(pieces)]
    drawn = [Layer(letter, piece.place, piece.colour, cell_height=piece.cell_height) for piece, letter in
             itertools.product(pieces, LETTERS)]
    return Masks(masks_of(drawn)), arrangements


def _written(sheet: Sheet, number: int, table: Tables) -> list[Weighed]:
    side, (masks, arrangements) = sides()[number], _lettering(number)
    copied = table.top + table.below["recoloured"]
    values, places = copied.flatten(1).min(dim=1)
    best = masks.gains(sheet.rest, sheet.ink[:, None])[..., 0].view(len(values), -1, len(LETTERS)).min(dim=2)
    totals = torch.stack([best.values[:, chosen].sum(dim=1) for _, chosen in arrangements], dim=1).min(dim=1)
    found: list[Weighed] = []
    for i, ground in enumerate(sheet.grounds):
        s, y, x, c = split_number(int(places[i]), copied.shape[1:])
        middle, chosen = arrangements[int(totals.indices[i])]
        letters = "".join(LETTERS[n] for n in best.indices[i, chosen].tolist())
        scene = Transformation("written", (Thing(SHAPES[s], NAMES[c]),), letters=letters, background=ground)
        layout: Layout = (side.places[y * copied.shape[3] + x], middle)
        found.append((float(values[i] + totals.values[i]), scene, layout))
    return found
