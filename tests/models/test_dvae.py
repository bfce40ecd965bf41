"""The discrete VAE against the published module, torch's distributions and the paper's numbers; what it learns."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn
from torch.distributions import (
    Categorical,
    Laplace,
    Normal,
    SigmoidTransform,
    TransformedDistribution,
    kl_divergence,
)
from torch.nn import functional as F

from mmgen.models.dvae import Dvae, cosine, logit_laplace, map_pixels, unmap_pixels
from mmgen.testing import check_tokenizer
from mmgen.testing.stand_ins import small_batch
from tests.models.reference import roughen

CODES = 24
PAPER = {"codebook_size": 8192, "width": 256, "num_groups": 4, "decoder_width": 128}
AS_PUBLISHED = {
    "start": "paper",
    "residual_scale": None,
    "likelihood": "logit_laplace",
    "balance_weight": 0.0,
}


def make(**options) -> Dvae:
    torch.manual_seed(0)
    options = {
        "image_size": 16,
        "codebook_size": CODES,
        "decoder_width": 12,
        "width": 8,
        "blocks_per_group": 1,
    } | options
    return Dvae(**options)


@pytest.fixture
def batch():
    return small_batch(16, count=6)


# ---- the architecture


def test_the_paper_s_sizes():
    with torch.device("meta"):
        model = Dvae(image_size=256, **PAPER, **AS_PUBLISHED)
        sides = [list(side.parameters()) for side in (model.encoder, model.decoder)]
        assert [sum(p.numel() for p in side) for side in sides] == [53_786_240, 43_829_766]
        assert [len(side) for side in sides] == [74, 76]
        assert model.encode(torch.zeros(1, 3, 256, 256)).shape == (1, *model.grid) == (1, 32, 32)
        assert model.encoder.blocks.group_4.block_2.scale == model.decoder.blocks.group_1.block_1.scale == 1 / 64


def published(groups: int = 4) -> tuple[nn.Module, nn.Module, Dvae]:
    """The published encoder and decoder with random weights, and ours with the same."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from dall_e import Decoder, Encoder
    torch.manual_seed(0)
    options = {"n_hid": 64, "vocab_size": 512, "n_blk_per_group": 2}
    encoder, decoder = Encoder(**options), Decoder(**options, n_init=24)
    ours = Dvae(image_size=32, codebook_size=512, width=64, num_groups=groups, decoder_width=24, **AS_PUBLISHED)
    for mine, theirs in ((ours.encoder, encoder), (ours.decoder, decoder)):
        with torch.no_grad():
            for name, parameter in theirs.named_parameters():
                if "res_path" in name and name.endswith("w"):
                    parameter.mul_(2.5)  # or the factor 1/64 would hide a wrong branch
                elif name.endswith("b"):
                    parameter.normal_(std=0.02)
            if theirs is encoder:  # grey is zero: else every picture gets the same few codes
                encoder.blocks.input.b.copy_(-0.5 * encoder.blocks.input.w.sum((1, 2, 3)))
            else:
                decoder.blocks.input.w.mul_(20)
        names = {".w": ".weight", ".b": ".bias"}
        mine.load_state_dict({name[:-2] + names[name[-2:]]: value for name, value in theirs.state_dict().items()})
    return encoder, decoder, ours


@torch.no_grad()
def test_the_published_module_gives_equal_codes_and_reconstructions():
    from dall_e import map_pixels as their_map
    from dall_e import unmap_pixels as their_unmap

    encoder, decoder, ours = published()
    images = torch.cat([F.interpolate(torch.rand(6, 3, 4, 4), scale_factor=8), torch.rand(2, 3, 32, 32)])
    logits = encoder(their_map(images))
    indices = logits.argmax(1)
    assert len(indices.unique()) > 10, "else equal codes would say little"
    torch.testing.assert_close(ours.logits(images), logits, atol=1e-4, rtol=1e-5)
    assert torch.equal(ours.encode(images), indices)
    one_hot = F.one_hot(indices, 512).permute(0, 3, 1, 2).float()
    reconstructions = their_unmap(torch.sigmoid(decoder(one_hot)[:, :3]))
    assert float((reconstructions[1:] - reconstructions[:-1]).abs().max()) > 0.05
    torch.testing.assert_close(ours.decode(indices), reconstructions, atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.decode_features(ours.quantize(images)[0]), reconstructions, atol=1e-6, rtol=0)


@torch.no_grad()
def test_weights_start_as_published():
    """N(0, 1/sqrt(n_in·k²)) and zero biases; `spread` changes three tensors."""
    paper, spread = make(width=32, **AS_PUBLISHED), make(width=32)
    for name, parameter in paper.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        elif parameter.numel() > 500:
            assert float(parameter.std()) == pytest.approx(parameter[0].numel() ** -0.5, rel=0.15), name
    other = dict(spread.named_parameters())
    changed = {n for n, p in paper.named_parameters() if p.shape != other[n].shape or not torch.equal(p, other[n])}
    changed -= {"decoder.blocks.input.weight"}
    assert changed == {"encoder.blocks.input.bias", "encoder.blocks.output.conv.weight"}
    assert float(spread.decoder.blocks.input.weight.std()) == pytest.approx(1, rel=0.1)
    grey = spread.encoder.blocks.input(map_pixels(torch.full((1, 3, 16, 16), 0.5)))
    assert float(grey[..., 3:-3, 3:-3].abs().max()) < 1e-5
    images = small_batch(16, count=12)["image"]
    assert len(spread.encode(images).unique()) > len(paper.encode(images).unique())


# ---- the loss


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 1.0), (25, 0.25 + 0.75 * (2 + 2**0.5) / 4), (50, 0.625), (100, 0.25), (1000, 0.25)],
)
def test_the_cosine_at_its_start_quarter_middle_end_and_after(step, expected):
    assert cosine(1.0, 0.25, step, 100) == pytest.approx(expected)


def test_a_cosine_of_no_steps_is_at_its_end():
    assert cosine(1.0, 0.25, 0, 0) == 0.25


def test_the_pixel_map():
    values = torch.tensor([0.0, 0.25, 1.0])
    assert map_pixels(values).tolist() == pytest.approx([0.1, 0.3, 0.9])
    torch.testing.assert_close(unmap_pixels(map_pixels(values)), values)
    assert unmap_pixels(torch.tensor([0.0, 1.0])).tolist() == [0, 1]


def test_the_likelihood_is_that_of_torch_distributions():
    """Logit-Laplace is the sigmoid of a Laplace; and it is a density: it integrates to one."""
    torch.manual_seed(0)
    values, mean, log_scale = 0.05 + 0.9 * torch.rand(5, 7), torch.randn(5, 7), torch.randn(5, 7)
    expected = TransformedDistribution(Laplace(mean, log_scale.exp()), [SigmoidTransform()]).log_prob(values)
    torch.testing.assert_close(logit_laplace(values, mean, log_scale), expected, atol=1e-5, rtol=1e-5)
    line = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    density = logit_laplace(line, torch.tensor(0.7, dtype=torch.float64), torch.tensor(-0.5, dtype=torch.float64)).exp()
    assert float(density.mean()) == pytest.approx(1, abs=1e-4)


@torch.no_grad()
def test_the_loss_is_the_evidence_bound_over_the_values(batch):
    """-E[log p] - with β before the KL's sum over positions - by torch.distributions, over 3·H·W."""
    model = make(kl_weight=6.6, kl_steps=0, **AS_PUBLISHED).eval()
    roughen(model, scale=0.2)
    images = batch["image"]
    logits = model.logits(images).permute(0, 2, 3, 1)
    kl = kl_divergence(Categorical(logits=logits), Categorical(logits=torch.zeros(CODES)))
    mean, log_scale = model.decoder(model.quantize(images)[0])
    pixels = TransformedDistribution(Laplace(mean, log_scale.exp()), [SigmoidTransform()]).log_prob(map_pixels(images))
    expected = (-pixels.sum((1, 2, 3)) + 6.6 * kl.sum((1, 2))).mean() / (3 * 16 * 16)
    loss, logs = model.training_loss(batch, 0)
    assert 0.01 < float(logs["kl"]) < math.log(CODES)
    assert float(loss) == pytest.approx(float(expected), rel=1e-4)
    assert float(logs["kl"]) == pytest.approx(float(kl.mean()), rel=1e-4)
    assert float(logs["psnr"]) == pytest.approx(
        float(-10 * (model.decode(model.encode(images)) - images).square().mean((1, 2, 3)).log10().mean()), rel=1e-4
    )


def test_the_kl_s_share_is_the_paper_s():
    """β/192 for 32×32 positions of 256×256 pixels: 4·4/(3·16·16) = 1/48 here, where a code stands for 16 pixels."""
    batch = small_batch(16, count=2)
    losses = [make(num_groups=g, kl_weight=48.0, kl_steps=0, **AS_PUBLISHED).eval() for g in (3, 4)]
    for model, share in zip(losses, (1 / 48, 1 / 192), strict=True):
        with torch.no_grad():
            loss, logs = model.training_loss(batch, 0)
        assert float(loss - logs["reconstruction"]) == pytest.approx(48 * share * float(logs["kl"]), rel=1e-3)


@torch.no_grad()
def test_the_normal_likelihood_is_that_of_torch_distributions(batch):
    model = make(balance_weight=0.0).eval()
    mean, _ = model.decoder(model.quantize(batch["image"])[0])
    expected = -Normal(torch.sigmoid(mean), 0.1).log_prob(map_pixels(batch["image"])).mean()
    assert float(model.training_loss(batch, 0)[0]) == pytest.approx(float(expected), rel=1e-5)


@torch.no_grad()
def test_the_balance_is_the_divergence_of_the_mean_choice(batch):
    model, without = make(balance_weight=2.0).eval(), make(balance_weight=0.0).eval()
    probs = model.logits(batch["image"]).softmax(1).mean((0, 2, 3))
    expected = kl_divergence(Categorical(probs), Categorical(logits=torch.zeros(CODES)))
    (loss, logs), (less, _) = model.training_loss(batch, 0), without.training_loss(batch, 0)
    assert float(expected) > 0.01
    assert float(logs["balance"]) == pytest.approx(float(expected), rel=1e-3)
    assert float(loss - less) == pytest.approx(2 / 48 * float(expected), rel=1e-2)


@torch.no_grad()
def test_the_loss_follows_both_schedules(batch):
    model = make(tau_start=2.0, tau_end=0.5, tau_steps=100, kl_weight=0.3, kl_steps=40).train()
    at = {step: model.training_loss(batch, step)[1] for step in (0, 20, 40, 50, 100, 999)}
    assert [at[step]["tau"] for step in (0, 50, 100, 999)] == pytest.approx([2.0, 1.25, 0.5, 0.5])
    assert [at[step]["kl_weight"] for step in (0, 20, 40, 999)] == pytest.approx([0.0, 0.15, 0.3, 0.3])


# ---- the relaxation


def fed(model: Dvae, batch, seed: int, step: int = 0) -> torch.Tensor:
    """The features (B,D,h,w) that the decoder gets in a training step."""
    seen = []
    hook = model.decoder.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    torch.manual_seed(seed)
    model.training_loss(batch, step)
    hook.remove()
    return seen[0]


def hard(model: Dvae, batch, seed: int) -> torch.Tensor:
    """The codes that the same noise picks: the arg max of logits plus Gumbel noise (Jang et al. 2016, eq. 1)."""
    logits = model.logits(batch["image"])
    torch.manual_seed(seed)
    noise = -torch.empty_like(logits).exponential_().log()
    one_hot = F.one_hot((logits + noise).argmax(1), CODES).permute(0, 3, 1, 2).float()
    return model.decoder.blocks.input(one_hot)


@torch.no_grad()
def test_a_low_temperature_makes_the_soft_choice_hard(batch):
    model = make(tau_start=3.0, tau_end=1e-7, tau_steps=10).train()
    roughen(model, scale=0.2)
    chosen = hard(model, batch, seed=3)
    torch.testing.assert_close(fed(model, batch, seed=3, step=10), chosen, atol=1e-3, rtol=1e-3)
    assert (fed(model, batch, seed=3, step=0) - chosen).abs().mean() > 0.1
    assert not torch.equal(chosen, hard(model, batch, seed=4))


@torch.no_grad()
def test_nothing_is_random_in_eval_mode(batch):
    model = make().eval()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = model.training_loss(batch, 0)[0]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(model.training_loss(batch, 0)[0], first)
    assert torch.equal(fed(model, batch, 0), model.quantize(batch["image"])[0])


def test_logits_and_likelihood_stay_in_fp32_under_autocast(batch):
    model = make().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.encoder.blocks.input(batch["image"]).dtype == torch.bfloat16
        assert model.logits(batch["image"]).dtype == torch.float32
        assert fed(model, batch, 0).dtype == torch.float32
        loss, _ = model.training_loss(batch, 0)
    assert loss.dtype == torch.float32
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


# ---- learning


def test_every_weight_gets_a_gradient(batch):
    model = make(kl_weight=0.1, kl_steps=0).train()
    roughen(model, scale=0.1)
    model.training_loss(batch, 300)[0].backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_it_learns_eight_pictures_with_many_codes():
    """As the paper has it, with a scale that is learned and a start that is not spread, it ends with two codes."""
    model = make(codebook_size=64, width=16, decoder_width=16, tau_steps=60).train()
    batch = small_batch(16, count=8)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(80):
        loss, _ = model.training_loss(batch, step)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    images = batch["image"]
    chance = -10 * (images - images.mean(0)).square().mean((1, 2, 3)).log10().mean()  # their mean, for each of them
    with torch.no_grad():
        logs = model.eval().training_loss(batch, 100)[1]
    assert float(logs["psnr"]) > float(chance) + 6
    assert float(logs["codebook_perplexity"]) > 9


def test_it_conforms():
    assert len(check_tokenizer(make())) == 24
    assert len(check_tokenizer(make(**AS_PUBLISHED))) == 24


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_groups": 6}, "num_groups=6 makes 32 pixels a side into one code, which does not divide image_size=16"),
        ({"num_groups": 4, "image_size": 12}, "does not divide image_size=12"),
        ({"num_groups": 0}, "num_groups=0"),
        ({"width": 10}, "width=10 is no multiple of 4"),
        ({"tau_end": 0.0}, "tau must stay above 0"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        make(**options)
