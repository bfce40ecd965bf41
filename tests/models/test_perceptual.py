"""LPIPS against the copy of it that VQGAN's published code carries, and what is said where its weights are missing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mmgen import registry
from mmgen.errors import ConfigError
from mmgen.models.perceptual import Perceptual, load_perceptual, tensor_name
from mmgen.models.vq import VQ
from mmgen.testing.stand_ins import small_batch
from tests.models import taming_modules as taming


def tensors() -> dict[str, torch.Tensor]:
    """Random weights under the names that the file has; those of the heads are not negative, as LPIPS's are."""
    torch.manual_seed(0)
    network = Perceptual()
    for head in network.heads:
        head.weight.data.uniform_(0, 1)
    return {tensor_name(name): tensor.clone() for name, tensor in network.state_dict().items()}


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("lpips") / "lpips_vgg16.safetensors"
    save_file(tensors(), path)
    return path


def test_distances_and_gradients_are_the_published_code_s(weights):
    theirs = taming.module("modules.losses.lpips").LPIPS().eval()
    given = tensors()
    slices = {f"net.{name}": given[f"features.{name.partition('.')[2]}"] for name in theirs.net.state_dict()}
    heads = {name: tensor for name, tensor in given.items() if name.startswith("lin")}
    missing = theirs.load_state_dict({**slices, **heads}, strict=False).missing_keys
    assert missing == ["scaling_layer.shift", "scaling_layer.scale"]
    ours = load_perceptual(str(weights), torch.device("cpu"))
    source = torch.Generator().manual_seed(1)
    images, others = (torch.rand(2, 3, 16, 16, generator=source) * 2 - 1 for _ in range(2))
    results = []
    for network in (theirs, ours):
        other = others.clone().requires_grad_(True)
        distances = network(images, other).flatten()
        results.append((distances, *torch.autograd.grad(distances.sum(), other)))
    torch.testing.assert_close(results[1][0], results[0][0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(results[1][1], results[0][1], atol=1e-7, rtol=1e-3)
    assert float(results[0][0].detach().min()) > 0.1
    assert float(results[0][1].abs().max()) > 1e-5


def test_the_names_are_torchvision_s_and_lpips_s():
    found = tensors()
    assert {"features.0.weight", "features.28.bias", "lin0.model.1.weight", "lin4.model.1.weight"} <= set(found)
    assert len(found) == 13 * 2 + 5
    assert sum(tensor.numel() for name, tensor in found.items() if name.startswith("features.")) == 14_714_688


def test_equal_pictures_are_no_distance_apart_and_their_gradient_is_finite(weights):
    images = torch.zeros(1, 3, 16, 16, requires_grad=True)
    distance = load_perceptual(str(weights), torch.device("cpu"))(images, images.detach())
    (gradient,) = torch.autograd.grad(distance.sum(), images)
    assert float(distance.detach()) == 0
    assert gradient.isfinite().all()


def test_it_counts_from_its_first_step_on_and_stays_out_of_the_weights(weights):
    torch.manual_seed(0)
    options = {"image_size": 16, "codebook_size": 20, "width": 8, "blocks": 1}
    model = VQ(**options, perceptual_weight=0.5, perceptual_file=str(weights), perceptual_start=3).eval()
    batch = small_batch(16)
    with torch.no_grad():
        before, _ = model.training_loss(batch, 2)
        after, logs = model.training_loss(batch, 3)
    assert float(after) == pytest.approx(float(before) + 0.5 * float(logs["perceptual_loss"]), rel=1e-5)
    assert float(logs["perceptual_loss"]) > 0
    torch.manual_seed(0)
    assert model.state_dict().keys() == VQ(**options).state_dict().keys()


def test_without_a_file_it_is_refused_with_a_remedy():
    config = {"name": "vq", "perceptual_weight": 1.0}
    with pytest.raises(ConfigError, match="needs the weights of LPIPS") as caught:
        registry.build("tokenizer", config, image_size=32)
    assert (caught.value.code, caught.value.exit_code) == ("MMG-C24", 2)
    assert "tokenizer.perceptual_weight=0" in caught.value.fix


@pytest.mark.parametrize("broken", ["absent", "garbage", "lacking", "misshapen"])
def test_a_file_that_does_not_fit_is_named_at_the_first_step(broken, tmp_path):
    path = tmp_path / "weights.safetensors"
    content = tensors()
    if broken == "lacking":
        del content["lin2.model.1.weight"]
    if broken == "misshapen":
        content["features.5.weight"] = torch.zeros(3, 3)
    if broken == "garbage":
        path.write_bytes(b"no safetensors")
    elif broken != "absent":
        save_file(content, path)
    model = VQ(image_size=16, width=8, blocks=1, perceptual_weight=1.0, perceptual_file=str(path), perceptual_start=9)
    assert model.encode(small_batch(16)["image"]).shape == (4, 4, 4), "a trained one is used without the file"
    with pytest.raises(ConfigError, match=r"cannot use '.*weights.safetensors'") as caught:
        model.training_loss(small_batch(16), 0)
    assert caught.value.code == "MMG-C24"
    words = {"lacking": "lin2.model.1.weight", "misshapen": "(3, 3)", "absent": "FileNotFoundError"}
    assert words.get(broken, "Error") in caught.value.why
