"""The transformers of the contrastive encoder: one reads patches, one reads text (CLIP, sections 2.4 and 3.2).

Letters: B batch, T text positions, P patches, D width, E features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Literal["gelu", "quick_gelu"]


def quick_gelu(x: Tensor) -> Tensor:
    """x · sigmoid(1.702 x), what OpenAI's weights were trained with; it is not GELU, whose weights differ."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "quick_gelu": quick_gelu}


class EncoderBlock(nn.Module):
    """Pre-norm attention and MLP, causal or not.

    Args:
        width: D.
        num_heads: divides D.
        causal: whether a position sees only those before it (the text).
        activation: of the MLP.
        mlp_ratio: hidden units of the MLP over D.
    """

    def __init__(
        self, width: int, num_heads: int, causal: bool, activation: Activation = "gelu", mlp_ratio: float = 4.0
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide width={width}")
        self.num_heads, self.causal = num_heads, causal
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        hidden = int(mlp_ratio * width)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.attention_norm(x)).view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        out = F.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2], is_causal=self.causal)
        x = x + self.out(out.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(self.activation(self.up(self.mlp_norm(x))))


class Tower(nn.Module):
    """Blocks in a row, started as the original does, by width and depth."""

    blocks: nn.ModuleList

    def _make_blocks(self, width: int, layers: int, num_heads: int, causal: bool, activation: Activation) -> None:
        self.blocks = nn.ModuleList(EncoderBlock(width, num_heads, causal, activation) for _ in range(layers))
        for block in self.blocks:
            assert isinstance(block, EncoderBlock)
            last = width**-0.5 * (2 * layers) ** -0.5
            nn.init.normal_(block.qkv.weight, std=width**-0.5)
            nn.init.normal_(block.out.weight, std=last)
            nn.init.normal_(block.up.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.down.weight, std=last)
            for layer in (block.qkv, block.out):
                nn.init.zeros_(layer.bias)

    def _through(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


class VisionTransformer(Tower):
    """Pictures (B,3,H,W) to (B,E), by patches.

    Args:
        image_size: H = W.
        patch_size: pixels a side of a patch; divides the image size.
        width: D.
        layers: blocks.
        num_heads: divides D.
        embed_dim: E.
        activation: of the MLPs.
        pre_norm: whether the patches are normalised before the first block, as in CLIP.
        pool: the class token's output (CLIP), or the average of the patches', without a class token.

    Raises:
        ValueError: sizes that do not divide.
    """

    def __init__(
        self,
        *,
        image_size: int,
        patch_size: int,
        width: int,
        layers: int,
        num_heads: int,
        embed_dim: int,
        activation: Activation = "gelu",
        pre_norm: bool = True,
        pool: Literal["class_token", "average"] = "class_token",
    ) -> None:
        super().__init__()
        if image_size % patch_size:
            raise ValueError(f"patch_size={patch_size} does not divide image_size={image_size}")
        patches = (image_size // patch_size) ** 2
        self.patch_embedding = nn.Conv2d(3, width, patch_size, stride=patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5) if pool == "class_token" else None
        places = patches + (pool == "class_token")
        self.position = nn.Parameter(torch.randn(places, width) * width**-0.5)
        self.norm_before = nn.LayerNorm(width) if pre_norm else nn.Identity()
        self._make_blocks(width, layers, num_heads, False, activation)
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, embed_dim, bias=False)
        nn.init.normal_(self.projection.weight, std=width**-0.5)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.projection(self.pooled(images))
        return features

    def pooled(self, images: Tensor) -> Tensor:
        """Before the projection, (B,D)."""
        x = self.patch_embedding(images).flatten(2).transpose(1, 2)
        if self.class_embedding is not None:
            x = torch.cat([self.class_embedding.expand(len(x), 1, -1), x], 1)
        x = self._through(self.norm_before(x + self.position))
        pooled: Tensor = self.norm(x[:, 0]) if self.class_embedding is not None else self.norm(x).mean(1)
        return pooled


class TextTransformer(Tower):
    """Text tokens (B,T) to (B,E), causal, read off where the caption ends.

    Args:
        num_ids: rows of the token table.
        context_length: T.
        width: D.
        layers: blocks.
        num_heads: divides D.
        embed_dim: E.
        activation: of the MLPs.
    """

    def __init__(
        self,
        *,
        num_ids: int,
        context_length: int,
        width: int,
        layers: int,
        num_heads: int,
        embed_dim: int,
        activation: Activation = "gelu",
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_ids, width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.position = nn.Parameter(torch.randn(context_length, width) * 0.01)
        self._make_blocks(width, layers, num_heads, True, activation)
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, embed_dim, bias=False)
        nn.init.normal_(self.projection.weight, std=width**-0.5)

    def forward(self, text_tokens: Tensor, end: Tensor) -> Tensor:
        """`end` (B,) is the position that each caption is read off at. Causal attention makes the positions after it
        idle: those after the longest caption's are cut off, which is exact and most of the work for short captions."""
        length = int(end.max()) + 1
        x = self._through(self.embedding(text_tokens[:, :length]) + self.position[:length])
        features: Tensor = self.projection(self.norm(x[torch.arange(len(x), device=x.device), end]))
        return features
