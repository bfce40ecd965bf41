"""The generator `example`: a recurrent network that reads the stream, text first, and predicts the next token.

Letters: B batch, T text positions, N image positions, D width, V ids of a vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.protocols import Batch, Logs, TextTokenizer
from mmgen.stream import KVCache, TokenStream


class Example(nn.Module):
    """A GRU over the stream. Its cache holds the state after every position: one that is cut goes on from there.

    Args:
        embed_dim: D, the width.
        text_weight: the text's share of the loss; the picture has the rest (DALL·E, section 2.2: 1/8).
    """

    def __init__(
        self,
        *,
        text_tokenizer: TextTokenizer,
        grid: tuple[int, int],
        codebook_size: int,
        embed_dim: int = 128,
        text_weight: float = 0.125,
    ) -> None:
        super().__init__()
        self.text_tokenizer = text_tokenizer
        self.stream = TokenStream(text_tokenizer.context_length, grid)
        self.text_weight = text_weight
        self.text_embedding = nn.Embedding(text_tokenizer.num_ids, embed_dim)
        self.image_embedding = nn.Embedding(codebook_size, embed_dim)
        self.positions = nn.Parameter(0.02 * torch.randn(self.stream.length, embed_dim))
        self.gru = nn.GRU(embed_dim, embed_dim, batch_first=True)
        self.text_head = nn.Linear(embed_dim, text_tokenizer.num_ids)
        self.image_head = nn.Linear(embed_dim, codebook_size)

    def forward(self, text_tokens: Tensor, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        read = torch.cat([self.text_embedding(text_tokens), self.image_embedding(image_tokens[:, :-1])], 1)
        states, _ = self.gru(read + self.positions[:-1])  # (B,T+N-1,D)
        text = self.stream.text_length
        return self.text_head(states[:, : text - 1]), self.image_head(states[:, text - 1 :])

    def prefill(self, text_tokens: Tensor, image_tokens: Tensor | None = None) -> tuple[Tensor, KVCache]:
        width = self.positions.shape[1]
        cache = KVCache.empty(1, len(text_tokens), 1, self.stream.length, width, like=self.positions)
        read = self.text_embedding(text_tokens)
        if image_tokens is not None:
            read = torch.cat([read, self.image_embedding(image_tokens)], 1)
        return self._read(read, cache)[:, -1], cache

    def step(self, image_tokens: Tensor, kv_cache: KVCache) -> Tensor:
        return self._read(self.image_embedding(image_tokens), kv_cache)

    def _read(self, embedded: Tensor, cache: KVCache) -> Tensor:
        """(B,K,D) of further tokens to the logits (B,K,V) after each; the cache grows by K."""
        first, count = cache.length, embedded.shape[1]
        before = cache.keys[0, :, 0, first - 1][None].contiguous() if first else None  # (1,B,D)
        states, _ = self.gru(embedded + self.positions[first : first + count], before)
        cache.write(0, states[:, None], states[:, None])
        cache.advance(count)
        return self.image_head(states)

    def training_loss(self, batch: Batch, step: int) -> tuple[Tensor, Logs]:
        keys = batch["key"] if self.training else None  # BPE dropout, by each sample's own random numbers
        text_tokens = self.text_tokenizer.encode(batch["caption"], keys).to(self.positions.device)
        image_tokens = batch["image_tokens"]
        text_logits, image_logits = self(text_tokens, image_tokens)
        text_loss = F.cross_entropy(text_logits.flatten(0, 1), text_tokens[:, 1:].flatten())
        image_loss = F.cross_entropy(image_logits.flatten(0, 1), image_tokens.flatten())
        loss = self.text_weight * text_loss + (1 - self.text_weight) * image_loss
        return loss, {"text_loss": text_loss.detach(), "image_loss": image_loss.detach()}
