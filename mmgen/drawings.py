"""What the loaded trio gives back: drawings of a caption, captions of a picture; best first where an encoder ranks.

Letters: k kept, N = h·w image positions, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from mmgen.samplers.region import Region


@dataclass(frozen=True)
class Drawings:
    """Drawings of one caption, best first by the encoder's score. Indexing gives pictures.

    Attributes:
        images: (k,3,H,W) in [0,1].
        scores: (k,) cosine of picture and caption; None without an encoder, and then the order is that of the numbers.
        numbers: (k,) which of the drawings each is: the same seed and number draw it again.
        image_tokens: (k,N).
    """

    caption: str
    seed: int
    images: Tensor
    scores: Tensor | None
    numbers: Tensor
    image_tokens: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.images)

    def numbered(self, first: int, count: int) -> Drawings:
        """Those that are here of the numbers first … first + count - 1, best first."""
        chosen = (self.numbers >= first) & (self.numbers < first + count)
        scores = None if self.scores is None else self.scores[chosen]
        return Drawings(
            self.caption, self.seed, self.images[chosen], scores, self.numbers[chosen], self.image_tokens[chosen]
        )


@dataclass(frozen=True)
class Redrawing:
    """What is drawn anew, and of which pictures.

    Attributes:
        images: (C,3,H,W) in [0,1], one for each caption, of the image tokenizer's size.
        region: the codes that are drawn; all others are kept bit for bit.
        keep_pixels: whether the picture's own pixels are laid over those decoded from kept codes.
    """

    images: Tensor
    region: Region
    keep_pixels: bool = False


@dataclass(frozen=True)
class Captions:
    """Different captions of one picture, best first by the encoder's score. Indexing gives texts.

    Attributes:
        texts: k of them, no two equal.
        scores: (k,) cosine of picture and caption; None without an encoder, and then those written most often lead.
        numbers: (k,) which of the captions each was first: the same seed and number write it again.
        counts: (k,) how often each was written.
    """

    seed: int
    texts: list[str]
    scores: Tensor | None
    numbers: Tensor
    counts: Tensor

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> str:
        return self.texts[index]

    def __iter__(self) -> Iterator[str]:
        return iter(self.texts)
