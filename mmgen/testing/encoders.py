"""Checks of a contrastive encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from mmgen.protocols import Encoder
from mmgen.testing.checks import (
    Prepared,
    require,
    require_random_state_kept,
    require_shared_state_kept,
    require_tensor,
    require_unchanged,
    run,
)
from mmgen.testing.stand_ins import small_batch
from mmgen.testing.trainables import (
    TRAINABLE_CHECKS,
    Subject,
    it_moves_to_another_device,
    its_outputs_are_repeatable,
)

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


def pictures_have_features_of_length_one(subject: Subject) -> None:
    images = subject.batch["image"]
    features = subject.stirred().encode_image(images)
    require(features.dim() == 2, f"encode_image gives the shape {tuple(features.shape)}, not (B,D)")
    require_tensor(features, (len(images), features.shape[1]), "encode_image's result")
    require((features.norm(dim=-1) - 1).abs().max() < 1e-4, "encode_image gives features that are not of length one")
    require(not torch.allclose(features[0], features[1], atol=1e-7), "two pictures have the same features")


def a_picture_is_read_by_itself(subject: Subject) -> None:
    encoder, images = subject.copy(training=False), subject.batch["image"]
    for read in (encoder.encode_image, getattr(encoder, "probe_features", encoder.encode_image)):
        together = read(images)
        for row in range(len(images)):
            apart = (read(images[row : row + 1])[0] - together[row]).detach().abs().max()
            require(apart <= TOLERANCE * together.detach().abs().max(), "its features depend on what is beside it")


def pictures_stay(subject: Subject) -> None:
    encoder, images = subject.copy(training=False), subject.batch["image"].clone()
    require_unchanged(lambda: encoder.encode_image(images), images)


def reading_leaves_alone_what_all_share(subject: Subject) -> None:
    encoder = subject.copy(training=False)
    require_shared_state_kept(lambda: subject.made(encoder))
    require_random_state_kept(lambda: subject.made(encoder))


# Of one that comes with its weights and may read pictures only: nothing is trained or saved.
PRETRAINED_CHECKS = (
    pictures_have_features_of_length_one,
    a_picture_is_read_by_itself,
    pictures_stay,
    reading_leaves_alone_what_all_share,
    it_moves_to_another_device,
    its_outputs_are_repeatable,
)


def prepare(encoder: Encoder, image_size: int = 32) -> Prepared:
    """A contrastive encoder, and the checks of its kind: fewer of one that came with its weights, built without a text
    tokenizer."""
    batch = small_batch(image_size=image_size)
    pretrained = bool(getattr(encoder, "pretrained", False)) and getattr(encoder, "text_tokenizer", None) is None

    def outputs(component: Encoder, put: Callable[[Tensor], Tensor]) -> list[Tensor]:
        found = [component.encode_image(put(batch["image"]))]
        if not pretrained:
            found.append(component.encode_text(put(component.text_tokenizer.encode(batch["caption"]))))
        return found

    subject = Subject(encoder, batch, outputs)
    return Prepared(encoder, subject, PRETRAINED_CHECKS if pretrained else ENCODER_CHECKS)


def check_encoder(
    encoder: Encoder, image_size: int = 32, expected_failures: Mapping[str, str] | None = None
) -> list[str]:
    """Checks a contrastive encoder against `mmgen.protocols.Encoder`, on copies of it. Of one that is `pretrained` only
    what it makes of pictures is looked at.

    Args:
        encoder: an instance, as small as you like, trained or not.
        image_size: what it was built with.
        expected_failures: reasons, by the names of the checks that are known to fail; strict.

    Returns:
        The names of the checks.

    Raises:
        Nonconforming: an AssertionError that names every check that failed and what it found.
    """
    return run(prepare(encoder, image_size), expected_failures)
