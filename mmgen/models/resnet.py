"""CLIP's residual networks (arXiv 2103.00020, section 2.4): ResNet-D's stem and strides, pooled by attention.

Letters: B batch, C channels, h w grid of the last stage, E features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EXPANSION = 4  # a bottleneck's output over its inner width
DOWNSAMPLE = 32  # pixels a side that one place of the last stage stands for


class Bottleneck(nn.Module):
    """1×1, 3×3, 1×1; where it strides, an average pool does it before the convolution, so that nothing is aliased.

    Args:
        channels: C in.
        width: inner channels; four times as many come out.
        stride: 1 or 2.
    """

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = EXPANSION * width
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out)
        nn.init.zeros_(self.bn3.weight)  # a block starts as the identity
        self.stride = stride
        self.downsample = None
        if stride > 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))
        if self.stride > 1:
            x, y = F.avg_pool2d(x, self.stride), F.avg_pool2d(y, self.stride)
        if self.downsample is not None:
            x = self.downsample(x)
        return F.relu(x + self.bn3(self.conv3(y)))


class AttentionPool(nn.Module):
    """One query, the mean of all places, attends to them and to itself.

    Args:
        side: h = w.
        channels: C.
        num_heads: divides C.
        embed_dim: E.
    """

    def __init__(self, side: int, channels: int, num_heads: int, embed_dim: int) -> None:
        super().__init__()
        if channels % num_heads:
            raise ValueError(f"num_heads={num_heads} does not divide the last stage's {channels} channels")
        self.num_heads = num_heads
        self.positional_embedding = nn.Parameter(torch.randn(side**2 + 1, channels) * channels**-0.5)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(channels, channels) for _ in range(3))
        self.c_proj = nn.Linear(channels, embed_dim)
        for layer in (self.q_proj, self.k_proj, self.v_proj, self.c_proj):
            nn.init.normal_(layer.weight, std=channels**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,h,w) to (B,E)."""
        places = x.flatten(2).transpose(1, 2)
        places = torch.cat([places.mean(1, keepdim=True), places], 1) + self.positional_embedding
        query, keys, values = (
            layer(part).unflatten(2, (self.num_heads, -1)).transpose(1, 2)
            for layer, part in ((self.q_proj, places[:, :1]), (self.k_proj, places), (self.v_proj, places))
        )
        pooled = F.scaled_dot_product_attention(query, keys, values)
        features: Tensor = self.c_proj(pooled.transpose(1, 2).flatten(1))
        return features


class ModifiedResNet(nn.Module):
    """Pictures (B,3,H,W) to (B,E).

    Args:
        image_size: H = W, a multiple of 32.
        width: channels of the stem; the last stage has 32 times as many.
        stages: bottlenecks of each of the four stages.
        num_heads: of the attention pool; divides 32·width.
        embed_dim: E.

    Raises:
        ValueError: sizes that do not divide, or other than four stages.
    """

    def __init__(self, *, image_size: int, width: int, stages: Sequence[int], num_heads: int, embed_dim: int) -> None:
        super().__init__()
        if image_size % DOWNSAMPLE:
            raise ValueError(f"a residual network needs an image_size that {DOWNSAMPLE} divides, got {image_size}")
        if len(stages) != 4:
            raise ValueError(f"stages={list(stages)} needs four entries, as [3,4,6,3] has")
        half = width // 2
        self.conv1, self.bn1 = nn.Conv2d(3, half, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(half)
        self.conv2, self.bn2 = nn.Conv2d(half, half, 3, padding=1, bias=False), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = nn.Conv2d(half, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        channels = width
        for number, blocks in enumerate(stages):
            inner = width * 2**number
            layers = []
            for block in range(blocks):
                layers.append(Bottleneck(channels, inner, 2 if number and not block else 1))
                channels = EXPANSION * inner
            self.add_module(f"layer{number + 1}", nn.Sequential(*layers))
        self.attnpool = AttentionPool(image_size // DOWNSAMPLE, channels, num_heads, embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(images)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.avg_pool2d(F.relu(self.bn3(self.conv3(x))), 2)
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        features: Tensor = self.attnpool(x)
        return features
