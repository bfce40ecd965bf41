"""Where things stand and how large they are: what a caption does not tell. Everything is in 1/32 of the picture's side
and takes few values, so that all layouts of a scene can be enumerated; x to the right, y downwards."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mmgen.scenes.description import (
    MAX_LETTERS,
    Corner,
    Count,
    Hybrid,
    Object,
    Pair,
    Scene,
    Transformation,
    Word,
)

UNIT = 1 / 32
COUNT_HALVES = {"small": 4.5, "large": 6.25}  # half sizes, in 1/32
CELLS = ((8, 8), (24, 8), (8, 24), (24, 24))  # the quarters' centres, where counted things stand
INNER = {"triangle": 0.28, "heart": -0.04, "star": 0.02}  # how far below its host's centre a thing inside it stands
CELL_WIDTH, CELL_HEIGHT = 2, 3  # of a letter's bitmap; letters on a transformed picture are two high
LETTER_PITCH = 8


@dataclass(frozen=True)
class Place:
    """A centre, and half the size, in 1/32 of the picture's side."""

    x: float
    y: float
    half: float

    def scaled(self) -> tuple[float, float, float]:
        """In units of the picture's side."""
        return self.x * UNIT, self.y * UNIT, self.half * UNIT


Layout = tuple[Place, ...]
"""A place for each thing in the description's order (each of a counted lot; letters have one, their middle)."""

Choices = Sequence[Sequence[float]]


def axes(scene: Scene) -> Choices:
    """The numbers that a layout of this scene is made of, and the values that each may take; see `layout_of`."""
    near = (-1, 0, 1)
    wide = (-2, -1, 0, 1, 2)
    if isinstance(scene, Object):
        return (wide, wide, (8, 9, 10))
    if isinstance(scene, Pair) and scene.relation == "inside":
        return (near, near, (13, 13.5), (4.5, 5))
    if isinstance(scene, Pair):
        return (near, wide, near, wide, (6, 6.5))
    if isinstance(scene, Corner):
        return (near, near, near, near, (6, 6.5))
    if isinstance(scene, Count):
        arrangements = tuple(range(len(_arrangements(scene.number))))
        return (arrangements, *([near] * (2 * scene.number)))
    if isinstance(scene, Word):
        return ((0,) if len(scene.letters) == MAX_LETTERS else near, near)  # four letters fill the width
    if isinstance(scene, Hybrid):
        return (near, near, (7, 7.5))
    assert isinstance(scene, Transformation)
    sides = (0, 1) if len(scene.originals) == 1 else (0,)
    return (sides, near, (6, 7, 9, 10), *([near] * (len(scene.originals) - 1)))


def layout_of(scene: Scene, values: Sequence[float]) -> Layout:
    """The layout that a value for each of `axes` makes."""
    if isinstance(scene, Object):
        x, y, half = values
        return (Place(16 + x, 16 + y, half),)
    if isinstance(scene, Pair):
        return _pair(scene, values)
    if isinstance(scene, Corner):
        x, y, second_x, second_y, half = values
        return (Place(8 + x, 8 + y, half), Place(24 + second_x, 24 + second_y, half))
    if isinstance(scene, Count):
        cells = _arrangements(scene.number)[int(values[0])]
        half = COUNT_HALVES[scene.size]
        return tuple(
            Place(CELLS[cell][0] + values[1 + 2 * i], CELLS[cell][1] + values[2 + 2 * i], half)
            for i, cell in enumerate(cells)
        )
    if isinstance(scene, Word):
        return (Place(16 + values[0], 16.5 + values[1], 0.5 * CELL_HEIGHT * 5),)
    if isinstance(scene, Hybrid):
        x, y, half = values
        return (Place(16 + x, 17 + y, half),)
    assert isinstance(scene, Transformation)
    side, x, y = values[:3]
    first = Place((24 if side else 8) + x, y, 5)
    if len(scene.originals) == 2:
        return (first, Place(24 + values[3], y, 5))
    if scene.letters is not None:
        return (first, Place(8 if side else 24, 8, 5))
    return (first,)


def _pair(scene: Pair, values: Sequence[float]) -> Layout:
    """Of `first` and `second`, whichever way their relation is said."""
    if scene.relation == "inside":
        x, y, half, inner = values
        down = INNER.get(scene.second.shape, 0.0) * half
        return (Place(16 + x, 16 + y + down, inner), Place(16 + x, 16 + y, half))
    along, across, second_along, second_across, half = values
    near, far = (8 + along, 16 + across), (24 + second_along, 16 + second_across)
    if scene.relation in ("below", "right of"):
        near, far = far, near
    if scene.relation in ("above", "below"):
        near, far = near[::-1], far[::-1]
    return (Place(*near, half), Place(*far, half))


def _arrangements(number: int) -> list[tuple[int, ...]]:
    """Which quarters so many things may stand in: a single one in any."""
    return list(itertools.combinations(range(len(CELLS)), number))


def draw_layout(scene: Scene, choose: Callable[[int], int]) -> Layout:
    """One of all layouts. `choose(n)` gives a number below n."""
    return layout_of(scene, [values[choose(len(values))] for values in axes(scene)])


def layouts(scene: Scene) -> Iterator[Layout]:
    """Every layout that the scene may have: 75 of an object, some 10,000 of four counted things."""
    for values in itertools.product(*axes(scene)):
        yield layout_of(scene, values)


def layout_json(layout: Layout) -> str:
    """As one line of JSON, [[x,y,half],…]."""
    return json.dumps([[place.x, place.y, place.half] for place in layout], separators=(",", ":"))


def layout_from_json(text: str) -> Layout:
    """What `layout_json` wrote. It is read from our own samples: anything else is a ValueError or TypeError."""
    return tuple(Place(*map(float, place)) for place in json.loads(text))
