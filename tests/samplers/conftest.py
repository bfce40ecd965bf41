"""Two generators: one whose distribution is known exactly, one of real layers whose last bits depend on shapes."""

import pytest
import torch
from torch import Tensor, nn

from mmgen.stream import KVCache, TokenStream


class Words:
    """A text tokenizer of fixed length: the words' numbers, then one pad a position."""

    vocab_size, context_length, num_ids = 9, 3, 12

    def encode(self, captions, keys=None):
        rows = []
        for caption in captions:
            ids = [int(word) for word in caption.split()]
            rows.append(ids + [self.vocab_size + p for p in range(len(ids), self.context_length)])
        return torch.tensor(rows)


class Recorded(nn.Module):
    """What both share: the shapes that were asked for, the modes they were asked in."""

    def __init__(self, grid: tuple[int, int], codes: int) -> None:
        super().__init__()
        self.text_tokenizer, self.codes = Words(), codes
        self.stream = TokenStream(Words.context_length, grid)
        self.prefills: list[tuple[int, ...]] = []
        self.steps: list[tuple[int, ...]] = []
        self.rows: set[tuple[float, ...]] = set()  # every row of logits, bit for bit
        self.layer = nn.Dropout(0.5)

    def prefill(self, text_tokens: Tensor, image_tokens: Tensor | None = None) -> tuple[Tensor, KVCache]:
        kept = 0 if image_tokens is None else image_tokens.shape[1]
        assert image_tokens is None or kept > 0
        assert not self.training
        assert not self.layer.training
        assert not torch.is_grad_enabled()
        self.prefills.append((*text_tokens.shape, kept))
        logits, cache = self.read_text(text_tokens, image_tokens)
        self.rows |= {tuple(row) for row in logits.tolist()}
        return logits, cache

    def step(self, image_tokens: Tensor, kv_cache: KVCache) -> Tensor:
        assert image_tokens.is_contiguous()
        self.steps.append(tuple(image_tokens.shape))
        logits = self.read_image(image_tokens, kv_cache)
        self.rows |= {tuple(row) for row in logits.flatten(0, 1).tolist()}
        return logits


class Table(Recorded):
    """The logits of a token follow from the caption's first id and two tokens before it, read from the cache."""

    def __init__(self, grid: tuple[int, int] = (2, 2), codes: int = 4, seed: int = 3) -> None:
        super().__init__(grid, codes)
        random = torch.Generator().manual_seed(seed)
        shape = (Words.num_ids, codes + 1, codes + 1, codes)
        self.register_buffer("table", 1.5 * torch.randn(shape, generator=random))

    def read_text(self, text_tokens, image_tokens):
        cache = KVCache.empty(1, len(text_tokens), 1, self.stream.length, 1)
        tokens = text_tokens if image_tokens is None else torch.cat([text_tokens, image_tokens], 1)
        return self._read(tokens, cache)[:, -1], cache

    def read_image(self, image_tokens, kv_cache):
        return self._read(image_tokens, kv_cache)

    def _read(self, tokens, cache):
        read, _ = cache.write(0, tokens[:, None, :, None].float(), tokens[:, None, :, None].float())
        read = read[:, 0, :, 0].long()
        first = cache.length
        cache.advance(tokens.shape[1])
        return torch.stack([self.after(read[:, : p + 1]) for p in range(first, cache.length)], 1)

    def after(self, read: Tensor) -> Tensor:
        """Everything read (B,S) to the logits (B,codes) of what follows; token -1 stands for none."""
        text = self.stream.text_length
        before = torch.full((len(read), 2), -1)
        image = read[:, text:][:, -2:]
        before[:, 2 - image.shape[1] :] = image
        return self.table[read[:, 0], before[:, 0], before[:, 1]]


class Net(Recorded):
    """One attention layer over a real cache, wide enough that products are summed in another order for other shapes."""

    def __init__(self, grid: tuple[int, int] = (3, 4), codes: int = 50, dim: int = 96) -> None:
        super().__init__(grid, codes)
        torch.manual_seed(0)
        self.text, self.image = nn.Embedding(Words.num_ids, dim), nn.Embedding(codes, dim)
        self.position = nn.Embedding(self.stream.length, dim)
        self.qkv, self.mlp, self.head = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim), nn.Linear(dim, codes)
        self.requires_grad_(True)

    def read_text(self, text_tokens, image_tokens):
        x = self.text(text_tokens)
        if image_tokens is not None:
            x = torch.cat([x, self.image(image_tokens)], 1)
        cache = KVCache.empty(1, len(x), 2, self.stream.length, x.shape[2] // 2)
        return self._read(x, cache)[:, -1], cache

    def read_image(self, image_tokens, kv_cache):
        return self._read(self.image(image_tokens), kv_cache)

    def _read(self, x, cache):
        batch, length, dim = x.shape
        x = x + self.position.weight[cache.length : cache.length + length]
        q, k, v = self.qkv(x).view(batch, length, 3, 2, dim // 2).permute(2, 0, 3, 1, 4)
        k, v = cache.write(0, k, v)
        mask = torch.ones(length, cache.length + length, dtype=torch.bool).tril(cache.length)
        cache.advance(length)
        # Not torch's fused attention: on a CPU its last bits change with the thread that a row falls to.
        shares = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).masked_fill(~mask, -torch.inf).softmax(-1)
        seen = shares @ v
        return self.head(6 * torch.tanh(self.mlp(x + seen.transpose(1, 2).reshape(batch, length, dim))))


@pytest.fixture
def table():
    return Table()


@pytest.fixture
def net():
    return Net()


@pytest.fixture
def captions():
    """Number of captions to their ids (C,3), all different."""

    def make(count: int) -> Tensor:
        return Words().encode([f"{i % 9} {i // 9 % 9}" for i in range(count)])

    return make
