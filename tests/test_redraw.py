"""The loaded trio, redrawing: what is kept, what is drawn, with which parts."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch.nn import functional as F

import mmgen
from mmgen.errors import CheckpointError, ConfigError, DataError
from mmgen.images import save_png
from mmgen.text_to_image import TextToImage

CAPTION = "a red bar"
HALF = torch.arange(16).view(4, 4) < 8  # the upper half of the grid


@pytest.fixture(scope="module")
def model(finished) -> TextToImage:
    return mmgen.load(str(finished))


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    """At the model's size, 16 pixels, so that nothing is resized."""
    image = torch.full((3, 16, 16), 0.95)
    image[:, 3:13, 6:9] = torch.tensor([0.1, 0.2, 0.9])[:, None, None]
    return image


def codes(model: TextToImage, image: torch.Tensor) -> torch.Tensor:
    return model.part("tokenizer").encode(image[None])[0]


def test_kept_codes_stay_bit_for_bit_and_the_rest_is_drawn(model, image):
    drawings = model.redraw(image, CAPTION, region=(8, 4), num_images=9, keep=4, seed=3)
    tokens = drawings.image_tokens.view(4, 4, 4)
    redrawn = torch.zeros(4, 4, dtype=torch.bool)
    redrawn[2:, 1:] = True
    assert torch.equal(tokens[:, ~redrawn], codes(model, image)[~redrawn].expand(4, -1))
    assert len(tokens[:, redrawn].unique(dim=0)) > 1
    assert drawings.images.shape == (4, 3, 16, 16)
    assert torch.equal(model.part("tokenizer").decode(tokens), drawings.images)
    scores = F.cosine_similarity(model.encode_images(drawings.images), model.encode_captions([CAPTION]))
    torch.testing.assert_close(drawings.scores, scores, atol=1e-5, rtol=1e-5)
    assert drawings.scores.tolist() == sorted(drawings.scores.tolist(), reverse=True)


def test_it_is_the_sampler_with_these_tokens_kept(model, image):
    kept = model.part("tokenizer").encode(image[None]).flatten(1)
    text_tokens = model.part("generator").text_tokenizer.encode([CAPTION])
    drawn = model.sampler.draw(
        model.part("generator"), text_tokens, num_images=5, seed=2, kept_tokens=kept, kept=HALF.flatten()
    )
    drawings = model.redraw(image, CAPTION, region=(8, 0), num_images=5, seed=2)
    assert torch.equal(drawings.image_tokens, drawn[0, drawings.numbers])


def test_pixels_codes_and_masks_name_the_same_region(model, image):
    asked = [
        {"region": (8, 0)},
        {"region": (2, 0), "unit": "codes"},
        {"region": (9, 0)},  # rounded outward
        {"mask": (torch.arange(16) >= 8)[:, None].expand(16, 16)},
        {"mask": ~HALF, "unit": "codes"},
    ]
    drawn = [model.redraw(image, CAPTION, num_images=3, seed=5, **options) for options in asked]
    assert all(torch.equal(one.images, drawn[0].images) for one in drawn)
    scattered = torch.zeros(16, 16, dtype=torch.bool)
    scattered[5, 5] = scattered[12, 1] = True
    tokens = model.redraw(image, CAPTION, mask=scattered, num_images=6, seed=5).image_tokens
    kept = torch.ones(4, 4, dtype=torch.bool)
    kept[1, 1] = kept[3, 0] = False
    assert torch.equal(tokens[:, kept.flatten()], codes(model, image)[kept].expand(6, -1))


def test_a_redrawing_depends_on_picture_caption_seed_and_number_alone(model, image):
    few, many = (model.redraw(image, CAPTION, region=(8, 0), num_images=n, seed=4) for n in (2, 70))
    by_number = dict(zip(many.numbers.tolist(), many.image_tokens, strict=True))
    assert all(
        torch.equal(tokens, by_number[n]) for n, tokens in zip(few.numbers.tolist(), few.image_tokens, strict=True)
    )
    assert len(many.image_tokens.unique(dim=0)) > 20


def test_the_pictures_own_pixels_are_laid_over_what_is_kept_when_asked(model, image):
    plain, pasted = (
        model.redraw(image, CAPTION, region=(8, 4), num_images=3, seed=1, keep_pixels=keep) for keep in (False, True)
    )
    inside = torch.zeros(16, 16, dtype=torch.bool)
    inside[8:, 4:] = True
    order = {int(number): i for i, number in enumerate(plain.numbers)}
    for number, picture in zip(pasted.numbers.tolist(), pasted, strict=True):
        assert torch.equal(picture[:, ~inside], image[:, ~inside])
        assert torch.equal(picture[:, inside], plain[order[number]][:, inside])
    assert not torch.equal(plain[0][:, ~inside], image[:, ~inside]), "decoded from codes, so the test can tell"
    scores = F.cosine_similarity(model.encode_images(pasted.images), model.encode_captions([CAPTION]))
    torch.testing.assert_close(pasted.scores, scores, atol=1e-5, rtol=1e-5)


def test_the_middle_square_of_another_picture_is_read(model, image, tmp_path):
    """A file of 64 × 32 pixels, each of the middle's four the same, is the picture at 16, from pixel row 16 on."""
    large = torch.ones(3, 64, 32)
    large[:, 16:48] = image.repeat_interleave(2, 1).repeat_interleave(2, 2)
    save_png(large, tmp_path / "large.png")
    expected = model.redraw(image, CAPTION, region=(8, 4), num_images=3)
    for given in (large, tmp_path / "large.png"):
        drawn = model.redraw(given, CAPTION, region=(16 + 16, 8), num_images=3)
        assert torch.equal(drawn.image_tokens, expected.image_tokens)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"region": (16, 0)}, ConfigError, "row=16 lies outside"),
        ({"mask": torch.ones(4, 4, dtype=torch.bool)}, ConfigError, "the mask has 4 × 4 pixels, the picture 16 × 16"),
        ({"region": (8, 0), "mask": HALF}, ValueError, "not both"),
        ({}, ValueError, "region"),
        ({"region": (8, 0), "caption": " "}, ConfigError, "the caption is empty"),
        ({"region": (8, 0), "num_images": 2, "keep": 3}, ConfigError, "cannot keep 3 of 2"),
        ({"region": (8, 0), "image": "gone.png"}, DataError, "does not exist"),
    ],
)
def test_what_cannot_be_redrawn_is_refused(model, image, options, error, words):
    with pytest.raises(error, match=words):
        model.redraw(**{"image": image, "caption": CAPTION, **options})


# ---- with parts from elsewhere


@pytest.fixture(scope="module")
def bare(finished, tmp_path_factory):
    """A run that has a generator and nothing else."""
    run = tmp_path_factory.mktemp("bare")
    shutil.copytree(finished / "generator", run / "generator")
    return run


def test_without_an_encoder_pictures_come_unranked(model, finished, bare, image):
    plain = mmgen.load(str(bare), tokenizer_from=str(finished / "tokenizer"))
    drawings = plain.generate(CAPTION, num_images=9, keep=3, seed=2)
    assert drawings.scores is None
    assert drawings.numbers.tolist() == [0, 1, 2]
    ranked = model.generate(CAPTION, num_images=9, seed=2)
    by_number = dict(zip(ranked.numbers.tolist(), ranked.images, strict=True))
    # recorded with the run is how it draws; the bare generator has autoregressive's defaults, the same here
    assert all(torch.equal(picture, by_number[i]) for i, picture in enumerate(drawings))
    assert plain.redraw(image, CAPTION, region=(8, 0), num_images=2).scores is None


def test_any_encoder_ranks(model, finished, bare):
    whole = mmgen.load(str(bare), tokenizer_from=str(finished), encoder_from=str(finished / "encoder"))
    one, other = (m.generate(CAPTION, num_images=5, seed=2) for m in (model, whole))
    assert torch.equal(one.scores, other.scores)
    assert one.numbers.tolist() == other.numbers.tolist()
    assert whole.fingerprints == model.fingerprints


def test_the_parts_are_still_held_against_each_other(finished, bare, tmp_path):
    from tests.tiny import edit

    other = shutil.copytree(finished / "tokenizer", tmp_path / "other")
    edit(other / "model", "config.json", lambda part: part["config"].update(commitment_weight=9.0))
    with pytest.raises(CheckpointError, match="needs tokenizer") as caught:
        mmgen.load(str(bare), tokenizer_from=str(other))
    assert caught.value.code == "MMG-K03"
    with pytest.raises(CheckpointError, match="holds no tokenizer, only generator") as caught:
        mmgen.load(str(bare), tokenizer_from=str(bare))
    assert caught.value.where == "tokenizer_from"
    with pytest.raises(CheckpointError, match="no trained tokenizer here") as caught:
        mmgen.load(str(bare)).generate(CAPTION)
    assert "tokenizer_from=RUN" in caught.value.fix


def test_a_generator_that_draws_writes_no_captions(model, image):
    with pytest.raises(CheckpointError, match="this generator draws captions; it cannot caption pictures") as caught:
        model.caption(image)
    assert caught.value.code == "MMG-K10"
    assert "generator.order=image_first" in caught.value.fix
