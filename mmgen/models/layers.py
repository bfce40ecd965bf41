"""The layers of the generator: a block, its positions by rotation, and a head whose logits keep fp32.

Letters: B batch, S positions read at once, D model dim, H heads, K head dim.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.models.attention import Executor, attend, attend_cached, attention_probs
from mmgen.stream import KVCache, Mask, TokenStream

Rotation = tuple[Tensor, Tensor]  # cosines and sines (S,K/2)
ROTARY_BASE = 10_000.0


def rotation(stream: TokenStream, position: Tensor, head_dim: int) -> Rotation:
    """The angles of positions (S,), in fp32: half of a head turns with the row, the other half with the column.

    Image tokens stand at their row and column; the text stands on the diagonal, in front of the grid or behind it, so
    that within the text this is the usual rotation (Su et al. 2021, arXiv 2104.09864) and all distances agree (Wang et
    al. 2024, arXiv 2409.12191, section 2.1). Of a pair, one half lies in the first half of the head, as in Llama.
    """
    is_image = stream.is_image(position)
    first_image, first_text = (stream.text_length, 0) if stream.order == "text_first" else (0, max(stream.grid))
    text = first_text + position - stream.text_start
    rows = torch.where(is_image, first_image + stream.row(position), text)
    columns = torch.where(is_image, first_image + stream.column(position), text)
    pairs = head_dim // 4
    speed = ROTARY_BASE ** (-torch.arange(pairs, dtype=torch.float32, device=position.device) / pairs)
    angles = torch.cat([rows[:, None] * speed, columns[:, None] * speed], 1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, angles: Rotation) -> Tensor:
    """Queries or keys (B,H,S,K), each pair of numbers turned by its angle."""
    cos, sin = angles
    one, other = x.float().chunk(2, -1)
    return torch.cat([one * cos - other * sin, other * cos + one * sin], -1).to(x.dtype)


class Block(nn.Module):
    """Attention over the stream, then an MLP, each behind a norm and beside a residual.

    The output of `qkv` is laid out head by head, (H,3,K), and the number of heads is read from it: a tensor-parallel
    split by columns leaves every rank whole heads.

    Args:
        embed_dim: D.
        num_heads: H.
        layer: the block's number in the cache.
        mask: who sees whom.
        mlp_ratio: hidden units of the MLP over D.
        dropout: of both branches, in [0,1).
        norm: LayerNorm or RMSNorm (arXiv 1910.07467).
        mlp: GELU, or SwiGLU (arXiv 2002.05202), which has a third matrix.
        qk_norm: whether queries and keys are normalised, which keeps high learning rates stable.
        bias: which linear layers have one: those of the MLP, all, or none.
        executor: how attention is computed, see `mmgen.models.attention.attend`.
    """

    whole_heads = True  # what `mmgen.tasks.parallel` asks before it splits a block

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        layer: int,
        mask: Mask,
        mlp_ratio: float = 4.0,
        dropout: float = 0.0,
        norm: Literal["layer", "rms"] = "layer",
        mlp: Literal["gelu", "swiglu"] = "gelu",
        qk_norm: bool = True,
        bias: Literal["mlp", "all", "none"] = "mlp",
        executor: Executor = "auto",
    ) -> None:
        super().__init__()
        self.layer, self.mask, self.executor = layer, mask, executor
        self.num_heads, self.head_dim = num_heads, embed_dim // num_heads
        self.attention_norm, self.mlp_norm = make_norm(norm, embed_dim), make_norm(norm, embed_dim)
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim, bias=bias == "all")
        self.out = nn.Linear(embed_dim, embed_dim, bias=bias == "all")
        hidden = int(mlp_ratio * embed_dim)
        self.up = nn.Linear(embed_dim, hidden, bias=bias != "none")
        self.down = nn.Linear(hidden, embed_dim, bias=bias != "none")
        self.gate = nn.Linear(embed_dim, hidden, bias=bias != "none") if mlp == "swiglu" else None
        self.q_norm = HeadNorm(self.head_dim) if qk_norm else nn.Identity()
        self.k_norm = HeadNorm(self.head_dim) if qk_norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        angles: Rotation | None = None,
        kv_cache: KVCache | None = None,
        first: int = 0,
        maps: list[Tensor] | None = None,
    ) -> Tensor:
        """(B,S,D) to (B,S,D), of positions from `first` on, which look at each other; with a cache, at all before them
        too, and they are written into it. `angles` rotate queries and keys. `maps`, without a cache, gets how they look
        at each other (B,S,S), the mean over the heads."""
        x = x + self.dropout(self._attend(self.attention_norm(x), angles, kv_cache, first, maps))
        return x + self.dropout(self._mlp(self.mlp_norm(x)))

    def _attend(
        self,
        x: Tensor,
        angles: Rotation | None,
        kv_cache: KVCache | None,
        first: int,
        maps: list[Tensor] | None = None,
    ) -> Tensor:
        batch, length, _ = x.shape
        qkv = self.qkv(x).view(batch, length, -1, 3, self.head_dim).permute(3, 0, 2, 1, 4)
        queries, keys, values = self.q_norm(qkv[0]), self.k_norm(qkv[1]), qkv[2]
        if angles is not None:
            queries, keys = rotate(queries, angles), rotate(keys, angles)
        queries, keys = queries.to(values), keys.to(values)  # under autocast a norm gives fp32
        if maps is not None:
            maps.append(attention_probs(queries, keys, self.mask, first=first).mean(1))
        if kv_cache is None:
            out = attend(queries, keys, values, self.mask, first=first, executor=self.executor)
        else:
            keys, values = kv_cache.write(self.layer, keys, values)
            out = attend_cached(queries, keys, values, self.mask)
        projected: Tensor = self.out(out.transpose(1, 2).reshape(batch, length, -1))
        return projected

    def _mlp(self, x: Tensor) -> Tensor:
        hidden = F.gelu(self.up(x)) if self.gate is None else F.silu(self.gate(x)) * self.up(x)
        out: Tensor = self.down(hidden)
        return out


def make_norm(norm: Literal["layer", "rms"], dim: int) -> nn.Module:
    """A norm over D with a gain, and as LayerNorm with a bias."""
    return nn.LayerNorm(dim) if norm == "layer" else nn.RMSNorm(dim, eps=1e-5)


class HeadNorm(nn.RMSNorm):
    """Of queries or keys, in the precision of its gains: of bf16 with gains in fp32 torch has no fused norm."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


class Head(nn.Linear):
    """Logits in fp32 whatever the precision around it (DALL·E, section 2.4): of thousands of logits the softmax keeps
    the small differences, of which bf16 has eight bits."""

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        mixed = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        with torch.autocast(kind, enabled=False) if mixed else nullcontext():
            return F.linear(x.float(), self.weight.float(), None if self.bias is None else self.bias.float())
