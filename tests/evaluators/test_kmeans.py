import pytest
import torch

from mmgen.evaluators.kmeans import PatchCodes, fits


def random(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def error(codes, images):
    return (codes.quantise(images) - images).square().mean().item()


def test_a_centre_for_every_patch_gives_the_pictures_back():
    images = (random(5, 3, 8, 12) * 255).round() / 255
    codes = PatchCodes.fit(images, centres=1000, patch=(4, 2))
    assert codes.centres.shape == (5 * 2 * 6, 24)
    assert torch.allclose(codes.quantise(images), images, atol=1e-6)


def test_two_clusters_are_found_and_their_means_weigh_every_patch():
    """Dark patches of 0 (three times) and 20/255, bright ones of 250/255: means 5/255 and 250/255."""
    levels = torch.tensor([0.0, 0, 0, 20, 250, 250]) / 255
    images = levels[:, None, None, None].expand(6, 3, 4, 4)
    for seed in range(5):
        centres = PatchCodes.fit(images, centres=2, patch=(4, 4), seed=seed).centres.mean(1)
        assert centres.sort().values.tolist() == pytest.approx([5 / 255, 250 / 255])


def test_iterations_improve_on_the_patches_drawn_first():
    images = random(40, 3, 8, 8)
    codes = PatchCodes.fit(images, centres=16, patch=(4, 4))
    drawn = PatchCodes(PatchCodes.fit(images, centres=16, patch=(4, 4), seed=9).centres, (4, 4))
    start = PatchCodes(images[:4].reshape(4, 3, 2, 4, 2, 4).permute(0, 2, 4, 1, 3, 5).reshape(16, 48), (4, 4))
    assert error(codes, images) < 0.9 * error(start, images)
    assert error(drawn, images) == pytest.approx(error(codes, images), rel=0.05)


def test_the_same_seed_gives_the_same_centres_and_leaves_the_global_one_alone():
    images = random(30, 3, 8, 8)
    state = torch.get_rng_state()
    first = PatchCodes.fit(images, centres=8, patch=(4, 4), seed=1).centres
    other = PatchCodes.fit(images, centres=8, patch=(4, 4), seed=2).centres
    assert torch.equal(PatchCodes.fit(images, centres=8, patch=(4, 4), seed=1).centres, first)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


def test_large_sets_are_cut_down(monkeypatch):
    monkeypatch.setattr("mmgen.evaluators.kmeans.MAX_PICTURES", 10)
    monkeypatch.setattr("mmgen.evaluators.kmeans.MAX_PATCHES", 25)
    codes = PatchCodes.fit(random(30, 3, 8, 8), centres=100, patch=(4, 4))
    assert len(codes.centres) == 25


def test_what_can_be_cut():
    assert fits(torch.zeros(3, 8, 12), (4, 4))
    assert not fits(torch.zeros(3, 8, 10), (4, 4))
