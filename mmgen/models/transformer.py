"""`transformer`: a decoder-only transformer over one stream of text then image tokens (DALL·E, section 2.2).

Letters: B batch, T text positions, N image positions, S positions read at once, D model dim, H heads, K head dim,
V text ids, C codes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.protocols import Batch, Logs, TextTokenizer
from mmgen.stream import KVCache, TokenStream


def _attend_exactly(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of the last S of all positions, (B,H,S,K), to all before them, for decoding.

    torch's fused kernel gives a row other last bits depending on the thread it lands on; spelt out, a picture's logits
    do not depend on its place in the batch. For a few queries it is as fast.
    """
    scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(-2, -1)
    length, total = scores.shape[-2:]
    if length > 1:
        seen = torch.ones(length, total, dtype=torch.bool, device=scores.device).tril(total - length)
        scores = scores.masked_fill(~seen, float("-inf"))
    return scores.softmax(-1) @ values


class Block(nn.Module):
    """Attention over the stream, then an MLP, each behind a norm and beside a residual.

    Args:
        embed_dim: D.
        num_heads: H.
        mlp_ratio: hidden units of the MLP over D.
        dropout: of both branches, in [0,1).
        qk_norm: whether queries and keys are normalised, which keeps high learning rates stable.
    """

    def __init__(self, embed_dim: int, num_heads: int, mlp_ratio: float, dropout: float, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, embed_dim // num_heads
        self.attention_norm, self.mlp_norm = nn.LayerNorm(embed_dim), nn.LayerNorm(embed_dim)
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=False)
        self.out = nn.Linear(embed_dim, embed_dim, bias=False)
        hidden = int(mlp_ratio * embed_dim)
        self.up, self.down = nn.Linear(embed_dim, hidden), nn.Linear(hidden, embed_dim)
        self.q_norm = nn.RMSNorm(self.head_dim) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(self.head_dim) if qk_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, layer: int, kv_cache: KVCache | None) -> Tensor:
        """(B,S,D) to (B,S,D). With a cache, S new positions look at all before them and are written into it."""
        x = x + self.dropout(self._attend(self.attention_norm(x), layer, kv_cache))
        return x + self.dropout(self.down(F.gelu(self.up(self.mlp_norm(x)))))

    def _attend(self, x: Tensor, layer: int, kv_cache: KVCache | None) -> Tensor:
        batch, length, dim = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        queries, keys, values = self.q_norm(qkv[0]), self.k_norm(qkv[1]), qkv[2]
        if kv_cache is None:
            out = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        else:
            out = _attend_exactly(queries, *kv_cache.write(layer, keys, values))
        projected: Tensor = self.out(out.transpose(1, 2).reshape(batch, length, dim))
        return projected


class Transformer(nn.Module):
    """The generator: text and image tokens of one stream, each predicted from all before it.

    Args:
        text_tokenizer: caption to ids; its pads are ids of their own, one a position.
        grid: (h,w) of the image tokenizer.
        codebook_size: C of the image tokenizer.
        embed_dim: D.
        num_layers: blocks.
        num_heads: H; divides D.
        mlp_ratio: hidden units of the MLP over D.
        dropout: in [0,1).
        qk_norm: whether queries and keys are normalised.
        text_weight: of the text loss; the image loss weighs 1 - text_weight (the paper: 1/8 and 7/8).
        caption_dropout: share of the training pictures whose caption is emptied, for guidance.
        token_noise: mean share of the image tokens that the model reads in training, not those it predicts, which are
            replaced by others of the batch. It has to trust the caption more than the tokens beside it, and it has
            met mistakes like its own when it draws.

    Raises:
        ValueError: heads that do not divide embed_dim, or a share outside [0,1].
    """

    def __init__(
        self,
        *,
        text_tokenizer: TextTokenizer,
        grid: tuple[int, int],
        codebook_size: int,
        embed_dim: int = 192,
        num_layers: int = 4,
        num_heads: int = 4,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        qk_norm: bool = True,
        text_weight: float = 1 / 8,
        caption_dropout: float = 0.1,
        token_noise: float = 0.0,
    ) -> None:
        super().__init__()
        if embed_dim % num_heads:
            fits = [n for n in range(1, embed_dim + 1) if embed_dim % n == 0 and embed_dim // n >= 16]
            raise ValueError(f"num_heads={num_heads} does not divide embed_dim={embed_dim}; these do: {fits}")
        shares = {"text_weight": text_weight, "caption_dropout": caption_dropout, "token_noise": token_noise}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must lie in [0,1], got {share}")
        self.text_tokenizer = text_tokenizer
        self.stream = TokenStream(text_tokenizer.context_length, (grid[0], grid[1]))
        self.codebook_size, self.num_heads = codebook_size, num_heads
        self.text_weight, self.caption_dropout, self.token_noise = text_weight, caption_dropout, token_noise
        self.text_embedding = nn.Embedding(text_tokenizer.num_ids, embed_dim)
        self.text_position = nn.Embedding(self.stream.text_length, embed_dim)
        self.image_embedding = nn.Embedding(codebook_size, embed_dim)
        self.row, self.column = nn.Embedding(grid[0], embed_dim), nn.Embedding(grid[1], embed_dim)
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, mlp_ratio, dropout, qk_norm) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(embed_dim)
        self.text_head = nn.Linear(embed_dim, text_tokenizer.num_ids)
        self.image_head = nn.Linear(embed_dim, codebook_size)
        self._start()

    def _start(self) -> None:
        """GPT-2's initialisation: 0.02, with the branches' last layers scaled down by the depth."""
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                continue
            last = name.endswith(("out.weight", "down.weight"))
            nn.init.normal_(parameter, std=0.02 / (2 * len(self.blocks)) ** 0.5 if last else 0.02)

    def forward(self, text_tokens: Tensor, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B,T), (B,N) to text_logits (B,T-1,V), of the text tokens 1.., and image_logits (B,N,C)."""
        text = self.stream.text_length
        hidden = self._read(torch.cat([self._embed_text(text_tokens), self._embed_image(image_tokens[:, :-1], 0)], 1))
        return self.text_head(hidden[:, : text - 1]), self.image_head(hidden[:, text - 1 :])

    def prefill(self, text_tokens: Tensor, image_tokens: Tensor | None = None) -> tuple[Tensor, KVCache]:
        """Text (B,T), and image tokens already drawn (B,n): logits (B,C) of the next one, and the cache."""
        x = self._embed_text(text_tokens)
        if image_tokens is not None and image_tokens.shape[1]:
            x = torch.cat([x, self._embed_image(image_tokens, 0)], 1)
        head_dim = x.shape[2] // self.num_heads
        kv_cache = KVCache.empty(
            len(self.blocks), len(x), self.num_heads, self.stream.length, head_dim, like=self.text_head.weight
        )
        logits: Tensor = self.image_head(self._read(x, kv_cache)[:, -1])
        return logits, kv_cache

    def step(self, image_tokens: Tensor, kv_cache: KVCache) -> Tensor:
        """n further image tokens (B,n): logits (B,n,C), each of the token after it."""
        x = self._embed_image(image_tokens, kv_cache.length - self.stream.text_length)
        logits: Tensor = self.image_head(self._read(x, kv_cache))
        return logits

    def _read(self, x: Tensor, kv_cache: KVCache | None = None) -> Tensor:
        for layer, block in enumerate(self.blocks):
            x = block(x, layer, kv_cache)
        if kv_cache is not None:
            kv_cache.advance(x.shape[1])
        normed: Tensor = self.norm(x)
        return normed

    def _embed_text(self, tokens: Tensor) -> Tensor:
        embedded: Tensor = self.text_embedding(tokens) + self.text_position.weight
        return embedded

    def _embed_image(self, tokens: Tensor, first: int) -> Tensor:
        """Tokens (B,n) at the image positions from `first` on."""
        position = torch.arange(first, first + tokens.shape[1], device=tokens.device) + self.stream.text_length
        place = self.row(self.stream.row(position)) + self.column(self.stream.column(position))
        embedded: Tensor = self.image_embedding(tokens) + place
        return embedded

    def training_loss(self, batch: Batch, step: int) -> tuple[Tensor, Logs]:
        """Cross-entropy, text and image each averaged over their own tokens, then weighed (the paper: 1/8 and 7/8)."""
        image_tokens = batch["image_tokens"]
        captions = [
            "" if self.training and _share(key) < self.caption_dropout else caption
            for caption, key in zip(batch["caption"], batch["key"], strict=True)
        ]
        text_tokens = self.text_tokenizer.encode(captions, batch["key"] if self.training else None)
        text_tokens = text_tokens.to(image_tokens.device)
        text_logits, image_logits = self(text_tokens, self._with_noise(image_tokens))
        text_loss = F.cross_entropy(text_logits.flatten(0, 1).float(), text_tokens[:, 1:].flatten())
        image_loss = F.cross_entropy(image_logits.flatten(0, 1).float(), image_tokens.flatten())
        loss = self.text_weight * text_loss + (1 - self.text_weight) * image_loss
        return loss, {"text_loss": text_loss.detach(), "image_loss": image_loss.detach()}


    def _with_noise(self, image_tokens: Tensor) -> Tensor:
        """(B,N) as the model reads it: in training, a share of each picture's tokens, between none and twice
        `token_noise`, comes from elsewhere in the batch, so that frequent codes stay frequent."""
        if not self.training or not self.token_noise:
            return image_tokens
        device = image_tokens.device
        others = image_tokens.flatten()[torch.randperm(image_tokens.numel(), device=device)].view_as(image_tokens)
        share = 2 * self.token_noise * torch.rand(len(image_tokens), 1, device=device)
        return torch.where(torch.rand(image_tokens.shape, device=device) < share, others, image_tokens)


def _share(key: int) -> float:
    """A number in [0,1) from the sample's key, other than what BPE dropout draws from it."""
    return (key * 0x9E3779B97F4A7C15 % 2**64) / 2**64
