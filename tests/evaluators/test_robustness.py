"""Spoilt pictures, and what is left of an accuracy on them."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from mmgen.evaluators.corruptions import CORRUPTIONS, SEVERITIES, corrupted
from mmgen.evaluators.robustness import Robustness
from mmgen.protocols import Evidence, Setting


def picture(seed: int = 0, size: int = 24) -> torch.Tensor:
    """Smooth shapes in the middle of the range, so that nothing is clamped that need not be."""
    source = torch.Generator().manual_seed(seed)
    small = torch.rand(1, 3, 6, 6, generator=source) * 0.8 + 0.1
    return torch.nn.functional.interpolate(small, size=(size, size), mode="bilinear")[0]


def distance(kind: str, severity: int) -> float:
    images = [picture(seed) for seed in range(8)]
    errors = [(corrupted(im, kind, severity, 0, str(i)) - im).square().mean() for i, im in enumerate(images)]
    return torch.stack(errors).mean().item()


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corruption_grows_with_its_severity_and_stays_a_picture(kind):
    errors = [distance(kind, severity) for severity in range(1, SEVERITIES + 1)]
    assert all(more > less > 0 for less, more in itertools.pairwise(errors)), errors
    spoilt = corrupted(torch.ones(3, 9, 7), kind, 5, 0, "x")
    assert spoilt.shape == (3, 9, 7)
    assert 0 <= spoilt.min() <= spoilt.max() <= 1


@pytest.mark.parametrize("kind", ["noise", "salt", "crop", "cover"])
def test_what_is_random_follows_from_seed_and_id(kind):
    image, state = picture(), torch.random.get_rng_state()
    first = corrupted(image, kind, 3, 0, "one")
    assert torch.equal(first, corrupted(image, kind, 3, 0, "one"))
    assert not torch.equal(first, corrupted(image, kind, 3, 0, "other"))
    assert not torch.equal(first, corrupted(image, kind, 3, 1, "one"))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_an_id_may_be_the_name_of_any_file():
    image = picture()
    assert not torch.equal(corrupted(image, "noise", 3, 0, "\udcff.png"), corrupted(image, "noise", 3, 0, "\udcfe.png"))
    known = torch.Generator().manual_seed(random.Random("0/noise/one").getrandbits(63))
    expected = (image + 0.12 * torch.randn(image.shape, generator=known)).clamp(0, 1)
    assert torch.equal(corrupted(image, "noise", 3, 0, "one"), expected), "of ordinary ids the numbers stay"


def test_known_amounts():
    grey = torch.full((3, 64, 64), 0.5)
    grey[:, :, ::2] = 0.4
    assert (corrupted(grey, "noise", 3, 0, "x") - grey).std().item() == pytest.approx(0.12, rel=0.05)
    assert corrupted(grey, "contrast", 2, 0, "x").std().item() == pytest.approx(grey.std().item() / 2, rel=1e-4)
    assert (corrupted(grey, "brightness", 2, 0, "x") - grey).mean().item() == pytest.approx(0.2, abs=1e-6)
    covered = (corrupted(torch.zeros(3, 20, 20), "cover", 2, 0, "x") == 0.5).all(0)
    assert covered.sum() == 5 * 5
    blurred = corrupted(grey, "blur", 5, 0, "x")
    assert blurred.mean().item() == pytest.approx(grey.mean().item(), abs=1e-3)
    assert blurred.std() < 0.05 * grey.std()


def mean_brightness(images: torch.Tensor) -> torch.Tensor:
    """An encoder of one thing: the angle is the brightness."""
    angle = images.mean(dim=(1, 2, 3)) * torch.pi / 2
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def levels(captions) -> torch.Tensor:
    angle = torch.tensor([float(caption.split()[-1]) for caption in captions]) * torch.pi / 2
    return torch.stack([angle.cos(), angle.sin()], dim=1)


def judged(robustness: Robustness, split: str = "val"):
    """Ten flat pictures whose captions say how bright they are, judged by an encoder that sees brightness alone."""
    shades = [round(0.05 + 0.1 * i, 2) for i in range(10)]
    images = torch.stack([torch.full((3, 16, 16), shade) for shade in shades])
    samples = [
        {"image": im, "caption": f"grey {s}", "id": f"p{s}", "attributes": {"shade": str(s)}}
        for im, s in zip(images, shades, strict=True)
    ]
    captions = [sample["caption"] for sample in samples]
    setting = Setting(
        split,
        classes={"shade": [str(s) for s in shades]},
        templates=["grey {shade}"],
        encode_captions=levels,
        image_features=mean_brightness,
    )
    robustness.begin(setting)
    for rows in (slice(0, 4), slice(4, 10)):
        robustness.update(
            Evidence(samples[rows], images[rows], image_features=mean_brightness(images[rows]),
                     text_features=levels(captions[rows]))
        )  # fmt: skip
    return robustness.compute()


@pytest.mark.parametrize("of", ["retrieval", "zero_shot"])
def test_accuracy_on_spoilt_pictures_stands_beside_the_clean_one(of, number):
    """Brightened by 0.2 every picture looks like the one two further on, and the last two are clamped; what changes no
    mean (contrast, blur of a flat picture) costs nothing."""
    findings = judged(Robustness(of=of, corruptions=["brightness", "contrast", "blur"], severities=(2,)))
    assert number(findings, "robustness/clean").value == 1
    assert number(findings, "robustness/contrast_2").value == 1
    assert number(findings, "robustness/blur_2").value == 1
    bright = number(findings, "robustness/brightness_2")
    assert (bright.value, bright.n) == (pytest.approx(0.0, abs=0.11), 10)
    mean = number(findings, "robustness/mean_corrupted")
    assert mean.value == pytest.approx((2 + bright.value) / 3)
    assert findings.tables["Robustness"][1] == {"spoilt by": "contrast", "clean, %": 100.0, "severity 2, %": 100.0}
    assert set(findings.pictures) == {"What the encoder was shown"}


def test_every_kind_and_severity_is_a_number():
    findings = judged(Robustness(severities=(5, 1)))
    names = {n.name for n in findings.numbers}
    assert names == {"robustness/clean", "robustness/mean_corrupted"} | {
        f"robustness/{kind}_{severity}" for kind in CORRUPTIONS for severity in (1, 5)
    }


@pytest.mark.parametrize(
    "options",
    [{"corruptions": ["fog"]}, {"corruptions": []}, {"severities": ()}, {"severities": (0,)}, {"severities": (6,)}],
)
def test_impossible_options_are_refused(options):
    with pytest.raises(ValueError, match=r"corruptions|severities"):
        Robustness(**options)
