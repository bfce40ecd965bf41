"""Captions that are wrong: what a training on pictures of the web has to bear, made on purpose to measure it."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Literal

from mmgen.data.order import sample_key

NoiseKind = Literal["another", "words", "dropped", "soup"]
Captions = Sequence[str]  # of one sample; the first is the one it is judged by
ATTEMPTS = 20  # samples looked at for one with another caption


class CaptionNoise:
    """Spoils the captions of a share of the samples: of the same ones in every epoch. So it is with pictures of the
    web, where a wrong caption stays wrong.

    - `another`: those of another sample, whose caption differs.
    - `words`: their own words in another order.
    - `dropped`: half of their words are missing, of a caption of one word none.
    - `soup`: keywords: their words and as many of another sample's, in any order.

    Args:
        share: of all samples, 0 to 1.
        kind: one of these.
        seed: with a sample's id it decides whether the sample is spoilt, and how.

    Raises:
        ValueError: a share out of that range, or another kind.
    """

    def __init__(self, share: float, kind: NoiseKind = "another", seed: int = 0) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"caption_noise must be in [0,1], got {share}")
        if kind not in ("another", "words", "dropped", "soup"):
            raise ValueError(f"caption_noise_kind must be another, words, dropped or soup, got {kind!r}")
        self.share, self.kind, self.seed = share, kind, seed

    def spoils(self, id: str) -> bool:
        """Whether it is one of the share."""
        # The epoch -1 is none of the training's: what is drawn here says nothing about other uses of the keys.
        return sample_key(self.seed, -1, f"noise/{id}") < self.share * (1 << 63)

    def __call__(self, id: str, captions: Captions, others: Callable[[int], Captions], size: int) -> Captions:
        """The captions that training sees of a sample.

        Args:
            captions: its own.
            others: gives those of training sample 0 to `size` - 1.
        """
        if not self.share or not self.spoils(id):
            return captions
        draws = random.Random(sample_key(self.seed, -2, f"noise/{id}"))  # noqa: S311
        if self.kind in ("another", "soup"):
            other = self._another(draws, captions[0], others, size)
            if self.kind == "another":
                return other
            return [_soup(draws, caption, draws.choice(other)) for caption in captions]
        spoilt = _shuffled if self.kind == "words" else _half
        return [spoilt(draws, caption) for caption in captions]

    def _another(self, draws: random.Random, caption: str, others: Callable[[int], Captions], size: int) -> Captions:
        for _ in range(ATTEMPTS):
            other = others(draws.randrange(size))
            if other[0] != caption:
                break
        return other


def _shuffled(draws: random.Random, caption: str) -> str:
    words = caption.split()
    draws.shuffle(words)
    return " ".join(words)


def _half(draws: random.Random, caption: str) -> str:
    words = caption.split()
    kept = sorted(draws.sample(range(len(words)), (len(words) + 1) // 2))
    return " ".join(words[i] for i in kept)


def _soup(draws: random.Random, caption: str, other: str) -> str:
    words, more = caption.split(), other.split()
    return _shuffled(draws, " ".join(words + draws.sample(more, min(len(more), len(words)))))
