"""The words of captions: for each value of a description how it is said, first the usual way, then others, and the
patterns by which a piece of a caption is read back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from mmgen.scenes.description import ANIMALS, BACKGROUNDS, COLOURS, FILLS, PARTS, SHAPES, SIZES, TRANSFORMATIONS, Thing

Saying = Mapping[str, Sequence[str]]

SHAPE_WORDS: Saying = {shape: (shape,) for shape in SHAPES} | {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "diamond": ("diamond", "rhombus"),
    "cross": ("cross", "plus"),
    "crescent": ("crescent", "moon"),
}
COLOUR_WORDS: Saying = {colour: (colour,) for colour in COLOURS} | {
    "cyan": ("cyan", "turquoise"),
    "purple": ("purple", "violet"),
}
RELATION_WORDS: Saying = {
    "above": ("above", "over"),
    "below": ("below", "under"),
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "inside": ("inside", "within"),
    "around": ("around", "surrounding"),  # inside, said from the other side
}
SIZE_WORDS: Saying = {"small": ("small", "little"), "large": ("large", "big")}
FILL_WORDS: Saying = {
    "plain": ("plain", "solid"),
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "spotted"),
    "outlined": ("outlined", "hollow"),
}
FILL_PHRASES: Saying = {
    "plain": ("without a pattern",),
    "striped": ("with stripes",),
    "dotted": ("with dots",),
    "outlined": ("drawn as outlines",),
}
NUMBER_WORDS: Saying = {"1": ("one", "1"), "2": ("two", "2"), "3": ("three", "3"), "4": ("four", "4")}
PART_WORDS: Saying = {part: (part,) for part in PARTS} | {"tail": ("a tail", "tail")}
BACKGROUND_WORDS: Saying = {background: (background,) for background in BACKGROUNDS}
CHANGES: Saying = {  # of a transformation; {colour} and {letters} are its own
    "greyscale": ("in greyscale", "in black and white"),
    "mirrored": ("mirrored", "flipped left to right"),
    "upside down": ("upside down", "flipped top to bottom"),
    "outline": ("as an outline", "as a line drawing"),
    "recoloured": ("in {colour}", "painted {colour}"),
    "written": ("with {apart} written on it", "with the word {letters} on it"),
}
assert set(CHANGES) == set(TRANSFORMATIONS)
assert set(SIZE_WORDS) == set(SIZES)
assert set(FILL_WORDS) == set(FILL_PHRASES) == set(FILLS)

LETTERS = "[a-z](?: ?[a-z]){0,3}"
_NUMBERED = {"box": "boxes", "cross": "crosses", "plus": "pluses", "rhombus": "rhombuses"}


def say(saying: Saying, value: str, other: bool = False) -> str:
    """How a value is said: the usual way, or its last synonym."""
    return saying[value][-1 if other else 0]


def thing(value: Thing, article: bool = True, other: bool = False) -> str:
    """ "a red circle", "red circle", "a red disc"."""
    bare = f"{say(COLOUR_WORDS, value.colour, other)} {say(SHAPE_WORDS, value.shape, other)}"
    return with_article(bare) if article else bare


def with_article(noun: str) -> str:
    """ "an orange star"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def plural(noun: str, number: int) -> str:
    """ "crosses"."""
    return noun if number == 1 else _NUMBERED.get(noun, f"{noun}s")


def listed(parts: Sequence[str]) -> str:
    """ "ears, eyes and a tail"."""
    said = [say(PART_WORDS, part) for part in parts]
    return " and ".join([*([", ".join(said[:-1])] if said[:-1] else []), said[-1]])


def meaning(saying: Saying, text: str) -> str:
    """The value that was said so; a plural counts as its singular."""
    for value, words in saying.items():
        if text in words or (saying is SHAPE_WORDS and text in [plural(word, 2) for word in words]):
            return value
    raise AssertionError(f"{text!r} is not in the lexicon")


def choice(name: str, words: Iterable[str]) -> str:
    """A named group of one of these, the longest first."""
    return f"(?P<{name}>{'|'.join(re.escape(word) for word in sorted(words, key=len, reverse=True))})"


def all_words(saying: Saying) -> list[str]:
    """Every synonym of every value."""
    return [word for words in saying.values() for word in words]


def thing_pattern(name: str, plurals: bool = False) -> str:
    """A thing with its article or without, in the groups NAME_colour and NAME_shape."""
    shapes = all_words(SHAPE_WORDS)
    shapes += [plural(word, 2) for word in shapes] if plurals else []
    article = "" if plurals else "(?:an? )?"
    return f"{article}{choice(f'{name}_colour', all_words(COLOUR_WORDS))} {choice(f'{name}_shape', shapes)}"


def parts_pattern() -> str:
    """A list of parts, in the group `parts`."""
    one = "|".join(sorted(all_words(PART_WORDS), key=len, reverse=True))
    return f"(?P<parts>(?:{one})(?:(?:, | and )(?:{one}))*)"


def change_pattern() -> str:
    """What a transformation does, in the groups change_N (N its place and synonym), new_colour_N and written_N."""
    arms = []
    for t, words in enumerate(CHANGES.values()):
        for w, text in enumerate(words):
            key = f"{t}_{w}"
            pattern = re.escape(text)
            pattern = pattern.replace(r"\{colour\}", choice(f"new_colour_{key}", all_words(COLOUR_WORDS)))
            for slot in (r"\{apart\}", r"\{letters\}"):
                pattern = pattern.replace(slot, f"(?P<written_{key}>{LETTERS})")
            arms.append(f"(?P<change_{key}>{pattern})")
    return f"(?:{'|'.join(arms)})"


ANIMAL = choice("animal", ANIMALS)
