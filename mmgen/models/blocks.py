"""Building blocks of the image tokenizers, public: a plugin's tokenizer may reuse a trunk with a codebook of its own.

Letters: B batch, C channels, H W pixels, h w grid.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.models.vqgan import VqganDecoder, VqganEncoder

Trunk = Literal["patches", "vqgan"]


class ResidualBlock(nn.Module):
    """x + scale · conv(relu(conv(relu(x)))), without normalisation, as in DALL·E's dVAE (appendix A.1).

    Args:
        channels: C, unchanged.
        scale: what the branch is multiplied by; 1/blocks² keeps a deep trunk's variance at its input's.
    """

    def __init__(self, channels: int, scale: float) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.second(F.relu(self.first(F.relu(x))))


def _levels(downsample: int) -> int:
    levels = downsample.bit_length() - 1
    if downsample < 2 or 2**levels != downsample:
        raise ValueError(f"downsample={downsample} is not a power of two of at least 2")
    return levels


def _widths(width: int, levels: int) -> list[int]:
    return [width * 2**level for level in range(levels)]


class ImageEncoder(nn.Module):
    """Pictures (B,3,H,W) in [-1,1] to (B,out_channels,h,w): at each level space to depth, convolution, residual blocks.

    Beside the convolutions runs a linear map of each patch, which starts as an isometry while they start at zero: an
    untrained tokenizer is k-means on patches, and training goes on from there instead of from noise.

    Args:
        out_channels: of the grid.
        width: channels at half the picture's size; they double at each level.
        blocks: residual blocks a level.
        downsample: H/h, a power of two.
    """

    def __init__(self, out_channels: int, width: int, blocks: int, downsample: int) -> None:
        super().__init__()
        levels = _levels(downsample)
        layers: list[nn.Module] = []
        channels = 3
        for size in _widths(width, levels):
            layers += [nn.PixelUnshuffle(2), nn.Conv2d(4 * channels, size, 3, padding=1)]
            layers += [ResidualBlock(size, 1 / (levels * blocks) ** 0.5) for _ in range(blocks)]
            channels = size
        self.layers = nn.Sequential(*layers, nn.ReLU())
        self.output = _starts_at_zero(nn.Conv2d(channels, out_channels, 1))
        self.patches = nn.Conv2d(3, out_channels, downsample, stride=downsample, bias=False)
        nn.init.orthogonal_(self.patches.weight)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.patches(images) + self.output(self.layers(images))
        return features


class ImageDecoder(nn.Module):
    """The way back: (B,in_channels,h,w) to pictures (B,out_channels,H,W), the encoder's mirror.

    Its linear map of each patch starts as the inverse of an encoder's once `invert` has been called.
    """

    def __init__(self, in_channels: int, width: int, blocks: int, downsample: int, out_channels: int = 3) -> None:
        super().__init__()
        levels = _levels(downsample)
        widths = _widths(width, levels)[::-1]
        layers: list[nn.Module] = [nn.Conv2d(in_channels, widths[0], 3, padding=1)]
        for level, size in enumerate(widths):
            layers += [ResidualBlock(size, 1 / (levels * blocks) ** 0.5) for _ in range(blocks)] + [nn.ReLU()]
            if level + 1 < levels:
                layers += [nn.Conv2d(size, 4 * widths[level + 1], 3, padding=1), nn.PixelShuffle(2)]
        self.layers = nn.Sequential(*layers)
        self.output = _starts_at_zero(nn.Conv2d(widths[-1], 4 * out_channels, 3, padding=1))
        self.patches = nn.ConvTranspose2d(in_channels, out_channels, downsample, stride=downsample)

    @property
    def last_layer(self) -> Tensor:
        """The weight that makes the pixels: where adversarial and reconstruction gradients are weighed."""
        return self.output.weight

    def forward(self, features: Tensor) -> Tensor:
        images: Tensor = self.patches(features) + F.pixel_shuffle(self.output(self.layers(features)), 2)
        return images

    @torch.no_grad()
    def invert(self, encoder: ImageEncoder) -> None:
        """Starts the linear map of the first three output channels as the transpose of the encoder's isometry."""
        self.patches.weight[:, :3].copy_(encoder.patches.weight)
        assert self.patches.bias is not None
        nn.init.zeros_(self.patches.bias)


def _starts_at_zero(layer: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


def make_trunk(
    trunk: Trunk,
    *,
    image_size: int,
    channels: int,
    downsample: int,
    width: int,
    blocks: int,
    channel_multipliers: tuple[int, ...] | None = None,
    attention_sizes: tuple[int, ...] = (),
    norm_groups: int = 32,
) -> tuple[ImageEncoder, ImageDecoder] | tuple[VqganEncoder, VqganDecoder]:
    """An encoder of pictures in [-1,1] to a grid (B,channels,h,w), and the decoder that is its way back.

    Args:
        trunk: `patches`: `ImageEncoder` and `ImageDecoder`, its inverse at the start; `vqgan`: `VqganEncoder` and
            `VqganDecoder`, which alone read the last three arguments.
        image_size: H = W.
        channels: of the grid.
        downsample: H/h, a power of two.
        channel_multipliers: one for each level; None: 1, 2, 4, 4 …

    Raises:
        ValueError: a downsample that is no power of two or does not divide the image size, or too few or too many
            channel multipliers for it.
    """
    if image_size % downsample:
        raise ValueError(f"downsample={downsample} does not divide image_size={image_size}")
    if trunk == "patches":
        encoder = ImageEncoder(channels, width, blocks, downsample)
        decoder = ImageDecoder(channels, width, blocks, downsample)
        decoder.invert(encoder)
        return encoder, decoder
    levels = _levels(downsample) + 1
    multipliers = channel_multipliers or tuple(min(2**level, 4) for level in range(levels))
    if len(multipliers) != levels:
        raise ValueError(f"downsample={downsample} wants {levels} channel_multipliers, got {list(multipliers)}")
    sizes = {"image_size": image_size, "attention_sizes": attention_sizes, "groups": norm_groups}
    shape = (channels, width, multipliers, blocks)
    return VqganEncoder(*shape, **sizes), VqganDecoder(*shape, **sizes)  # type: ignore[arg-type]


def to_signed(images: Tensor) -> Tensor:
    """Pictures in [0,1] to [-1,1], what the convolutions read."""
    return images * 2 - 1


def to_unit(images: Tensor) -> Tensor:
    """What the convolutions write, in [-1,1], to pictures in [0,1], clamped."""
    return (images / 2 + 0.5).clamp(0, 1)


def codebook_use(indices: Tensor, codebook_size: int) -> dict[str, Tensor]:
    """How evenly a batch uses the codebook.

    Returns:
        `codebook_usage`: the fraction of codes used at all; `codebook_perplexity`: exp of the entropy, in [1, size].
    """
    counts = torch.bincount(indices.flatten(), minlength=codebook_size).float()
    probs = counts / counts.sum()
    entropy = -(probs * probs.clamp_min(1e-12).log()).sum()
    return {"codebook_usage": (counts > 0).float().mean(), "codebook_perplexity": entropy.exp()}
