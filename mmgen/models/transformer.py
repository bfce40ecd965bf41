"""`transformer`: a decoder-only transformer over one stream of text and image tokens (DALL·E, section 2.2).

Letters: B batch, T text positions, N image positions, S positions read at once, D model dim, H heads, K head dim,
V text ids, C codes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmgen.errors import ConfigError
from mmgen.models.attention import Executor
from mmgen.models.layers import Block, Head, make_norm, rotation
from mmgen.models.stream_loss import StreamLoss
from mmgen.protocols import TextTokenizer
from mmgen.stream import KVCache, MaskName, Order, TokenStream


def masks_of(layout: Literal["full", "dalle"], num_layers: int) -> list[MaskName]:
    """The mask of every layer. `dalle` is the paper's: of the layers 1.. the second, sixth, tenth and so on look up
    their column, the last one is convolutional, the others look along the row (section 2.2)."""
    if layout == "full":
        return ["full"] * num_layers
    masks: list[MaskName] = ["column" if (i - 2) % 4 == 0 else "row" for i in range(1, num_layers)]
    return [*masks, "convolution"]


class Transformer(StreamLoss):
    """The generator: text and image tokens of one stream, each predicted from those before it that its layers see.

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
        norm: LayerNorm or RMSNorm.
        mlp: GELU, or SwiGLU, whose third matrix comes on top.
        bias: which linear layers have one: those of the MLP and the heads, all, or none.
        positions: `learned` adds a vector for each text position, row and column; `rotary` turns queries and keys
            by row and column instead.
        layout: `full` attention in all layers, or the sparse masks of DALL·E.
        order: `text_first` draws pictures, `image_first` writes captions.
        executor: how sparse attention is computed; every choice gives the same result.
        gradient_checkpointing: whether training computes each block's inside a second time instead of keeping it.
        text_weight: of the text loss; the image loss weighs 1 - text_weight (the paper: 1/8 and 7/8).
        caption_dropout: share of the training pictures whose caption is emptied, for guidance; not with `image_first`.
        token_noise: mean share of the image tokens that the model reads in training, not those it predicts, which are
            replaced by others of the batch. It has to trust the caption more than the tokens beside it, and it has
            met mistakes like its own when it draws.

    Raises:
        ValueError: sizes that do not divide each other, or a share outside [0,1].
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
        norm: Literal["layer", "rms"] = "layer",
        mlp: Literal["gelu", "swiglu"] = "gelu",
        bias: Literal["mlp", "all", "none"] = "mlp",
        positions: Literal["learned", "rotary"] = "learned",
        layout: Literal["full", "dalle"] = "full",
        order: Order = "text_first",
        executor: Executor = "auto",
        gradient_checkpointing: bool = False,
        text_weight: float = 1 / 8,
        caption_dropout: float = 0.1,
        token_noise: float = 0.0,
    ) -> None:
        super().__init__()
        _check_sizes(embed_dim, num_heads, positions)
        shares = {"text_weight": text_weight, "caption_dropout": caption_dropout, "token_noise": token_noise}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must lie in [0,1], got {share}")
        self.text_tokenizer = text_tokenizer
        self.stream = TokenStream(text_tokenizer.context_length, (grid[0], grid[1]), order)
        self.codebook_size, self.num_heads, self.head_dim = codebook_size, num_heads, embed_dim // num_heads
        self.text_weight, self.caption_dropout, self.token_noise = text_weight, caption_dropout, token_noise
        self.rotary, self.gradient_checkpointing, self.dropout = positions == "rotary", gradient_checkpointing, dropout
        self.text_embedding = nn.Embedding(text_tokenizer.num_ids, embed_dim)
        if not self.rotary:
            self.text_position = nn.Embedding(self.stream.text_length, embed_dim)
        self.image_embedding = nn.Embedding(codebook_size, embed_dim)
        if not self.rotary:
            self.row, self.column = nn.Embedding(grid[0], embed_dim), nn.Embedding(grid[1], embed_dim)
        self.blocks = nn.ModuleList(
            Block(
                embed_dim, num_heads, layer=layer, mask=self.stream.mask(name), mlp_ratio=mlp_ratio, dropout=dropout,
                norm=norm, mlp=mlp, qk_norm=qk_norm, bias=bias, executor=executor,
            )
            for layer, name in enumerate(masks_of(layout, num_layers))
        )  # fmt: skip
        self.norm = make_norm(norm, embed_dim)
        self.text_head = Head(embed_dim, text_tokenizer.num_ids, bias=bias != "none")
        self.image_head = Head(embed_dim, codebook_size, bias=bias != "none")
        self._start()

    def _start(self) -> None:
        """GPT-2's initialisation: 0.02, with the branches' last layers scaled down by the depth."""
        for name, parameter in self.named_parameters():
            if parameter.ndim < 2:
                continue
            last = name.endswith(("out.weight", "down.weight"))
            nn.init.normal_(parameter, std=0.02 / (2 * len(self.blocks)) ** 0.5 if last else 0.02)

    def forward(self, text_tokens: Tensor, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B,T), (B,N) to text_logits (B,T-1,V), of the text tokens 1.., and image_logits (B,N,C).

        With `image_first` to text_logits (B,T,V) and image_logits (B,N-1,C), of the image tokens 1...
        """
        hidden = self._read(self._all_but_the_last(text_tokens, image_tokens))
        if self.stream.order == "text_first":
            text = self.stream.text_length
            return self.text_head(hidden[:, : text - 1]), self.image_head(hidden[:, text - 1 :])
        image = self.stream.image_length
        return self.text_head(hidden[:, image - 1 :]), self.image_head(hidden[:, : image - 1])

    def attention_maps(self, text_tokens: Tensor, image_tokens: Tensor) -> Tensor:
        """(B,T), (B,N) to (B,L,S,S), S = T+N-1: how much of each position before it, or its own, every position of the
        stream reads in each of the L layers, the mean over the heads. Rows have the sum 1. The row of a position tells
        what the token after it was predicted from."""
        maps: list[Tensor] = []
        self._read(self._all_but_the_last(text_tokens, image_tokens), maps=maps)
        return torch.stack(maps, 1)

    def forward_text(self, text_tokens: Tensor) -> Tensor:
        """Text alone (B,T), with no picture before or after it: text_logits (B,T-1,V), of the text tokens 1..."""
        hidden = self._read([self._embed_text(text_tokens[:, :-1], 0)], first=self.stream.text_start)
        logits: Tensor = self.text_head(hidden)
        return logits

    def prefill(self, text_tokens: Tensor, image_tokens: Tensor | None = None) -> tuple[Tensor, KVCache]:
        """Text (B,T), and image tokens already drawn (B,n): logits (B,C) of the next one, and the cache.

        Raises:
            ConfigError: the stream is `image_first`.
        """
        self._must_be("text_first", "draw pictures")
        parts = [self._embed_text(text_tokens, 0)]
        if image_tokens is not None and image_tokens.shape[1]:
            parts.append(self._embed_image(image_tokens, 0))
        kv_cache = self._cache(len(text_tokens))
        logits: Tensor = self.image_head(self._read(parts, kv_cache)[:, -1])
        return logits, kv_cache

    def step(self, image_tokens: Tensor, kv_cache: KVCache) -> Tensor:
        """n further image tokens (B,n): logits (B,n,C), each of the token after it."""
        x = self._embed_image(image_tokens, kv_cache.length - self.stream.image_start)
        logits: Tensor = self.image_head(self._read([x], kv_cache))
        return logits

    def prefill_image(self, image_tokens: Tensor, text_tokens: Tensor | None = None) -> tuple[Tensor, KVCache]:
        """A picture (B,N), and the start of its caption (B,k): logits (B,V) of the next text token, and the cache.

        Raises:
            ConfigError: the stream is `text_first`.
        """
        self._must_be("image_first", "write captions")
        parts = [self._embed_image(image_tokens, 0)]
        if text_tokens is not None and text_tokens.shape[1]:
            parts.append(self._embed_text(text_tokens, 0))
        kv_cache = self._cache(len(image_tokens))
        logits: Tensor = self.text_head(self._read(parts, kv_cache)[:, -1])
        return logits, kv_cache

    def step_text(self, text_tokens: Tensor, kv_cache: KVCache) -> Tensor:
        """k further text tokens (B,k): logits (B,k,V), each of the token after it."""
        x = self._embed_text(text_tokens, kv_cache.length - self.stream.text_start)
        logits: Tensor = self.text_head(self._read([x], kv_cache))
        return logits

    def _must_be(self, order: Order, what: str) -> None:
        if self.stream.order != order:
            raise ConfigError(
                f"this generator cannot {what}: it was trained with order={self.stream.order}",
                code="MMG-C25",
                where="generator.order",
                why="the first part of the stream is never predicted from the second",
                fix=f"train one with generator.order={order}",
            )

    def _cache(self, batch: int) -> KVCache:
        return KVCache.empty(
            len(self.blocks), batch, self.num_heads, self.stream.length, self.head_dim, like=self.text_head.weight
        )

    def _all_but_the_last(self, text_tokens: Tensor, image_tokens: Tensor) -> list[Tensor]:
        """The two parts of the stream that is read to predict it: nothing comes after its last token."""
        if self.stream.order == "text_first":
            return [self._embed_text(text_tokens, 0), self._embed_image(image_tokens[:, :-1], 0)]
        return [self._embed_image(image_tokens, 0), self._embed_text(text_tokens[:, :-1], 0)]

    def _read(
        self,
        parts: list[Tensor],
        kv_cache: KVCache | None = None,
        first: int = 0,
        maps: list[Tensor] | None = None,
    ) -> Tensor:
        """Neighbouring parts of the stream (B,·,D) to the last layer's (B,S,D); with a cache, those after it. `maps`
        gets each layer's attention, see `Block.forward`."""
        x = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        angles = None
        if self.rotary:
            start = first if kv_cache is None else kv_cache.length
            position = torch.arange(start, start + x.shape[1], device=x.device)
            angles = rotation(self.stream, position, self.head_dim)
        looked_at = kv_cache is not None or maps is not None
        again = self.gradient_checkpointing and self.training and not looked_at and torch.is_grad_enabled()
        for block in self.blocks:
            if again:
                x = checkpoint(block, x, angles, None, first, use_reentrant=False, preserve_rng_state=self.dropout > 0)
            else:
                x = block(x, angles, kv_cache, first, maps=maps)
        if kv_cache is not None:
            kv_cache.advance(x.shape[1])
        normed: Tensor = self.norm(x)
        return normed

    def _embed_text(self, tokens: Tensor, first: int) -> Tensor:
        """Tokens (B,n) at the text positions from `first` on."""
        embedded: Tensor = self.text_embedding(tokens)
        if self.rotary:
            return embedded
        return embedded + self.text_position.weight[first : first + tokens.shape[1]]

    def _embed_image(self, tokens: Tensor, first: int) -> Tensor:
        """Tokens (B,n) at the image positions from `first` on."""
        embedded: Tensor = self.image_embedding(tokens)
        if self.rotary:
            return embedded
        position = torch.arange(first, first + tokens.shape[1], device=tokens.device) + self.stream.image_start
        return embedded + self.row(self.stream.row(position)) + self.column(self.stream.column(position))


def _check_sizes(embed_dim: int, num_heads: int, positions: str) -> None:
    if embed_dim % num_heads:
        fits = [n for n in range(1, embed_dim + 1) if embed_dim % n == 0 and embed_dim // n >= 16]
        raise ValueError(f"num_heads={num_heads} does not divide embed_dim={embed_dim}; these do: {fits}")
    head_dim = embed_dim // num_heads
    if positions == "rotary" and head_dim % 4:
        fits = [n for n in range(1, embed_dim + 1) if embed_dim % (4 * n) == 0 and embed_dim // n >= 16]
        raise ValueError(
            f"positions=rotary needs embed_dim/num_heads={head_dim} to be a multiple of 4: pairs by row, pairs "
            f"by column; with embed_dim={embed_dim} these num_heads do: {fits}"
        )
