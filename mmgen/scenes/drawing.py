"""Draws scenes: a description and a layout become layers, from the back to the front, and layers become pixels.

Anti-aliased: a pixel's coverage is what half a pixel on either side of a form's edge makes of its signed distance, and
a letter's is the exact area. A picture is a function of (description, layout, size), the same on every machine, and
rounded to 256 levels. What is drawn first is covered by what comes later; `layers` gives the pieces, `coverage` the
masks of some.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from mmgen.scenes import shapes
from mmgen.scenes.description import (
    BACKGROUNDS,
    COLOURS,
    PARTS,
    Corner,
    Count,
    Hybrid,
    Object,
    Pair,
    Scene,
    Thing,
    Transformation,
    Word,
)
from mmgen.scenes.font import COLUMNS, FONT, ROWS
from mmgen.scenes.layout import CELL_HEIGHT, CELL_WIDTH, LETTER_PITCH, UNIT, Layout, Place

DRAWING_VERSION = 1  # goes up with any change that changes a picture, which scenes are drawn, or a caption
OUTLINE = 1.7  # thickness, in 1/32 of the picture's side
INK = {"dark": (244, 244, 244)}  # the colour of parts, fills and written letters on a background; elsewhere:
INK_ELSEWHERE = (36, 36, 48)
PART_COLOURS = {"leaves": COLOURS["green"]}  # of the parts that are not drawn in ink
BEHIND = ("ears", "tail", "wings", "leaves")  # parts that the body covers
CHUNK = 64  # pictures drawn at once: what fits the cache

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Layer:
    """One form in one colour.

    `form` is a key of `shapes.FORMS`, a letter A to Z, or "half", the picture's bottom half. `cut` is what is left of
    it: "plain" all, "striped" and "dotted" the stripes and dots on it, "outlined" its edge.
    """

    form: str
    place: Place
    colour: Colour
    cut: str = "plain"
    flip_x: bool = False
    flip_y: bool = False
    cell_height: float = CELL_HEIGHT  # of letters


def layers(scene: Scene, layout: Layout) -> list[Layer]:
    """What is drawn on the background, from the back to the front."""
    ink = ink_on(scene.background)
    if isinstance(scene, Object):
        return [_thing(scene.thing, layout[0])]
    if isinstance(scene, Pair | Corner):
        both = [_thing(scene.first, layout[0]), _thing(scene.second, layout[1])]
        return both[::-1] if isinstance(scene, Pair) and scene.relation == "inside" else both
    if isinstance(scene, Count):
        return [layer for place in layout for layer in filled(scene.thing, place, scene.fill, ink)]
    if isinstance(scene, Word):
        return lettering(scene.letters, layout[0], COLOURS[scene.colour])
    if isinstance(scene, Hybrid):
        return _hybrid(scene, layout[0], ink)
    assert isinstance(scene, Transformation)
    things = _originals(scene, layout)
    return things + _transformed(scene, layout, things, ink)


def ink_on(background: str) -> Colour:
    """The colour of parts, fills and written letters on it."""
    return INK.get(background, INK_ELSEWHERE)


def grey(colour: Colour) -> Colour:
    """Of the same luma (Rec. 601), rounded."""
    red, green, blue = colour
    level = (299 * red + 587 * green + 114 * blue + 500) // 1000
    return (level, level, level)


def _thing(thing: Thing, place: Place) -> Layer:
    return Layer(thing.shape, place, COLOURS[thing.colour])


def filled(thing: Thing, place: Place, fill: str, ink: Colour) -> list[Layer]:
    """A thing with its fill: stripes and dots are ink on it, outlined leaves its edge alone."""
    whole = _thing(thing, place)
    if fill == "outlined":
        return [replace(whole, cut=fill)]
    return [whole] if fill == "plain" else [whole, replace(whole, cut=fill, colour=ink)]


def lettering(letters: str, place: Place, colour: Colour, cell_height: float = CELL_HEIGHT) -> list[Layer]:
    """Letters beside each other around a middle."""
    left = place.x - 0.5 * LETTER_PITCH * (len(letters) - 1)
    return [
        Layer(letter, replace(place, x=left + LETTER_PITCH * i), colour, cell_height=cell_height)
        for i, letter in enumerate(letters)
    ]


def _hybrid(scene: Hybrid, place: Place, ink: Colour) -> list[Layer]:
    parts = {part: Layer(part, place, PART_COLOURS.get(part, ink)) for part in PARTS if part in scene.parts}
    behind = [layer for part, layer in parts.items() if part in BEHIND]
    before = [layer for part, layer in parts.items() if part not in BEHIND]
    return [*behind, _thing(scene.body, place), *before]


def _originals(scene: Transformation, layout: Layout) -> list[Layer]:
    return [_thing(thing, place) for thing, place in zip(scene.originals, layout, strict=False)]


def _transformed(scene: Transformation, layout: Layout, things: list[Layer], ink: Colour) -> list[Layer]:
    """The bottom half."""
    below = [replace(layer, place=replace(layer.place, y=layer.place.y + 16)) for layer in things]
    if scene.transformation == "mirrored":
        return [replace(layer, place=replace(layer.place, x=32 - layer.place.x), flip_x=True) for layer in below]
    if scene.transformation == "upside down":
        return [replace(layer, place=replace(layer.place, y=48 - layer.place.y), flip_y=True) for layer in below]
    if scene.transformation == "outline":
        return [replace(layer, cut="outlined") for layer in below]
    if scene.transformation == "greyscale":
        ground = Layer("half", Place(16, 24, 8), grey(BACKGROUNDS[scene.background]))
        return [ground, *(replace(layer, colour=grey(layer.colour)) for layer in below)]
    if scene.transformation == "recoloured":
        assert scene.colour is not None
        return [replace(layer, colour=COLOURS[scene.colour]) for layer in below]
    assert scene.letters is not None
    middle = layout[-1]
    return below + lettering(scene.letters, replace(middle, y=middle.y + 16), ink, cell_height=2)


def coverage(pieces: Sequence[Layer], image_size: int) -> np.ndarray:
    """The masks of layers of one form, cut and flip (n,S,S) float32: the share of each pixel that each covers."""
    first = pieces[0]
    if first.form == "half":
        mask = np.zeros((len(pieces), image_size, image_size), dtype=np.float32)
        mask[:, image_size // 2 :] = 1
        if image_size % 2:
            mask[:, image_size // 2] = 0.5
        return mask
    places = np.array([piece.place.scaled() for piece in pieces], dtype=np.float32)
    if first.form in FONT:
        return _letter(first.form, places, first.cell_height, image_size)
    middles = (np.arange(image_size, dtype=np.float32) + np.float32(0.5)) / np.float32(image_size)
    half = places[:, 2, None, None]
    x = (middles[None, None, :] - places[:, 0, None, None]) / half
    y = (middles[None, :, None] - places[:, 1, None, None]) / half
    x, y = -x if first.flip_x else x, -y if first.flip_y else y
    distance = shapes.FORMS[first.form](x, y)
    if first.cut == "outlined":
        distance = np.maximum(distance, -(distance + np.float32(OUTLINE * UNIT) / half))
    elif first.cut == "striped":
        distance = np.maximum(distance, shapes.stripes(x, y))
    elif first.cut == "dotted":
        distance = np.maximum(distance, shapes.dots(x, y))
    return np.clip(np.float32(0.5) - distance * half * np.float32(image_size), 0, 1)


def _letter(letter: str, places: np.ndarray, cell_height: float, image_size: int) -> np.ndarray:
    """Exact areas: a cell covers of a pixel what it covers of its column times what it covers of its row."""
    across = _overlaps(places[:, 0], COLUMNS, CELL_WIDTH * UNIT, image_size)
    down = _overlaps(places[:, 1], ROWS, cell_height * UNIT, image_size)
    mask = np.zeros((len(places), image_size, image_size), dtype=np.float32)
    for row, cells in enumerate(FONT[letter]):
        line = np.zeros((len(places), image_size), dtype=np.float32)
        for column, cell in enumerate(cells):
            if cell:
                line += across[:, column]
        mask += down[:, row, :, None] * line[:, None, :]
    return np.clip(mask, 0, 1)


def _overlaps(middles: np.ndarray, cells: int, width: float, image_size: int) -> np.ndarray:
    """(n,cells,S): the share of each pixel that each cell of a row of cells around a middle covers."""
    starts = middles[:, None] + np.float32(width) * (np.arange(cells, dtype=np.float32) - np.float32(cells / 2))
    starts = starts[:, :, None] * np.float32(image_size)
    pixels = np.arange(image_size, dtype=np.float32)
    ends = np.minimum(starts + np.float32(width * image_size), pixels + 1)
    return np.clip(ends - np.maximum(starts, pixels), 0, 1)


def draw_layers(pieces: Sequence[Sequence[Layer]], backgrounds: Sequence[Colour], image_size: int) -> np.ndarray:
    """Pictures (B,3,S,S) uint8 of layers on backgrounds."""
    drawn = [
        _draw(pieces[start : start + CHUNK], backgrounds[start : start + CHUNK], image_size)
        for start in range(0, len(pieces), CHUNK)
    ]
    return np.concatenate(drawn) if drawn else np.zeros((0, 3, image_size, image_size), dtype=np.uint8)


def _draw(pieces: Sequence[Sequence[Layer]], backgrounds: Sequence[Colour], image_size: int) -> np.ndarray:
    canvas = np.empty((len(pieces), 3, image_size, image_size), dtype=np.float32)
    canvas[:] = np.array(backgrounds, dtype=np.float32)[:, :, None, None]
    for depth in range(max(map(len, pieces))):
        alike = defaultdict(list)
        for number, stack in enumerate(pieces):
            if depth < len(stack):
                layer = stack[depth]
                alike[layer.form, layer.cut, layer.flip_x, layer.flip_y, layer.cell_height].append(number)
        for numbers in alike.values():
            group = [pieces[number][depth] for number in numbers]
            mask = coverage(group, image_size)[:, None]
            colours = np.array([layer.colour for layer in group], dtype=np.float32)[:, :, None, None]
            below = canvas[numbers]
            canvas[numbers] = below + mask * (colours - below)
    return np.rint(canvas).astype(np.uint8)


def draw_many(scenes: Sequence[tuple[Scene, Layout]], image_size: int) -> Tensor:
    """Pictures (B,3,S,S) uint8.

    Args:
        image_size: pixels a side, 8 or more; the picture is the same at every size.
    """
    pieces = [layers(scene, layout) for scene, layout in scenes]
    return torch.from_numpy(draw_layers(pieces, [BACKGROUNDS[scene.background] for scene, _ in scenes], image_size))


def draw(scene: Scene, layout: Layout, image_size: int) -> Tensor:
    """One picture (3,S,S) float in [0,1]."""
    return draw_many([(scene, layout)], image_size)[0].float().div(255)


def draw_top(scene: Transformation, layout: Layout, image_size: int) -> Tensor:
    """What is transformed, on the background alone: one picture (3,S,S) float in [0,1]."""
    drawn = draw_layers([_originals(scene, layout)], [BACKGROUNDS[scene.background]], image_size)
    return torch.from_numpy(drawn)[0].float().div(255)
