"""Marks of each attribute, from readings made by hand."""

from __future__ import annotations

import pytest

from mmgen.scenes.description import Corner, Count, Hybrid, Object, Pair, Scene, Thing, Transformation, Word
from mmgen.scenes.layout import draw_layout
from mmgen.scenes.marking import ATTRIBUTES, Region, mark
from mmgen.scenes.reading import Reading
from mmgen.scenes.remainder import Blob

A, B, C = Thing("circle", "red"), Thing("square", "blue"), Thing("star", "red")


def read_as(scene: Scene, **more: object) -> Reading:
    return Reading(scene, draw_layout(scene, lambda n: 0), 0.0, **more)  # type: ignore[arg-type]


CASES: list[tuple[Scene, Scene, dict[str, tuple[bool, ...]]]] = [
    (Object(A), Object(C), {"shape": (False,), "colour": (True,)}),
    (
        Pair(A, "above", B),
        Pair(A, "left of", B),
        {"shape": (True, True), "colour": (True, True), "relation": (False,)},
    ),
    (
        Pair(A, "above", B),
        Pair(B, "above", A),
        {"shape": (True, True), "colour": (True, True), "relation": (False,)},
    ),
    (Pair(A, "above", B), Pair(C, "above", B), {"shape": (False, True), "colour": (True, True), "relation": (True,)}),
    (Corner(A, B), Corner(B, A), {"shape": (False, False), "colour": (False, False)}),
    (
        Count(2, A, "small", "plain"),
        Count(3, C, "large", "dotted"),
        {"shape": (False,), "colour": (True,), "number": (False,), "size": (False,), "fill": (False,)},
    ),
    (
        Count(2, A, "small", "plain"),
        Count(2, A, "large", "plain"),
        {"shape": (True,), "colour": (True,), "number": (True,), "size": (False,), "fill": (True,)},
    ),
    (Word("AB", "red"), Word("AC", "red"), {"colour": (True,), "letters": (False,), "letter": (True, False)}),
    (Word("AB", "red"), Word("A", "blue"), {"colour": (False,), "letters": (False,), "letter": (True, False)}),
    (
        Hybrid(A, ("ears",)),
        Hybrid(C, ("ears", "eyes")),
        {"shape": (False,), "colour": (True,), "parts": (False,), "body": (False,)},
    ),
    (
        Transformation("recoloured", (A,), colour="blue"),
        Transformation("recoloured", (A,), colour="pink"),
        {"shape": (True,), "colour": (True,), "transformation": (False,)},
    ),
    (
        Transformation("mirrored", (A, B)),
        Transformation("mirrored", (A,)),
        {"shape": (True, False), "colour": (True, False), "transformation": (True,)},
    ),
    (
        Transformation("written", (A,), letters="Q"),
        Transformation("written", (A,), letters="O"),
        {"shape": (True,), "colour": (True,), "transformation": (True,), "letters": (False,), "letter": (False,)},
    ),
]


@pytest.mark.parametrize(("truth", "read", "marks"), CASES)
def test_each_attribute_is_marked(truth: Scene, read: Scene, marks: dict[str, tuple[bool, ...]]) -> None:
    verdict = mark(truth, read_as(read))
    assert verdict.marks == marks | {"background": (True,)}
    assert not verdict.right()
    assert set(marks) <= set(ATTRIBUTES)
    wrong = {name for name, values in marks.items() if not all(values)}
    assert set(verdict.wrong.split(", ")) == wrong
    assert verdict.right([name for name in marks if name not in wrong])


@pytest.mark.parametrize("truth", [truth for truth, _, _ in CASES])
def test_the_same_scene_is_all_right(truth: Scene) -> None:
    assert mark(truth, read_as(truth)).right()


def test_the_background_does_not_count_unless_it_is_asked_for() -> None:
    verdict = mark(Object(A), read_as(Object(A, background="grey")))
    assert verdict.marks["background"] == (False,)
    assert verdict.right()
    assert not verdict.right(["shape", "background"])


def test_what_is_unexplained_is_never_right() -> None:
    for more in ({"blobs": (Blob(5, 6, 9),)}, {"notes": ("tail more",)}):
        verdict = mark(Object(A), read_as(Object(A), **more))
        assert not verdict.right()
        assert not verdict.right(["colour"])
        assert verdict.wrong in ("9 pixels around (5, 6)", "tail more")


def test_only_what_was_drawn_anew_counts() -> None:
    corner = Region(0.5, 0.5)
    verdict = mark(Corner(A, B), read_as(Corner(C, B), blobs=(Blob(5, 20, 9),)), corner)
    assert verdict.marks["shape"] == (True,)
    assert verdict.right()
    assert not mark(Corner(A, B), read_as(Corner(A, C)), corner).right()
    assert not mark(Corner(A, B), read_as(Corner(A, B), blobs=(Blob(20, 20, 9),)), corner).right()
