"""The colours dataset keeps its contract and the promises of its README."""

import pytest
import torch
from mmgen_colours import Colours
from mmgen_colours.shapes import COLOURS, GROUND, SHAPES, draw

from mmgen.testing import check_dataset


def test_it_conforms():
    assert len(check_dataset(Colours(), limit=200)) >= 16


def test_every_combination_is_there_and_told_by_its_caption():
    data = Colours(copies=10)
    assert len(data) == len(COLOURS) * len(SHAPES) * 10
    captions = {data[i]["caption"] for i in range(0, len(data), 10)}
    assert captions == {f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES}


def test_pictures_show_what_their_captions_say():
    """The colour is the ink's, and every shape differs from every other by many pixels."""
    data = Colours()
    for i in range(0, len(data), 7):
        sample = data[i]
        ink = torch.tensor(COLOURS[sample["attributes"]["colour"]])[:, None, None]
        ground = torch.tensor(GROUND)[:, None, None]
        inked = ((sample["image"] - ink).abs().amax(0) < 0.01).float().mean()
        left = ((sample["image"] - ground).abs().amax(0) < 0.01).float().mean()
        assert inked > 0.03
        assert left > 0.3
        assert inked + left < 1
    pictures = [draw(shape, (0, 0, 0), (0.5, 0.5), 0.35, 32) for shape in SHAPES]
    for i, one in enumerate(pictures):
        assert all((one - other).abs().mean() > 0.03 for other in pictures[:i])


def test_no_two_pictures_are_equal():
    data = Colours(copies=20)
    pixels = torch.stack([data[i]["image"] for i in range(len(data))]).flatten(1)
    assert len(torch.unique(pixels, dim=0)) == len(data)


def test_held_out_combinations_are_never_trained_on_but_their_parts_are():
    data = Colours(copies=10)
    pairs = {
        split: {tuple(data[i]["attributes"][k] for k in ("colour", "shape")) for i in positions}
        for split, positions in data.splits.items()
    }
    assert len(pairs["heldout_pairs"]) == len(SHAPES)
    assert not pairs["heldout_pairs"] & (pairs["train"] | pairs["val"])
    assert pairs["train"] == pairs["val"]
    for place in (0, 1):
        assert {pair[place] for pair in pairs["heldout_pairs"]} == {pair[place] for pair in pairs["train"]}
    assert sum(map(len, data.splits.values())) == len(data)


def test_sizes_and_seeds():
    assert Colours(image_size=8)[0]["image"].shape == (3, 8, 8)
    assert not torch.equal(Colours(seed=1)[0]["image"], Colours()[0]["image"])
    assert torch.equal(Colours(copies=30)[0]["image"], Colours()[0]["image"])


@pytest.mark.parametrize("options", [{"image_size": 7}, {"copies": 9}])
def test_impossible_options(options):
    with pytest.raises(ValueError, match="at least"):
        Colours(**options)
