"""The contrastive losses against open_clip's, in chunks, and over several processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from mmgen.models.clip import Clip
from mmgen.models.contrast import _cross_entropy, sigmoid_loss, softmax_loss
from mmgen.testing.stand_ins import small_batch, small_text_tokenizer
from tests.models.contrast_worker import batch_of, loss_of
from tests.models.open_clip_models import open_clip

WORKER = Path(__file__).with_name("contrast_worker.py")


def features(count: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(3)
    return tuple(F.normalize(torch.randn(count, 8, generator=source), dim=-1) for _ in range(2))  # type: ignore[return-value]


def test_the_softmax_loss_is_open_clip_s():
    images, texts = features()
    loss, right = softmax_loss(images, texts, torch.tensor(20.0))
    expected = open_clip().ClipLoss()(images, texts, torch.tensor(20.0))
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    assert float(right) == pytest.approx(float(((images @ texts.T).argmax(1) == torch.arange(6)).float().mean()))


def test_the_sigmoid_loss_is_open_clip_s():
    images, texts = features()
    scale, bias = torch.tensor(10.0), torch.tensor(-10.0)
    loss, _ = sigmoid_loss(images, texts, scale, bias)
    expected = open_clip().loss.SigLipLoss()(images, texts, scale, bias)
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    assert float(loss) != pytest.approx(float(sigmoid_loss(images, texts.flip(0), scale, bias)[0]), rel=1e-3)


@pytest.mark.parametrize("robustness", [0.3, 0.7, 1.0])
def test_a_robust_loss_weighs_a_pair_by_a_power_of_its_probability(robustness):
    """The gradient of (1 - p^q)/q is p^q times cross-entropy's (arXiv 1805.07836, section 3.2)."""
    logits = torch.randn(6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64, requires_grad=True)
    truth = torch.arange(6)
    (found,) = torch.autograd.grad(_cross_entropy(logits, truth, robustness), logits)
    (plain,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, truth, reduction="sum"), logits)
    weights = logits.detach().softmax(1).diagonal() ** robustness
    torch.testing.assert_close(found, weights[:, None] * plain / 6)


def test_a_robust_loss_is_the_softmax_loss_in_training_alone():
    model = Clip(text_tokenizer=small_text_tokenizer(), image_size=16, width=32, image_layers=1, robustness=0.7)
    batch = small_batch(16)
    losses = {}
    for mode in (True, False):
        losses[mode] = model.train(mode).training_loss(batch, 0)[0].item()
    plain = Clip(text_tokenizer=small_text_tokenizer(), image_size=16, width=32, image_layers=1).eval()
    plain.load_state_dict(model.state_dict())
    assert losses[False] == pytest.approx(plain.training_loss(batch, 0)[0].item())
    assert losses[True] < losses[False]  # (1 - p^q)/q is less than -log p for every p below 1


@pytest.mark.parametrize("options", [{"robustness": 1.5}, {"robustness": -0.1}, {"robustness": 0.5, "loss": "sigmoid"}])
def test_robustness_out_of_place_is_refused(options):
    with pytest.raises(ValueError, match="robustness"):
        Clip(text_tokenizer=small_text_tokenizer(), image_size=16, **options)


def test_wrong_pictures_are_more_to_choose_from_for_captions_alone():
    images, texts = features()
    wrong, counts = features(3)[0].flip(1), torch.tensor([True, False, True])
    loss, right = softmax_loss(images, texts, torch.tensor(20.0), wrong_images=(wrong, counts))
    truth = torch.arange(6)
    by_text = 20 * texts @ torch.cat([images, wrong[counts]]).T
    expected = (F.cross_entropy(20 * images @ texts.T, truth) + F.cross_entropy(by_text, truth)) / 2
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    assert float(right) == float(softmax_loss(images, texts, torch.tensor(20.0))[1])
    none = softmax_loss(images, texts, torch.tensor(20.0), wrong_images=(wrong, torch.zeros(3, dtype=torch.bool)))[0]
    assert float(none) == pytest.approx(float(softmax_loss(images, texts, torch.tensor(20.0))[0]), rel=1e-6)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "damaged"])
@pytest.mark.parametrize("world", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_many_processes_have_the_gradients_of_one_large_batch(kind, world, tmp_path):
    images, texts, weights = batch_of(0, 1)
    expected = loss_of(kind, images, texts, weights)
    expected.backward()
    command = [sys.executable, str(WORKER)]
    workers = [
        subprocess.Popen([*command, str(rank), str(world), str(tmp_path / "meet"), kind, str(tmp_path / "out")])
        for rank in range(world)
    ]
    assert [worker.wait(timeout=120) for worker in workers] == [0] * world
    found = torch.load(tmp_path / "out", weights_only=True)
    assert float(found["loss"]) == pytest.approx(float(expected.detach()), rel=1e-6)
    for name, parameter in weights.items():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert (found[name] - gradient).abs().max() < 1e-6, name
        assert name == "bias" or gradient.abs().max() > 1e-4, "there is something to compare"


@pytest.mark.parametrize("chunk_size", [1, 3, 5])
@pytest.mark.parametrize("kind", ["softmax", "sigmoid", "damaged"])
def test_a_batch_in_chunks_has_the_gradients_of_the_whole(kind, chunk_size):
    gradients = []
    for size in (None, chunk_size):
        torch.manual_seed(0)
        options: dict[str, Any] = {"image_size": 16, "width": 32, "embed_dim": 12, "image_layers": 2, "text_layers": 2}
        options |= {"damaged": 1.0} if kind == "damaged" else {"loss": kind}
        model = Clip(text_tokenizer=small_text_tokenizer(), chunk_size=size, **options).train().double()
        batch = small_batch(16, count=7)
        loss, _ = model.training_loss({**batch, "image": batch["image"].double()}, 0)
        loss.backward()
        gradients.append({"": loss.detach(), **{name: p.grad for name, p in model.named_parameters()}})
    for name, gradient in gradients[0].items():
        assert gradient is not None
        assert (gradients[1][name] - gradient).abs().max() < 1e-6, name


def test_chunks_hold_less_in_memory():
    """What autograd keeps between the passes, counted: one chunk's inputs, not every block's activations."""
    kept = []
    for size in (None, 2):
        torch.manual_seed(0)
        model = Clip(text_tokenizer=small_text_tokenizer(), image_size=32, width=32, chunk_size=size).train()
        total = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model.training_loss(small_batch(32, count=8), 0)
        kept.append(total)
    assert kept[1] < kept[0] / 4


def test_chunks_and_a_residual_network_are_refused():
    with pytest.raises(ValueError, match="chunk_size=4 with image_tower=resnet"):
        Clip(text_tokenizer=small_text_tokenizer(), image_size=32, image_tower="resnet", num_heads=8, chunk_size=4)
