"""The loaded trio: image tokenizer, generator, contrastive encoder; what `mmgen.load` returns and the commands use.

Letters: C captions, n drawings of each, k kept, P pictures, L labels, N = h·w, H W pixels, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmgen import registry
from mmgen.data.asked import check_caption, check_counts
from mmgen.devices import device_of
from mmgen.drawings import Captions, Drawings, Redrawing
from mmgen.errors import CheckpointError
from mmgen.images import picture_size
from mmgen.loading import AUTOREGRESSIVE, load_part, read_parts, recorded_sampler
from mmgen.protocols import Encoder, Generator, Sampler, Tokenizer
from mmgen.samplers.captions import write_captions
from mmgen.samplers.choice import Choice
from mmgen.samplers.region import Region, Unit
from mmgen.stream import Order
from mmgen.trio import Trio

HELD_BYTES = 1 << 28  # of decoded drawings that wait to be ranked

Progress = Callable[[int], None]


class TextToImage(Trio):
    """Draws captions and ranks the drawings, redraws parts of pictures, and captions and classifies pictures.

    Args:
        tokenizer, generator, encoder: in eval mode; what is missing cannot be used, and is named when it is asked for.
            Without an encoder nothing is ranked.
        sampler: its name and options, as a config holds them; by default autoregressive's own.
        fingerprints: of the parts that are there, by kind.
        device: where the parts compute.

    Attributes:
        sampler: how tokens are drawn. `sampler_config`: the same as a mapping, complete.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer | None = None,
        generator: Generator | None = None,
        encoder: Encoder | None = None,
        sampler: Mapping[str, Any] | None = None,
        fingerprints: Mapping[str, str] | None = None,
        device: torch.device | str = "cpu",
        trusted: bool = True,
    ) -> None:
        super().__init__(
            tokenizer=tokenizer, generator=generator, encoder=encoder, fingerprints=fingerprints, device=device
        )
        self.sampler_config = registry.complete("sampler", sampler or AUTOREGRESSIVE, trusted=trusted)
        self.sampler: Sampler = registry.build("sampler", self.sampler_config, trusted=trusted)

    def generator_of(self, order: Order) -> Any:
        """The generator, whose stream has to have the text or the picture first.

        Raises:
            CheckpointError: MMG-K10, it has the other one first; MMG-K05, there is none.
        """
        generator = self.part("generator")
        found = getattr(generator.stream, "order", "text_first")
        if found != order:
            what = ("captions pictures", "draw") if found == "image_first" else ("draws captions", "caption pictures")
            raise CheckpointError(
                f"this generator {what[0]}; it cannot {what[1]}",
                code="MMG-K10",
                where=f"generator.order={found}",
                why="its stream has the " + ("picture" if found == "image_first" else "text") + " first",
                fix=f"mmgen train task=generator generator.order={order} tokenizer_from=RUN dataset=NAME",
            )
        return generator

    # ---- pictures of captions

    def generate(self, caption: str, *, num_images: int = 8, keep: int | None = None, seed: int = 1) -> Drawings:
        """Draws a caption and keeps the drawings that fit it best, as DALL·E does (section 2.6).

        Args:
            caption: any text; longer than the generator's context is an error, never cut.
            num_images: how many are drawn.
            keep: how many are kept, all if None.
            seed: image number i depends on (caption, seed, i) alone.

        Raises:
            ConfigError: no caption, one that is too long, or counts that make no sense.
        """
        return self.draw([caption], num_images=num_images, keep=keep, seed=seed)[0]

    def redraw(
        self,
        image: Tensor | str | Path,
        caption: str,
        *,
        region: tuple[int, int] | Region | None = None,
        mask: Tensor | None = None,
        unit: Unit = "pixels",
        keep_pixels: bool = False,
        num_images: int = 8,
        keep: int | None = None,
        seed: int = 1,
    ) -> Drawings:
        """Draws a part of a picture anew, to fit a caption; every other code is kept bit for bit.

        Args:
            image: (3,H,W) in [0,1], or a file. The middle square is read, at the image tokenizer's size.
            caption: of the whole picture as it should become.
            region: (row, column); everything from there to the bottom-right corner is drawn. Or one made before.
            mask: (H,W) bool in its stead: true is drawn, false is kept.
            unit: what rows, columns and the mask count: pixels of `image`, rounded outward to whole codes, or codes.
            keep_pixels: lays the picture's own pixels over those decoded from kept codes.
            num_images, keep, seed: as in `generate`.

        Raises:
            ConfigError: as `generate`, and a region or a mask that does not fit the picture.
            DataError: the picture cannot be read.
        """
        if not isinstance(region, Region):
            region = self.region(image, region, mask, unit)
        redrawing = Redrawing(self.picture(image)[None], region, keep_pixels)
        return self.draw([caption], num_images=num_images, keep=keep, seed=seed, redrawing=redrawing)[0]

    def region(
        self, image: Tensor | str | Path, corner: tuple[int, int] | None, mask: Tensor | None, unit: Unit = "pixels"
    ) -> Region:
        """The codes that a corner (row, column) or a mask asks to be drawn anew; see `redraw`."""
        if (corner is None) == (mask is None):
            raise ValueError("give a region (row, column) or a mask, and not both")
        grid = self.part("tokenizer").grid
        size = picture_size(image) if not isinstance(image, Tensor) else (image.shape[1], image.shape[2])
        if mask is not None:
            return Region.masked(grid, mask, unit=unit, size=size)
        assert corner is not None
        return Region.corner(grid, *corner, unit=unit, size=size)

    @torch.no_grad()
    def draw(
        self,
        captions: Sequence[str],
        *,
        num_images: int,
        keep: int | None = None,
        seed: int = 1,
        progress: Progress | None = None,
        cut: bool = False,
        redrawing: Redrawing | None = None,
    ) -> list[Drawings]:
        """`generate`, or `redraw`, for many captions at once, which share batches. `progress` counts finished pictures;
        with `cut`, a caption that is too long is cut, as it is in training."""
        check_counts(num_images, keep)
        generator, tokenizer = self.generator_of("text_first"), self.part("tokenizer")
        for owner in () if cut else (generator, *([self.part("encoder")] if self.ranks else [])):
            for caption in captions:
                check_caption(caption, owner.text_tokenizer)
        if not self.ranks:
            num_images = keep or num_images  # nobody chooses among more
        kept: dict[str, Tensor] = {}
        if redrawing is not None:
            indices = self.in_batches(tokenizer.encode, redrawing.images, self.batch)
            kept = {"kept_tokens": indices.flatten(1), "kept": redrawing.region.kept}
        text_tokens = generator.text_tokenizer.encode(captions).to(self.device)
        kept = {name: tensor.to(self.device) for name, tensor in kept.items()}
        drawn = self.sampler.draw(generator, text_tokens, num_images=num_images, seed=seed, progress=progress, **kept)
        tokens = drawn.cpu()
        held = max(1, HELD_BYTES // (num_images * 12 * tokenizer.image_size**2))
        drawings: list[Drawings] = []
        for first in range(0, len(captions), held):
            part = slice(first, first + held)
            images = self._decoded(tokens[part], redrawing, part)
            drawings += self._ranked(captions[part], tokens[part], images, keep, seed)
        return drawings

    @torch.no_grad()
    def teacher_forced(self, images: Tensor, captions: Sequence[str]) -> Tensor:
        """Pictures (B,3,H,W) of the image tokenizer's size to pictures (B,3,H,W) of the likeliest image tokens, each
        after the caption and the true tokens before it: where these are right and drawings are not, mistakes add up."""
        generator, tokenizer = self.generator_of("text_first"), self.part("tokenizer")
        text_tokens = generator.text_tokenizer.encode(captions)
        pieces = []
        for first in range(0, len(images), self.batch):
            part = slice(first, first + self.batch)
            image_tokens = tokenizer.encode(images[part].to(self.device))
            _, image_logits = generator(text_tokens[part].to(self.device), image_tokens.flatten(1))
            pieces.append(tokenizer.decode(image_logits.argmax(-1).view(image_tokens.shape)).cpu())
        return torch.cat(pieces)

    def _decoded(self, tokens: Tensor, redrawing: Redrawing | None, part: slice) -> Tensor:
        """Image tokens (C,n,N) to pictures (C,n,3,H,W)."""
        tokenizer = self.part("tokenizer")
        indices = tokens.flatten(0, 1).view(-1, *tokenizer.grid)
        images = self.in_batches(tokenizer.decode, indices, self.batch)
        images = images.view(*tokens.shape[:2], *images.shape[1:])
        if redrawing is not None and redrawing.keep_pixels:
            drawn = redrawing.region.pixels((images.shape[-2], images.shape[-1]))
            images = torch.where(drawn, images, redrawing.images[part, None].to(images))
        return images

    def _ranked(
        self, captions: Sequence[str], tokens: Tensor, images: Tensor, keep: int | None, seed: int
    ) -> list[Drawings]:
        """The best of each caption's pictures (C,n,3,H,W)."""
        count = images.shape[1]
        scores = None
        if self.ranks:
            features = self.encode_images(images.flatten(0, 1)).view(len(captions), count, -1)
            scores = (features @ self.encode_captions(captions)[:, :, None]).squeeze(-1)
        drawings = []
        for i, caption in enumerate(captions):
            order = torch.arange(count) if scores is None else scores[i].argsort(descending=True, stable=True)
            order = order[: keep or count]
            best = None if scores is None else scores[i, order]
            drawings.append(Drawings(caption, seed, images[i, order], best, order, tokens[i, order]))
        return drawings

    # ---- captions of pictures

    def caption(
        self,
        image: Tensor | str | Path,
        *,
        num_captions: int = 8,
        keep: int | None = None,
        seed: int = 1,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
    ) -> Captions:
        """Says what a picture shows, with a generator trained with `generator.order=image_first`.

        Args:
            image: (3,H,W) in [0,1], or a file. The middle square is read, at the image tokenizer's size.
            num_captions: how many are written; equal ones are told once, with their count.
            keep: how many different ones are kept at most, all if None.
            seed: caption number i depends on (picture, seed, i) alone.
            temperature, top_k, top_p, min_p: as in drawing, over text tokens.

        Raises:
            CheckpointError: the generator draws pictures and writes nothing.
            ConfigError: counts that make no sense.
            DataError: the picture cannot be read.
        """
        choice = Choice(temperature, top_k, top_p, min_p)
        return self.describe(self.picture(image)[None], num_captions=num_captions, keep=keep, seed=seed, choice=choice)[
            0
        ]

    @torch.no_grad()
    def describe(
        self,
        images: Tensor,
        *,
        num_captions: int,
        keep: int | None = None,
        seed: int = 1,
        choice: Choice | None = None,
        progress: Progress | None = None,
    ) -> list[Captions]:
        """`caption` for many pictures (P,3,H,W) of the image tokenizer's size. `progress` counts written captions."""
        check_counts(num_captions, keep, "captions")
        generator = self.generator_of("image_first")
        image_tokens = self.in_batches(self.part("tokenizer").encode, images, self.batch).flatten(1).to(self.device)
        written = write_captions(
            generator, image_tokens, num_captions=num_captions, seed=seed, choice=choice, progress=progress
        ).cpu()
        features = self.encode_images(images) if self.ranks else None
        found = []
        for i in range(len(images)):
            texts = [generator.text_tokenizer.decode(row).strip() for row in written[i]]
            different = list(dict.fromkeys(texts))
            numbers = torch.tensor([texts.index(text) for text in different])
            counts = torch.tensor([texts.count(text) for text in different])
            scores = self.encode_captions(different) @ features[i] if features is not None else None
            order = (counts if scores is None else scores).argsort(descending=True, stable=True)[: keep or num_captions]
            best = None if scores is None else scores[order]
            found.append(Captions(seed, [different[j] for j in order.tolist()], best, numbers[order], counts[order]))
        return found


def open_trio(
    path: str | Path,
    sampler: Mapping[str, Any] | None = None,
    *,
    tokenizer_from: str | Path | None = None,
    generator_from: str | Path | None = None,
    encoder_from: str | Path | None = None,
    device: str = "auto",
    trusted: bool = False,
) -> TextToImage:
    """Opens an export or a finished run: every part that is there (see `read_parts` for the errors).

    Args:
        sampler: how tokens are drawn, its name and options; None takes the one that the run was judged with.
        tokenizer_from, generator_from, encoder_from: other runs, exports or checkpoints whose part stands in.
        device: where it computes, see `device_of`.
    """
    computes_on = device_of(device)
    elsewhere = {"tokenizer_from": tokenizer_from, "generator_from": generator_from, "encoder_from": encoder_from}
    parts = read_parts(path, trusted=trusted, **elsewhere)
    components = {kind: load_part(part, trusted=trusted) for kind, part in parts.items()}
    return TextToImage(
        tokenizer=components.get("tokenizer"),
        generator=components.get("generator"),
        encoder=components.get("encoder"),
        sampler=recorded_sampler(path) if sampler is None else sampler,
        fingerprints={kind: part.fingerprint for kind, part in parts.items()},
        device=computes_on,
        trusted=sampler is not None,
    )
