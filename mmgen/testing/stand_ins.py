"""Small parts that stand for the ones a component works with: a text tokenizer, a generator, batches, colours."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.data.order import sample_key
from mmgen.data.text import BpeTextTokenizer
from mmgen.protocols import Batch, Generator, Logs, Sample, TextTokenizer
from mmgen.stream import KVCache, TokenStream

COLOURS = {"red": (1.0, 0.1, 0.1), "green": (0.1, 0.8, 0.2), "blue": (0.1, 0.2, 1.0), "grey": (0.5, 0.5, 0.5)}
PLACES = ("left", "right", "middle")
CAPTIONS = [f"a {colour} bar on the {place}" for colour in COLOURS for place in PLACES]


def small_text_tokenizer(context_length: int = 12) -> BpeTextTokenizer:
    """A text tokenizer with a few dozen merges."""
    return BpeTextTokenizer.train(CAPTIONS, vocab_size=300, context_length=context_length)


def small_samples(count: int = 12, image_size: int = 32) -> list[Sample]:
    """Bars in four colours at three places, with captions and attributes that say so; no two pictures are equal."""
    samples: list[Sample] = []
    for i in range(count):
        colour, place = list(COLOURS)[i % 4], PLACES[i // 4 % 3]
        image = torch.full((3, image_size, image_size), 0.9 - 0.01 * (i // 12))
        first = {"left": 0, "middle": image_size // 3, "right": 2 * image_size // 3}[place]
        image[:, :, first : first + image_size // 3] = torch.tensor(COLOURS[colour])[:, None, None]
        caption = f"a {colour} bar on the {place}"
        attributes = {"name": f"{place} bar", "colour": colour}
        samples.append({"image": image, "caption": caption, "id": f"bar-{i}", "attributes": attributes})
    return samples


def small_batch(image_size: int = 32, image_tokens: Tensor | None = None, count: int = 4) -> Batch:
    """A batch of bars; with `image_tokens` (count,N), of those instead of pictures."""
    samples = small_samples(count, image_size)
    batch: Batch = {
        "caption": [sample["caption"] for sample in samples],
        "id": [sample["id"] for sample in samples],
        "key": [sample_key(1, 0, sample["id"]) for sample in samples],
    }
    if image_tokens is None:
        batch["image"] = torch.stack([sample["image"] for sample in samples])
    else:
        batch["image_tokens"] = image_tokens
    return batch


class SmallGenerator(nn.Module):
    """A generator that conforms, without attention: logits are rows of two tables, chosen by a sum over the tokens.

    The sum is of whole numbers, so that the cache, the batch and the order of adding make no difference at all. In the
    cache it keeps the tokens.

    Args:
        grid: (h,w).
        codebook_size: image tokens are 0 .. codebook_size - 1.
        sharpness: the standard deviation of the logits; large ones leave a sampler no choice.
    """

    ROWS = 211

    def __init__(self, grid: tuple[int, int] = (3, 4), codebook_size: int = 17, sharpness: float = 1.5) -> None:
        super().__init__()
        self.text_tokenizer: TextTokenizer = small_text_tokenizer()
        self.stream = TokenStream(self.text_tokenizer.context_length, grid)
        source = torch.Generator().manual_seed(0)
        self.text_table = nn.Parameter(torch.randn(self.ROWS, self.text_tokenizer.num_ids, generator=source))
        self.image_table = nn.Parameter(sharpness * torch.randn(self.ROWS, codebook_size, generator=source))

    def _rows(self, tokens: Tensor) -> Tensor:
        """(B,S) tokens to the row (B,S) that all tokens up to each position lead to."""
        weight = 7 * torch.arange(tokens.shape[1], device=tokens.device) ** 2 + 3
        return ((tokens + 1) * weight).cumsum(1) % self.ROWS

    def forward(self, text_tokens: Tensor, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        rows = self._rows(torch.cat([text_tokens, image_tokens[:, :-1]], 1))
        text = self.stream.text_length
        return self.text_table[rows[:, : text - 1]], self.image_table[rows[:, text - 1 :]]

    def prefill(self, text_tokens: Tensor, image_tokens: Tensor | None = None) -> tuple[Tensor, KVCache]:
        cache = KVCache.empty(1, len(text_tokens), 1, self.stream.length, 1, like=self.image_table)
        tokens = text_tokens if image_tokens is None else torch.cat([text_tokens, image_tokens], 1)
        return self.step(tokens, cache)[:, -1], cache

    def step(self, image_tokens: Tensor, kv_cache: KVCache) -> Tensor:
        new = image_tokens[:, None, :, None].to(kv_cache.keys)
        read, _ = kv_cache.write(0, new, new)
        kv_cache.advance(image_tokens.shape[1])
        return self.image_table[self._rows(read[:, 0, :, 0].long())[:, -image_tokens.shape[1] :]]

    def training_loss(self, batch: Batch, step: int) -> tuple[Tensor, Logs]:
        image_tokens = batch["image_tokens"]
        text_tokens = self.text_tokenizer.encode(batch["caption"], batch["key"] if self.training else None)
        text_logits, image_logits = self(text_tokens, image_tokens)
        text_loss = F.cross_entropy(text_logits.flatten(0, 1), text_tokens[:, 1:].flatten())
        image_loss = F.cross_entropy(image_logits.flatten(0, 1), image_tokens.flatten())
        return text_loss / 8 + image_loss * 7 / 8, {"image_loss": image_loss.detach()}


class Uncached(nn.Module):
    """A generator that remembers nothing: `prefill` and `step` ask another one's `forward` for every logit anew.

    In its cache lie the tokens alone, as values. What is drawn from it is what is drawn without a cache.

    Args:
        generator: keeps its contract; in eval mode.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.inner = generator
        self.stream, self.text_tokenizer = generator.stream, generator.text_tokenizer

    def forward(self, text_tokens: Tensor, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        return self.inner(text_tokens, image_tokens)

    def prefill(self, text_tokens: Tensor, image_tokens: Tensor | None = None) -> tuple[Tensor, KVCache]:
        cache = KVCache.empty(1, len(text_tokens), 1, self.stream.length, 1)
        read = text_tokens if image_tokens is None else torch.cat([text_tokens, image_tokens], 1)
        return self._after(read, cache)[:, -1], cache

    def step(self, image_tokens: Tensor, kv_cache: KVCache) -> Tensor:
        return self._after(image_tokens, kv_cache)

    def _after(self, tokens: Tensor, cache: KVCache) -> Tensor:
        """The logits after each of these tokens (B,K,V); zeros after a text token that another one follows."""
        new = tokens[:, None, :, None].to(cache.values)
        read = cache.write(0, torch.zeros_like(new), new)[1][:, 0, :, 0].long()
        first, text = cache.length, self.stream.text_length
        cache.advance(tokens.shape[1])
        image = read.new_zeros(len(read), self.stream.image_length)
        image[:, : read.shape[1] - text] = read[:, text:]
        logits = self.inner(read[:, :text], image)[1]
        after = F.pad(logits, (0, 0, text - 1, 1))  # stream position p is followed by image token p + 1 - T
        return after[:, first : cache.length]

    def training_loss(self, batch: Batch, step: int) -> tuple[Tensor, Logs]:
        return self.inner.training_loss(batch, step)


def caption_features(captions: Sequence[str], dim: int = 16) -> Tensor:
    """(B,D) of length one: a caption's words, each with a direction of its own."""
    features = torch.zeros(len(captions), dim, dtype=torch.float64)
    for row, caption in enumerate(captions):
        for word in caption.split():
            source = torch.Generator().manual_seed(sample_key(0, 0, word))
            features[row] += torch.randn(dim, generator=source, dtype=torch.float64)
    return F.normalize(features, dim=-1).float()
