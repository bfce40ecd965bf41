"""Scene number i of a split: description and layout as a function of (seed, split, i) alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from math import inf

from mmgen.errors import DataError
from mmgen.scenes.description import (
    BACKGROUNDS,
    COLOURS,
    FILLS,
    GREYSCALE_ON,
    HOSTS,
    MAX_LETTERS,
    MAX_NUMBER,
    PART_SETS,
    PARTS,
    RELATIONS,
    SHAPES,
    SIZES,
    TRANSFORMATIONS,
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
from mmgen.scenes.heldout import broken_rules
from mmgen.scenes.layout import Layout, draw_layout
from mmgen.scenes.words import words, words_trained_inside_others

ANIMAL_SHARE = 0.5  # of the hybrids have parts that together have a name
ANIMAL_SETS = 6  # which come first in PART_SETS
SINGLE_SHARE = 0.5  # of the transformations show one thing
DEFAULT_SHARE = 0.5  # of the scenes have the first background

# What a split holds: the kind, and the one rule that its scenes break; of the splits `seen_…` none, as in `train` and
# `val`, which take any kind.
SPLITS: dict[str, tuple[str, str | None]] = {
    "heldout_objects": ("object", "thing"),
    "heldout_pairs": ("pair", "thing"),
    "heldout_redraws": ("corner", "thing"),
    "heldout_counts": ("count", "thing"),
    "heldout_words": ("word", "word"),
    "heldout_hybrids": ("hybrid", "part"),
    "heldout_transformations": ("transformation", "transformation"),
}
# What `emphasis` may name, of each kind.
EMPHASISED: dict[str, Sequence[str]] = {
    "pair": RELATIONS,
    "count": (*SIZES, *FILLS),
    "hybrid": PARTS,
    "transformation": TRANSFORMATIONS,
}
SPLITS |= {split.replace("heldout", "seen"): (kind, None) for split, (kind, _) in SPLITS.items()}


class Dice:
    """Random choices of our own over `random.random`, the one draw that Python promises never to change."""

    def __init__(self, key: str) -> None:
        self._random = random.Random(key)  # noqa: S311 - pictures, not secrets

    def below(self, n: int) -> int:
        """A number from 0 to n - 1."""
        return min(int(self._random.random() * n), n - 1)

    def one(self, values: Sequence[str]) -> str:
        return values[self.below(len(values))]

    def happens(self, share: float) -> bool:
        return self._random.random() < share

    def weighted(self, weights: Sequence[float]) -> int:
        """A place in the list, as often as its weight says."""
        point = self._random.random() * sum(weights)
        for place, weight in enumerate(weights):
            point -= weight
            if point < 0:
                return place
        return max(place for place, weight in enumerate(weights) if weight > 0)


def scene_of(kind: str, dice: Dice, rule: str | None = None, backgrounds: Sequence[str] = tuple(BACKGROUNDS)) -> Scene:
    """A scene of a kind that breaks just this rule of `mmgen.scenes.heldout`, or none."""
    wanted = {rule} if rule else set()
    while True:
        try:
            scene = _MAKERS[kind](dice, _background(dice, backgrounds))
        except DataError:
            continue  # such as two equal things
        if broken_rules(scene) == wanted and not _misses(scene, rule):
            return scene


def check_emphasis(emphasis: Mapping[str, float]) -> None:
    """Raises ValueError where it names what no scene has, or a number is not above 0."""
    known = [value for values in EMPHASISED.values() for value in values]
    for value, times in emphasis.items():
        if value not in known or not 0 < times < inf:
            raise ValueError(f"emphasis is a number above 0 by one of {', '.join(known)}, got {value}: {times}")


def emphasised(kind: str, dice: Dice, backgrounds: Sequence[str], emphasis: Mapping[str, float]) -> Scene:
    """A scene of a kind that breaks no rule; one with a value of `emphasis` so many times as often as without."""
    times = {value: emphasis[value] for value in EMPHASISED.get(kind, ()) if value in emphasis}
    scene = scene_of(kind, dice, None, backgrounds)
    while times and not dice.happens(_emphasis(scene, times) / max(1.0, *times.values())):
        scene = scene_of(kind, dice, None, backgrounds)
    return scene


def _emphasis(scene: Scene, times: Mapping[str, float]) -> float:
    match scene:
        case Pair():
            values: tuple[str, ...] = (scene.relation,)
        case Count():
            values = (scene.size, scene.fill)
        case Hybrid():
            values = scene.parts
        case Transformation():
            values = (scene.transformation,)
        case _:
            values = ()
    return max((times[value] for value in values if value in times), default=1.0)


def layout_for(scene: Scene, dice: Dice) -> Layout:
    """One of its layouts."""
    return draw_layout(scene, dice.below)


def _misses(scene: Scene, rule: str | None) -> bool:
    if isinstance(scene, Corner):  # what is redrawn is the second thing: that is the one which has to be new
        return rule == "thing" and not broken_rules(Object(scene.second))
    return rule == "word" and isinstance(scene, Word) and scene.letters in words_trained_inside_others()


def _background(dice: Dice, backgrounds: Sequence[str]) -> str:
    return backgrounds[0] if dice.happens(DEFAULT_SHARE) else dice.one(backgrounds)


def _thing(dice: Dice) -> Thing:
    return Thing(dice.one(SHAPES), dice.one(tuple(COLOURS)))


def _object(dice: Dice, background: str) -> Scene:
    return Object(_thing(dice), background=background)


def _pair(dice: Dice, background: str) -> Scene:
    relation = dice.one(RELATIONS)
    second = Thing(dice.one(HOSTS if relation == "inside" else SHAPES), dice.one(tuple(COLOURS)))
    return Pair(_thing(dice), relation, second, background=background)


def _corner(dice: Dice, background: str) -> Scene:
    return Corner(_thing(dice), _thing(dice), background=background)


def _count(dice: Dice, background: str) -> Scene:
    number = 1 + dice.below(MAX_NUMBER)
    return Count(number, _thing(dice), dice.one(SIZES), dice.one(FILLS), background=background)


@cache
def _words_of(length: int) -> tuple[str, ...]:
    return tuple(word for word in words() if len(word) == length)


def _word(dice: Dice, background: str) -> Scene:
    length = (1, 2, 3, 3, 4, 4)[dice.below(6)]
    assert length <= MAX_LETTERS
    return Word(dice.one(_words_of(length)), dice.one(tuple(COLOURS)), background=background)


def _hybrid(dice: Dice, background: str) -> Scene:
    sets = PART_SETS[:ANIMAL_SETS] if dice.happens(ANIMAL_SHARE) else PART_SETS
    return Hybrid(_thing(dice), sets[dice.below(len(sets))], background=background)


def _transformation(dice: Dice, background: str) -> Scene:
    transformation = dice.one(TRANSFORMATIONS)
    written, recoloured = transformation == "written", transformation == "recoloured"
    single = written or dice.happens(SINGLE_SHARE)
    things = (_thing(dice),) if single else (_thing(dice), _thing(dice))
    if transformation == "greyscale" and background not in GREYSCALE_ON:
        background = GREYSCALE_ON[0]
    return Transformation(
        transformation,
        things,
        colour=dice.one(tuple(COLOURS)) if recoloured else None,
        letters=dice.one(_words_of(1 + dice.below(2))) if written else None,
        background=background,
    )


_MAKERS: dict[str, Callable[[Dice, str], Scene]] = {
    "object": _object,
    "pair": _pair,
    "corner": _corner,
    "count": _count,
    "word": _word,
    "hybrid": _hybrid,
    "transformation": _transformation,
}
