"""Captions of a description (`captions`), and the description of a caption (`parse`): one table of wordings,
`mmgen.scenes.wordings.WORDINGS`, is both written and read.

No caption belongs to two descriptions, and `parse(caption) == scene.canonical()` for every one of `captions(scene)`.
Captions are read in any case, with any synonym in any wording.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from mmgen.errors import DataError, quoted
from mmgen.scenes import lexicon as lex
from mmgen.scenes.description import (
    ANIMALS,
    PARTS,
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
from mmgen.scenes.wordings import BACKGROUND_WORDINGS, WORDINGS, captions

__all__ = ["captions", "parse"]

Found = dict[str, str]  # the groups of a match

MAX_CAPTION = 400  # characters; the longest that is written has half as many
_PREFIX = r"(?:a picture of|a drawing of|there (?:is|are|\{are\})) "


def parse(caption: str) -> Scene:
    """The canonical description of a caption.

    Raises:
        DataError: MMG-D41, no wording of a scene reads so; MMG-D40, it reads as a scene that cannot be drawn.
    """
    text = " ".join(caption[: MAX_CAPTION + 1].lower().split()).removesuffix(".")
    body, background = re.sub(f"^{_PREFIX}", "", text), "white"
    for ending in _endings():
        if match := ending.search(body):
            body, background = body[: match.start()], lex.meaning(lex.BACKGROUND_WORDS, match["background"])
            break
    impossible: DataError | None = None
    found: set[Scene] = set()
    for pattern, build in _readers() if len(text) <= MAX_CAPTION else ():
        if match := pattern.fullmatch(body):
            try:
                found.add(build({name: said for name, said in match.groupdict().items() if said}, background))
            except DataError as e:
                impossible = e
    assert len(found) <= 1, f"{caption!r} has {len(found)} meanings"
    if found:
        return found.pop().canonical()
    if impossible is not None:
        raise impossible
    example = captions(Pair(Thing("circle", "red"), "above", Thing("square", "blue")))[0]
    why = "no wording of a scene reads so; docs/scenes.md lists them all"
    raise DataError(f"{quoted(caption)} describes no scene", code="MMG-D41", why=why, fix=f"such as {example!r}")


@cache
def _endings() -> list[re.Pattern[str]]:
    backgrounds = lex.choice("background", lex.all_words(lex.BACKGROUND_WORDS))
    return [re.compile(wording.format(background=backgrounds) + "$") for wording in BACKGROUND_WORDINGS]


@cache
def _readers() -> list[tuple[re.Pattern[str], Callable[[Found, str], Scene]]]:
    """Every wording as a pattern, and what makes a scene of its groups."""
    found: dict[tuple[str, Callable[[Found, str], Scene]], None] = {}
    for kind, wordings in WORDINGS.items():
        slots, build = _PATTERNS[kind](), _BUILDERS[kind]
        for wording in wordings:
            pieces = re.split(r"\{(.+?)\}", re.sub(f"^{_PREFIX}", "", wording))
            names = [piece.replace("~", "").removeprefix("bare ") for piece in pieces]
            text = "".join(slots[name] if i % 2 else re.escape(name) for i, name in enumerate(names))
            found[text, build] = None
    return [(re.compile(pattern), build) for pattern, build in found]


def _object_patterns() -> Found:
    return {
        "thing": lex.thing_pattern("thing"),
        "shape": lex.choice("thing_shape", lex.all_words(lex.SHAPE_WORDS)),
        "colour": lex.choice("thing_colour", lex.all_words(lex.COLOUR_WORDS)),
    }


def _pair_patterns() -> Found:
    relation = lex.choice("relation", lex.all_words(lex.RELATION_WORDS))
    inverse = lex.choice("inverse", lex.all_words(lex.RELATION_WORDS))
    return {"x": lex.thing_pattern("x"), "y": lex.thing_pattern("y"), "relation": relation, "inverse": inverse}


def _count_patterns() -> Found:
    return {
        "number": lex.choice("number", lex.all_words(lex.NUMBER_WORDS)),
        "size": lex.choice("size", lex.all_words(lex.SIZE_WORDS)),
        "fill": lex.choice("fill", lex.all_words(lex.FILL_WORDS)),
        "fill phrase": lex.choice("phrase", lex.all_words(lex.FILL_PHRASES)),
        "things": lex.thing_pattern("thing", plurals=True),
        "are": "(?:is|are)",
    }


def _word_patterns() -> Found:
    letters = f"(?P<letters>{lex.LETTERS})"
    colour = lex.choice("colour", lex.all_words(lex.COLOUR_WORDS))
    return {"the letters": "the letters?", "letters": letters, "apart": letters, "colour": colour}


def _hybrid_patterns() -> Found:
    colour = lex.choice("body_colour", lex.all_words(lex.COLOUR_WORDS))
    return {
        "body": lex.thing_pattern("body"),
        "parts": lex.parts_pattern(),
        "reversed": lex.parts_pattern(),
        "animal": lex.ANIMAL,
        "shape": lex.choice("body_shape", lex.all_words(lex.SHAPE_WORDS)),
        "colour": colour,
        "a colour": f"an? {colour}",
    }


def _transformation_patterns() -> Found:
    originals = f"{lex.thing_pattern('first')}(?: (?:and|beside) {lex.thing_pattern('second')})?"
    return {"originals": originals, "change": lex.change_pattern()}


def _thing(found: Found, name: str) -> Thing:
    shape = lex.meaning(lex.SHAPE_WORDS, found[f"{name}_shape"])
    return Thing(shape, lex.meaning(lex.COLOUR_WORDS, found[f"{name}_colour"]))


def _object(found: Found, background: str) -> Scene:
    return Object(_thing(found, "thing"), background=background)


def _pair(found: Found, background: str) -> Scene:
    x, y = _thing(found, "x"), _thing(found, "y")
    if "inverse" in found:
        x, y = y, x
    relation = lex.meaning(lex.RELATION_WORDS, found.get("relation") or found["inverse"])
    if relation == "around":
        x, relation, y = y, "inside", x
    return Pair(x, relation, y, background=background).canonical()


def _corner(found: Found, background: str) -> Scene:
    return Corner(_thing(found, "x"), _thing(found, "y"), background=background)


def _count(found: Found, background: str) -> Scene:
    number = int(lex.meaning(lex.NUMBER_WORDS, found["number"]))
    fill = "fill" in found and lex.meaning(lex.FILL_WORDS, found["fill"])
    fill = fill or lex.meaning(lex.FILL_PHRASES, found["phrase"])
    size = lex.meaning(lex.SIZE_WORDS, found["size"])
    return Count(number, _thing(found, "thing"), size, fill, background=background)


def _word(found: Found, background: str) -> Scene:
    colour = lex.meaning(lex.COLOUR_WORDS, found["colour"])
    return Word(_letters(found["letters"]), colour, background=background)


def _letters(text: str) -> str:
    return text.replace(" ", "").upper()


def _hybrid(found: Found, background: str) -> Scene:
    if "animal" in found:
        parts: tuple[str, ...] = ANIMALS[found["animal"]]
    else:
        said = [lex.meaning(lex.PART_WORDS, text) for text in re.split(", | and ", found["parts"])]
        parts = tuple(sorted(said, key=PARTS.index))
    return Hybrid(_thing(found, "body"), parts, background=background)


def _transformation(found: Found, background: str) -> Scene:
    things = [_thing(found, name) for name in ("first", "second") if f"{name}_shape" in found]
    key = next(name for name in found if name.startswith("change_")).removeprefix("change_")
    colour, letters = found.get(f"new_colour_{key}"), found.get(f"written_{key}")
    return Transformation(
        TRANSFORMATIONS[int(key.partition("_")[0])],
        tuple(things),
        colour=lex.meaning(lex.COLOUR_WORDS, colour) if colour else None,
        letters=_letters(letters) if letters else None,
        background=background,
    )


_PATTERNS: dict[str, Callable[[], Found]] = {
    "object": _object_patterns,
    "pair": _pair_patterns,
    "corner": _pair_patterns,
    "count": _count_patterns,
    "word": _word_patterns,
    "hybrid": _hybrid_patterns,
    "animal": _hybrid_patterns,
    "transformation": _transformation_patterns,
}
_BUILDERS: dict[str, Callable[[Found, str], Scene]] = {
    "object": _object,
    "pair": _pair,
    "corner": _corner,
    "count": _count,
    "word": _word,
    "hybrid": _hybrid,
    "animal": _hybrid,
    "transformation": _transformation,
}
