"""The dataset `scenes`: what each split holds, and that nothing held out is trained on."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

import pytest
import torch

from mmgen.data.mixture import Mixture
from mmgen.data.pictures import Pictures, data_fingerprint
from mmgen.data.scenes import Scenes
from mmgen.scenes.description import (
    COLOURS,
    KINDS,
    PARTS,
    SHAPES,
    TRANSFORMATIONS,
    Corner,
    Hybrid,
    Transformation,
    Word,
    from_json,
    kind_of,
)
from mmgen.scenes.drawing import draw
from mmgen.scenes.font import LETTERS
from mmgen.scenes.grammar import parse
from mmgen.scenes.heldout import HELD_OUT_THINGS, broken_rules, is_held_out
from mmgen.scenes.layout import layout_from_json
from mmgen.scenes.sampling import SPLITS

# Of scenes, layouts and captions of every split. It changes with what is sampled or said: then DRAWING_VERSION,
# which is in the fingerprint, has to go up.
DIGEST = "add5917fbfaa7d54"


def test_scenes_and_captions_are_those_of_this_version():
    told = []
    for options in ({}, {"seed": 1, "emphasis": {"inside": 5.0, "dotted": 2.0, "ears": 3.0}}):
        dataset = Scenes(num_samples=300, num_val=20, num_heldout=20, **options)
        told += [(s["id"], s["captions"], s["attributes"]) for s in map(dataset.__getitem__, range(len(dataset)))]
    assert len(told) > 1000
    assert hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16] == DIGEST


@pytest.mark.parametrize("seed", [0, 1])
def test_nothing_held_out_is_trained_on_and_every_element_is(seed: int):
    dataset = Scenes(seed=seed)
    scenes = [dataset.scene(i)[0] for split in ("train", "val") for i in dataset.splits[split]]
    assert len(scenes) == 20_500
    assert not any(is_held_out(scene) for scene in scenes)
    things = {thing for scene in scenes for thing in scene.things}
    assert len(things) == len(SHAPES) * len(COLOURS) - len(HELD_OUT_THINGS)
    hybrids = [scene for scene in scenes if isinstance(scene, Hybrid)]
    parts = {(part, hybrid.body.shape) for hybrid in hybrids for part in hybrid.parts}
    assert len(parts) == len(PARTS) * len(SHAPES) - len(PARTS)
    changes = [scene for scene in scenes if isinstance(scene, Transformation)]
    seen = {(scene.transformation, thing.shape) for scene in changes for thing in scene.originals}
    assert len(seen) == len(TRANSFORMATIONS) * len(SHAPES)
    written = [scene.letters for scene in scenes if isinstance(scene, Word)]
    assert {letter for word in written for letter in word} == set(LETTERS)
    share = Counter(kind_of(scene) for scene in scenes)
    assert set(share) == set(KINDS)
    assert all(abs(n / len(scenes) - 1 / 7) < 0.02 for n in share.values())


def test_each_held_out_split_holds_its_combinations_only():
    dataset = Scenes(num_samples=10, num_val=10, num_heldout=40)
    assert set(dataset.splits) == {"train", "val", *SPLITS}
    assert sorted(i for places in dataset.splits.values() for i in places) == list(range(len(dataset)))
    for split, (kind, rule) in SPLITS.items():
        scenes = [dataset.scene(i)[0] for i in dataset.splits[split]]
        assert {kind_of(scene) for scene in scenes} == {kind}
        assert {frozenset(broken_rules(scene)) for scene in scenes} == {frozenset({rule} if rule else ())}


def test_samples_tell_what_they_show():
    dataset = Scenes(num_samples=150, num_val=1, num_heldout=3)
    for i in range(len(dataset)):
        sample = dataset[i]
        scene, layout = from_json(sample["attributes"]["scene"]), layout_from_json(sample["attributes"]["layout"])
        assert (scene, layout) == dataset.scene(i)
        assert torch.equal(draw(scene, layout, 32), sample["image"])
        assert sample["caption"] == sample["captions"][0]
        assert {parse(caption) for caption in sample["captions"]} == {scene}
        assert sample["attributes"]["kind"] == kind_of(scene)
        for name, values in dataset.classes.items():
            assert name not in sample["attributes"] or sample["attributes"][name] in values


def test_every_relation_is_what_a_picture_is_judged_by():
    """Also those that are said from the other side of the canonical description."""
    dataset = Scenes(num_samples=100, num_val=1, num_heldout=1, kinds=["pair"])
    said = [dataset[i]["caption"] for i in dataset.splits["train"]]
    for relation in ("above", "below", "left of", "right of", "inside"):
        assert sum(f" {relation} a" in caption for caption in said) > 8


def test_a_corner_can_be_redrawn():
    """The upper left is the same before and after; the lower right quarter holds all that differs."""
    dataset = Scenes(num_samples=1, num_val=1, num_heldout=60, kinds=["corner"])
    for i in dataset.splits["heldout_redraws"]:
        attributes = dataset[i]["attributes"]
        after, before = from_json(attributes["scene"]), from_json(attributes["before"])
        assert isinstance(after, Corner)
        assert isinstance(before, Corner)
        assert after.second in HELD_OUT_THINGS
        assert (before.first, before.background) == (after.first, after.background)
        assert before.second != after.second
        assert before.second not in HELD_OUT_THINGS
        layout = layout_from_json(attributes["layout"])
        pictures = [draw(scene, layout, 32) for scene in (before, after)]
        differs = (pictures[0] != pictures[1]).any(0)
        assert differs.any()
        assert not differs[:16].any()
        assert not differs[:, :16].any()
        assert torch.equal(dataset.before(i), pictures[0])


def test_a_transformation_starts_from_its_top_alone():
    dataset = Scenes(num_samples=1, num_val=1, num_heldout=60, kinds=["transformation"])
    for i in dataset.splits["heldout_transformations"]:
        before, whole = dataset.before(i), dataset[i]["image"]
        assert torch.equal(before[:, :16], whole[:, :16])
        assert (before[:, 16:] == before[:, 31:, 31:]).all()  # nothing but the background
        assert not torch.equal(before, whole)


def test_a_picture_depends_on_seed_and_number_alone():
    one, more = Scenes(num_samples=5, num_val=2, num_heldout=2), Scenes(num_samples=9, num_val=3, num_heldout=4)
    for split in one.splits:
        for i, j in zip(one.splits[split], more.splits[split], strict=False):
            assert one.ids[i] == more.ids[j]
            assert torch.equal(one[i]["image"], more[j]["image"])
            assert one[i]["captions"] == more[j]["captions"]
    other = Scenes(num_samples=5, seed=1)
    assert [one[i]["caption"] for i in range(5)] != [other[i]["caption"] for i in range(5)]
    large = Scenes(num_samples=5, image_size=64)
    assert large[0]["image"].shape == (3, 64, 64)
    assert large[0]["captions"] == one[0]["captions"]


def test_pictures_drawn_together_are_those_drawn_alone():
    """Also those of a mixture, in any order; `Pictures` reads them so."""
    dataset = Scenes(num_samples=40, num_val=5, num_heldout=5)
    mixture = Mixture({"scenes": {"num_samples": 40}, "few": {"name": "scenes", "num_samples": 3, "kinds": ["word"]}})
    for each in (dataset, mixture):
        positions = [len(each) - 1, 0, 1, 2, 41, 5, 4, len(each) - 2]
        for position, sample in zip(positions, each.__getitems__(positions), strict=True):
            alone = each[position]
            assert torch.equal(sample.pop("image"), alone.pop("image"))
            assert sample == alone
    read = Pictures(dataset)
    assert read.captions == [dataset[i]["caption"] for i in range(len(dataset))]
    assert torch.equal(read.batch([7])[0], dataset[7]["image"])


def test_fingerprints_tell_datasets_apart_without_drawing():
    options = [{}, {"seed": 1}, {"image_size": 64}, {"kinds": ["pair"]}, {"backgrounds": ["white"]}, {"num_val": 7}]
    options += [{"kinds": ["pair", "word"]}, {"kinds": ["pair", "word"], "weights": [2, 1]}]
    found = {data_fingerprint(Scenes(num_samples=1_000_000, **option)) for option in options}
    assert len(found) == len(options)
    assert data_fingerprint(Scenes()) == data_fingerprint(Scenes())


def test_kinds_weights_and_backgrounds():
    dataset = Scenes(num_samples=300, kinds=["pair", "word"], weights=[3, 1], backgrounds=["cream", "dark"])
    assert set(dataset.splits) == {
        "train", "val", "heldout_pairs", "heldout_words", "seen_pairs", "seen_words"
    }  # fmt: skip
    scenes = [dataset.scene(i)[0] for i in dataset.splits["train"]]
    assert 195 < Counter(map(kind_of, scenes))["pair"] < 255
    backgrounds = Counter(scene.background for scene in scenes)
    assert set(backgrounds) == {"cream", "dark"}
    assert 195 < backgrounds["cream"] < 255


def test_what_is_emphasised_comes_so_many_times_as_often_in_training_alone():
    """Of 5 relations one four times as often: half of the pairs; of 4 fills one twice as often: 40 % of the counts."""
    plain = Scenes(num_samples=1200, kinds=["pair", "count"], num_heldout=300)
    dataset = Scenes(
        num_samples=1200, kinds=["pair", "count"], num_heldout=300, emphasis={"inside": 4.0, "dotted": 2.0}
    )
    scenes = [dataset.scene(i)[0] for i in dataset.splits["train"]]
    pairs = [scene for scene in scenes if kind_of(scene) == "pair"]
    fills = Counter(scene.fill for scene in scenes if kind_of(scene) == "count")
    assert 540 < len(pairs) < 660
    assert sum(scene.relation == "inside" for scene in pairs) / len(pairs) == pytest.approx(0.5, abs=0.08)
    assert fills["dotted"] / fills.total() == pytest.approx(0.4, abs=0.08)
    assert fills["plain"] / fills.total() == pytest.approx(0.2, abs=0.08)
    held_out = dataset.splits["heldout_pairs"]
    assert [dataset.scene(i) for i in held_out] == [plain.scene(i) for i in held_out]
    assert not any(is_held_out(scene) for scene in scenes)
    assert data_fingerprint(dataset) != data_fingerprint(plain)


@pytest.mark.parametrize(
    "options",
    [
        {"image_size": 31},
        {"image_size": 257},
        {"num_samples": 0},
        {"kinds": ["dog"]},
        {"kinds": []},
        {"kinds": ["pair", "pair"]},
        {"backgrounds": ["mauve"]},
        {"kinds": ["pair"], "weights": [1, 2]},
        {"kinds": ["pair"], "weights": [0]},
        {"weights": [-1, 1, 1, 1, 1, 1, 1]},
        {"weights": [1, 1, 1, 1, 1, 1, float("nan")]},
        {"weights": [1, 1, 1, 1, 1, 1, float("inf")]},
        {"emphasis": {"beside": 2.0}},
        {"emphasis": {"inside": 0.0}},
    ],
)
def test_bad_options_are_refused(options: dict):
    with pytest.raises(ValueError, match=r"must be|needs|emphasis is"):
        Scenes(**options)
