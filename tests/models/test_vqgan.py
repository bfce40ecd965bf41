"""VQGAN's trunk against the published code: same names, same numbers, whole tokenizer included."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmgen.models.blocks import make_trunk
from mmgen.models.vq import VQ
from mmgen.models.vqgan import VqganDecoder, VqganEncoder, group_norm
from mmgen.testing import check_tokenizer
from mmgen.testing.stand_ins import small_batch
from tests.models import taming_modules as taming

SMALL = {
    "image_size": 32, "codebook_size": 24, "codebook_dim": 6, "downsample": 4, "width": 32, "blocks": 1,
    "trunk": "vqgan", "channel_multipliers": (1, 2, 2), "attention_sizes": (16,),
}  # fmt: skip


def published(options: dict) -> nn.Module:
    """Encoder, decoder and codebook of the published code, of the sizes of a VQ's options."""
    model = taming.module("modules.diffusionmodules.model")
    quantize = taming.module("modules.vqvae.quantize")
    sizes = {
        "ch": options["width"], "out_ch": 3, "ch_mult": options["channel_multipliers"],
        "num_res_blocks": options["blocks"], "attn_resolutions": options["attention_sizes"], "in_channels": 3,
        "resolution": options["image_size"], "z_channels": options["codebook_dim"], "double_z": False,
    }  # fmt: skip
    whole = nn.Module()
    whole.encoder, whole.decoder = model.Encoder(**sizes), model.Decoder(**sizes)
    whole.quant_conv = nn.Conv2d(options["codebook_dim"], options["codebook_dim"], 1)
    whole.post_quant_conv = nn.Conv2d(options["codebook_dim"], options["codebook_dim"], 1)
    whole.quantize = quantize.VectorQuantizer2(options["codebook_size"], options["codebook_dim"], beta=0.25)
    nn.init.normal_(whole.quantize.embedding.weight)
    return whole


@pytest.fixture(scope="module")
def pair():
    """The published tokenizer with random weights, gains and biases included, and ours with a copy of them."""
    torch.manual_seed(0)
    theirs = published(SMALL)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "norm" in name:
                parameter += 0.3 * torch.randn_like(parameter)
    ours = VQ(**SMALL, codebook="straight_through")
    renamed = {
        name.replace("quantize.embedding", "codebook.embedding"): tensor for name, tensor in theirs.state_dict().items()
    }
    ours.load_state_dict(renamed)
    return theirs.eval(), ours.eval()


@torch.no_grad()
def test_the_codes_and_the_reconstructions_are_the_published_code_s(pair):
    theirs, ours = pair
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    before = theirs.quant_conv(theirs.encoder(images * 2 - 1))
    torch.testing.assert_close(ours.features(images), before, atol=1e-5, rtol=1e-5)
    codes, _, (_, _, indices) = theirs.quantize(before)
    features, found = ours.quantize(images)
    assert torch.equal(found.flatten(), indices)
    assert len(indices.unique()) > 3
    torch.testing.assert_close(features, codes, atol=1e-5, rtol=1e-5)
    decoded = theirs.decoder(theirs.post_quant_conv(codes))
    expected = (decoded / 2 + 0.5).clamp(0, 1)
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(ours.decode(found), expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(ours.decode(found), ours.decode_features(features))


def test_the_gradients_are_the_published_code_s(pair):
    theirs, ours = pair
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    grid = torch.randn(2, 6, 8, 8, generator=torch.Generator().manual_seed(3))
    for name in ("encoder", "decoder"):
        given = images if name == "encoder" else grid
        gradients = []
        for model in (getattr(theirs, name), getattr(ours, name)):
            parameters = [parameter for _, parameter in sorted(model.named_parameters())]
            gradients.append(torch.autograd.grad(model(given).square().sum(), parameters))
        assert len(gradients[0]) > 30
        largest = max(float(gradient.abs().max()) for gradient in gradients[0])
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(other, one, atol=1e-6 * largest, rtol=1e-4)


# width, multipliers, z, codes, attention: the published configurations; parameters without LPIPS and discriminator.
PUBLISHED = {
    "vqgan_imagenet_f16_1024": (128, (1, 1, 2, 2, 4), 1024, 16, (16,), 72_141_699),
    "vqgan_imagenet_f16_16384": (128, (1, 1, 2, 2, 4), 16384, 16, (16,), 76_073_859),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_at_full_size_every_tensor_has_the_published_name_and_shape(name):
    width, multipliers, codes, downsample, attention, count = PUBLISHED[name]
    options = {
        "image_size": 256, "codebook_size": codes, "codebook_dim": 256, "downsample": downsample, "width": width,
        "blocks": 2, "trunk": "vqgan", "channel_multipliers": multipliers, "attention_sizes": attention,
    }  # fmt: skip
    with torch.device("meta"):
        ours, theirs = VQ(**options, codebook="straight_through"), published(options)
    shapes = [
        {n.replace("quantize.", "codebook."): tuple(t.shape) for n, t in model.state_dict().items()}
        for model in (ours, theirs)
    ]
    assert shapes[0] == shapes[1]
    assert sum(p.numel() for p in ours.parameters()) == count
    assert ours.grid == (16, 16)


@pytest.mark.parametrize("codebook", ["ema", "straight_through", "gumbel"])
def test_it_conforms_with_every_codebook(codebook):
    torch.manual_seed(0)
    small = {**SMALL, "image_size": 16, "attention_sizes": (8,), "width": 8, "codebook_dim": 4, "norm_groups": 4}
    assert len(check_tokenizer(VQ(**small, codebook=codebook))) >= 16


@torch.no_grad()
@pytest.mark.parametrize(("downsample", "grid"), [(2, 16), (8, 4)])
def test_the_levels_follow_from_the_downsampling(downsample, grid):
    encoder, decoder = make_trunk("vqgan", image_size=32, channels=5, downsample=downsample, width=8, blocks=1)
    features = encoder(torch.rand(1, 3, 32, 32))
    assert features.shape == (1, 5, grid, grid)
    assert decoder(features).shape == (1, 3, 32, 32)
    assert len(encoder.down) == len(decoder.up) == {2: 2, 8: 4}[downsample]


@torch.no_grad()
def test_attention_is_where_it_was_asked_for():
    encoder, decoder = make_trunk(
        "vqgan", image_size=32, channels=5, downsample=4, width=8, blocks=2, attention_sizes=(16, 8)
    )
    assert [len(level.attn) for level in encoder.down] == [0, 2, 2]
    assert [len(level.attn) for level in decoder.up] == [0, 3, 3]


@pytest.mark.parametrize(
    ("channels", "groups", "expected"), [(128, 32, 32), (32, 32, 32), (48, 32, 24), (12, 32, 12), (24, 8, 8), (7, 4, 1)]
)
def test_groups_divide_the_channels(channels, groups, expected):
    norm = group_norm(channels, groups)
    assert (norm.num_groups, norm.eps) == (expected, 1e-6)
    assert norm(torch.randn(2, channels, 3, 3)).shape == (2, channels, 3, 3)


def test_features_in_channels_last_can_be_trained_on():
    """Backward through GroupNorm on such an input, without a gradient of its own, kills the process on torch 2.13."""
    torch.manual_seed(0)
    options = {"image_size": 16, "groups": 4}
    decoder, encoder = VqganDecoder(4, 8, (1, 2), 1, **options), VqganEncoder(4, 8, (1, 2), 1, **options)
    for trunk, given in ((decoder, torch.randn(2, 4, 8, 8)), (encoder, torch.randn(2, 3, 16, 16))):
        trunk.conv_in.requires_grad_(False)
        trunk(given.to(memory_format=torch.channels_last)).sum().backward()
        assert float(trunk.mid.block_1.conv1.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"channel_multipliers": (1, 2)}, r"downsample=4 wants 3 channel_multipliers, got \[1, 2\]"),
        ({"downsample": 3, "image_size": 33}, "downsample=3 is not a power of two"),
        ({"downsample": 64}, "downsample=64 does not divide image_size=32"),
        ({"adversarial_weight": 0.5, "discriminator_layers": 4}, "discriminator_layers=4 does not fit"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        VQ(**{**SMALL, **options})


def test_it_learns_eight_pictures():
    torch.manual_seed(0)
    model = VQ(**{**SMALL, "image_size": 16, "attention_sizes": (), "width": 8, "norm_groups": 2}).train()
    batch = small_batch(16, count=8)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    psnr = []
    for step in range(40):
        loss, logs = model.training_loss(batch, step)
        psnr.append(float(logs["psnr"]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert psnr[-1] > max(15.0, psnr[0] + 4)


def test_a_tokenizer_can_be_described_without_memory():
    """On the meta device nothing is allocated: what counts parameters builds there."""
    with torch.device("meta"):
        model = VQ(**SMALL, adversarial_weight=0.8)
    assert {tensor.device.type for tensor in model.state_dict().values()} == {"meta"}
    assert sum(p.numel() for p in model.discriminator.parameters()) == 2_765_633
