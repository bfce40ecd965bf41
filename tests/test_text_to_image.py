"""The loaded trio: what it draws, ranks and classifies, from a run and from its export."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import mmgen
from mmgen.checkpoint.exports import write_export
from mmgen.errors import CheckpointError, ConfigError, DataError, PluginError
from mmgen.images import decode, save_png
from mmgen.loading import read_parts, recorded_sampler
from mmgen.text_to_image import TextToImage
from mmgen.trio import BATCH, Trio
from tests.tiny import edit

CAPTION = "a red bar"


@pytest.fixture(scope="module")
def model(finished) -> TextToImage:
    return mmgen.load(str(finished))


@pytest.fixture(scope="module")
def export(finished, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("exports") / "tiny"
    write_export(directory, parts=read_parts(finished), data={}, sampler=recorded_sampler(finished))
    return directory


@pytest.fixture
def picture(tmp_path) -> Path:
    image = torch.full((3, 40, 60), 0.95)
    image[:, 10:30, 20:40] = torch.tensor([0.9, 0.1, 0.1])[:, None, None]
    save_png(image, tmp_path / "picture.png")
    return tmp_path / "picture.png"


# ---- drawing


def by_number(drawings) -> dict[int, torch.Tensor]:
    return {int(number): image for number, image in zip(drawings.numbers, drawings.images, strict=True)}


def test_a_picture_depends_on_caption_seed_and_number_alone(model):
    """However many are drawn beside it: 3, 9, or more than fit a batch."""
    few, more, many = (by_number(model.generate(CAPTION, num_images=n, seed=4)) for n in (3, 9, BATCH + 6))
    assert (sorted(few), sorted(more), sorted(many)) == ([*range(3)], [*range(9)], [*range(BATCH + 6)])
    assert all(torch.equal(few[i], more[i]) for i in few)
    assert all(torch.equal(more[i], many[i]) for i in more)
    assert len({image.numpy().tobytes() for image in many.values()}) > BATCH // 2
    other = by_number(model.generate(CAPTION, num_images=3, seed=5))
    assert not any(torch.equal(other[i], few[i]) for i in few)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_picture_does_not_change_with_the_captions_beside_its_own(model, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        captions = ["a blue square", CAPTION, "a green column", "green red"]
        alone = {caption: model.generate(caption, num_images=5, seed=2) for caption in captions}
        for together in model.draw(captions, num_images=5, seed=2):
            assert torch.equal(together.image_tokens, alone[together.caption].image_tokens)
            assert torch.equal(together.numbers, alone[together.caption].numbers)
            torch.testing.assert_close(together.images, alone[together.caption].images, atol=1e-6, rtol=0)
    finally:
        torch.set_num_threads(before)


def test_the_best_are_kept_by_the_encoder_s_score(model):
    every, best = (model.generate(CAPTION, num_images=9, keep=k, seed=1) for k in (None, 4))
    scores = F.cosine_similarity(model.encode_images(every.images), model.encode_captions([CAPTION]))
    torch.testing.assert_close(every.scores, scores, atol=1e-5, rtol=1e-5)
    assert every.scores.tolist() == sorted(every.scores.tolist(), reverse=True)
    assert sorted(every.numbers.tolist()) == list(range(9))
    assert len(best) == 4
    assert torch.equal(best.images, every.images[:4])
    assert torch.equal(torch.stack(list(best)), best.images)
    assert torch.equal(best[0], every.images[0])
    assert 0 <= float(every.images.min()) <= float(every.images.max()) <= 1
    grid = model.part("tokenizer").grid
    assert torch.equal(model.part("tokenizer").decode(best.image_tokens.view(-1, *grid)).clamp(0, 1), best.images)


def test_progress_counts_every_picture_of_every_caption(model):
    counted = []
    model.draw([CAPTION, "a blue bar"], num_images=3, progress=counted.append)
    assert sum(counted) == 6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_images": 0}, "of 0 images"),
        ({"num_images": 4, "keep": 5}, "cannot keep 5 of 4"),
        ({"num_images": 4, "keep": 0}, "cannot keep 0 of 4"),
        ({"caption": "  "}, "the caption is empty"),
        ({"caption": "many words " * 20}, "longer than the 12 tokens"),
    ],
)
def test_what_cannot_be_drawn_is_a_config_error(model, options, words):
    with pytest.raises(ConfigError, match=words):
        model.generate(**{"caption": CAPTION, **options})


# ---- classifying


def test_teacher_forced_tokens_follow_the_true_ones(model):
    """By stepping through the true tokens with a cache, one picture at a time."""
    tokenizer, generator = model.part("tokenizer"), model.part("generator")
    images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    captions = ["a red bar", "a blue square", "a green column"]
    for image, caption, got in zip(images, captions, model.teacher_forced(images, captions), strict=True):
        tokens = tokenizer.encode(image[None]).flatten(1)
        with torch.no_grad():
            logits, kv_cache = generator.prefill(generator.text_tokenizer.encode([caption]))
            likeliest = [logits.argmax(-1)]
            for n in range(tokens.shape[1] - 1):
                likeliest.append(generator.step(tokens[:, n : n + 1], kv_cache)[:, 0].argmax(-1))
            expected = tokenizer.decode(torch.stack(likeliest, 1).view(1, *tokenizer.grid))[0]
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


def test_shares_are_the_softmax_over_scaled_cosines(model, picture):
    labels = ["a red square", "a blue bar", "a yellow column"]
    shares = model.classify(picture, labels)
    encoder = model.part("encoder")
    image = F.interpolate(decode(picture, size=16, resize="bicubic")[None], (16, 16), mode="area")
    with torch.no_grad():
        cosines = encoder.encode_image(image) @ encoder.encode_text(encoder.text_tokenizer.encode(labels)).T
        expected = (encoder.logit_scale.exp() * cosines[0]).softmax(0).tolist()
    assert shares == pytest.approx(dict(zip(labels, expected, strict=True)), abs=1e-5)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)
    assert sum(shares.values()) == pytest.approx(1)


def test_templates_are_averaged_before_the_comparison(model):
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    templates = ("a {}", "{}, small")
    with torch.no_grad():
        features = [model.encode_captions([t.format(label) for label in ("red", "blue")]) for t in templates]
        classes = F.normalize((features[0] + features[1]) / 2, dim=-1)
        cosines = (model.encode_images(image[None]) @ classes.T)[0]
        expected = (model.part("encoder").logit_scale.exp() * cosines).softmax(0)
    shares = model.classify(image, ["red", "blue"], templates)
    assert [shares["red"], shares["blue"]] == pytest.approx(expected.tolist(), abs=1e-5)
    assert shares != pytest.approx(model.classify(image, ["red", "blue"]), abs=1e-7)


@pytest.mark.parametrize(
    ("labels", "templates", "words"),
    [
        ([], ("{}",), "missing or empty"),
        (["a", " "], ("{}",), "missing or empty"),
        (["a", "b", "a"], ("{}",), "'a' is given twice"),
        (["a", "b", " a "], ("{}",), "'a' is given twice"),
        (["a", "b"], ("a picture",), "no place for the label"),
        (["a", "b"], ("{} and {}",), "more than one"),
    ],
)
def test_labels_and_templates_that_make_no_sense_are_refused(model, labels, templates, words):
    with pytest.raises(ConfigError, match=words):
        model.classify(torch.rand(3, 16, 16), labels, templates)


def test_a_label_longer_than_the_encoder_reads_is_refused(model):
    """Cut, two long labels could be one."""
    with pytest.raises(ConfigError, match="longer than the 12 tokens"):
        model.classify(torch.rand(3, 16, 16), ["a cat", "many words " * 20])


def test_a_picture_that_cannot_be_read_is_a_data_error(model, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    with pytest.raises(DataError):
        model.classify(tmp_path / "broken.png", ["a", "b"])


# ---- from where it is loaded


def test_run_and_export_agree_bit_for_bit(model, export, picture):
    other = mmgen.load(str(export))
    ours, theirs = (m.generate(CAPTION, num_images=4, seed=3) for m in (model, other))
    assert torch.equal(ours.images, theirs.images)
    assert torch.equal(ours.scores, theirs.scores)
    assert torch.equal(ours.image_tokens, theirs.image_tokens)
    labels = ["a red square", "a blue bar"]
    assert model.classify(picture, labels) == other.classify(picture, labels)
    assert model.fingerprints == other.fingerprints
    assert vars(model.sampler) == vars(other.sampler)


def test_the_sampler_is_the_one_that_the_run_was_judged_with(finished, export):
    config = recorded_sampler(finished)
    assert config["name"] == "autoregressive"
    assert recorded_sampler(export) == config
    assert recorded_sampler(finished / "generator") == {"name": "autoregressive"}


def test_a_stage_alone_is_opened_with_what_it_has(finished):
    model = mmgen.load(str(finished / "encoder"))
    assert model.classify(torch.rand(3, 16, 16), ["a", "b"])
    with pytest.raises(CheckpointError, match="no trained generator") as caught:
        model.generate(CAPTION)
    assert (caught.value.exit_code, caught.value.code) == (5, "MMG-K05")


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_where_nothing_finished_lies_it_says_so(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no finished run") as caught:
        mmgen.load(name)
    assert caught.value.exit_code == 5


def test_parts_that_were_not_made_for_each_other_are_refused(finished, tmp_path):
    """A generator's image tokens mean nothing to another tokenizer."""
    run = shutil.copytree(finished, tmp_path / "run")
    edit(run / "tokenizer/model", "config.json", lambda part: part["config"].update(commitment_weight=9.0))
    with pytest.raises(CheckpointError, match="needs tokenizer") as caught:
        mmgen.load(str(run))
    assert caught.value.code == "MMG-K03"


def test_a_bit_that_flipped_is_found(export, tmp_path):
    copy = shutil.copytree(export, tmp_path / "copy")
    weights = copy / "generator" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors") as caught:
        mmgen.load(str(copy))
    assert caught.value.code == "MMG-K01"


@pytest.mark.parametrize(
    ("name", "error", "code"),
    [("os:system", CheckpointError, "MMG-K06"), ("siglip", PluginError, "MMG-P05"), ("vq", PluginError, "MMG-P05")],
)
def test_a_name_in_an_export_is_only_looked_up(export, tmp_path, name, error, code):
    copy = shutil.copytree(export, tmp_path / "copy")
    edit(copy, "encoder/config.json", lambda part: part["config"].update(name=name))
    with pytest.raises(error, match=name) as caught:
        mmgen.load(str(copy))
    assert caught.value.code == code


def test_weights_of_another_shape_are_refused(export, tmp_path):
    copy = shutil.copytree(export, tmp_path / "copy")
    edit(copy, "encoder/config.json", lambda part: part["config"].update(embed_dim=20))
    with pytest.raises(CheckpointError, match="do not fit") as caught:
        mmgen.load(str(copy))
    assert caught.value.code == "MMG-K02"


# ---- memory


def test_drawings_are_decoded_and_scored_few_at_a_time_and_nothing_changes(model, monkeypatch):
    """As many captions at once as may wait to be ranked; larger pictures in smaller batches, always of one size."""
    captions = ["a blue square", CAPTION, "a green column"]
    together = model.draw(captions, num_images=5, keep=2, seed=2)
    shapes = []
    decode_ = model.part("tokenizer").decode
    monkeypatch.setattr(model.part("tokenizer"), "decode", lambda t: (shapes.append(len(t)), decode_(t))[1])
    monkeypatch.setattr("mmgen.text_to_image.HELD_BYTES", 1)
    apart = model.draw(captions, num_images=5, keep=2, seed=2)
    assert shapes == [BATCH] * 3, "a pass for each caption"
    for one, other in zip(together, apart, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.scores, other.scores)
    shapes.clear()
    monkeypatch.setattr("mmgen.trio.BATCH_PIXELS", 4 * 16 * 16)
    model.draw([CAPTION], num_images=5, seed=2)
    assert shapes == [4, 4]


def test_pictures_are_shrunk_by_area_and_enlarged_smoothly_for_an_encoder():
    class Sees:
        image_size = 16

        def encode_image(self, images):
            return images.flatten(1)

        def to(self, device):
            return self

    ramp = torch.linspace(0, 1, 8).expand(1, 3, 8, 8)
    seen = Trio(encoder=Sees()).encode_images(ramp).view(3, 16, 16)
    steps = seen[0, 8].diff()
    assert float(steps.min()) > 0.01, "no two columns alike, as repeated pixels are"
    assert float(steps.max()) < 0.1
    edge = (torch.arange(8) > 3).float().expand(1, 3, 8, 8)
    seen = Trio(encoder=Sees()).encode_images(edge)
    assert float(seen.min()) == 0, "what overshoots is cut off"
    assert float(seen.max()) == 1
    large = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        Trio(encoder=Sees()).encode_images(large).view(3, 16, 16), large[0].unfold(1, 2, 2).unfold(2, 2, 2).mean((3, 4))
    )


@pytest.mark.parametrize("sides", [(16, 48), (48, 16), (32, 40), (12, 8)])
def test_of_a_picture_that_is_no_square_the_middle_is_classified(sides, tmp_path):
    """As of a file: stretched, it would be of other features."""

    class Sees:
        image_size = 16
        logit_scale = torch.tensor(0.0)

        def encode_image(self, images):
            return F.normalize(images.flatten(1), dim=-1)

        def to(self, device):
            return self

    trio, source = Trio(encoder=Sees()), torch.Generator().manual_seed(0)
    image = torch.rand(3, *sides, generator=source)
    side = min(sides)
    top, left = ((length - side) // 2 for length in sides)
    middle = image[:, top : top + side, left : left + side]
    assert torch.equal(trio.encode_images(image[None]), trio.encode_images(middle[None]))
    classes = F.normalize(torch.rand(2, 3 * 16 * 16, generator=source), dim=-1)
    shares = trio.shares(image, ["a", "b"], classes)
    assert shares == trio.shares(middle, ["a", "b"], classes)
    save_png(image, tmp_path / "picture.png")
    assert shares == pytest.approx(trio.shares(tmp_path / "picture.png", ["a", "b"], classes), abs=0.01)
