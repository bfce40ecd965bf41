"""The trunk of the image tokenizers, which a plugin may reuse."""

from __future__ import annotations

import pytest
import torch

from mmgen.models.blocks import ImageDecoder, ImageEncoder, ResidualBlock, codebook_use, to_signed, to_unit


@pytest.mark.parametrize(("downsample", "grid"), [(2, 8), (4, 4), (8, 2), (16, 1)])
@torch.no_grad()
def test_the_grid_is_the_picture_over_the_downsampling(downsample, grid):
    encoder, decoder = ImageEncoder(10, 4, 1, downsample), ImageDecoder(10, 4, 1, downsample, out_channels=5)
    features = encoder(torch.rand(2, 3, 16, 16))
    assert features.shape == (2, 10, grid, grid)
    assert decoder(features).shape == (2, 5, 16, 16)


@torch.no_grad()
def test_an_untrained_encoder_is_an_isometry_of_patches():
    """With as many channels as a patch has numbers: lengths are kept, and the inverted decoder gives the picture."""
    torch.manual_seed(0)
    encoder, decoder = ImageEncoder(48, 4, 1, 4), ImageDecoder(48, 4, 1, 4)
    decoder.invert(encoder)
    images = torch.randn(3, 3, 16, 16)
    torch.testing.assert_close(encoder(images).square().sum(), images.square().sum(), atol=1e-2, rtol=1e-5)
    torch.testing.assert_close(decoder(encoder(images)), images, atol=1e-4, rtol=1e-4)


def test_both_ways_learn_from_the_first_step():
    """What starts at zero gets a gradient at once, and what lies before it after one step."""
    torch.manual_seed(0)
    encoder, decoder = ImageEncoder(12, 4, 1, 4), ImageDecoder(12, 4, 1, 4)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    images = torch.rand(2, 3, 16, 16)
    for _ in range(2):
        optimizer.zero_grad()
        (decoder(encoder(images)) - images).square().mean().backward()
        optimizer.step()
    assert all(float(parameter.grad.abs().sum()) > 0 for parameter in parameters)


@torch.no_grad()
def test_a_residual_block_adds_a_scaled_branch():
    torch.manual_seed(0)
    one, other = ResidualBlock(4, 1.0), ResidualBlock(4, 0.25)
    other.load_state_dict(one.state_dict())
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(other(x) - x, 0.25 * (one(x) - x), atol=1e-6, rtol=1e-5)


def test_pixels_travel_between_both_ranges():
    images = torch.rand(2, 3, 4, 4)
    assert to_signed(torch.tensor([0.0, 0.5, 1.0])).tolist() == [-1, 0, 1]
    torch.testing.assert_close(to_unit(to_signed(images)), images)
    assert to_unit(torch.tensor([-3.0, 3.0])).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("indices", "usage", "perplexity"),
    [([0, 0, 0, 0], 1 / 8, 1.0), ([0, 1, 2, 3], 4 / 8, 4.0), ([0, 0, 0, 5], 2 / 8, 1.7547654)],
)
def test_the_use_of_a_codebook(indices, usage, perplexity):
    use = codebook_use(torch.tensor(indices).view(1, 2, 2), 8)
    assert float(use["codebook_usage"]) == pytest.approx(usage)
    assert float(use["codebook_perplexity"]) == pytest.approx(perplexity, rel=1e-4)


@pytest.mark.parametrize("downsample", [0, 1, 3, 12])
def test_a_downsampling_that_is_no_power_of_two_is_refused(downsample):
    for trunk in (ImageEncoder, ImageDecoder):
        with pytest.raises(ValueError, match="power of two"):
            trunk(8, 4, 1, downsample)
