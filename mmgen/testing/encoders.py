"""Checks of a contrastive encoder."""

from __future__ import annotations

import torch
from torch import Tensor

from mmgen.protocols import Encoder
from mmgen.testing.checks import require, require_tensor, require_unchanged, run
from mmgen.testing.stand_ins import small_batch
from mmgen.testing.trainables import TRAINABLE_CHECKS, Subject

TOLERANCE = 1e-5


def features_have_length_one(subject: Subject) -> None:
    encoder = subject.stirred()
    images, texts = _features(subject, encoder)
    require(images.dim() == 2, f"encode_image gives the shape {tuple(images.shape)}, not (B,D)")
    shape = (len(subject.batch["caption"]), images.shape[1])
    for what, features in (("encode_image", images), ("encode_text", texts)):
        require_tensor(features, shape, f"{what}'s result")
        length = features.norm(dim=-1)
        require((length - 1).abs().max() < 1e-4, f"{what} gives features of length {float(length.detach().max()):.3g}")


def _features(subject: Subject, encoder: Encoder) -> tuple[Tensor, Tensor]:
    return encoder.encode_image(subject.batch["image"]), encoder.encode_text(
        encoder.text_tokenizer.encode(subject.batch["caption"])
    )


def logit_scale_is_one_number(subject: Subject) -> None:
    scale = require_tensor(subject.component.logit_scale, (), "logit_scale")
    require(
        float(scale.detach().exp()) <= 100.01,
        "logit_scale is stored as a logarithm, and its exponential is at most 100",
    )


def features_tell_inputs_apart(subject: Subject) -> None:
    encoder = subject.stirred()
    for what, features in zip(("encode_image", "encode_text"), _features(subject, encoder), strict=True):
        require(not torch.allclose(features[0], features[1], atol=1e-7), f"{what} gives two inputs the same features")


def rows_of_a_batch_do_not_meet(subject: Subject) -> None:
    encoder = subject.stirred()
    images, texts = _features(subject, encoder)
    tokens = encoder.text_tokenizer.encode(subject.batch["caption"])
    for row in range(len(images)):
        alone = encoder.encode_image(subject.batch["image"][row : row + 1])
        require((alone - images[row]).abs().max() < TOLERANCE, "a picture's features depend on what is beside it")
        alone = encoder.encode_text(tokens[row : row + 1])
        require((alone - texts[row]).abs().max() < TOLERANCE, "a caption's features depend on what is beside it")


def any_caption_has_features(subject: Subject) -> None:
    encoder = subject.stirred()
    captions = ["", "x", "much longer than there is room for " * 20]
    features = encoder.encode_text(encoder.text_tokenizer.encode(captions))
    require(features.isfinite().all(), "an empty or a very long caption has features that are not finite")


def what_it_is_given_stays(subject: Subject) -> None:
    encoder, images = subject.stirred(), subject.batch["image"].clone()
    tokens = encoder.text_tokenizer.encode(subject.batch["caption"])
    require_unchanged(lambda: encoder.encode_image(images), images)
    require_unchanged(lambda: encoder.encode_text(tokens), tokens)


ENCODER_CHECKS = (
    *TRAINABLE_CHECKS,
    features_have_length_one,
    logit_scale_is_one_number,
    features_tell_inputs_apart,
    rows_of_a_batch_do_not_meet,
    any_caption_has_features,
    what_it_is_given_stays,
)


def check_encoder(encoder: Encoder, image_size: int = 32) -> list[str]:
    """Checks a contrastive encoder against `mmgen.protocols.Encoder`, on copies of it.

    Args:
        encoder: an instance, as small as you like, trained or not.
        image_size: what it was built with.

    Returns:
        The names of the checks.

    Raises:
        Nonconforming: an AssertionError that names every check that failed and what it found.
    """
    batch = small_batch(image_size=image_size)

    def outputs(component: Encoder) -> list[Tensor]:
        tokens = component.text_tokenizer.encode(batch["caption"])
        return [component.encode_image(batch["image"]), component.encode_text(tokens)]

    return run(encoder, Subject(encoder, batch, outputs), ENCODER_CHECKS)
