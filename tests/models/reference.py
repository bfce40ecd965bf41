"""torch's own pre-norm transformer layer with the weights of one of our blocks: a reference that we did not write."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


@torch.no_grad()
def torch_layer(block: Any, *, by_heads: bool = False) -> nn.TransformerEncoderLayer:
    """The layer that computes what `block` (attention_norm, qkv, out, mlp_norm, up, down) should; with `by_heads`, the
    rows of its `qkv` are those of the first head's query, key and value, then the next head's."""
    width = block.out.in_features
    layer = nn.TransformerEncoderLayer(
        width, block.num_heads, block.up.out_features, 0.0, "gelu", batch_first=True, norm_first=True
    )
    pairs = [
        (layer.norm1, block.attention_norm),
        (layer.norm2, block.mlp_norm),
        (layer.self_attn.out_proj, block.out),
        (layer.linear1, block.up),
        (layer.linear2, block.down),
    ]
    bias = block.qkv.bias if block.qkv.bias is not None else torch.zeros(3 * width)
    if by_heads:
        bias = bias.view(block.num_heads, 3, -1).transpose(0, 1).flatten()
        weight = block.qkv.weight.view(block.num_heads, 3, -1, width).transpose(0, 1).reshape(3 * width, width)
    else:
        weight = block.qkv.weight
    layer.self_attn.in_proj_weight.copy_(weight)
    layer.self_attn.in_proj_bias.copy_(bias)
    for theirs, ours in pairs:
        theirs.weight.copy_(ours.weight)
        theirs.bias.copy_(ours.bias if ours.bias is not None else torch.zeros(width))
    return layer.train()  # eval would take another, fused path


def causal_mask(length: int) -> torch.Tensor:
    """True where a query (row) must not look."""
    return torch.ones(length, length, dtype=torch.bool).triu(1)


@torch.no_grad()
def roughen(module: nn.Module, seed: int = 0, scale: float = 0.3) -> None:
    """Weights large enough that a wrong position or mask shows; biases and gains too, which start at zero and one."""
    source = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.add_(scale * torch.randn(parameter.shape, generator=source))
