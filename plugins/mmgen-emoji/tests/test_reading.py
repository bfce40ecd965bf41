"""What is read in pictures of emoji_scenes: true ones, moved ones, and ones with planted faults."""

from __future__ import annotations

import itertools
import time
from functools import cache

import pytest
import torch
from mmgen_emoji.reading import NOTHING, Reader, Reading, mark, reader
from mmgen_emoji.scenes import NAMES, PLACES, EmojiScenes, emoji_pictures, emoji_side, first_pixel

RIGHT = {"first": True, "second": True, "both": True, "relation": True}


emoji = cache(emoji_pictures)


def draw(relation, names, size=32, moved=0, shift=(0, 0)):
    """A picture; None leaves a place empty. `moved` is along the axis, `shift` in pixels."""
    side = emoji_side(size)
    pictures = emoji(side)
    image = torch.ones(3, size, size)
    for name, (x, y, axis) in zip(names, PLACES[relation], strict=True):
        if name is not None:
            left = first_pixel(x + moved * (axis == "x"), size) + shift[0]
            top = first_pixel(y + moved * (axis == "y"), size) + shift[1]
            a, b, c, d = max(top, 0), min(top + side, size), max(left, 0), min(left + side, size)
            image[:, a:b, c:d] = pictures[name][:, a - top : b - top, c - left : d - left]
    return image


def read(*images):
    return reader(images[0].shape[-1]).read(torch.stack(images))


@pytest.mark.parametrize("size", [32, 45, 128])
def test_true_pictures_are_read_without_a_mistake(size):
    scenes = EmojiScenes(size, num_samples=150, num_val=1, num_heldout=40)
    samples = [scenes[i] for i in range(len(scenes))]
    read_ = Reader(size).read(torch.stack([sample["image"] for sample in samples]))
    asked = [(s["attributes"]["relation"], tuple(s["attributes"]["names"].split(" | "))) for s in samples]
    assert [(reading.relation, reading.names) for reading in read_] == asked
    assert {relation for relation, _ in asked} == set(PLACES)
    assert max(reading.error for reading in read_) < 1e-12


def test_every_emoji_is_read_in_every_place():
    for relation, places in PLACES.items():
        for i, moved in itertools.product(range(len(places)), (-2, 0, 2)):
            others = ["cat", "key", "bus"][: len(places) - 1]
            asked = [(*others[:i], name, *others[i:]) for name in NAMES]
            found = read(*[draw(relation, names, moved=moved) for names in asked])
            assert [(reading.relation, reading.names) for reading in found] == [(relation, names) for names in asked]


@pytest.mark.parametrize("shift", [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1)])
def test_a_pixel_beside_is_read_too(shift):
    for relation in PLACES:
        names = ("castle", "ghost", "cloud")[: len(PLACES[relation])]
        (reading,) = read(draw(relation, names, moved=2, shift=shift))
        assert (reading.relation, reading.names) == (relation, names)


def test_noise_and_blur_are_borne():
    scenes = EmojiScenes(num_samples=200)
    samples = [scenes[i] for i in range(200)]
    images = torch.stack([sample["image"] for sample in samples])
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    for spoilt in ((images + 0.15 * noise).clamp(0, 1), blurred):
        found = reader(32).read(spoilt)
        pairs = zip(samples, found, strict=True)
        wrong = [s["id"] for s, r in pairs if " | ".join(r.names) != s["attributes"]["names"]]
        assert len(wrong) <= 2


@pytest.mark.parametrize(
    ("relation", "names", "wrong"),
    [
        ("left of", ("guitar", "rocket"), ""),
        ("left of", ("rocket", "guitar"), "relation"),
        ("above", ("guitar", "rocket"), "relation"),
        ("above", ("rocket", "guitar"), "relation"),
        ("left of", ("guitar", "bell"), "second"),
        ("left of", ("drum", "rocket"), "first"),
        ("left of", ("guitar", None), "second"),
        ("left of", ("bell", "guitar"), "second, relation"),
        ("above", ("bell", None), "first, second, relation"),
        ("three", ("guitar", "rocket", "bell"), "relation"),
        ("three", ("bell", "guitar", "rocket"), "relation"),
    ],
)
def test_planted_faults_are_found(relation, names, wrong):
    """What was asked for is a guitar left of a rocket."""
    (reading,) = read(draw(relation, names))
    assert (reading.relation, reading.names) == (relation, tuple(name or NOTHING for name in names))
    verdict = mark("left of", ("guitar", "rocket"), reading)
    assert (verdict.wrong, verdict.right) == (wrong, not wrong)


def test_marks():
    def marks(relation, names, *asked):
        return mark(asked[0], asked[1:], Reading(relation, names, 0.0)).marks

    assert marks("above", ("owl", "crab"), "above", "owl", "crab") == RIGHT
    assert marks("above", ("crab", "owl"), "above", "owl", "crab") == {**RIGHT, "relation": False}
    three = marks("three", ("owl", "crab", "bus"), "three", "owl", "crab", "bus")
    assert three == {**RIGHT, "third": True}
    assert marks("three", ("owl", "bus", "crab"), "three", "owl", "crab", "bus") == {**three, "relation": False}
    # The same emoji twice is one of the two, where it should be.
    assert marks("above", ("owl", "owl"), "above", "owl", "crab") == {
        "first": True,
        "second": False,
        "both": False,
        "relation": True,
    }
    # Of three that were asked for, two in other places.
    assert marks("above", ("crab", "bus"), "three", "owl", "crab", "bus") == {
        "first": False,
        "second": True,
        "third": True,
        "both": False,
        "relation": False,
    }


def test_a_reading_in_words():
    assert str(Reading("left of", ("guitar", "rocket"), 0.0)) == "guitar left of rocket"
    assert str(Reading("three", ("guitar", "rocket", NOTHING), 0.0)) == "guitar and rocket above nothing"


def test_an_empty_picture_shows_nothing():
    (reading,) = read(torch.ones(3, 32, 32))
    assert reading.names == (NOTHING, NOTHING)
    assert reading.error == 0
    assert not any(mark("above", ("owl", "crab"), reading).emoji)


def test_the_error_is_the_mean_squared_one():
    image = draw("above", ("owl", "crab"))
    spoilt = image.clone()
    spoilt[:, :2, :2] -= 0.5
    (reading,) = read(spoilt)
    assert reading.names == ("owl", "crab")
    assert reading.error == pytest.approx((spoilt - image).square().mean().item(), rel=1e-5)


def test_it_is_fast():
    """300 pictures a second of a core's time at least; 2,000 are usual."""
    images = torch.rand(256, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    reader(32).read(images[:2])
    began = time.process_time()
    reader(32).read(images)
    assert 256 / (time.process_time() - began) > 300
