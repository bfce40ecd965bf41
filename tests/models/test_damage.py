"""Damaged pictures: what is changed, where, and what an encoder learns from them."""

from __future__ import annotations

import pytest
import torch

from mmgen.data.scenes import Scenes
from mmgen.models.clip import Clip
from mmgen.models.damage import damaged
from mmgen.testing.stand_ins import small_batch, small_text_tokenizer

RESNET = {"damaged": 0.5, "image_tower": "resnet"}


def scenes(count: int, image_size: int = 32) -> torch.Tensor:
    dataset = Scenes(num_samples=count, num_val=1, num_heldout=1, image_size=image_size)
    return torch.stack([dataset[i]["image"] for i in list(dataset.splits["train"])])


@pytest.mark.parametrize("image_size", [32, 64])
def test_damage_is_local_and_seen(image_size):
    images = scenes(200, image_size)
    torch.manual_seed(1)
    result, seen = damaged(images)
    changed = (result != images).any(1)
    assert seen.float().mean() > 0.9, "nearly all pictures have something to damage"
    assert changed.flatten(1).any(1)[seen].all()
    assert changed.float().mean() < 0.25, "rectangles of a tenth to half of the side"
    share = ((result - images).square().sum(1) > 0.06).flatten(1).float().mean(1)
    assert torch.equal(seen, share >= 0.005)
    assert result.min() >= 0
    assert result.max() <= 1


def test_what_is_cut_in_comes_from_another_picture_or_from_the_same_one_moved():
    """Every pixel of the damage is a pixel of that place in another picture, or of the same picture elsewhere."""
    shades = (torch.arange(64 * 256).view(64, 1, 16, 16) / (64 * 256)).expand(-1, 3, -1, -1)
    torch.manual_seed(2)
    result, _ = damaged(shades)
    number = (result[:, 0] * 64 * 256).round().long()
    picture, place = number // 256, number % 256
    own = torch.arange(64)[:, None, None]
    here = torch.arange(256).view(1, 16, 16)
    another = picture != own
    assert (place == here)[another].all()
    assert another.flatten(1).any(1).float().mean() == pytest.approx(0.4, abs=0.2)  # 3 deviations of 64 draws
    rows, columns = (place // 16 - here // 16) % 16, (place % 16 - here % 16) % 16
    moved = ~another
    assert torch.isin(torch.minimum(rows, 16 - rows)[moved], torch.tensor([0, 1, 2])).all()  # a sixteenth to an eighth
    assert torch.isin(torch.minimum(columns, 16 - columns)[moved], torch.tensor([0, 1, 2])).all()


def test_equal_pictures_do_not_count():
    _, seen = damaged(torch.full((5, 3, 32, 32), 0.5))
    assert not seen.any()


def test_damage_is_drawn_from_torch_s_state_and_leaves_the_pictures_alone():
    images = scenes(8)
    before = images.clone()
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(damaged(images)[0])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert torch.equal(images, before)


def test_an_encoder_learns_to_prefer_whole_pictures():
    images = scenes(64)
    captions = [f"scene {i}" for i in range(64)]
    told = {}
    for share in (0.0, 1.0):
        torch.manual_seed(0)
        options = {"image_size": 32, "width": 64, "image_layers": 2, "text_layers": 1, "embed_dim": 32}
        model = Clip(text_tokenizer=small_text_tokenizer(), damaged=share, **options).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
        batch = {"image": images, "caption": captions, "key": list(range(64)), "id": captions}
        for step in range(60):
            torch.manual_seed(step)
            loss, logs = model.training_loss(batch, step)
            assert ("whole_preferred" in logs) == (share > 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        torch.manual_seed(1000)
        broken, seen = damaged(images)
        model.eval()
        with torch.no_grad():
            text = model.encode_text(model.text_tokenizer.encode(captions))
            better = (model.encode_image(images) * text).sum(1) > (model.encode_image(broken) * text).sum(1)
        told[share] = float(better[seen].float().mean())
    assert told[1.0] > told[0.0] + 0.05, told


def test_the_loss_of_validation_knows_no_damage():
    options = {"image_size": 16, "width": 32, "image_layers": 1}
    model = Clip(text_tokenizer=small_text_tokenizer(), damaged=1.0, **options).eval()
    plain = Clip(text_tokenizer=small_text_tokenizer(), **options).eval()
    plain.load_state_dict(model.state_dict())
    batch = small_batch(16)
    with torch.no_grad():
        loss, logs = model.training_loss(batch, 0)
        assert float(loss) == float(plain.training_loss(batch, 0)[0])
    assert "whole_preferred" not in logs


@pytest.mark.parametrize("options", [{"damaged": 1.5}, {"damaged": -0.1}, {"damaged": 0.5, "loss": "sigmoid"}, RESNET])
def test_damage_out_of_place_is_refused(options):
    with pytest.raises(ValueError, match="damaged"):
        Clip(text_tokenizer=small_text_tokenizer(), image_size=16, **options)
