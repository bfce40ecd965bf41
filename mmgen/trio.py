"""The trained parts that are there, and what they compute of many pictures and captions: in batches of one size.

Letters: B pictures or captions, L labels, H W pixels, D features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmgen.data.asked import check_caption, check_labels
from mmgen.errors import CheckpointError
from mmgen.images import decode
from mmgen.protocols import Encoder, Generator, Tokenizer

# Pictures are decoded and scored in one batch size, the last batch padded: the last bits of a result depend on it.
BATCH = 64
BATCH_PIXELS = BATCH * 64 * 64  # larger pictures come fewer at once, so that they fit where small ones do
MAX_LOGIT_SCALE = math.log(100)  # CLIP, section 2.5


class Trio:
    """Image tokenizer, generator and encoder, as far as they are there. Reconstructs, encodes, and classifies pictures
    by naming the classes.

    Args:
        tokenizer, generator, encoder: in eval mode; what is missing cannot be used, and is named when it is asked for.
        fingerprints: of the parts that are there, by kind.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer | None = None,
        generator: Generator | None = None,
        encoder: Encoder | None = None,
        fingerprints: Mapping[str, str] | None = None,
    ) -> None:
        self._parts: dict[str, Any] = {"tokenizer": tokenizer, "generator": generator, "encoder": encoder}
        self.fingerprints = dict(fingerprints or {})

    def part(self, kind: str) -> Any:
        """The part of that kind.

        Raises:
            CheckpointError: it was not trained or not exported.
        """
        if self._parts[kind] is None:
            elsewhere = f"{kind}_from=RUN, or " if kind != "generator" else ""
            raise CheckpointError(
                f"there is no trained {kind} here", code="MMG-K05", fix=f"{elsewhere}mmgen train task={kind}"
            )
        return self._parts[kind]

    def has(self, kind: str) -> bool:
        """Whether the part of that kind is there."""
        return self._parts[kind] is not None

    @property
    def ranks(self) -> bool:
        """Whether there is an encoder that ranks."""
        return self.has("encoder")

    def picture(self, image: Tensor | str | Path) -> Tensor:
        """The middle square of a picture or a file at the image tokenizer's size, (3,H,W) in [0,1]."""
        size = self.part("tokenizer").image_size
        if not isinstance(image, Tensor):
            return decode(image, size=size)
        side = min(image.shape[1:])
        top, left = ((length - side) // 2 for length in image.shape[1:])
        return _of_size(image[None, :, top : top + side, left : left + side], size)[0]

    @torch.no_grad()
    def classify(
        self,
        image: Tensor | str | Path,
        labels: Sequence[str],
        templates: Sequence[str] = ("{}",),
        *,
        cut: bool = False,
    ) -> dict[str, float]:
        """Classifies a picture by naming the classes (CLIP, section 3.1).

        Args:
            image: (3,H,W) in [0,1], or a file.
            labels: what it may show; at least one, none twice.
            templates: captions with one place `{}` for the label; their features are averaged (section 3.1.4).
            cut: whether a label that is too long is cut instead of refused.

        Returns:
            Each label's share, the largest first; they add up to one.

        Raises:
            ConfigError: no labels, one that is empty, repeated or too long, a template without a place.
        """
        encoder = self.part("encoder")
        check_labels(labels, templates)
        captions = [[template.replace("{}", label) for label in labels] for template in templates]
        for caption in () if cut else (text for texts in captions for text in texts):
            check_caption(caption, encoder.text_tokenizer)
        if not isinstance(image, Tensor):
            image = decode(image, size=encoder.image_size)
        features = torch.stack([self.encode_captions(texts) for texts in captions])
        classes = F.normalize(features.mean(0), dim=-1)
        scale = encoder.logit_scale.clamp_max(MAX_LOGIT_SCALE).exp()
        shares = (scale * (self.encode_images(image[None]) @ classes.T)[0]).softmax(0)
        return {labels[int(i)]: float(shares[i]) for i in shares.argsort(descending=True, stable=True)}

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """(B,3,H,W) in [0,1], brought to the encoder's size, to image_features (B,D)."""
        encoder = self.part("encoder")
        size = getattr(encoder, "image_size", images.shape[-1])
        return in_batches(lambda part: encoder.encode_image(_of_size(part, size)), images, _batch_of(size))

    @torch.no_grad()
    def encode_captions(self, captions: Sequence[str]) -> Tensor:
        """Captions to text_features (B,D)."""
        encoder = self.part("encoder")
        return in_batches(encoder.encode_text, encoder.text_tokenizer.encode(captions), BATCH)

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B,3,H,W) to indices (B,h,w) and the pictures (B,3,H,W) decoded from them."""
        tokenizer = self.part("tokenizer")
        indices = in_batches(tokenizer.encode, images, self.batch)
        return indices, in_batches(tokenizer.decode, indices, self.batch)

    @property
    def batch(self) -> int:
        """How many pictures go through the image tokenizer at once."""
        return _batch_of(self.part("tokenizer").image_size)


def _batch_of(image_size: int) -> int:
    """How many pictures of that size go through a model at once: a function of nothing else."""
    return max(1, min(BATCH, BATCH_PIXELS // image_size**2))


def _of_size(images: Tensor, size: int) -> Tensor:
    """(B,3,H,W) to (B,3,size,size); as they are where that is their size."""
    return images if images.shape[-2:] == (size, size) else F.interpolate(images, (size, size), mode="area")


def in_batches(function: Callable[[Tensor], Tensor], rows: Tensor, size: int) -> Tensor:
    """Applies a function row by row in batches of one size, the last one padded with its first row."""
    results = []
    for part in rows.split(size):
        padded = torch.cat([part, part[:1].expand(size - len(part), *part.shape[1:])]) if len(part) < size else part
        results.append(function(padded)[: len(part)])
    return torch.cat(results)
