"""The trained parts that are there, and what they compute of many pictures and captions: in batches of one size.

Letters: B pictures or captions, L labels, H W pixels, D features.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mmgen.data.asked import check_caption, check_labels, check_templates
from mmgen.errors import CheckpointError
from mmgen.images import decode
from mmgen.protocols import Encoder, Generator, Tokenizer

# Pictures are decoded and scored in one batch size, the last batch padded: the last bits of a result depend on it.
BATCH = 64
BATCH_PIXELS = BATCH * 64 * 64  # larger pictures come fewer at once, so that they fit where small ones do
MAX_LOGIT_SCALE = math.log(100)  # CLIP, section 2.5
CAPTIONS = 1 << 15  # held at once as tokens and features, however many labels and templates there are

Labels = Sequence[str] | Mapping[str, Sequence[str]]


class Trio:
    """Image tokenizer, generator and encoder, as far as they are there. Reconstructs, encodes, and classifies pictures
    by naming the classes.

    Args:
        tokenizer, generator, encoder: in eval mode; what is missing cannot be used, and is named when it is asked for.
        fingerprints: of the parts that are there, by kind.
        device: where the parts are put and compute; what goes in and comes out is on the CPU.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer | None = None,
        generator: Generator | None = None,
        encoder: Encoder | None = None,
        fingerprints: Mapping[str, str] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._parts: dict[str, Any] = {"tokenizer": tokenizer, "generator": generator, "encoder": encoder}
        self.device = torch.device(device)
        for part in self._parts.values():
            if part is not None:
                part.to(self.device)
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
        return _of_size(image[None], size)[0]

    @torch.no_grad()
    def classify(
        self,
        image: Tensor | str | Path,
        labels: Labels,
        templates: Sequence[str] = ("{}",),
        *,
        cut: bool = False,
    ) -> dict[str, float]:
        """Classifies a picture by naming the classes (CLIP, section 3.1).

        Args:
            image: (3,H,W) in [0,1], or a file, which is read as CLIP reads it (see `mmgen.images.decode`). The middle
                square is read, at the encoder's size.
            labels: what it may show; at least one, none twice. A mapping gives several names of a label.
            templates: captions with one place `{}` for the label; their features are averaged (section 3.1.4).
            cut: whether a label that is too long is cut instead of refused.

        Returns:
            Each label's share, the largest first; they add up to one.

        Raises:
            ConfigError: no labels, one that is empty, repeated or too long, a template without a place.
        """
        return self.shares(image, list(labels), self.class_features(labels, templates, cut=cut))

    @torch.no_grad()
    def shares(self, image: Tensor | str | Path, labels: Sequence[str], class_features: Tensor) -> dict[str, float]:
        """As `classify`, with the labels' class_features (L,D), which are the same for every picture."""
        encoder = self.part("encoder")
        if not isinstance(image, Tensor):
            image = decode(image, size=encoder.image_size, resize="bicubic")
        scale = encoder.logit_scale.clamp_max(MAX_LOGIT_SCALE).exp().cpu()
        shares = (scale * (self.encode_images(image[None]) @ class_features.T)[0]).softmax(0)
        order = shares.argsort(descending=True, stable=True)
        return {labels[i]: share for i, share in zip(order.tolist(), shares[order].tolist(), strict=True)}

    @torch.no_grad()
    def class_features(
        self,
        labels: Labels,
        templates: Sequence[str] = ("{}",),
        *,
        cut: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Labels to class_features (L,D), of length one: the features of a label's captions, each of length one, are
        averaged, and the average is brought to length one (CLIP, section 3.1.4).

        Args:
            labels, templates, cut: as in `classify`. A label's captions are all of its names in all templates.
            progress: counts encoded captions.

        Raises:
            ConfigError: as `classify`.
        """
        names = check_labels(labels)
        check_templates(templates)
        counts = [len(alternatives) * len(templates) for alternatives in names.values()]
        texts = (t.replace("{}", name) for alternatives in names.values() for name in alternatives for t in templates)
        owners = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        total: Tensor | None = None
        for part in owners.split(CAPTIONS):
            captions = list(itertools.islice(texts, len(part)))
            features = self._whole_captions(captions, cut, progress)
            total = features.new_zeros(len(counts), features.shape[1]) if total is None else total
            total.index_add_(0, part, features)
        assert total is not None
        return F.normalize(total, dim=-1)  # the sum points where the average does

    def _whole_captions(self, captions: list[str], cut: bool, progress: Callable[[int], None] | None) -> Tensor:
        """The features of captions, of which none may be too long unless it may be `cut`."""
        text_tokenizer = self.part("encoder").text_tokenizer
        before = cut_so_far(self)
        tokens = text_tokenizer.encode(captions)
        if cut_so_far(self) > before and not cut:
            for caption in captions:
                check_caption(caption, text_tokenizer)
        return self._encode_tokens(tokens, progress)

    @torch.no_grad()
    def encode_images(self, images: Tensor, *, probe: bool = False) -> Tensor:
        """(B,3,H,W) in [0,1], whose middle squares are brought to the encoder's size, to image_features (B,D); with
        `probe`, to what a linear probe reads of the encoder (B,F)."""
        encoder = self.part("encoder")
        size = getattr(encoder, "image_size", min(images.shape[-2:]))
        encode = getattr(encoder, "probe_features", encoder.encode_image) if probe else encoder.encode_image
        return self.in_batches(lambda part: encode(_of_size(part, size)), images, _batch_of(size))

    @torch.no_grad()
    def encode_captions(self, captions: Sequence[str], progress: Callable[[int], None] | None = None) -> Tensor:
        """Captions to text_features (B,D); what is too long is cut. `progress` counts encoded captions."""
        return self._encode_tokens(self.part("encoder").text_tokenizer.encode(captions), progress)

    def _encode_tokens(self, text_tokens: Tensor, progress: Callable[[int], None] | None = None) -> Tensor:
        """(B,T) to text_features (B,D). Many are put in the order of their lengths: an encoder that reads a batch as
        far as its longest caption goes then reads little that is idle."""
        encoder = self.part("encoder")
        order = torch.arange(len(text_tokens))
        if len(text_tokens) > BATCH:
            order = encoder.text_tokenizer.end(text_tokens).argsort(stable=True)
        left = len(text_tokens)

        def encode(part: Tensor) -> Tensor:
            nonlocal left
            features: Tensor = encoder.encode_text(part)
            if progress is not None:
                progress(min(left, len(part)))
            left -= len(part)
            return features

        features = self.in_batches(encode, text_tokens[order], BATCH)
        return torch.empty_like(features).index_copy_(0, order, features)

    @torch.no_grad()
    def reconstruct(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B,3,H,W) to indices (B,h,w) and the pictures (B,3,H,W) decoded from them."""
        tokenizer = self.part("tokenizer")
        indices = self.in_batches(tokenizer.encode, images, self.batch)
        return indices, self.in_batches(tokenizer.decode, indices, self.batch)

    @property
    def batch(self) -> int:
        """How many pictures go through the image tokenizer at once."""
        return _batch_of(self.part("tokenizer").image_size)

    def in_batches(self, function: Callable[[Tensor], Tensor], rows: Tensor, size: int) -> Tensor:
        """Applies a function of a part row by row, in batches of one size, the last one padded with its first row."""
        results = []
        for part in rows.split(size):
            padded = torch.cat([part, part[:1].expand(size - len(part), *part.shape[1:])]) if len(part) < size else part
            results.append(function(padded.to(self.device))[: len(part)].cpu())
        return torch.cat(results)


def cut_so_far(model: Trio) -> int:
    """How many captions the encoder's text tokenizer has cut; 0 where it does not count them, as another library's."""
    return int(getattr(model.part("encoder").text_tokenizer, "truncated", 0))


def _batch_of(image_size: int) -> int:
    """How many pictures of that size go through a model at once: a function of nothing else."""
    return max(1, min(BATCH, BATCH_PIXELS // image_size**2))


def _of_size(images: Tensor, size: int) -> Tensor:
    """The middle squares of (B,3,H,W) to (B,3,size,size): shrunk by area, enlarged bicubic, or left where that is their
    size."""
    side = min(images.shape[-2:])
    top, left = ((length - side) // 2 for length in images.shape[-2:])
    images = images[:, :, top : top + side, left : left + side]
    if side == size:
        return images
    if side > size:
        return F.interpolate(images, (size, size), mode="area")
    return F.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
