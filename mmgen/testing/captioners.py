"""Checks of a generator that reads a picture and writes its caption: the stream's other order."""

from __future__ import annotations

import torch

from mmgen.testing.checks import require, require_tensor, require_unchanged
from mmgen.testing.streams import EITHER_ORDER_CHECKS, Subject, require_close
from mmgen.testing.trainables import TRAINABLE_CHECKS


def caption_logits_have_their_shapes(subject: Subject) -> None:
    generator, (batch, length) = subject.stirred(), subject.text_tokens.shape
    require(length == generator.stream.text_length, "stream.text_length is not the text tokenizer's context_length")
    text_logits, image_logits = subject.logits(generator)
    require_tensor(text_logits, (batch, length, generator.text_tokenizer.num_ids), "text_logits")
    require_tensor(image_logits, (batch, generator.stream.image_length - 1, subject.codebook_size), "image_logits")


def a_caption_sees_the_picture_and_the_text_before_it(subject: Subject) -> None:
    generator, before = subject.stirred(), subject.logits(subject.stirred())
    for position in (0, subject.text_tokens.shape[1] - 2):
        tokens = subject.text_tokens.clone()
        tokens[:, position] = (tokens[:, position] + 1) % generator.text_tokenizer.vocab_size
        after = generator(tokens, subject.image_tokens)
        require_close(after[1], before[1], f"the picture sees text token {position}")
        seen = f"text positions up to {position} see text token {position}"
        require_close(after[0][:, : position + 1], before[0][:, : position + 1], seen)
        ignored = torch.equal(after[0][:, position + 1 :], before[0][:, position + 1 :])
        require(not ignored, f"nothing depends on text token {position}")
    for position in (0, generator.stream.image_length - 1):
        tokens = subject.image_tokens.clone()
        tokens[:, position] = (tokens[:, position] + 1) % subject.codebook_size
        after = generator(subject.text_tokens, tokens)
        ignored = torch.equal(after[0][:, 0], before[0][:, 0])
        require(not ignored, f"the caption does not depend on image token {position}")
        if position:
            seen = f"image positions before {position} see image token {position}"
            require_close(after[1][:, :position], before[1][:, :position], seen)


def what_a_captioner_is_given_stays(subject: Subject) -> None:
    generator, given = subject.stirred(), (subject.text_tokens, subject.image_tokens)
    require_unchanged(lambda: generator(*given), *given)
    require_unchanged(lambda: generator.prefill_image(subject.image_tokens, subject.text_tokens[:, :1]), *given)
    _, cache = generator.prefill_image(subject.image_tokens)
    require_unchanged(lambda: generator.step_text(subject.text_tokens[:, :2], cache), *given)


CAPTIONER_CHECKS = (
    *TRAINABLE_CHECKS,
    *EITHER_ORDER_CHECKS,
    caption_logits_have_their_shapes,
    a_caption_sees_the_picture_and_the_text_before_it,
    what_a_captioner_is_given_stays,
)
