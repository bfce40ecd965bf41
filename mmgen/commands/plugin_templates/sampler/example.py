"""The sampler `example`: one token after the other, each drawn from the likeliest few."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mmgen.protocols import Generator
from mmgen.samplers.guards import checked, evaluating, refuse_non_finite

PRIME = 1_000_003


class Example:
    """Draws from the likeliest tokens alone, one picture after the other: simple, and slow for many.

    Args:
        temperature: logits are divided by it; above 0.
        top_k: how many tokens there are to choose from; 0 is all.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(self, temperature: float = 1.0, top_k: int = 0) -> None:
        if temperature <= 0 or top_k < 0:
            raise ValueError(f"temperature is above 0 and top_k at least 0, got {temperature} and {top_k}")
        self.temperature, self.top_k = temperature, top_k

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
        kept_tokens, kept = checked(generator, text_tokens, num_images, kept_tokens, kept)
        places = kept.tolist()
        pictures = []
        with torch.no_grad(), evaluating(generator):
            for caption, keep in zip(text_tokens, kept_tokens, strict=True):
                for number in range(num_images):
                    # Its number and the seed alone decide a picture, whatever is drawn beside it.
                    source = torch.Generator().manual_seed(PRIME * seed + number)
                    pictures.append(self._picture(generator, caption[None], keep, places, source))
                    if progress:
                        progress(1)
        return torch.stack(pictures).view(len(text_tokens), num_images, -1)

    def _picture(
        self, generator: Generator, caption: Tensor, keep: Tensor, places: list[bool], source: torch.Generator
    ) -> Tensor:
        """(1,T) to image tokens (N,); those in kept places are read as they are."""
        logits, cache = generator.prefill(caption)
        tokens = torch.empty_like(keep)
        for n, is_kept in enumerate(places):
            chosen = self._choose(logits[0], source)  # drawn in kept places too: the others then do not shift
            tokens[n] = keep[n] if is_kept else chosen
            if n + 1 < len(places):
                logits = generator.step(tokens[n].view(1, 1), cache)[:, -1]
        return tokens

    def _choose(self, logits: Tensor, source: torch.Generator) -> Tensor:
        """(V,) to ()."""
        refuse_non_finite(logits.isfinite().all())
        logits = logits.float().cpu() / self.temperature
        if self.top_k:
            logits = logits.masked_fill(logits < logits.topk(min(self.top_k, len(logits))).values[-1], -torch.inf)
        return torch.multinomial(logits.softmax(-1), 1, generator=source)[0]
