"""The dataset emoji_scenes: pairs held out, and pictures that show what their captions say."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import pytest
import torch
from mmgen_emoji.scenes import NAMES, EmojiScenes, captions, emoji_pictures, held_out_pairs, is_held_out

from mmgen.testing import check_dataset


@pytest.fixture(scope="module")
def scenes() -> EmojiScenes:
    return EmojiScenes(num_samples=200, num_val=20, num_heldout=60)


def test_it_conforms(scenes):
    assert len(check_dataset(scenes)) >= 8


def test_a_tenth_of_the_pairs_is_held_out_and_every_emoji_meets_most_others():
    pairs = list(itertools.combinations(NAMES, 2))
    assert len(NAMES) == len(set(NAMES)) == 64
    assert len(held_out_pairs()) == len(pairs) // 10
    assert max(Counter(name for pair in held_out_pairs() for name in pair).values()) <= 13


@pytest.mark.parametrize("seed", [0, 1])
def test_no_pair_that_is_held_out_is_trained_on(seed: int):
    scenes = EmojiScenes(seed=seed)
    trained = [scenes.names(i) for split in ("train", "val") for i in scenes.splits[split]]
    assert len(trained) == 20_500
    together = {frozenset(pair) for names in trained for pair in itertools.combinations(names, 2)}
    assert not together & held_out_pairs()
    assert len(together) > 1700  # of the 1,815 others
    assert {name for names in trained for name in names} == set(NAMES)
    for i in scenes.splits["heldout_emoji"]:
        assert len(scenes.names(i)) == 2
        assert is_held_out(scenes.names(i))


def test_each_emoji_is_the_nearest_picture_in_its_place(scenes):
    pictures = emoji_pictures(15)
    assert list(pictures) == list(NAMES)
    stacked = torch.stack(list(pictures.values()))
    for i in range(0, len(scenes), 7):
        sample = scenes[i]
        *centres, side = json.loads(sample["attributes"]["places"])
        found = []
        for x, y in centres:
            left, top = round(x - side / 2), round(y - side / 2)
            patch = sample["image"][:, top : top + side, left : left + side]
            found.append(NAMES[int((stacked - patch).square().sum(dim=(1, 2, 3)).argmin())])
        assert " | ".join(found) == sample["attributes"]["names"]
        first, second = centres[:2]
        assert first[0] < second[0] if sample["attributes"]["relation"] != "above" else first[1] < second[1]


def test_no_two_emoji_look_alike():
    stacked = torch.stack(list(emoji_pictures(15).values())).flatten(1)
    distance = torch.cdist(stacked, stacked) + 100 * torch.eye(len(NAMES))
    assert distance.min() > 3


def test_captions_say_one_thing_only():
    owners: dict[str, tuple] = {}
    for names in itertools.permutations(NAMES[:12], 2):
        for relation in ("left of", "above"):
            for turned in (False, True):
                said = captions(names, relation, turned)
                assert len(said) == len(set(said)) >= 6
                for caption in said:
                    assert owners.setdefault(caption, (names, relation)) == (names, relation)
    for names in itertools.permutations(NAMES[:8], 3):
        for caption in captions(names, "three"):
            assert owners.setdefault(caption, names) == names
    assert captions(("guitar", "rocket"), "left of")[0] == "a guitar left of a rocket"
    assert captions(("guitar", "rocket"), "left of", turned=True)[0] == "a rocket right of a guitar"


def test_sizes_and_bad_options(scenes):
    large = EmojiScenes(image_size=128, num_samples=3)
    assert large[0]["image"].shape == (3, 128, 128)
    assert large[0]["caption"] == scenes[0]["caption"]
    assert large.fingerprint != scenes.fingerprint != EmojiScenes(num_samples=3, seed=1).fingerprint
    for options in ({"image_size": 16}, {"image_size": 145}, {"num_val": 0}):
        with pytest.raises(ValueError, match="must be"):
            EmojiScenes(**options)
