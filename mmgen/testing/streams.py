"""Checks that hold in both orders of a stream: what comes second in it, picture or caption, is read and drawn with
a cache as it is without one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mmgen.stream import KVCache
from mmgen.testing.checks import require
from mmgen.testing.trainables import Subject as TrainableSubject

TOLERANCE = 1e-5


@dataclass
class Subject(TrainableSubject):
    """A generator with text (B,T) and image tokens (B,N) of three captions."""

    text_tokens: Tensor = field(default_factory=lambda: torch.empty(0))
    image_tokens: Tensor = field(default_factory=lambda: torch.empty(0))
    codebook_size: int = 0

    def logits(self, generator: Any) -> tuple[Tensor, Tensor]:
        # Copies here and below: a generator that writes into what it is given spoils the check of that, and no other.
        return generator(self.text_tokens.clone(), self.image_tokens.clone())

    @property
    def picture_second(self) -> bool:
        return self.component.stream.order == "text_first"

    @property
    def second(self) -> Tensor:
        """The tokens of what comes second (B,S)."""
        return self.image_tokens if self.picture_second else self.text_tokens

    @property
    def first_length(self) -> int:
        return (self.text_tokens if self.picture_second else self.image_tokens).shape[1]

    def uncached(self, generator: Any, second: Tensor | None = None) -> Tensor:
        """Logits (B,S,V) of every token of what comes second, without a cache."""
        second = self.second if second is None else second
        if self.picture_second:
            return generator(self.text_tokens.clone(), second.clone())[1]
        return generator(second.clone(), self.image_tokens.clone())[0]

    def read(self, generator: Any, second: Tensor) -> tuple[Tensor, KVCache]:
        """What comes first, and (B,n) of the rest: logits (B,V) of the next token, and the cache."""
        given = second.clone() if second.shape[1] else None
        if self.picture_second:
            return generator.prefill(self.text_tokens.clone(), given)
        return generator.prefill_image(self.image_tokens.clone(), given)

    def step(self, generator: Any, tokens: Tensor, cache: KVCache) -> Tensor:
        step = generator.step if self.picture_second else generator.step_text
        return step(tokens.clone(), cache)

    def wrong(self, tokens: Tensor) -> Tensor:
        """Other tokens of the same kind."""
        kinds = self.codebook_size if self.picture_second else self.component.text_tokenizer.vocab_size
        return (tokens + 1) % kinds


def require_close(one: Tensor, other: Tensor, what: str) -> None:
    """Logits that may differ in their last bits and no further."""
    difference = float((one - other).detach().abs().max())
    allowed = TOLERANCE * max(1.0, float(other.detach().abs().max()))
    require(difference <= allowed, f"{what}: logits differ by {difference:.1e}, allowed is {allowed:.0e}")


@torch.no_grad()
def draw(count: int, rows: int, logits_after: Callable[[Tensor], Tensor]) -> Tensor:
    """`count` tokens one after another, (rows,count), by the same random numbers every time.

    Args:
        logits_after: the tokens drawn so far (rows,n) to the logits of the next, (rows,V).
    """
    random = torch.rand(count, rows, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens = torch.empty(rows, 0, dtype=torch.long)
    for uniform in random:
        mass = logits_after(tokens).double().cpu().softmax(-1).cumsum(-1)
        tokens = torch.cat([tokens, torch.searchsorted(mass, uniform).clamp(max=mass.shape[1] - 1)], 1)
    return tokens


def rows_of_a_batch_do_not_meet(subject: Subject) -> None:
    generator = subject.stirred()
    together = subject.logits(generator)
    for row in range(len(subject.text_tokens)):
        alone = generator(subject.text_tokens[row : row + 1], subject.image_tokens[row : row + 1])
        for one, other in zip(alone, together, strict=True):
            require_close(one[0], other[row], "alone and in a batch")


def prefill_agrees_with_forward(subject: Subject) -> None:
    generator, tokens = subject.stirred(), subject.second
    uncached = subject.uncached(generator)
    for count in (0, 1, tokens.shape[1] - 1):
        logits, cache = subject.read(generator, tokens[:, :count])
        require_close(logits, uncached[:, count], f"a prefill with {count} tokens of what comes second")
        length = subject.first_length + count
        require(cache.length == length, f"after reading {length} tokens the cache counts {cache.length}")


def steps_agree_with_forward(subject: Subject) -> None:
    generator, length = subject.stirred(), subject.second.shape[1]
    uncached = subject.uncached(generator)
    for stride in (1, 3):
        _, cache = subject.read(generator, subject.second[:, :0])
        for first in range(0, length - 1, stride):
            tokens = subject.second[:, first : min(first + stride, length - 1)]
            logits = subject.step(generator, tokens, cache)
            after = uncached[:, first + 1 : first + 1 + tokens.shape[1]]
            require(logits.shape == after.shape, f"a step of {tokens.shape[1]} tokens gives {tuple(logits.shape)}")
            require_close(logits, after, f"a step of {tokens.shape[1]} at position {first} of what comes second")
        require(cache.length == generator.stream.length - 1, "the cache does not count the tokens of a step")


def a_truncated_cache_goes_on(subject: Subject) -> None:
    generator, tokens = subject.stirred(), subject.second
    uncached = subject.uncached(generator)
    _, cache = subject.read(generator, tokens[:, :1])
    subject.step(generator, subject.wrong(tokens[:, 1:3]), cache)
    cache.truncate(subject.first_length + 1)
    require_close(subject.step(generator, tokens[:, 1:3], cache), uncached[:, 2:4], "after truncating the cache")


def drawing_with_the_cache_gives_the_same_tokens(subject: Subject) -> None:
    generator = subject.stirred()
    rows, length = subject.second.shape
    cache: list[KVCache] = []

    def uncached(tokens: Tensor) -> Tensor:
        # What is not drawn yet may be anything: it is not seen.
        unknown = torch.zeros(rows, length - tokens.shape[1], dtype=torch.long)
        return subject.uncached(generator, torch.cat([tokens, unknown], 1))[:, tokens.shape[1]]

    def cached(tokens: Tensor) -> Tensor:
        if cache:
            return subject.step(generator, tokens[:, -1:], cache[0])[:, 0]
        logits, fresh = subject.read(generator, tokens)
        cache.append(fresh)
        return logits

    different = int((draw(length, rows, cached) != draw(length, rows, uncached)).sum())
    require(
        not different, f"with the cache, by the same random numbers, {different} of {rows * length} tokens are others"
    )


EITHER_ORDER_CHECKS = (
    rows_of_a_batch_do_not_meet,
    prefill_agrees_with_forward,
    steps_agree_with_forward,
    a_truncated_cache_goes_on,
    drawing_with_the_cache_gives_the_same_tokens,
)
