"""Captions and descriptions convert both ways without loss."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmgen.errors import DataError
from mmgen.scenes.description import (
    BACKGROUNDS,
    COLOURS,
    FILLS,
    HOSTS,
    KINDS,
    PART_SETS,
    SHAPES,
    SIZES,
    Corner,
    Count,
    Hybrid,
    Object,
    Pair,
    Scene,
    Thing,
    Transformation,
    Word,
    from_json,
    kind_of,
    to_json,
)
from mmgen.scenes.grammar import captions, parse
from mmgen.scenes.sampling import Dice, scene_of
from mmgen.scenes.wordings import BACKGROUND_WORDINGS, WORDINGS

RED_CIRCLE, BLUE_SQUARE = Thing("circle", "red"), Thing("square", "blue")
THINGS = [Thing(shape, colour) for shape in SHAPES for colour in COLOURS]
DOCS = (Path(__file__).parents[2] / "docs" / "scenes.md").read_text(encoding="utf-8")


def every_small_scene() -> list[Scene]:
    """All objects, counts and hybrids of one colour, and every background once a kind."""
    scenes: list[Scene] = [Object(thing, background=background) for thing in THINGS for background in BACKGROUNDS]
    scenes += [
        Count(number, thing, size, fill)
        for number in range(1, 5)
        for thing in THINGS
        for size in SIZES
        for fill in FILLS
    ]
    return scenes + [Hybrid(Thing(shape, "cyan"), parts) for shape in SHAPES for parts in PART_SETS]


def drawn_by_chance(number: int) -> list[Scene]:
    return [scene_of(kind, Dice(f"grammar/{kind}/{i}")) for kind in KINDS for i in range(number)]


def test_every_wording_reads_back_and_no_caption_has_two_meanings():
    owners: dict[str, Scene] = {}
    scenes = every_small_scene() + drawn_by_chance(500)
    for scene in scenes:
        said = captions(scene)
        assert len(said) == len(set(said)) >= 6
        for caption in said:
            assert parse(caption) == scene.canonical()
            assert owners.setdefault(caption.lower(), scene.canonical()) == scene.canonical()
    assert len(owners) > 20_000


@pytest.mark.slow
def test_the_same_of_many_more():
    owners: dict[str, Scene] = {}
    for scene in drawn_by_chance(8000):
        for caption in captions(scene):
            assert parse(caption) == scene.canonical()
            assert owners.setdefault(caption.lower(), scene.canonical()) == scene.canonical()
    assert len(owners) > 200_000


def test_two_descriptions_that_look_the_same_are_one():
    above = Pair(RED_CIRCLE, "above", BLUE_SQUARE)
    below = Pair(BLUE_SQUARE, "below", RED_CIRCLE)
    assert below.canonical() == above == above.canonical()
    assert captions(below)[0] == "a blue square below a red circle"
    assert set(map(parse, captions(above) + captions(below))) == {above}
    inside = Pair(RED_CIRCLE, "inside", BLUE_SQUARE)
    assert parse("a blue box surrounding a red disc") == inside == inside.canonical()


@pytest.mark.parametrize(
    ("caption", "scene"),
    [
        ("blue square under red circle", Pair(RED_CIRCLE, "above", BLUE_SQUARE)),
        ("An Orange STAR.", Object(Thing("star", "orange"))),
        ("a red square cat", Hybrid(Thing("square", "red"), ("ears", "eyes", "whiskers", "tail"))),
        ("a red square with a tail and ears", Hybrid(Thing("square", "red"), ("ears", "tail"))),
        ("two small striped pink crosses", Count(2, Thing("cross", "pink"), "small", "striped")),
        ("1 big hollow red moon, on dark", Count(1, Thing("crescent", "red"), "large", "outlined", background="dark")),
        ("the letters K O B A in red", Word("KOBA", "red")),
        ("a in red letters", Word("A", "red")),
        (
            "a red circle and a blue square, and below the same in green",
            Transformation("recoloured", (RED_CIRCLE, BLUE_SQUARE), colour="green"),
        ),
        (
            "a red circle, with a blue square in the lower right corner on a dark background",
            Corner(RED_CIRCLE, BLUE_SQUARE, background="dark"),
        ),
    ],
)
def test_what_people_may_write(caption: str, scene: Scene):
    assert parse(caption) == scene


@pytest.mark.parametrize(
    ("caption", "code"),
    [
        ("", "MMG-D41"),
        ("a dog", "MMG-D41"),
        ("one red circle", "MMG-D41"),
        ("a red circle above", "MMG-D41"),
        ("the letters K O B A S in red", "MMG-D41"),
        ("x" * 100_000, "MMG-D41"),
        ("a red circle above a red circle", "MMG-D40"),
        ("a red circle inside a blue crescent", "MMG-D40"),
        ("a red circle inside a red square", "MMG-D40"),
        ("a red star with ears and ears", "MMG-D40"),
        ("a red circle, and below the same in greyscale on a grey background", "MMG-D40"),
    ],
)
def test_bad_captions_are_told(caption: str, code: str):
    with pytest.raises(DataError) as caught:
        parse(caption)
    assert caught.value.code == code
    assert caught.value.fix
    assert len(caught.value.render()) < 600


def test_descriptions_are_json_and_back():
    scenes = drawn_by_chance(100)
    assert {kind_of(scene) for scene in scenes} == set(KINDS)
    for scene in scenes:
        assert from_json(to_json(scene)) == scene


@pytest.mark.parametrize("text", ["", "[]", "3", "{}", '{"kind":"dog"}', '{"kind":"object"}', "[" * 100_000])
def test_a_damaged_description_is_told(text: str):
    with pytest.raises(DataError, match="MMG-D40"):
        from_json(text)


def test_impossible_descriptions_are_refused():
    for make in (
        lambda: Thing("blob", "red"),
        lambda: Object(RED_CIRCLE, background="mauve"),
        lambda: Count(5, RED_CIRCLE, "small", "plain"),
        lambda: Word("abc", "red"),
        lambda: Word("ABCDE", "red"),
        lambda: Transformation("recoloured", (RED_CIRCLE,), colour="red"),
        lambda: Transformation("mirrored", (RED_CIRCLE,), colour="blue"),
        lambda: Transformation("written", (RED_CIRCLE, BLUE_SQUARE), letters="AB"),
        lambda: Pair(RED_CIRCLE, "inside", Thing("crescent", "blue")),
    ):
        with pytest.raises(DataError, match="MMG-D40"):
            make()
    assert len(HOSTS) == len(SHAPES) - 1


def test_every_wording_is_on_the_page():
    listed = [wording for wordings in WORDINGS.values() for wording in wordings] + list(BACKGROUND_WORDINGS)
    assert len(listed) >= 50
    assert [wording for wording in listed if f"`{wording.strip()}`" not in DOCS] == []
