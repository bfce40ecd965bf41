"""The contrastive encoder against torch's layer, torch's cross-entropy, and itself without its short cut."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from mmgen.models.clip import Clip
from mmgen.models.towers import EncoderBlock
from mmgen.testing import check_encoder
from mmgen.testing.stand_ins import small_batch, small_text_tokenizer
from tests.models.reference import causal_mask, roughen, torch_layer
from tests.models.words import Words


def make(text_tokenizer=None, **options) -> Clip:
    torch.manual_seed(0)
    options = {"image_size": 16, "width": 32, "embed_dim": 12, "image_layers": 2, "text_layers": 2, **options}
    return Clip(text_tokenizer=text_tokenizer or Words(6), **options).eval()


@pytest.mark.parametrize("causal", [True, False])
@torch.no_grad()
def test_the_block_is_torch_s_layer(causal):
    torch.manual_seed(0)
    block = EncoderBlock(32, 4, causal)
    roughen(block)
    x = torch.randn(2, 7, 32)
    expected = torch_layer(block)(x, src_mask=causal_mask(7) if causal else None)
    torch.testing.assert_close(block(x), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_patches_see_each_other_and_their_places():
    """A patch's change reaches the feature, and so does swapping two patches."""
    model = make()
    roughen(model, scale=0.1)
    image = torch.rand(1, 3, 16, 16)
    changed, swapped = image.clone(), image.roll(8, dims=3)
    changed[:, :, 12:, 12:] = 0
    features = model.encode_image(torch.cat([image, changed, swapped]))
    assert (features[1:] - features[0]).abs().amax(1).min() > 1e-3
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))


@torch.no_grad()
def test_the_loss_is_torch_s_symmetric_cross_entropy():
    model = make(small_text_tokenizer())
    batch = small_batch(16, count=6)
    images = model.encode_image(batch["image"])
    texts = model.encode_text(model.text_tokenizer.encode(batch["caption"]))
    logits = model.logit_scale.exp() * images @ texts.T
    share = logits.softmax(1).diagonal().log().mean() + logits.softmax(0).diagonal().log().mean()
    loss, logs = model.training_loss(batch, 0)
    assert float(loss) == pytest.approx(float(-share / 2), rel=1e-5)
    assert float(loss) == pytest.approx(
        float(F.cross_entropy(logits, torch.arange(6)) + F.cross_entropy(logits.T, torch.arange(6))) / 2, rel=1e-5
    )
    assert float(logs["logit_scale"]) == pytest.approx(1 / 0.07, rel=1e-5)


@torch.no_grad()
def test_training_draws_segmentations_by_key_and_evaluation_does_not():
    words = Words(6)
    model = make(words)
    batch = {"caption": ["1 2", "3"], "id": ["a", "b"], "key": [7, 8], "image": torch.rand(2, 3, 16, 16)}
    model.training_loss(batch, 0)
    model.train().training_loss(batch, 0)
    assert words.keys == [None, [7, 8]]


def untrimmed(model: Clip, tokens: torch.Tensor) -> torch.Tensor:
    """`encode_text` over every position, pads and all."""
    x = model.text.embedding(tokens) + model.text.position
    for block in model.text.blocks:
        x = block(x)
    words = (tokens < model.text_tokenizer.vocab_size).sum(1).clamp_max(tokens.shape[1] - 1)
    return F.normalize(model.text.projection(model.text.norm(x[range(len(x)), words])), dim=-1)


@torch.no_grad()
def test_cutting_off_what_no_caption_reaches_changes_nothing():
    model = make()
    roughen(model, scale=0.1)
    captions = ["1", "2 3", "4 5 6 7 8 9", "4 5 6 7 8 1", "1 2 3 4 5"]
    tokens = model.text_tokenizer.encode(captions)
    expected = untrimmed(model, tokens)
    torch.testing.assert_close(model.encode_text(tokens), expected, atol=1e-5, rtol=1e-5)
    for row in range(len(captions)):
        alone = model.encode_text(tokens[row : row + 1])
        torch.testing.assert_close(alone, expected[row : row + 1], atol=1e-5, rtol=1e-5)
    # The last of six words counts, though no pad follows it.
    assert (expected[2] - expected[3]).abs().max() > 1e-3


@torch.no_grad()
def test_a_pad_that_follows_the_end_is_never_read():
    model = make()
    roughen(model, scale=0.1)
    tokens = model.text_tokenizer.encode(["1 2"])
    other = tokens.clone()
    other[:, 4:] = tokens[:, 3:5]
    assert torch.equal(model.encode_text(tokens), model.encode_text(other))
    other[:, 2] = tokens[:, 3]
    assert not torch.allclose(model.encode_text(tokens), model.encode_text(other))


@torch.no_grad()
def test_the_logit_scale_is_held_at_a_hundred():
    model = make(small_text_tokenizer())
    batch = small_batch(16, count=4)
    at = {}
    for value in (math.log(50), math.log(100), 9.0):
        model.logit_scale.fill_(value)
        loss, logs = model.training_loss(batch, 0)
        at[value] = (float(loss), float(logs["logit_scale"]))
    assert at[math.log(50)][1] == pytest.approx(50, rel=1e-5)
    assert at[9.0][1] == pytest.approx(100, rel=1e-5)
    assert at[9.0][0] == pytest.approx(at[math.log(100)][0], rel=1e-5)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_a_logit_scale_past_a_hundred_comes_back(loss):
    """A clamp in the loss alone would leave it without a gradient there. Two losses before one backward pass, as where
    gradients are accumulated."""
    model = make(small_text_tokenizer(), loss=loss).train()
    with torch.no_grad():
        model.logit_scale.fill_(4.7)
    optimizer = torch.optim.SGD([model.logit_scale], lr=1e-3)
    (model.training_loss(small_batch(16), 0)[0] + model.training_loss(small_batch(16), 0)[0]).backward()
    assert float(model.logit_scale.detach()) == pytest.approx(math.log(100))
    assert float(model.logit_scale.grad) > 1  # of pairs it does not tell apart yet
    optimizer.step()
    assert float(model.logit_scale.detach()) < math.log(100) - 1e-3


def test_it_learns_eight_pairs():
    model = make(Words(6)).train()
    batch = {**small_batch(16, count=8), "caption": [f"{i} {9 - i} {i * 3 % 10}" for i in range(8)]}
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(60):
        loss, _ = model.training_loss(batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        loss, logs = model.eval().training_loss(batch, 0)
    assert float(loss) < 0.05
    assert float(logs["batch_accuracy"]) == 1


def test_it_conforms():
    assert len(check_encoder(make(small_text_tokenizer()), 16)) >= 3


@torch.no_grad()
def test_its_weights_travel_in_a_state_dict():
    one, other = make(), make()
    roughen(other, seed=5)
    image, tokens = torch.rand(2, 3, 16, 16), Words(6).encode(["1 2", "3"])
    assert not torch.equal(one.encode_image(image), other.encode_image(image))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.encode_image(image), other.encode_image(image))
    assert torch.equal(one.encode_text(tokens), other.encode_text(tokens))
    assert torch.equal(one.logit_scale, other.logit_scale)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"patch_size": 5}, "patch_size=5 does not divide image_size=16"),
        ({"num_heads": 5}, "num_heads=5 does not divide width=32"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        make(**options)
