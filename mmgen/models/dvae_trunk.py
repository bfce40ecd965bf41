"""The convolutions of DALL·E's discrete VAE (Ramesh et al. 2021, arXiv 2102.12092, appendix A.2), at any size.

Modules carry the names of the published ones (package `dall_e`): `blocks.group_1.block_1.res_path.conv_1`.

Letters: B batch, C channels, K codes, D the decoder's first width, H W pixels, h w grid.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Bottleneck(nn.Module):
    """id(x) + scale · res(x): four convolutions, each behind a ReLU, through a quarter of the channels.

    Args:
        in_channels: C that comes in; where it is another than `channels`, a 1×1 convolution takes the place of id.
        channels: C that goes out.
        kernels: sides of the four filters.
        scale: what the branch is multiplied by.
    """

    def __init__(self, in_channels: int, channels: int, kernels: tuple[int, ...], scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.id_path = nn.Identity() if in_channels == channels else nn.Conv2d(in_channels, channels, 1)
        widths = [in_channels, *[channels // 4] * (len(kernels) - 1), channels]
        layers: list[tuple[str, nn.Module]] = []
        for i, side in enumerate(kernels):
            convolution = nn.Conv2d(widths[i], widths[i + 1], side, padding=side // 2)
            layers += [(f"relu_{i + 1}", nn.ReLU()), (f"conv_{i + 1}", convolution)]
        self.res_path = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.id_path(x) + self.scale * self.res_path(x)
        return out


def _group(in_channels: int, channels: int, blocks: int, kernels: tuple[int, ...], scale: float) -> nn.Sequential:
    widths = [in_channels] + [channels] * blocks
    names = [f"block_{i + 1}" for i in range(blocks)]
    made = [Bottleneck(widths[i], channels, kernels, scale) for i in range(blocks)]
    return nn.Sequential(OrderedDict(zip(names, made, strict=True)))


def _trunk(layers: list[tuple[str, nn.Module]], in_channels: int, out_channels: int) -> nn.Sequential:
    """The layers, then ReLU and a 1×1 convolution; all weights N(0, 1/sqrt(n_in·k²)), all biases zero."""
    output = OrderedDict(relu=nn.ReLU(), conv=nn.Conv2d(in_channels, out_channels, 1))
    trunk = nn.Sequential(OrderedDict([*layers, ("output", nn.Sequential(output))]))
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return trunk


class DvaeEncoder(nn.Module):
    """Pictures (B,3,H,W), mapped, to logits (B,K,h,w): each group but the last ends in a max-pool; widths double.

    Args:
        codebook_size: K.
        width: channels of the first group.
        groups: H/h is 2^(groups-1).
        blocks: residual blocks a group.
        scale: of their branches.
    """

    def __init__(self, codebook_size: int, width: int, groups: int, blocks: int, scale: float) -> None:
        super().__init__()
        layers: list[tuple[str, nn.Module]] = [("input", nn.Conv2d(3, width, 7, padding=3))]
        channels = width
        for i in range(groups):
            group = _group(channels, width * 2**i, blocks, (3, 3, 3, 1), scale)
            if i + 1 < groups:
                group.add_module("pool", nn.MaxPool2d(2))
            layers.append((f"group_{i + 1}", group))
            channels = width * 2**i
        self.blocks: Any = _trunk(layers, channels, codebook_size)

    def forward(self, values: Tensor) -> Tensor:
        return _in_full(self.blocks.output, self.blocks[:-1](values))


class DvaeDecoder(nn.Module):
    """The way back: weights of the codes (B,K,h,w) to features (B,D,h,w), and these to μ and ln b (B,6,H,W).

    `blocks.input` is a 1×1 convolution over codes: its filters are the codebook.

    Args:
        codebook_size: K.
        first: D.
        width: channels of the last group; in the first they are 2^(groups-1) times as many.
        groups, blocks, scale: as in the encoder.
    """

    def __init__(self, codebook_size: int, first: int, width: int, groups: int, blocks: int, scale: float) -> None:
        super().__init__()
        layers: list[tuple[str, nn.Module]] = [("input", nn.Conv2d(codebook_size, first, 1))]
        channels = first
        for i in range(groups):
            size = width * 2 ** (groups - 1 - i)
            group = _group(channels, size, blocks, (1, 3, 3, 3), scale)
            if i + 1 < groups:
                group.add_module("upsample", nn.Upsample(scale_factor=2, mode="nearest"))
            layers.append((f"group_{i + 1}", group))
            channels = size
        self.blocks: Any = _trunk(layers, channels, 6)

    def mix(self, weights: Tensor) -> Tensor:
        """Weights of the codes (B,K,h,w) to features (B,D,h,w)."""
        return _in_full(self.blocks.input, weights)

    def look_up(self, indices: Tensor) -> Tensor:
        """Indices (B,h,w) to features (B,D,h,w): `mix` of one-hot weights, without making them."""
        first = self.blocks.input
        return (F.embedding(indices, first.weight[:, :, 0, 0].T) + first.bias).permute(0, 3, 1, 2).contiguous()

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B,D,h,w) to μ and ln b, each (B,3,H,W)."""
        mean, log_scale = self.blocks[1:](features).float().chunk(2, dim=1)
        return mean, log_scale


def _in_full(layer: Any, x: Tensor) -> Tensor:
    """The layer in the precision of its weights, whatever autocast says: logits and codes are fp32 in the paper too."""
    device = x.device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        out: Tensor = layer(x)
        return out
    with torch.autocast(device, enabled=False):
        return _in_full(layer, x.to(next(layer.parameters()).dtype))
