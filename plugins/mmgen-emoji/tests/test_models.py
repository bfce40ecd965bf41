"""The trained models that come with the plugin, as they lie in it: they draw, redraw, classify and caption at once."""

import subprocess
import sys
from pathlib import Path

import mmgen_emoji
import pytest
import torch

import mmgen
from mmgen.images import save_png

MODELS = Path(mmgen_emoji.__file__).parent / "models"


@pytest.fixture(scope="module")
def emoji():
    return mmgen_emoji.Emoji(image_size=32)


@pytest.fixture(scope="module")
def model():
    return mmgen.load("emoji")


def held_out(dataset, count):
    indices = list(dataset.splits["heldout_pairs"])[:: len(dataset.splits["heldout_pairs"]) // count][:count]
    samples = [dataset[index] for index in indices]
    return torch.stack([sample["image"] for sample in samples]), [sample["caption"] for sample in samples]


@pytest.mark.parametrize("name", ["emoji", "emoji_captions"])
def test_each_is_at_most_8_megabytes(name):
    assert 1e6 < sum(file.stat().st_size for file in (MODELS / name).rglob("*") if file.is_file()) <= 8e6


def test_the_encoder_finds_the_pictures_of_captions_it_never_saw(model, emoji):
    """All 307 held-out pairs; chance is 0.3 %, the trained weights found 95.8 %."""
    images, captions = held_out(emoji, 307)
    found = (model.encode_captions(captions) @ model.encode_images(images).T).argmax(1)
    assert (found == torch.arange(len(captions))).float().mean() > 0.9


def test_what_it_draws_is_nearest_to_the_picture_that_was_asked_for(model, emoji):
    """Of 40 captions that were never trained on, each drawing against all 307 pictures; chance is 0.3 %."""
    every, _ = held_out(emoji, 307)
    images, captions = held_out(emoji, 40)
    drawn = torch.stack([drawings.images[0] for drawings in model.draw(captions, num_images=4, keep=1, seed=1)])
    nearest = torch.cdist(drawn.flatten(1), every.flatten(1)).argmin(1)
    right = (every[nearest] == images).flatten(1).all(1)
    assert right.float().mean() > 0.5


def test_captions_are_often_right_to_the_letter(emoji):
    """Of 40 pictures that were never trained on, the best of 8 by the encoder of `emoji`; the trained weights had 39 of
    77 right."""
    images, captions = held_out(emoji, 40)
    model = mmgen.load("emoji_captions", encoder_from="emoji")
    written = [found[0] for found in model.describe(images, num_captions=8, keep=1, seed=1)]
    assert sum(a == b for a, b in zip(written, captions, strict=True)) >= 14


@pytest.mark.parametrize(
    "command",
    [
        ["sample", "a firefighter with dark skin tone", "num_images=4", "keep=2", "out=drawn"],
        ["redraw", "picture.png", "a cat", "row=16", "num_images=4", "keep=2", "out=redrawn"],
        ["classify", "picture.png", "a cat", "a dog", "a car"],
        ["caption", "picture.png"],
    ],
    ids=lambda command: command[0],
)
def test_a_command_answers_before_anything_was_trained(command, emoji, tmp_path):
    save_png(emoji[0]["image"], tmp_path / "picture.png")
    done = subprocess.run(
        [sys.executable, "-m", "mmgen.cli", *command], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "of mmgen-emoji, since there is no finished run under runs/" in done.stderr
    assert "there is no encoder" not in done.stdout
