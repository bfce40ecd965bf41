"""Draws image tokens one position after another.

Letters: C captions, n pictures of each, B pictures drawn at once, T text positions, N image positions, V ids,
G passes a picture needs (2 with guidance, otherwise 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from mmgen.protocols import Generator
from mmgen.samplers.choice import Choice, uniforms
from mmgen.samplers.guards import checked, evaluating, refuse_non_finite
from mmgen.samplers.prefill import ReadCaptions
from mmgen.stream import KVCache


class Autoregressive:
    """Temperature, top_k, top_p, min_p and classifier-free guidance over a key-value cache.

    Logits differ in their last bits between batch sizes. So every pass has a fixed shape, padded where there is less
    to do, and a picture does not change with what is drawn beside it, as long as the generator computes the rows of a
    batch alike (torch's fused attention on several CPU threads does not; matrix products and a softmax do).

    Args:
        temperature: ≥ 0; 0 takes the likeliest token. DALL·E draws at 1 (section 2.4 of arXiv 2102.12092).
        top_k: draw among the k likeliest tokens, k ≥ 1.
        top_p: draw among the likeliest tokens that make up this mass, in (0,1].
        min_p: draw among the tokens at least this many times as likely as the likeliest, in [0,1].
        guidance_scale: ≥ 0; logits are null + scale·(conditional − null), where null read the empty caption; 1 is no
            guidance, and costs none. The generator must have been trained with empty captions.
        batch_size: pictures drawn at once, ≥ 1. Time and memory follow it, and, in the last bits, the logits.

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        guidance_scale: float = 1.0,
        batch_size: int = 64,
    ) -> None:
        self.choice = Choice(temperature, top_k, top_p, min_p)
        if not (math.isfinite(guidance_scale) and guidance_scale >= 0):
            raise ValueError(f"guidance_scale is {guidance_scale}; it must be a finite number ≥ 0")
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be ≥ 1")
        self.guidance_scale, self.batch_size = guidance_scale, batch_size

    @property
    def guided(self) -> bool:
        """Whether the empty caption is read beside each caption."""
        return self.guidance_scale != 1

    def draw(
        self,
        generator: Generator,
        text_tokens: Tensor,
        *,
        num_images: int,
        seed: int,
        kept_tokens: Tensor | None = None,
        kept: Tensor | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """Captions (C,T) to image tokens (C,num_images,N), see `mmgen.protocols.Sampler`.

        Raises:
            ValueError: arguments that do not fit the generator or each other.
            NonFiniteError: the generator's logits are not numbers.
        """
        kept_tokens, kept = checked(generator, text_tokens, num_images, kept_tokens, kept)
        tokens = kept_tokens[:, None].repeat(1, num_images, 1)
        free = [position for position, is_kept in enumerate(kept.tolist()) if not is_kept]
        random = _random(text_tokens, num_images, seed, len(kept)).to(text_tokens.device)
        # Not inference mode: what a generator caches here, a mask or a table, must stay usable in training.
        with torch.no_grad(), evaluating(generator):
            # A group of batch_size captions fills its batches to the brim, and one group's cache is held at a time.
            groups = (part.split(self.batch_size) for part in (text_tokens, tokens, random))
            for text, group, own in zip(*groups, strict=True):
                self._draw_group(generator, text, group, own, free, progress or (lambda count: None))
        return tokens

    def _draw_group(
        self,
        generator: Generator,
        text_tokens: Tensor,
        tokens: Tensor,
        random: Tensor,
        free: list[int],
        progress: Callable[[int], None],
    ) -> None:
        """Fills in the `free` positions of `tokens` (C,n,N) for captions (C,T), with `random` (C,n,N)."""
        if not free or not len(text_tokens):
            return progress(len(text_tokens) * tokens.shape[1])
        captions = ReadCaptions(generator, text_tokens, tokens[:, 0, : free[0]], self.guided)
        every_job = torch.cartesian_prod(
            torch.arange(len(text_tokens), device=tokens.device), torch.arange(tokens.shape[1], device=tokens.device)
        )
        for jobs in every_job.split(self.batch_size):
            padded = jobs[torch.arange(self.batch_size, device=tokens.device).clamp_(max=len(jobs) - 1)]
            caption, number = padded.unbind(1)
            drawn = tokens[caption, number]
            self._decode(generator, *captions.start(caption), random[caption, number].T.contiguous(), drawn, free)
            tokens[caption, number] = drawn  # the padding is the last job again, and the same tokens
            progress(len(jobs))

    def _decode(
        self, generator: Generator, logits: Tensor, cache: KVCache, random: Tensor, tokens: Tensor, free: list[int]
    ) -> None:
        """Fills in the `free` positions of `tokens` (B,N), from the first one's logits (G·B,V), with `random` (N,B)."""
        finite = torch.ones((), dtype=torch.bool, device=tokens.device)
        read = free[0]
        for position in free:
            if position > read:
                # What was drawn last, and kept tokens after it, in one step. A copy: a slice's strides would change
                # with its position, and a compiled generator would be compiled anew for each.
                fresh = tokens[:, read:position].repeat(2 if self.guided else 1, 1)
                logits, read = generator.step(fresh, cache)[:, -1], position
            guided = self._guide(logits)
            finite &= guided.amax(dim=-1).isfinite().all()  # looked at after the last step: no waiting for the device
            tokens[:, position] = self.choice(guided, random[position])
        refuse_non_finite(finite)

    def _guide(self, logits: Tensor) -> Tensor:
        """(G·B,V) to (B,V)."""
        if not self.guided:
            return logits
        conditional, null = logits.float().chunk(2)
        return null + self.guidance_scale * (conditional - null)


def _random(text_tokens: Tensor, num_images: int, seed: int, positions: int) -> Tensor:
    """(C,n,N): every caption (C,T) has random numbers of its own. By shared ones all would make one mistake at one
    place, and many captions would be fewer cases than they count as."""
    rows = []
    for row in text_tokens.tolist():
        caption = " ".join(map(str, row))
        rows += [uniforms(seed, number, positions, beside=caption) for number in range(num_images)]
    return torch.stack(rows).view(-1, num_images, positions) if rows else torch.empty(0, num_images, positions)
