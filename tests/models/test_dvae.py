"""The discrete VAE: its schedules, its relaxation, and its KL against torch.distributions."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Categorical, kl_divergence
from torch.nn import functional as F

from mmgen.models.dvae import Dvae, cosine
from mmgen.testing import check_tokenizer
from mmgen.testing.stand_ins import small_batch
from tests.models.reference import roughen

CODES = 24


def make(**options) -> Dvae:
    torch.manual_seed(0)
    options = {"image_size": 16, "codebook_size": CODES, "codebook_dim": 12, "width": 8, "blocks": 1, **options}
    return Dvae(**options)


@pytest.fixture
def batch():
    return small_batch(16, count=6)


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 1.0), (25, 0.25 + 0.75 * (2 + 2**0.5) / 4), (50, 0.625), (100, 0.25), (1000, 0.25)],
)
def test_the_cosine_at_its_start_quarter_middle_end_and_after(step, expected):
    assert cosine(1.0, 0.25, step, 100) == pytest.approx(expected)


def test_a_cosine_of_no_steps_is_at_its_end():
    assert cosine(1.0, 0.25, 0, 0) == 0.25


@torch.no_grad()
def test_the_loss_follows_both_schedules(batch):
    model = make(tau_start=2.0, tau_end=0.5, tau_steps=100, kl_weight=0.3, kl_steps=40).train()
    at = {step: model.training_loss(batch, step)[1] for step in (0, 20, 40, 50, 100, 999)}
    assert [at[step]["tau"] for step in (0, 50, 100, 999)] == pytest.approx([2.0, 1.25, 0.5, 0.5])
    assert [at[step]["kl_weight"] for step in (0, 20, 40, 999)] == pytest.approx([0.0, 0.15, 0.3, 0.3])


@torch.no_grad()
def test_the_defaults_are_the_paper_s_temperatures():
    """Appendix A.2: tau falls from 1 to 1/16."""
    model = make()
    assert (model.tau_start, model.tau_end) == (1, 1 / 16)


def relaxed(model: Dvae, batch, seed: int, step: int = 0) -> torch.Tensor:
    """The codes (B,D,h,w) that the decoder gets."""
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
    return F.embedding((logits + noise).argmax(1), model.codebook).permute(0, 3, 1, 2)


@torch.no_grad()
def test_a_low_temperature_makes_the_soft_choice_hard(batch):
    model = make(tau_start=3.0, tau_end=1e-7, tau_steps=10).train()
    roughen(model, scale=0.2)
    chosen = hard(model, batch, seed=3)
    torch.testing.assert_close(relaxed(model, batch, seed=3, step=10), chosen, atol=1e-3, rtol=1e-3)
    assert (relaxed(model, batch, seed=3, step=0) - chosen).abs().mean() > 0.1
    assert not torch.equal(chosen, hard(model, batch, seed=4))


@torch.no_grad()
def test_nothing_is_random_in_eval_mode(batch):
    model = make().eval()
    roughen(model, scale=0.2)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = model.training_loss(batch, 0)[0]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(model.training_loss(batch, 500)[1]["reconstruction"], model.training_loss(batch, 0)[0])
    assert torch.equal(model.training_loss(batch, 0)[0], first)
    # And it is what `decode(encode())` gives, as far as that is not clamped.
    assert torch.equal(
        relaxed(model, batch, 0), F.embedding(model.encode(batch["image"]), model.codebook).permute(0, 3, 1, 2)
    )


@torch.no_grad()
def test_the_kl_is_that_of_torch_distributions(batch):
    model = make(kl_weight=0.5, kl_steps=0).eval()
    roughen(model, scale=0.3)
    logits = model.logits(batch["image"]).permute(0, 2, 3, 1)
    expected = kl_divergence(Categorical(logits=logits), Categorical(logits=torch.zeros(CODES))).mean()
    loss, logs = model.training_loss(batch, 0)
    assert 0.01 < float(expected) < math.log(CODES)
    assert float(logs["kl"]) == pytest.approx(float(expected), rel=1e-4)
    assert float(loss) == pytest.approx(float(logs["reconstruction"]) + 0.5 * float(expected), rel=1e-4)


def test_every_weight_gets_a_gradient(batch):
    model = make().train()
    roughen(model, scale=0.1)
    model.training_loss(batch, 300)[0].backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


def test_it_learns_eight_pictures():
    model = make(codebook_size=32, codebook_dim=48, tau_steps=60, kl_weight=0.0).train()
    batch = small_batch(16, count=8)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)  # at 1e-2 a collapse now and then, by the last bits
    for step in range(150):
        loss, _ = model.training_loss(batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images = batch["image"]
    chance = -10 * (images - images.mean(0)).square().mean((1, 2, 3)).log10().mean()  # their mean, for each of them
    with torch.no_grad():
        assert float(model.eval().training_loss(batch, 150)[1]["psnr"]) > float(chance) + 8


def test_it_conforms():
    assert len(check_tokenizer(make())) >= 3


@torch.no_grad()
def test_its_weights_travel_in_a_state_dict(batch):
    one, other = make().eval(), make().eval()
    roughen(other, seed=5)
    assert not torch.equal(one.encode(batch["image"]), other.encode(batch["image"]))
    other.load_state_dict(one.state_dict())
    indices = one.encode(batch["image"])
    assert torch.equal(indices, other.encode(batch["image"]))
    assert torch.equal(one.decode(indices), other.decode(indices))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"downsample": 3}, "downsample=3"),
        ({"downsample": 1}, "downsample=1 is not a power of two of at least 2"),
        ({"downsample": 6, "image_size": 24}, "downsample=6 is not a power of two"),
        ({"downsample": 32}, "downsample=32 does not divide image_size=16"),
        ({"tau_end": 0.0}, "tau must stay above 0"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        make(**options)
