"""What a scene can be: the vocabulary, and a frozen description of each kind. A description is what the caption tells;
where exactly things stand, and how large they are, is the layout's (`mmgen.scenes.layout`)."""

from __future__ import annotations

import dataclasses
import itertools
import json
from dataclasses import dataclass
from typing import Any

from mmgen.errors import DataError, quoted

SHAPES = ("circle", "square", "triangle", "diamond", "star", "heart", "cross", "crescent")
COLOURS: dict[str, tuple[int, int, int]] = {  # sRGB; the nearest two are 99 apart, of 442
    "red": (224, 32, 40),
    "orange": (250, 130, 10),
    "yellow": (250, 225, 40),
    "green": (20, 150, 60),
    "cyan": (0, 200, 220),
    "blue": (30, 70, 225),
    "purple": (130, 40, 175),
    "pink": (255, 130, 200),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {  # the first is not named in captions
    "white": (255, 255, 255),
    "grey": (205, 205, 205),
    "cream": (255, 246, 200),
    "dark": (36, 36, 48),
}
RELATIONS = ("above", "below", "left of", "right of", "inside")
INVERSES = {"below": "above", "right of": "left of"}  # to the one that a canonical description uses
HOSTS = tuple(shape for shape in SHAPES if shape != "crescent")  # what another thing can be inside of
SIZES = ("small", "large")
FILLS = ("plain", "striped", "dotted", "outlined")
MAX_NUMBER = 4
PARTS = ("ears", "eyes", "whiskers", "tail", "wheels", "wings", "leaves")  # in the order in which captions list them
ANIMALS: dict[str, tuple[str, ...]] = {  # parts that together have a name
    "cat": ("ears", "eyes", "whiskers", "tail"),
    "mouse": ("ears", "eyes", "tail"),
    "bird": ("eyes", "wings"),
    "plane": ("wheels", "wings"),
    "car": ("wheels",),
    "plant": ("leaves",),
}
MAX_PARTS = 3  # of those that have no name together
TRANSFORMATIONS = ("greyscale", "mirrored", "upside down", "outline", "recoloured", "written")
GREYSCALE_ON = ("white", "dark")  # on the others, yellow and pink would be lost in greyscale
MAX_LETTERS, MAX_WRITTEN = 4, 2  # of a word, and of one written on a picture


@dataclass(frozen=True)
class Thing:
    """A coloured shape: "a red circle"."""

    shape: str
    colour: str

    def __post_init__(self) -> None:
        _one_of(self.shape, SHAPES, "shape")
        _one_of(self.colour, COLOURS, "colour")


@dataclass(frozen=True)
class Scene:
    """What every kind has."""

    background: str = dataclasses.field(default="white", kw_only=True)

    def __post_init__(self) -> None:
        _one_of(self.background, BACKGROUNDS, "background")

    @property
    def things(self) -> tuple[Thing, ...]:
        """The coloured shapes that it shows anywhere, with the colour that each has there."""
        return ()

    def canonical(self) -> Scene:
        """The one description of those that say the same."""
        return self


@dataclass(frozen=True)
class Object(Scene):
    """One thing: "a red circle"."""

    thing: Thing

    @property
    def things(self) -> tuple[Thing, ...]:
        return (self.thing,)


@dataclass(frozen=True)
class Pair(Scene):
    """Two different things in a relation; `inside` takes two colours, and no crescent around the other."""

    first: Thing
    relation: str
    second: Thing

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of(self.relation, RELATIONS, "relation")
        if self.first == self.second:
            raise _impossible("two equal things are no pair", "give them two shapes or two colours")
        if self.relation == "inside":
            _one_of(self.second.shape, HOSTS, "shape around another thing")
            if self.first.colour == self.second.colour:
                raise _impossible("a thing inside another of its colour cannot be seen", "give them two colours")

    @property
    def things(self) -> tuple[Thing, ...]:
        return (self.first, self.second)

    def canonical(self) -> Pair:
        """With the relation above, left of or inside."""
        if self.relation not in INVERSES:
            return self
        return Pair(self.second, INVERSES[self.relation], self.first, background=self.background)


@dataclass(frozen=True)
class Corner(Scene):
    """One thing in the upper left and another in the lower right quarter, which can be redrawn alone."""

    first: Thing
    second: Thing

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.first == self.second:
            raise _impossible("two equal things are no pair", "give them two shapes or two colours")

    @property
    def things(self) -> tuple[Thing, ...]:
        return (self.first, self.second)


@dataclass(frozen=True)
class Count(Scene):
    """One to four equal things of a size, with a fill."""

    number: int
    thing: Thing
    size: str
    fill: str

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of(self.number, range(1, MAX_NUMBER + 1), "number")
        _one_of(self.size, SIZES, "size")
        _one_of(self.fill, FILLS, "fill")

    @property
    def things(self) -> tuple[Thing, ...]:
        return (self.thing,)


@dataclass(frozen=True)
class Word(Scene):
    """One to four letters A to Z in a colour."""

    letters: str
    colour: str

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_letters(self.letters, MAX_LETTERS)
        _one_of(self.colour, COLOURS, "colour")


@dataclass(frozen=True)
class Hybrid(Scene):
    """A coloured shape with parts of animals or things, in the order of `PARTS`: one to three, or a cat's four."""

    body: Thing
    parts: tuple[str, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "parts", tuple(self.parts))
        for part in self.parts:
            _one_of(part, PARTS, "part")
        if self.parts not in PART_SETS:
            raise _impossible(f"{quoted(self.parts)} are no parts that a hybrid can have", f"{MAX_PARTS} parts at most")

    @property
    def things(self) -> tuple[Thing, ...]:
        return (self.body,)

    @property
    def animal(self) -> str | None:
        """What has just these parts."""
        return next((name for name, parts in ANIMALS.items() if parts == self.parts), None)


@dataclass(frozen=True)
class Transformation(Scene):
    """One thing, or two beside each other, in the top half, and the same transformed in the bottom half.

    `colour` is the new one of `recoloured`, `letters` one or two of `written`, which takes one thing. What is made
    greyscale stands on white or dark.
    """

    transformation: str
    originals: tuple[Thing, ...]
    colour: str | None = None
    letters: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "originals", tuple(self.originals))
        _one_of(self.transformation, TRANSFORMATIONS, "transformation")
        if not 1 <= len(set(self.originals)) == len(self.originals) <= 2:
            raise _impossible("a transformation takes one thing or two different ones", "give one or two")
        if self.transformation == "greyscale":
            _one_of(self.background, GREYSCALE_ON, "background of a picture made greyscale")
        if (self.colour is not None) != (self.transformation == "recoloured"):
            raise _impossible("a new colour goes with the transformation recoloured alone", "colour=None")
        if (self.letters is not None) != (self.transformation == "written"):
            raise _impossible("letters go with the transformation written alone", "letters=None")
        if self.colour is not None:
            _one_of(self.colour, COLOURS, "colour")
            if self.colour in {thing.colour for thing in self.originals}:
                raise _impossible(f"one of the things is {self.colour} already", "take another colour")
            if len({thing.shape for thing in self.originals}) < len(self.originals):
                raise _impossible("two equal shapes look the same in one colour", "take two shapes")
        if self.letters is not None:
            _check_letters(self.letters, MAX_WRITTEN)
            if len(self.originals) != 1:
                raise _impossible("there is room for letters beside one thing only", "give one thing")

    @property
    def things(self) -> tuple[Thing, ...]:
        if self.colour is None:
            return self.originals
        return (*self.originals, *(Thing(thing.shape, self.colour) for thing in self.originals))


_COMBINATIONS = [c for number in range(1, MAX_PARTS + 1) for c in itertools.combinations(PARTS, number)]
PART_SETS: tuple[tuple[str, ...], ...] = tuple(dict.fromkeys([*ANIMALS.values(), *_COMBINATIONS]))
KINDS: dict[str, type[Scene]] = {
    "object": Object,
    "pair": Pair,
    "corner": Corner,
    "count": Count,
    "word": Word,
    "hybrid": Hybrid,
    "transformation": Transformation,
}


def kind_of(scene: Scene) -> str:
    """The name of its kind."""
    return next(name for name, kind in KINDS.items() if type(scene) is kind)


def to_json(scene: Scene) -> str:
    """The description as one line of JSON, which `from_json` reads back."""
    return json.dumps({"kind": kind_of(scene), **dataclasses.asdict(scene)}, separators=(",", ":"))


def from_json(text: str) -> Scene:
    """The description.

    Raises:
        DataError: MMG-D40, the text is not one.
    """
    try:
        fields: dict[str, Any] = json.loads(text)
        kind = KINDS[fields.pop("kind")]
        return kind(**{name: _value(value) for name, value in fields.items()})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
        why = quoted(str(e))
        raise DataError(f"{quoted(text)} describes no scene", code="MMG-D40", why=why, fix="write it by to_json") from e


def _value(value: Any) -> Any:
    if isinstance(value, dict):
        return Thing(**value)
    return tuple(_value(item) for item in value) if isinstance(value, list) else value


def _one_of(value: Any, known: Any, what: str) -> None:
    if value not in known:
        names = ", ".join(map(str, known))
        raise _impossible(f"{quoted(value)} is no {what} of the scenes", f"one of {names}")


def _check_letters(letters: str, most: int) -> None:
    if not 1 <= len(letters) <= most or not all("A" <= letter <= "Z" for letter in letters):
        raise _impossible(f"{quoted(letters)} is no word of the scenes", f"1 to {most} letters, A to Z")


def _impossible(what: str, fix: str) -> DataError:
    return DataError(what, code="MMG-D40", where="scene", fix=fix)
