"""Checks of a generator: causal, and with the cache the same as without. Those of a captioner have a page beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mmgen.protocols import Captioner, Generator
from mmgen.testing.captioners import CAPTIONER_CHECKS
from mmgen.testing.checks import Prepared, require, require_tensor, require_unchanged, run
from mmgen.testing.stand_ins import CAPTIONS, small_batch
from mmgen.testing.streams import EITHER_ORDER_CHECKS, Subject, require_close
from mmgen.testing.trainables import TRAINABLE_CHECKS


def logits_have_their_shapes(subject: Subject) -> None:
    generator, (batch, length) = subject.stirred(), subject.text_tokens.shape
    require(length == generator.stream.text_length, "stream.text_length is not the text tokenizer's context_length")
    text_logits, image_logits = subject.logits(generator)
    text_ids = generator.text_tokenizer.num_ids
    require_tensor(text_logits, (batch, length - 1, text_ids), "text_logits")
    require_tensor(image_logits, (batch, generator.stream.image_length, subject.codebook_size), "image_logits")


def image_logits_see_only_what_came_before(subject: Subject) -> None:
    generator, before = subject.stirred(), subject.logits(subject.stirred())
    length = generator.stream.image_length
    for position in sorted({0, length // 2, length - 1}):
        tokens = subject.image_tokens.clone()
        tokens[:, position] = (tokens[:, position] + 1) % subject.codebook_size
        after = generator(subject.text_tokens, tokens)
        require_close(after[0], before[0], f"the text sees image token {position}")
        seen = f"image positions up to {position} see image token {position}"
        require_close(after[1][:, : position + 1], before[1][:, : position + 1], seen)
        if position < length - 1:
            ignored = torch.equal(after[1][:, position + 1 :], before[1][:, position + 1 :])
            require(not ignored, f"nothing depends on image token {position}")


def text_logits_see_only_what_came_before(subject: Subject) -> None:
    generator, before = subject.stirred(), subject.logits(subject.stirred())
    for position in (1, subject.text_tokens.shape[1] - 1):
        tokens = subject.text_tokens.clone()
        tokens[:, position] = (tokens[:, position] + 1) % generator.text_tokenizer.vocab_size
        after = generator(tokens, subject.image_tokens)
        seen = f"text positions before {position} see text token {position}"
        require_close(after[0][:, :position], before[0][:, :position], seen)
        require(not torch.equal(after[1], before[1]), f"the picture does not depend on text token {position}")


def a_cache_serves_many_candidates(subject: Subject) -> None:
    generator = subject.stirred()
    _, uncached = subject.logits(generator)
    _, cache = generator.prefill(subject.text_tokens)
    rows = torch.tensor([2, 0, 0, 1])
    chosen = cache.select(rows)
    require_close(generator.step(subject.image_tokens[rows, :1], chosen)[:, 0], uncached[rows, 1], "after select")
    require_close(generator.step(subject.image_tokens[:, :1], cache)[:, 0], uncached[:, 1], "the cache selected from")


def what_it_is_given_stays(subject: Subject) -> None:
    generator, given = subject.stirred(), (subject.text_tokens, subject.image_tokens)
    require_unchanged(lambda: generator(*given), *given)
    require_unchanged(lambda: generator.prefill(*given), *given)
    _, cache = generator.prefill(subject.text_tokens, subject.image_tokens[:, :1])
    require_unchanged(lambda: generator.step(subject.image_tokens[:, 1:3], cache), *given)
    read = [table[:, :, :, : cache.length] for table in (cache.keys, cache.values)]
    require_unchanged(lambda: generator.step(subject.image_tokens[:, 3:4], cache), *read)


GENERATOR_CHECKS = (
    *TRAINABLE_CHECKS,
    *EITHER_ORDER_CHECKS,
    logits_have_their_shapes,
    image_logits_see_only_what_came_before,
    text_logits_see_only_what_came_before,
    a_cache_serves_many_candidates,
    what_it_is_given_stays,
)


def prepare(generator: Generator | Captioner, codebook_size: int) -> Prepared:
    """A generator, or a captioner, and the checks of its kind."""
    source = torch.Generator().manual_seed(0)
    count = 3
    image_tokens = torch.randint(codebook_size, (count, generator.stream.image_length), generator=source)
    text_tokens = generator.text_tokenizer.encode(CAPTIONS[:count])

    def outputs(component: Any, put: Callable[[Tensor], Tensor]) -> list[Tensor]:
        text, image = put(text_tokens), put(image_tokens)
        found = list(component(text, image))
        if component.stream.order == "text_first":
            logits, cache = component.prefill(text)
            return [*found, logits, component.step(image[:, :2], cache)]
        logits, cache = component.prefill_image(image)
        return [*found, logits, component.step_text(text[:, :2], cache)]

    batch = small_batch(image_tokens=image_tokens, count=count)
    subject = Subject(generator, batch, outputs, text_tokens, image_tokens, codebook_size)
    first = generator.stream.order == "text_first"
    return Prepared(generator, subject, GENERATOR_CHECKS if first else CAPTIONER_CHECKS)


def check_generator(
    generator: Generator | Captioner, codebook_size: int, expected_failures: Mapping[str, str] | None = None
) -> list[str]:
    """Checks a generator against `mmgen.protocols.Generator`, on copies of it; one whose stream starts with the picture
    against `mmgen.protocols.Captioner`.

    Args:
        generator: an instance, as small as you like, trained or not; its grid holds four positions or more.
        codebook_size: what it was built with.
        expected_failures: reasons, by the names of the checks that are known to fail; strict.

    Returns:
        The names of the checks.

    Raises:
        Nonconforming: an AssertionError that names every check that failed and what it found.
    """
    with torch.enable_grad():
        return run(prepare(generator, codebook_size), expected_failures)
