"""What the drawing promises: the same pictures everywhere and at every size, and nothing that looks like another."""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import pytest
import torch

from mmgen.scenes.description import (
    BACKGROUNDS,
    COLOURS,
    KINDS,
    PART_SETS,
    SHAPES,
    TRANSFORMATIONS,
    Count,
    Hybrid,
    Object,
    Pair,
    Scene,
    Thing,
    Transformation,
    Word,
)
from mmgen.scenes.drawing import Layer, coverage, draw, draw_many, grey, ink_on, layers
from mmgen.scenes.font import FONT, LETTERS
from mmgen.scenes.layout import Layout, Place, draw_layout, layout_from_json, layout_json, layouts
from mmgen.scenes.sampling import Dice, layout_for, scene_of

# Of 50 pictures of each kind at 32 and 70 pixels. It changes with any pixel: then DRAWING_VERSION has to go up.
DIGEST = "5ba5ce95b467a694"


def drawn(number: int) -> list[tuple[Scene, Layout]]:
    found = []
    for kind in KINDS:
        for i in range(number):
            dice = Dice(f"drawing/{kind}/{i}")
            scene = scene_of(kind, dice).canonical()
            found.append((scene, layout_for(scene, dice)))
    return found


def middle(scene: Scene) -> Layout:
    """The layout with the middle value of everything."""
    return draw_layout(scene, lambda n: n // 2)


def test_pictures_are_those_of_this_version():
    digest = hashlib.sha256()
    for size in (32, 70):
        digest.update(draw_many(drawn(50), size).numpy().tobytes())
    assert digest.hexdigest()[:16] == DIGEST


def test_a_batch_is_its_pictures():
    scenes = drawn(10)
    together = draw_many(scenes, 32)
    assert together.shape == (70, 3, 32, 32)
    assert together.dtype == torch.uint8
    for (scene, layout), picture in zip(scenes, together, strict=True):
        assert torch.equal(draw(scene, layout, 32), picture.float() / 255)
    assert draw_many([], 32).shape == (0, 3, 32, 32)


def test_a_picture_looks_the_same_at_every_size():
    scenes = drawn(10)
    small = draw_many(scenes, 32).float() / 255
    for size in (64, 96, 128):
        shrunk = torch.nn.functional.avg_pool2d(draw_many(scenes, size).float() / 255, size // 32)
        assert (shrunk - small).abs().mean(dim=(1, 2, 3)).max() < 0.012
        assert (shrunk - small).abs().max() < 0.45


def test_everything_is_inside_the_picture_and_apart():
    """Of every layout: pairs keep their relation, counted things and halves do not touch."""
    for relation in ("above", "left of"):
        pair = Pair(Thing("circle", "red"), relation, Thing("square", "blue"))
        for first, second in layouts(pair):
            gap = second.y - first.y if relation == "above" else second.x - first.x
            aside = abs(second.x - first.x) if relation == "above" else abs(second.y - first.y)
            assert gap >= first.half + second.half
            assert aside <= 4
    for number in range(1, 5):
        count = Count(number, Thing("square", "red"), "large", "plain")
        places = {place for layout in itertools.islice(layouts(count), 3000) for place in layout}
        assert all(place.half <= min(place.x, place.y, 32 - place.x, 32 - place.y) for place in places)
        for layout in itertools.islice(layouts(count), 3000):
            for one, other in itertools.combinations(layout, 2):
                assert max(abs(one.x - other.x), abs(one.y - other.y)) >= 2 * one.half


def test_shapes_and_colours_are_told_apart():
    """At 10 pixels, wherever a shape is shifted to, a seventh of its pixels differ from any other's of its size."""
    for one, other in itertools.combinations(SHAPES, 2):
        target = coverage([Layer(one, Place(16, 16, 5), (0, 0, 0))], 32)[0]
        shifts = np.arange(-2, 2.01, 0.5)
        tries = [Layer(other, Place(16 + x, 16 + y, 5), (0, 0, 0)) for x in shifts for y in shifts]
        distance = np.square(coverage(tries, 32) - target).sum(axis=(1, 2)).min()
        assert distance > target.sum() / 7, (one, other, distance)
    for one, other in itertools.combinations(COLOURS.values(), 2):
        assert np.linalg.norm(np.subtract(one, other)) > 95
    for colour, background in itertools.product(COLOURS.values(), BACKGROUNDS.values()):
        assert np.linalg.norm(np.subtract(colour, background)) > 90
    for colour in COLOURS.values():
        assert all(np.linalg.norm(np.subtract(colour, ink_on(name))) > 95 for name in BACKGROUNDS)
        assert all(abs(grey(colour)[0] - grey(BACKGROUNDS[name])[0]) > 35 for name in ("white", "dark"))


def test_letters_are_told_apart():
    assert LETTERS == "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    assert all(len(rows) == 5 and {len(row) for row in rows} == {3} for rows in FONT.values())
    for one, other in itertools.combinations(FONT.values(), 2):
        assert sum(a != b for r, s in zip(one, other, strict=True) for a, b in zip(r, s, strict=True)) >= 2


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_different_descriptions_are_different_pictures(background: str):
    """With the same layout: everything that a caption tells can be seen."""
    body = Thing("square", "red")
    families = [
        [Object(Thing(shape, colour), background=background) for shape in SHAPES for colour in COLOURS],
        [Count(2, body, "small", fill, background=background) for fill in ("plain", "striped", "dotted", "outlined")],
        [Hybrid(body, parts, background=background) for parts in PART_SETS],
        [Word(letter, "red", background=background) for letter in LETTERS],
    ]
    for family in families:
        pictures = draw_many([(scene, middle(scene)) for scene in family], 32).flatten(1).float().div(255)
        distance = torch.cdist(pictures, pictures) + torch.eye(len(family)) * 100
        assert distance.min() > 1, (family[0], float(distance.min()))


def test_transformations_do_what_they_say():
    things = (Thing("crescent", "red"), Thing("heart", "blue"))
    tops, bottoms = {}, {}
    for transformation in TRANSFORMATIONS[:4]:
        scene = Transformation(transformation, things)
        picture = draw(scene, (Place(8, 9, 5), Place(25, 9, 5)), 64)
        tops[transformation], bottoms[transformation] = picture[:, :32], picture[:, 32:]
    top = tops["mirrored"]
    assert all(torch.equal(top, other) for other in tops.values())
    assert torch.equal(bottoms["mirrored"], top.flip(2))
    assert torch.equal(bottoms["upside down"], top.flip(1))
    luma = (torch.tensor([0.299, 0.587, 0.114]) @ top.flatten(1)).view(1, 32, 64)
    assert (bottoms["greyscale"] - luma).abs().max() < 0.01
    assert 0.3 < (1 - bottoms["outline"]).sum() / (1 - top).sum() < 0.9
    recoloured = Transformation("recoloured", things, colour="green")
    green = draw(recoloured, (Place(8, 9, 5), Place(25, 9, 5)), 64)[:, 32:]
    assert torch.equal((green != 1).any(0), (top != 1).any(0))
    assert torch.allclose(green[:, 18, 50], torch.tensor(COLOURS["green"]) / 255)
    written = Transformation("written", things[:1], letters="KO")
    with_letters = draw(written, (Place(8, 9, 5), Place(24, 8, 5)), 64)
    assert torch.equal(with_letters[:, 32:, :28], with_letters[:, :32, :28])
    assert (with_letters[:, 32:, 32:] < 0.2).all(0).sum() > 100
    assert (with_letters[:, :32, 32:] == 1).all()


def test_layers_come_from_the_back_to_the_front():
    inside = Pair(Thing("star", "red"), "inside", Thing("square", "blue"))
    assert [layer.form for layer in layers(inside, middle(inside))] == ["square", "star"]
    cat = Hybrid(Thing("square", "red"), ("ears", "eyes", "whiskers", "tail"))
    assert [layer.form for layer in layers(cat, middle(cat))] == ["ears", "tail", "square", "eyes", "whiskers"]


def test_layouts_are_json_and_back():
    for scene, layout in drawn(5):
        assert layout_from_json(layout_json(layout)) == layout
        assert layout in set(itertools.islice(layouts(scene), 50_000)) or isinstance(scene, Count)
