"""The sampler `jacobi`: speculative Jacobi decoding (arXiv 2410.01699), the same distribution in fewer forward passes.

Letters: C captions, n pictures of each, T text positions, N image positions, S positions of the window, V ids,
G rows a picture needs (2 with guidance, otherwise 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from mmgen.protocols import Generator
from mmgen.samplers.guards import checked, evaluating, refuse_non_finite
from mmgen.stream import KVCache
from mmgen_jacobi.probabilities import filtered, inverted, redrawn, uniforms


@dataclass
class Passes:
    """What drawing cost: forward passes of the generator after the caption was read, over all pictures.

    Args:
        pictures: drawn.
        made: passes that were made.
        one_by_one: passes that drawing one token at a time would have made.
    """

    pictures: int = 0
    made: int = 0
    one_by_one: int = 0

    def __str__(self) -> str:
        if not self.pictures:
            return "jacobi: nothing drawn"
        made, usual = self.made / self.pictures, self.one_by_one / self.pictures
        return f"jacobi: {made:.1f} forward passes a picture; one token at a time takes {usual:.1f}"


class Jacobi:
    """Drafts a window of tokens, reads all of it in one pass, and keeps what the pass agrees with.

    Every token of the window is a draw from what the last pass believed at its position. The next pass says what it
    believes now, and each token is turned into a draw of that (`redrawn`), which leaves it as it is with probability
    min(1, new/old). Up to the first token that changed, what was read was right, so these are draws of the generator
    itself, one after another, and final. In distribution the pictures are those of drawing one token at a time.

    One picture is decoded at a time: rows of a batch accept different numbers of tokens, and a picture may depend on
    its number alone. So it is the sampler for a few pictures, and soon; for many at once `autoregressive` is quicker.

    Args:
        window: tokens drafted at once, ≥ 1; at 1 it is drawing one token at a time.
        temperature: ≥ 0; 0 takes the likeliest token.
        top_k: draw among the k likeliest tokens, k ≥ 1.
        top_p: draw among the likeliest tokens that make up this mass, in (0,1].
        min_p: of these, draw among tokens at least this many times as likely as the likeliest, in [0,1].
        guidance_scale: ≥ 0; logits are null + scale·(conditional − null), where null read the empty caption; 1 is no
            guidance, and costs none. The generator must have been trained with empty captions.
        drafts: what becomes of the tokens after the first that changed. `fresh` draws them anew, as the paper does;
            `coupled` turns them into draws of the new belief, too (arXiv 2510.24211), so that most stay as they are.

    Attributes:
        passes: what its draws have cost so far (`Passes`).

    Raises:
        ValueError: an argument out of its range.
    """

    def __init__(
        self,
        window: int = 16,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        guidance_scale: float = 1.0,
        drafts: Literal["coupled", "fresh"] = "coupled",
    ) -> None:
        ranges = {
            "window": (window, window >= 1, "≥ 1"),
            "temperature": (temperature, math.isfinite(temperature) and temperature >= 0, "a finite number ≥ 0"),
            "top_k": (top_k, top_k is None or top_k >= 1, "≥ 1, or null for all tokens"),
            "top_p": (top_p, top_p is None or 0 < top_p <= 1, "in (0,1], or null"),
            "min_p": (min_p, min_p is None or 0 <= min_p <= 1, "in [0,1], or null"),
            "guidance_scale": (guidance_scale, math.isfinite(guidance_scale) and guidance_scale >= 0, "finite and ≥ 0"),
            "drafts": (drafts, drafts in ("coupled", "fresh"), "coupled or fresh"),
        }
        for name, (value, fits, wanted) in ranges.items():
            if not fits:
                raise ValueError(f"{name} is {value}; it must be {wanted}")
        self.window, self.guidance_scale, self.drafts = window, guidance_scale, drafts
        self.temperature, self.top_k, self.top_p, self.min_p = temperature, top_k, top_p, min_p
        self.passes = Passes()

    @property
    def guided(self) -> bool:
        """Whether the empty caption is read beside each caption."""
        return self.guidance_scale != 1

    def summary(self) -> str:
        """A line about the passes that its draws have cost so far."""
        return str(self.passes)

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
        pictures = len(text_tokens) * num_images
        self.passes.pictures += pictures
        self.passes.one_by_one += pictures * max(len(free) - 1, 0)
        # Not inference mode: what a generator caches here, a mask or a table, must stay usable in training.
        with torch.no_grad(), evaluating(generator):
            for text, row in zip(text_tokens, tokens, strict=True):
                caption = " ".join(map(str, text.tolist()))  # by its ids: each has random numbers of its own
                logits, cache = self._read(generator, text, row[0, : free[0]]) if free else (None, None)
                for number, picture in enumerate(row):
                    if logits is not None and cache is not None:
                        cache.truncate(generator.stream.text_length + free[0])
                        _Picture(self, generator, cache, picture, free, seed, number, caption).decode(logits)
                    if progress is not None:
                        progress(1)
        return tokens

    def _read(self, generator: Generator, text: Tensor, image: Tensor) -> tuple[Tensor, KVCache]:
        """The caption (T,) and leading kept tokens (K,): logits (G,1,V) of the first free position, and the cache."""
        text_tokens = text[None]
        if self.guided:
            text_tokens = torch.cat([text_tokens, generator.text_tokenizer.encode([""]).to(text)])
        given = image.expand(len(text_tokens), -1) if len(image) else None
        logits, cache = generator.prefill(text_tokens, given)
        return logits[:, None], cache

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits (G,S,V) to the probabilities (S,V) that tokens are drawn from."""
        conditional = logits[0].float()
        if self.guided:
            conditional = logits[1].float() + self.guidance_scale * (conditional - logits[1].float())
        refuse_non_finite(conditional.isfinite().all())
        return filtered(conditional, self.temperature, self.top_k, self.top_p, self.min_p)


class _Picture:
    """One picture while it is decoded, in place in `tokens` (N,).

    `old` are the beliefs (S,V) that the drafts from position `first` on were drawn from.
    """

    def __init__(
        self,
        sampler: Jacobi,
        generator: Generator,
        cache: KVCache,
        tokens: Tensor,
        free: list[int],
        seed: int,
        number: int,
        caption: str,
    ) -> None:
        self.caption = caption
        self.sampler, self.generator, self.cache, self.tokens = sampler, generator, cache, tokens
        self.free, self.seed, self.number = free, seed, number
        self.is_free = set(free)
        self.old = torch.empty(0)
        self.first = self.drafted = free[0] + 1

    def decode(self, logits: Tensor) -> None:
        """Fills in the free positions, from the first one's logits (G,1,V)."""
        belief = self.sampler.probabilities(logits)
        self.tokens[self.free[0]] = inverted(belief, self._uniforms(0, 1)[0])[0]
        self.old = belief[:0]
        turn, begin = 1, self._next_free(self.first)
        while begin < len(self.tokens):
            begin = self._next_free(self._turn(turn, begin))
            turn += 1
        self.sampler.passes.made += turn - 1

    def _turn(self, turn: int, begin: int) -> int:
        """Reads the window that begins at the first position not final; gives the first that is not final then."""
        end = min(begin + self.sampler.window, self.free[-1] + 1)
        old = self._draft(begin, end)
        read = self.cache.length - self.generator.stream.text_length
        rows = 2 if self.sampler.guided else 1
        # The token before the window is final, and its output is the belief at the window's first position.
        logits = self.generator.step(self.tokens[None, read : end - 1].repeat(rows, 1), self.cache)
        new = self.sampler.probabilities(logits[:, begin - 1 - read :])
        drafts, uniform = self.tokens[begin:end], self._uniforms(turn, end - begin)
        drawn = self._unless_kept(begin, end, redrawn(drafts, old, new, uniform[:2]))
        changed = (drawn != drafts).tolist()
        right = changed.index(True) if True in changed else end - begin
        if self.sampler.drafts == "fresh":
            drawn[right + 1 :] = self._unless_kept(begin, end, inverted(new, uniform[2]))[right + 1 :]
        self.tokens[begin:end] = drawn
        self.cache.truncate(self.generator.stream.text_length + min(begin + right, end - 1))
        self.old, self.first, self.drafted = new, begin, end
        return min(begin + right + 1, end)

    def _draft(self, begin: int, end: int) -> Tensor:
        """Drafts what the window [begin,end) has not held before; gives the beliefs (S,V) that all of it is drawn from.

        The first draft is the token above: a draw from a belief that knows nothing else.
        """
        start = max(begin, self.drafted)
        width, sources = self.generator.stream.grid[1], []
        for position in range(start, end):
            source = position - width if position in self.is_free else position
            while source >= self.drafted and source in self.is_free:
                source -= width
            sources.append(source if source >= 0 else begin - 1)
        guessed = self.tokens[torch.tensor(sources, dtype=torch.long, device=self.tokens.device)]
        self.tokens[start:end] = guessed
        certain = F.one_hot(guessed, self.old.shape[-1]).to(self.old)
        return torch.cat([self.old[begin - self.first :], certain])

    def _next_free(self, position: int) -> int:
        """The first free position from `position` on; N after the last one."""
        return next((free for free in self.free if free >= position), len(self.tokens))

    def _unless_kept(self, begin: int, end: int, drawn: Tensor) -> Tensor:
        """What was drawn for the window [begin,end), (S,), with the kept tokens where there are some."""
        if len(self.is_free) == len(self.tokens):
            return drawn
        drawable = torch.tensor([position in self.is_free for position in range(begin, end)], device=drawn.device)
        return torch.where(drawable, drawn, self.tokens[begin:end])

    def _uniforms(self, turn: int, count: int) -> Tensor:
        return uniforms(self.seed, self.number, turn, (3, count), self.caption).to(self.tokens.device)
