"""The published encoders: their parameter counts, and open_clip's models with the same random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from mmgen.models.clip import Clip
from tests.models.clip_shapes import ours
from tests.models.open_clip_models import open_clip

CONF = Path(__file__).parents[2] / "conf" / "encoder"
# Image size, parameters in millions as published (open_clip's table), two digits after the point.
PUBLISHED = {
    "rn50": (224, 102.01),
    "rn101": (224, 119.69),
    "rn50x4": (288, 178.30),
    "rn50x16": (384, 290.98),
    "rn50x64": (448, 623.26),
    "vit_b_32": (224, 151.28),
    "vit_b_16": (224, 149.62),
    "vit_l_14": (224, 427.62),
    "vit_l_14_336": (336, 427.94),
}
TOLERANCE = 1e-5


class OpenAiText:
    """The sizes of OpenAI's text tokenizer; captions end at the largest id."""

    def __init__(self, num_ids: int = 49408, context_length: int = 77) -> None:
        self.num_ids = self.vocab_size = num_ids
        self.context_length = context_length

    def end(self, text_tokens: torch.Tensor) -> torch.Tensor:
        return text_tokens.argmax(1)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_presets_have_the_published_number_of_parameters(name):
    image_size, millions = PUBLISHED[name]
    options = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    options.pop("defaults")
    with torch.device("meta"):
        model = Clip(text_tokenizer=OpenAiText(), image_size=image_size, **options)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert round(parameters / 1e6, 2) == millions
    if name == "vit_b_32":
        assert parameters == 151_277_313


def test_every_published_preset_is_counted():
    others = {"clip_large"}
    assert {path.stem for path in CONF.glob("*.yaml")} == set(PUBLISHED) | others


SMALL_TEXT = {"context_length": 9, "vocab_size": 40, "width": 64, "heads": 1, "layers": 2}
TOWERS = {
    "vit": (
        {"image_size": 32, "layers": 2, "width": 128, "head_width": 64, "patch_size": 8},
        {"patch_size": 8, "width": 128, "image_layers": 2, "num_heads": 2},
    ),
    "resnet": (
        {"image_size": 64, "layers": [1, 2, 1, 1], "width": 16, "patch_size": None},
        {"image_tower": "resnet", "stages": (1, 2, 1, 1), "width": 16, "num_heads": 8},
    ),
}


def pair(tower: str, activation: str) -> tuple[torch.nn.Module, Clip]:
    """open_clip's model and ours, with the same random weights."""
    torch.manual_seed(0)
    vision, options = TOWERS[tower]
    theirs = open_clip().model.CLIP(16, vision, SMALL_TEXT, quick_gelu=activation == "quick_gelu").eval()
    with torch.no_grad():
        for name, tensor in theirs.state_dict().items():
            if tensor.is_floating_point() and "running" not in name and name != "logit_scale":
                tensor.copy_(torch.randn(tensor.shape) * 0.2 + (("bn" in name or "ln" in name) and "weight" in name))
            elif "running" in name:
                tensor.copy_(torch.rand(tensor.shape) + 0.5)
    mine = Clip(
        text_tokenizer=OpenAiText(40, 9),
        image_size=vision["image_size"],
        embed_dim=16,
        text_width=64,
        text_layers=2,
        text_heads=1,
        activation=activation,
        pixels="openai",
        **(options or {}),
    ).eval()
    mine.load_state_dict(ours(theirs.state_dict()))
    return theirs, mine


def inputs(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(1)
    tokens = torch.randint(1, 38, (5, 9), generator=source)
    for row, end in enumerate((1, 3, 4, 6, 8)):
        tokens[row, end] = 39
        tokens[row, end + 1 :] = 0
    return torch.rand(5, 3, size, size, generator=source), tokens


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("tower", ["vit", "resnet"])
@torch.no_grad()
def test_the_features_are_open_clip_s(tower, activation):
    theirs, mine = pair(tower, activation)
    images, tokens = inputs(mine.image_size)
    mean, deviation = (torch.tensor(part)[:, None, None] for part in (mine._mean, mine._deviation))
    expected = theirs.encode_image((images - mean) / deviation, normalize=True)
    torch.testing.assert_close(mine.encode_image(images), expected, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(
        mine.encode_text(tokens), theirs.encode_text(tokens, normalize=True), atol=TOLERANCE, rtol=0
    )


@torch.no_grad()
def test_the_wrong_activation_gives_other_features():
    theirs, _ = pair("vit", "quick_gelu")
    _, mine = pair("vit", "gelu")
    _, tokens = inputs(32)
    assert (mine.encode_text(tokens) - theirs.encode_text(tokens, normalize=True)).abs().max() > 100 * TOLERANCE


def test_the_first_step_s_gradients_are_open_clip_s():
    theirs, mine = pair("vit", "quick_gelu")
    images, tokens = inputs(32)
    mean, deviation = (torch.tensor(part)[:, None, None] for part in (mine._mean, mine._deviation))
    package = open_clip()
    image_features, text_features, scale = theirs((images - mean) / deviation, tokens)
    expected = package.ClipLoss()(image_features, text_features, scale)
    expected.backward()
    mine.text_tokenizer.encode = lambda captions, keys=None: tokens  # type: ignore[method-assign]
    loss, _ = mine.training_loss({"image": images, "caption": ["a"] * 5, "id": ["a"] * 5, "key": [1] * 5}, 0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=TOLERANCE)
    gradients = ours({name: p.grad for name, p in theirs.named_parameters()})
    for name, parameter in mine.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], atol=TOLERANCE, rtol=1e-4)
