"""`hf_causal`: a causal language model of transformers as the generator's trunk, between mmgen's embeddings and heads.

Letters: B batch, T text positions, N image positions, S positions read at once, D width of the trunk, V ids of text,
C codes.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.models.stream_loss import StreamLoss
from mmgen.protocols import TextTokenizer
from mmgen.stream import KVCache, TokenStream
from mmgen_transformers import configs, folder, trunk

__all__ = ["HfCausal"]
SIZES = {"embed_dim": 192, "num_layers": 4, "num_heads": 4}  # of a new trunk, where nothing else is said


class HfCausal(StreamLoss):
    """The generator: text and image tokens of one stream (DALL·E, section 2.2), read by a language model of
    transformers, new or with weights of a folder. Nothing is downloaded. The tokens' vectors and the two heads are this
    class's own: the ids are mmgen's, so a language model's own embedding and head are left out.

    Args:
        text_tokenizer: caption to ids; its pads are ids of their own, one a position.
        grid: (h,w) of the image tokenizer.
        codebook_size: C of the image tokenizer.
        architecture: a `model_type` of transformers, such as gpt2, llama, qwen3 or mamba; null: the folder's, or llama.
        config: fields of the architecture's config, by transformers' names, in place of the folder's or the defaults.
        weights: a folder here with config.json and safetensors; null: random ones.
        embed_dim: D of a new trunk; null: 192.
        num_layers: of a new trunk; null: 4.
        num_heads: of a new trunk, for keys and values as well; null: 4.
        positions: `learned` adds a vector for each text position, row and column to what the architecture knows of
            places; `own` adds nothing.
        attention: how it is computed; `auto` is torch's fused one (sdpa) where the architecture has it.
        gradient_checkpointing: whether training computes each block's inside a second time instead of keeping it.
        text_weight: of the text loss; the image loss weighs 1 - text_weight (the paper: 1/8 and 7/8).
        caption_dropout: share of the training pictures whose caption is emptied, for guidance.
        token_noise: mean share of the image tokens that the model reads in training, not those it predicts, which are
            replaced by others of the batch.

    Raises:
        ValueError: transformers has no such architecture or field, or refuses a value; the architecture is no causal
            reader of vectors; the folder lacks what is needed, or its weights do not fit; a share outside [0,1].
    """

    def __init__(
        self,
        *,
        text_tokenizer: TextTokenizer,
        grid: tuple[int, int],
        codebook_size: int,
        architecture: str | None = None,
        config: dict[str, Any] | None = None,
        weights: str | None = None,
        embed_dim: int | None = None,
        num_layers: int | None = None,
        num_heads: int | None = None,
        positions: Literal["learned", "own"] = "learned",
        attention: trunk.Attention = "auto",
        gradient_checkpointing: bool = False,
        text_weight: float = 1 / 8,
        caption_dropout: float = 0.1,
        token_noise: float = 0.0,
    ) -> None:
        super().__init__()
        shares = {"text_weight": text_weight, "caption_dropout": caption_dropout, "token_noise": token_noise}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must lie in [0,1], got {share}")
        self.text_tokenizer = text_tokenizer
        self.stream = TokenStream(text_tokenizer.context_length, (grid[0], grid[1]))
        self.text_weight, self.caption_dropout, self.token_noise = text_weight, caption_dropout, token_noise
        sizes = {"embed_dim": embed_dim, "num_layers": num_layers, "num_heads": num_heads}
        described = _describe(architecture, config or {}, weights, sizes, self.stream.length)
        self.trunk: Any = trunk.make(described, attention, weights)
        width = described.hidden_size
        self.layout = trunk.examine(self.trunk, width, self.stream.length)
        if gradient_checkpointing:
            trunk.compute_twice(self.trunk)
        self.text_embedding = nn.Embedding(text_tokenizer.num_ids, width)
        self.image_embedding = nn.Embedding(codebook_size, width)
        self.learned = positions == "learned"
        if self.learned:
            self.text_position = nn.Embedding(self.stream.text_length, width)
            self.row, self.column = nn.Embedding(grid[0], width), nn.Embedding(grid[1], width)
        self.text_head = nn.Linear(width, text_tokenizer.num_ids)
        self.image_head = nn.Linear(width, codebook_size)
        for name, parameter in self.named_parameters():
            if not name.startswith("trunk.") and parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)  # as GPT-2's

    @property
    def checkpoint_options(self) -> dict[str, Any]:
        """What a checkpoint holds in place of the options it was built with: every field of the trunk's config, since
        another version of transformers may have other defaults, and no folder, since the weights are beside it."""
        described = self.trunk.config
        config = configs.recorded(described)
        return {"architecture": described.model_type, "config": config, "weights": None, **dict.fromkeys(SIZES)}

    def forward(self, text_tokens: Tensor, image_tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B,T), (B,N) to text_logits (B,T-1,V), of the text tokens 1.., and image_logits (B,N,C)."""
        read = torch.cat([self._embed_text(text_tokens), self._embed_image(image_tokens[:, :-1], 0)], 1)
        hidden, text = self._read(read), self.stream.text_length
        return _logits(self.text_head, hidden[:, : text - 1]), _logits(self.image_head, hidden[:, text - 1 :])

    def forward_text(self, text_tokens: Tensor) -> Tensor:
        """Text alone (B,T), with no picture after it: text_logits (B,T-1,V), of the text tokens 1..."""
        return _logits(self.text_head, self._read(self._embed_text(text_tokens[:, :-1])))

    def prefill(self, text_tokens: Tensor, image_tokens: Tensor | None = None) -> tuple[Tensor, KVCache]:
        """Text (B,T), and image tokens already drawn (B,n): logits (B,C) of the next one, and the cache."""
        read = self._embed_text(text_tokens)
        if image_tokens is not None and image_tokens.shape[1]:
            read = torch.cat([read, self._embed_image(image_tokens, 0)], 1)
        layout = self.layout or trunk.Layout(1, 1, read.shape[2])
        kv_cache = KVCache.empty(
            layout.layers, len(read), layout.heads, self.stream.length, layout.head_dim, like=self.text_head.weight
        )
        return _logits(self.image_head, self._read(read, kv_cache)[:, -1]), kv_cache

    def step(self, image_tokens: Tensor, kv_cache: KVCache) -> Tensor:
        """n further image tokens (B,n): logits (B,n,C), each of the token after it."""
        read = self._embed_image(image_tokens, kv_cache.length - self.stream.image_start)
        return _logits(self.image_head, self._read(read, kv_cache))

    def _read(self, read: Tensor, kv_cache: KVCache | None = None) -> Tensor:
        """Vectors (B,S,D) to the trunk's (B,S,D); with a cache, they follow what is in it."""
        if kv_cache is not None and self.layout is not None:
            return trunk.read_on(self.trunk, read, kv_cache)
        if kv_cache is not None:  # it holds what was read, as keys of one head, and all of it is read again
            read = kv_cache.write(0, read[:, None], read[:, None])[0][:, 0]
        hidden: Tensor = self.trunk(inputs_embeds=read, use_cache=False).last_hidden_state
        if kv_cache is not None:
            hidden = hidden[:, kv_cache.length :]
            kv_cache.advance(hidden.shape[1])
        return hidden

    def _embed_text(self, tokens: Tensor) -> Tensor:
        """Tokens (B,n) at the first text positions."""
        embedded: Tensor = self.text_embedding(tokens)
        return embedded + self.text_position.weight[: tokens.shape[1]] if self.learned else embedded

    def _embed_image(self, tokens: Tensor, first: int) -> Tensor:
        """Tokens (B,n) at the image positions from `first` on."""
        embedded: Tensor = self.image_embedding(tokens)
        if not self.learned:
            return embedded
        position = torch.arange(first, first + tokens.shape[1], device=tokens.device) + self.stream.image_start
        return embedded + self.row(self.stream.row(position)) + self.column(self.stream.column(position))


def _describe(
    architecture: str | None, config: dict[str, Any], weights: str | None, sizes: dict[str, int | None], length: int
) -> Any:
    """The trunk's config, for streams of `length` positions.

    Raises:
        ValueError: see `HfCausal`.
    """
    fields: dict[str, Any] = {}
    if weights is not None:
        theirs, fields = folder.read_config(weights)
        if architecture not in (None, theirs):
            raise ValueError(f"architecture={architecture}, but weights={weights} are of a {theirs}: leave it out")
        if said := [name for name, value in sizes.items() if value is not None]:
            raise ValueError(
                f"{said[0]} is for a new trunk, and weights={weights} have sizes of their own: leave it out, as "
                "generator=hf_causal does and the presets of new trunks do not"
            )
        architecture = theirs
    found = configs.config_class(architecture or "llama")
    given = configs.checked(found, config)
    if weights is None:
        fields = _sizes(found, given, sizes)
    described = configs.make(found, {**fields, **given})
    if (name := configs.length_field(described)) is not None:
        bound = getattr(described, name)
        if weights is None and name not in given:
            setattr(described, name, length)
        elif isinstance(bound, int) and bound < length:
            raise ValueError(
                f"a stream has {length} positions, of text and picture, and {found.model_type} reads {bound} "
                f"({name}): a shorter task.text_tokenizer.context_length or a coarser image tokenizer would fit; "
                f"where its positions are computed, as by RoPE, generator.config.{name}={length} may do"
            )
    return described


def _sizes(found: Any, given: dict[str, Any], sizes: dict[str, int | None]) -> dict[str, Any]:
    """The fields of a new trunk's size; those that `given` says itself decide what is derived from them."""
    names = {"embed_dim": "hidden_size", "num_layers": "num_hidden_layers", "num_heads": "num_attention_heads"}
    wanted: dict[str, int] = {}
    for option, name in names.items():
        own, value = found.attribute_map.get(name, name), sizes[option]
        if own in given and value is not None:
            raise ValueError(f"{option}={value} and config.{own}={given[own]} are the same size: leave one out")
        wanted[option] = given.get(own, SIZES[option] if value is None else value)
        if not isinstance(wanted[option], int) or wanted[option] < 1:
            raise ValueError(f"{option} must be a whole number ≥ 1, got {wanted[option]}")
    return configs.sizes(found, **wanted)


def _logits(head: nn.Linear, hidden: Tensor) -> Tensor:
    """Logits in fp32 whatever the precision around them, as mmgen's own generator has them (DALL·E, section 2.4)."""
    kind = hidden.device.type
    mixed = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    with torch.autocast(kind, enabled=False) if mixed else nullcontext():
        return F.linear(hidden.float(), head.weight.float(), head.bias.float())
