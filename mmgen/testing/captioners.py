"""Checks of a generator that reads a picture and writes its caption: the stream's other order."""

from __future__ import annotations

import torch
from torch import Tensor

from mmgen.stream import KVCache
from mmgen.testing.checks import require, require_tensor, require_unchanged
from mmgen.testing.streams import Subject, draw, require_close
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


def captions_of_a_batch_do_not_meet(subject: Subject) -> None:
    generator = subject.stirred()
    together = subject.logits(generator)
    for row in range(len(subject.text_tokens)):
        alone = generator(subject.text_tokens[row : row + 1], subject.image_tokens[row : row + 1])
        for one, other in zip(alone, together, strict=True):
            require_close(one[0], other[row], "alone and in a batch")


def reading_a_picture_agrees_with_forward(subject: Subject) -> None:
    generator = subject.stirred()
    uncached, _ = subject.logits(generator)
    for count in (0, 1, subject.text_tokens.shape[1] - 1):
        logits, cache = generator.prefill_image(subject.image_tokens, subject.text_tokens[:, :count] if count else None)
        require_close(logits, uncached[:, count], f"prefill_image with {count} text tokens")
        length = generator.stream.image_length + count
        require(cache.length == length, f"after reading {length} tokens the cache counts {cache.length}")


def steps_of_text_agree_with_forward(subject: Subject) -> None:
    generator, length = subject.stirred(), subject.text_tokens.shape[1]
    uncached, _ = subject.logits(generator)
    for stride in (1, 3):
        _, cache = generator.prefill_image(subject.image_tokens)
        for first in range(0, length - 1, stride):
            tokens = subject.text_tokens[:, first : min(first + stride, length - 1)]
            logits = generator.step_text(tokens, cache)
            after = uncached[:, first + 1 : first + 1 + tokens.shape[1]]
            require(logits.shape == after.shape, f"step_text of {tokens.shape[1]} tokens gives {tuple(logits.shape)}")
            require_close(logits, after, f"step_text of {tokens.shape[1]} at text position {first}")
        require(cache.length == generator.stream.length - 1, "the cache does not count the tokens of a step")


def a_truncated_caption_goes_on(subject: Subject) -> None:
    generator = subject.stirred()
    uncached, _ = subject.logits(generator)
    _, cache = generator.prefill_image(subject.image_tokens, subject.text_tokens[:, :1])
    generator.step_text((subject.text_tokens[:, 1:3] + 1) % generator.text_tokenizer.vocab_size, cache)
    cache.truncate(generator.stream.image_length + 1)
    logits = generator.step_text(subject.text_tokens[:, 1:3], cache)
    require_close(logits, uncached[:, 2:4], "after truncating the cache")


def writing_with_the_cache_gives_the_same_tokens(subject: Subject) -> None:
    generator, image = subject.stirred(), subject.image_tokens
    rows, length = len(image), generator.stream.text_length
    cache: list[KVCache] = []

    def uncached(tokens: Tensor) -> Tensor:
        unknown = torch.zeros(rows, length - tokens.shape[1], dtype=torch.long)
        return generator(torch.cat([tokens, unknown], 1), image)[0][:, tokens.shape[1]]

    def cached(tokens: Tensor) -> Tensor:
        if cache:
            return generator.step_text(tokens[:, -1:], cache[0])[:, 0]
        logits, fresh = generator.prefill_image(image)
        cache.append(fresh)
        return logits

    different = int((draw(length, rows, cached) != draw(length, rows, uncached)).sum())
    require(
        not different, f"with the cache, by the same random numbers, {different} of {rows * length} tokens are others"
    )


def what_a_captioner_is_given_stays(subject: Subject) -> None:
    generator, given = subject.stirred(), (subject.text_tokens, subject.image_tokens)
    require_unchanged(lambda: subject.logits(generator), *given)
    require_unchanged(lambda: generator.prefill_image(subject.image_tokens, subject.text_tokens[:, :1]), *given)
    _, cache = generator.prefill_image(subject.image_tokens)
    require_unchanged(lambda: generator.step_text(subject.text_tokens[:, :2], cache), *given)


CAPTIONER_CHECKS = (
    *TRAINABLE_CHECKS,
    caption_logits_have_their_shapes,
    a_caption_sees_the_picture_and_the_text_before_it,
    captions_of_a_batch_do_not_meet,
    reading_a_picture_agrees_with_forward,
    steps_of_text_agree_with_forward,
    a_truncated_caption_goes_on,
    writing_with_the_cache_gives_the_same_tokens,
    what_a_captioner_is_given_stays,
)
