"""How scenes are said: the wordings of each kind, and the captions that they make of a description."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from mmgen.scenes import lexicon as lex
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

# By kind. In braces what is filled in; a ~ before it takes the other word of two. The first wordings are those that a
# picture may be judged by. `x` and `y` are the two things of a pair from either side: "{x} {relation} {y}" is said of
# the description as it is, "{y} {inverse} {x}" turned around.
WORDINGS: Mapping[str, tuple[str, ...]] = {
    "object": (
        "{thing}",
        "{bare thing}",
        "a {shape} in {colour}",
        "there is {~thing}",
        "a picture of {thing}",
        "a drawing of {~thing}",
        "a {~shape} that is {~colour}",
    ),
    "pair": (
        "{x} {relation} {y}",
        "{y} {inverse} {x}",
        "{bare x} {relation} {bare y}",
        "{y} with {x} {relation} it",
        "there is {~x} {~relation} {~y}",
        "a picture of {y} {~inverse} {x}",
        "{bare ~y} {~inverse} {bare ~x}",
    ),
    "corner": (
        "{x}, with {y} in the lower right corner",
        "{x} in the upper left and {y} in the lower right",
        "{y} in the lower right and {x} in the upper left",
        "in the lower right corner {~y}, in the upper left {~x}",
        "{bare x}, and {bare y} in the bottom right corner",
        "there is {x}, and in the lower right corner there is {y}",
        "a picture of {~x} with {~y} at the bottom right",
    ),
    "count": (
        "{number} {size} {fill} {things}",
        "{~number} {size} {fill} {things}",
        "{number} {size} {things} {fill phrase}",
        "{size} {fill} {things}, {number} in all",
        "{number} {~fill} {~size} {~things}",
        "there {are} {number} {~size} {~fill} {~things}",
        "a picture of {number} {~size} {~things} {fill phrase}",
    ),
    "word": (
        "{the letters} {apart} in {colour}",
        "the word {letters} in {colour}",
        "{letters} written in {colour}",
        "{letters} in {colour} letters",
        "{colour} letters spelling {apart}",
        "a sign saying {letters} in {~colour}",
        "a picture of the {~colour} word {letters}",
    ),
    "hybrid": (
        "{body} with {parts}",
        "{bare body} with {parts}",
        "{parts} on {body}",
        "{~body} that has {parts}",
        "there is {body} with {reversed}",
        "a picture of {~body} wearing {parts}",
    ),
    "animal": (  # a hybrid whose parts have a name together; before the wordings of hybrids
        "{body} {animal}",
        "{bare body} {animal}",
        "{a colour} {animal} shaped like a {shape}",
        "a {~shape} {animal} in {~colour}",
        "a picture of {~body} {animal}",
    ),
    "transformation": (
        "{originals}, and below the same {change}",
        "{originals} on top, the same {change} below",
        "top: {originals}; bottom: the same {~change}",
        "above {~originals}, below the same {change}",
        "{bare originals} twice, the second time {~change}",
        "{~originals}, and under it the same picture {~change}",
        "a picture of {originals} at the top and once more {change} at the bottom",
    ),
}
BACKGROUND_WORDINGS = (" on a {background} background", ", on {background}", " against a {background} background")
"""What is added where the background is not the first one, in turn with the wordings."""

_Slots = dict[str, str]


def captions(scene: Scene) -> list[str]:
    """Every wording of a scene, at least six different ones; those of a pair start from the side of its `first`."""
    kind = kind_of(scene)
    wordings = WORDINGS[kind]
    if isinstance(scene, Hybrid) and scene.animal:
        wordings = (*WORDINGS["animal"], *wordings)
    plain, other = _SLOTS[kind](scene, False), _SLOTS[kind](scene, True)
    said = []
    for number, wording in enumerate(wordings):
        text = re.sub(r"\{(.+?)\}", lambda m: (other if "~" in m[1] else plain)[m[1].replace("~", "")], wording)
        if scene.background != "white":
            ending = BACKGROUND_WORDINGS[number % len(BACKGROUND_WORDINGS)]
            text += ending.format(background=lex.say(lex.BACKGROUND_WORDS, scene.background))
        said.append(text)
    return list(dict.fromkeys(said))


def _object_slots(scene: Scene, other: bool) -> _Slots:
    assert isinstance(scene, Object)
    return _thing_slots("thing", scene.thing, other)


def _thing_slots(name: str, thing: Thing, other: bool) -> _Slots:
    return {
        name: lex.thing(thing, other=other),
        f"bare {name}": lex.thing(thing, article=False, other=other),
        "shape": lex.say(lex.SHAPE_WORDS, thing.shape, other),
        "colour": lex.say(lex.COLOUR_WORDS, thing.colour, other),
        "a colour": lex.with_article(lex.say(lex.COLOUR_WORDS, thing.colour, other)),
    }


_TURNED = {
    "above": "below",
    "below": "above",
    "left of": "right of",
    "right of": "left of",
    "inside": "around",
}


def _pair_slots(scene: Scene, other: bool) -> _Slots:
    assert isinstance(scene, Pair | Corner)
    slots = _thing_slots("x", scene.first, other) | _thing_slots("y", scene.second, other)
    if isinstance(scene, Pair):
        slots["relation"] = lex.say(lex.RELATION_WORDS, scene.relation, other)
        slots["inverse"] = lex.say(lex.RELATION_WORDS, _TURNED[scene.relation], other)
    return slots


def _count_slots(scene: Scene, other: bool) -> _Slots:
    assert isinstance(scene, Count)
    shape = lex.plural(lex.say(lex.SHAPE_WORDS, scene.thing.shape, other), scene.number)
    return {
        "number": lex.say(lex.NUMBER_WORDS, str(scene.number), other),
        "size": lex.say(lex.SIZE_WORDS, scene.size, other),
        "fill": lex.say(lex.FILL_WORDS, scene.fill, other),
        "fill phrase": lex.say(lex.FILL_PHRASES, scene.fill, other),
        "things": f"{lex.say(lex.COLOUR_WORDS, scene.thing.colour, other)} {shape}",
        "are": "is" if scene.number == 1 else "are",
    }


def _word_slots(scene: Scene, other: bool) -> _Slots:
    assert isinstance(scene, Word)
    return {
        "the letters": "the letter" if len(scene.letters) == 1 else "the letters",
        "letters": scene.letters,
        "apart": " ".join(scene.letters),
        "colour": lex.say(lex.COLOUR_WORDS, scene.colour, other),
    }


def _hybrid_slots(scene: Scene, other: bool) -> _Slots:
    assert isinstance(scene, Hybrid)
    return _thing_slots("body", scene.body, other) | {
        "parts": lex.listed(scene.parts),
        "reversed": lex.listed(scene.parts[::-1]),
        "animal": scene.animal or "",
    }


def _transformation_slots(scene: Scene, other: bool) -> _Slots:
    assert isinstance(scene, Transformation)
    joint = " beside " if other else " and "
    change = lex.say(lex.CHANGES, scene.transformation, other)
    letters = scene.letters or ""
    colour = lex.say(lex.COLOUR_WORDS, scene.colour, other) if scene.colour else ""
    return {
        "originals": joint.join(lex.thing(thing, other=other) for thing in scene.originals),
        "bare originals": joint.join(lex.thing(thing, article=False, other=other) for thing in scene.originals),
        "change": change.format(colour=colour, letters=letters, apart=" ".join(letters)),
    }


_SLOTS: dict[str, Callable[[Scene, bool], _Slots]] = {
    "object": _object_slots,
    "pair": _pair_slots,
    "corner": _pair_slots,
    "count": _count_slots,
    "word": _word_slots,
    "hybrid": _hybrid_slots,
    "transformation": _transformation_slots,
}
