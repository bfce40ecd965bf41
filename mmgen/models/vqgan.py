"""VQGAN's encoder and decoder (Esser et al. 2021, arXiv 2012.09841, appendix A, tables 7 and 8).

Submodules are named as in the original code (`encoder.down.0.block.1.conv1`, `decoder.up.2.upsample.conv` …), so that
its checkpoints fit tensor for tensor. Public through `mmgen.models.blocks`.

Letters: B batch, C channels, H W pixels, h w grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def group_norm(channels: int, groups: int) -> nn.GroupNorm:
    """GroupNorm with the largest number of groups, up to `groups`, that divides the channels."""
    fitting = next(count for count in range(min(groups, channels), 0, -1) if channels % count == 0)
    return nn.GroupNorm(fitting, channels, eps=1e-6)


class ResnetBlock(nn.Module):
    """x + conv(swish(norm(conv(swish(norm(x)))))); a 1×1 convolution on the skip where the channels change."""

    def __init__(self, channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = group_norm(channels, groups)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.norm2 = group_norm(out_channels, groups)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(channels, out_channels, 1) if channels != out_channels else None

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        skip: Tensor = x if self.nin_shortcut is None else self.nin_shortcut(x)
        return skip + branch


class AttnBlock(nn.Module):
    """Self-attention of one head over all positions of the grid, added to its input."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = group_norm(channels, groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        queries, keys, values = (layer(normed).flatten(2) for layer in (self.q, self.k, self.v))  # (B,C,h·w)
        weights = torch.softmax(queries.mT @ keys * x.shape[1] ** -0.5, dim=2)
        mixed: Tensor = self.proj_out((values @ weights.mT).view_as(x))
        return x + mixed


class Downsample(nn.Module):
    """Halves both sides: a row and a column of zeros below and to the right, then a convolution of stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        halved: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return halved


class Upsample(nn.Module):
    """Doubles both sides: the nearest pixel, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        doubled: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return doubled


class Level(nn.Module):
    """The blocks at one size, each followed by attention where there is any, then the change of size, if any."""

    def __init__(self, widths: Sequence[int], attention: bool, groups: int) -> None:
        super().__init__()
        self.block = nn.ModuleList([ResnetBlock(channels, out, groups) for channels, out in pairwise(widths)])
        self.attn = nn.ModuleList([AttnBlock(channels, groups) for channels in widths[1:]] if attention else [])
        self.downsample: Downsample | None = None
        self.upsample: Upsample | None = None

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        for resize in (self.downsample, self.upsample):
            if resize is not None:
                x = resize(x)
        return x


class Middle(nn.Module):
    """Block, attention, block at the grid's size."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, channels, groups)
        self.attn_1 = AttnBlock(channels, groups)
        self.block_2 = ResnetBlock(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return result


class VqganEncoder(nn.Module):
    """Pictures (B,3,H,W) in [-1,1] to (B,out_channels,h,w); H/h is 2 to the number of levels less one.

    Args:
        out_channels: of the grid.
        width: channels of the first level, 128 in the paper.
        channel_multipliers: width of each level over `width`, from the picture's size downwards.
        blocks: residual blocks a level.
        image_size: H = W.
        attention_sizes: the sides of the feature maps after whose blocks attention follows; there is one in the middle
            whatever they are.
        groups: of GroupNorm, at most; fewer where they do not divide the channels.
    """

    def __init__(
        self,
        out_channels: int,
        width: int,
        channel_multipliers: Sequence[int],
        blocks: int,
        *,
        image_size: int,
        attention_sizes: Sequence[int] = (),
        groups: int = 32,
    ) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList()
        channels, size = width, image_size
        for multiplier in channel_multipliers:
            out = width * multiplier
            level = Level([channels, *[out] * blocks], size in attention_sizes, groups)
            channels = out
            if len(self.down) + 1 < len(channel_multipliers):
                level.downsample = Downsample(channels)
                size //= 2
            self.down.append(level)
        self.mid = Middle(channels, groups)
        self.norm_out = group_norm(channels, groups)
        self.conv_out = nn.Conv2d(channels, out_channels, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        # Backward through GroupNorm on a channels_last input without gradient crashes torch 2.13 on the CPU.
        x = self.conv_in(images.contiguous())
        for level in self.down:
            x = level(x)
        features: Tensor = self.conv_out(F.silu(self.norm_out(self.mid(x))))
        return features


class VqganDecoder(nn.Module):
    """The way back: (B,in_channels,h,w) to pictures (B,out_channels,H,W). Each level has one block more than the
    encoder's. `up[0]` is the picture's size, so that levels have the encoder's numbers.

    Args: as `VqganEncoder`'s.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        channel_multipliers: Sequence[int],
        blocks: int,
        *,
        image_size: int,
        attention_sizes: Sequence[int] = (),
        groups: int = 32,
        out_channels: int = 3,
    ) -> None:
        super().__init__()
        channels = width * channel_multipliers[-1]
        self.conv_in = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.mid = Middle(channels, groups)
        levels: list[nn.Module] = []
        for number in reversed(range(len(channel_multipliers))):
            out = width * channel_multipliers[number]
            level = Level([channels, *[out] * (blocks + 1)], image_size // 2**number in attention_sizes, groups)
            channels = out
            if number:
                level.upsample = Upsample(channels)
            levels.append(level)
        self.up = nn.ModuleList(levels[::-1])
        self.norm_out = group_norm(channels, groups)
        self.conv_out = nn.Conv2d(channels, out_channels, 3, padding=1)

    @property
    def last_layer(self) -> Tensor:
        """The weight that makes the pixels: where adversarial and reconstruction gradients are weighed."""
        return self.conv_out.weight

    def forward(self, features: Tensor) -> Tensor:
        x = self.mid(self.conv_in(features.contiguous()))  # looked-up codes come as channels_last: see the encoder
        for level in reversed(self.up):
            x = level(x)
        images: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return images
