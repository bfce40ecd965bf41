"""The adversary: the published discriminator's numbers, the published loss's gradients, and no gradient across."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from mmgen.models.discriminator import Discriminator, adaptive_weight
from mmgen.models.perceptual import Perceptual, tensor_name
from mmgen.models.vq import VQ
from mmgen.testing import check_tokenizer
from mmgen.testing.stand_ins import small_batch
from tests.models import taming_modules as taming

SMALL = {"image_size": 32, "codebook_size": 20, "width": 8, "blocks": 1, "discriminator_width": 8}


def copied(discriminator: Discriminator, theirs: torch.nn.Module) -> None:
    missing = theirs.load_state_dict(discriminator.state_dict(), strict=False).missing_keys
    assert {name.rpartition(".")[2] for name in missing} == {"running_mean", "running_var", "num_batches_tracked"}


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_it_is_the_published_discriminator(layers):
    torch.manual_seed(0)
    ours = Discriminator(32, width=8, layers=layers)
    theirs = taming.module("modules.discriminator.model").NLayerDiscriminator(3, 8, layers).train()
    copied(ours, theirs)
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(ours(images), theirs(images), atol=1e-6, rtol=1e-5)
    assert torch.equal(ours(images), ours.eval()(images))


def test_its_weights_start_as_the_published_ones():
    torch.manual_seed(0)
    parameters = Discriminator(32).state_dict()
    assert float(parameters["main.5.weight"].std()) == pytest.approx(0.02, rel=0.02)
    assert float(parameters["main.6.weight"].mean()) == pytest.approx(1, abs=0.01)


@pytest.fixture
def model() -> VQ:
    torch.manual_seed(0)
    model = VQ(**SMALL, trunk="vqgan", norm_groups=4, codebook="straight_through", adversarial_weight=0.8)
    return model.train()


def test_the_loss_and_both_gradients_are_those_of_the_published_code(tmp_path):
    """Their two passes, one for each optimizer, against our one: pixels, LPIPS, adaptive weight, hinge."""
    torch.manual_seed(0)
    lpips = Perceptual()
    for head in lpips.heads:
        head.weight.data.uniform_(0, 1)
    weights = {tensor_name(name): tensor.clone() for name, tensor in lpips.state_dict().items()}
    save_file(weights, tmp_path / "lpips.safetensors")
    model = VQ(
        **SMALL, trunk="vqgan", norm_groups=4, codebook="straight_through", pixel_loss="absolute",
        perceptual_weight=0.7, perceptual_file=str(tmp_path / "lpips.safetensors"), adversarial_weight=0.8,
    ).train()  # fmt: skip
    losses = taming.module("modules.losses.vqperceptual")
    theirs = losses.VQLPIPSWithDiscriminator(0, perceptual_weight=0.7, disc_weight=0.8, disc_ndf=8).train()
    copied(model.discriminator, theirs.discriminator)
    slices = {f"net.{n}": weights[f"features.{n.partition('.')[2]}"] for n in theirs.perceptual_loss.net.state_dict()}
    theirs.perceptual_loss.load_state_dict({**slices, **weights}, strict=False)
    theirs.perceptual_loss.eval()
    batch = small_batch(32)
    images = batch["image"] * 2 - 1
    passed, _, codebook_loss, _ = model.codebook(model.features(batch["image"]), 0)
    made = model.decoder(model.post_quant_conv(passed))
    tokenizer = {n: p for n, p in model.named_parameters() if not n.startswith("discriminator.")}
    total, logs = theirs(codebook_loss, images, made, 0, 5, last_layer=model.decoder.last_layer)
    expected = torch.autograd.grad(total, list(tokenizer.values()), retain_graph=True)
    own, own_logs = theirs(codebook_loss, images, made, 1, 5)
    on_discriminator = torch.autograd.grad(own, list(theirs.discriminator.parameters()))

    loss, ours = model.training_loss(batch, 5)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float((total + own).detach()), rel=1e-5)
    assert float(ours["adversarial_weight"]) == pytest.approx(float(logs["train/d_weight"]), rel=1e-3)
    assert float(ours["discriminator_loss"]) == pytest.approx(float(own_logs["train/disc_loss"]), rel=1e-5)
    largest = max(float(gradient.abs().max()) for gradient in expected)
    for (name, parameter), gradient in zip(tokenizer.items(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-4 * largest, rtol=1e-3, msg=name)
    for parameter, gradient in zip(model.discriminator.parameters(), on_discriminator, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-4)


def test_neither_side_s_loss_reaches_the_other_side_s_weights(model):
    """The one loss's gradient on each side is that of its own loss alone, by separate calls of autograd."""
    batch = small_batch(32)
    images = batch["image"] * 2 - 1
    passed, _, codebook_loss, _ = model.codebook(model.features(batch["image"]), 0)
    made = model.decoder(model.post_quant_conv(passed))
    error = (made - images).square().mean()
    verdict = -model.discriminator(made).mean()
    weight = 0.8 * adaptive_weight(error, verdict, model.decoder.conv_out.weight)
    of_real, of_made = model.discriminator(images), model.discriminator(made.detach())
    hinge = ((1 - of_real).clamp_min(0).mean() + (1 + of_made).clamp_min(0).mean()) / 2
    sides = {
        name: [p for n, p in model.named_parameters() if n.startswith("discriminator.") == (name == "discriminator")]
        for name in ("tokenizer", "discriminator")
    }
    wanted = {
        "tokenizer": torch.autograd.grad(
            error + codebook_loss + weight * verdict, sides["tokenizer"], retain_graph=True
        ),
        "discriminator": torch.autograd.grad(hinge, sides["discriminator"], retain_graph=True),
    }
    across = torch.autograd.grad(weight * verdict, sides["discriminator"])
    assert max(float(gradient.abs().max()) for gradient in across) > 1e-3, "there is something to keep out"
    model.training_loss(batch, 0)[0].backward()
    for name, parameters in sides.items():
        for parameter, gradient in zip(parameters, wanted[name], strict=True):
            torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)


def test_before_its_start_it_waits_with_gradients_of_zero():
    """None of its weights is left out of the step, as DDP demands, and none moves."""
    torch.manual_seed(0)
    model = VQ(**SMALL, adversarial_weight=0.8, adversarial_start=4).train()
    torch.manual_seed(0)
    without = VQ(**SMALL).train()
    batch = small_batch(32)
    losses = []
    for one in (model, without):
        torch.manual_seed(1)
        losses.append(one.training_loss(batch, 3)[0])
    assert torch.equal(*losses)
    losses[0].backward()
    assert all(not bool(p.grad.any()) for p in model.discriminator.parameters())
    _, logs = model.training_loss(batch, 4)
    assert "discriminator_loss" in logs


def test_a_real_picture_is_told_from_a_made_one_after_some_steps():
    torch.manual_seed(0)
    discriminator = Discriminator(16, width=8, layers=2)
    optimizer = torch.optim.Adam(discriminator.parameters(), lr=2e-3, betas=(0.5, 0.9))
    real = small_batch(16, count=8)["image"] * 2 - 1
    made = real.roll(1, 3) * 0.8 + 0.1 * torch.randn_like(real)
    for _ in range(25):
        optimizer.zero_grad()
        loss, logs = discriminator.tell_apart(real, made)
        loss.backward()
        optimizer.step()
    assert float(logs["logits_real"]) > 0.5 > -0.5 > float(logs["logits_made"])


@pytest.mark.parametrize("trunk", ["patches", "vqgan"])
def test_a_tokenizer_with_an_adversary_conforms(trunk):
    torch.manual_seed(0)
    options = {**SMALL, "image_size": 16, "discriminator_layers": 2, "trunk": trunk, "norm_groups": 4}
    assert len(check_tokenizer(VQ(**options, adversarial_weight=0.5))) >= 16
