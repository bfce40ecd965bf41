"""Pictures spoilt on purpose, each kind in five severities, as ImageNet-C has them (Hendrycks, arXiv 1903.12261).

Amounts are shares of the picture's side or of its range of values, so that they mean the same at any size. What is
random about a picture follows from its id and the seed. Letters: H W pixels.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from mmgen.images import through_jpeg

SEVERITIES = 5
Corruption = Callable[[Tensor, int, torch.Generator], Tensor]


def corrupted(image: Tensor, kind: str, severity: int, seed: int, id: str) -> Tensor:
    """A picture (3,H,W) in [0,1], spoilt, in [0,1].

    Args:
        kind: one of `CORRUPTIONS`.
        severity: from 1 to 5.
        seed, id: what is random about it follows from these alone.
    """
    draw = random.Random(f"{seed}/{kind}/{id}".encode("utf-8", "surrogatepass"))  # noqa: S311  ids may be file names
    source = torch.Generator().manual_seed(draw.getrandbits(63))
    return CORRUPTIONS[kind](image.float(), severity - 1, source).clamp(0, 1)


def _noise(image: Tensor, level: int, source: torch.Generator) -> Tensor:
    return image + (0.04, 0.08, 0.12, 0.18, 0.26)[level] * torch.randn(image.shape, generator=source)


def _salt(image: Tensor, level: int, source: torch.Generator) -> Tensor:
    """Pixels that are black or white."""
    share = (0.01, 0.03, 0.06, 0.1, 0.17)[level]
    struck = torch.rand(image.shape[1:], generator=source) < share
    values = (torch.rand(image.shape[1:], generator=source) < 0.5).float()
    return torch.where(struck, values, image)


def _blur(image: Tensor, level: int, source: torch.Generator) -> Tensor:
    """A Gaussian."""
    height, width = image.shape[1:]
    sigma = (0.012, 0.02, 0.03, 0.045, 0.065)[level] * min(height, width)
    reach = min(max(1, round(3 * sigma)), min(height, width) - 1)
    weights = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).expand(3, 1, 1, -1)
    padded = F.pad(image[None], (reach,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, weights, groups=3), weights.transpose(2, 3), groups=3)[0]


def _pixelate(image: Tensor, level: int, source: torch.Generator) -> Tensor:
    share = (0.7, 0.55, 0.42, 0.32, 0.24)[level]
    size = [max(1, round(share * side)) for side in image.shape[1:]]
    small = F.interpolate(image[None], size=size, mode="area")
    return F.interpolate(small, size=list(image.shape[1:]), mode="nearest")[0]


def _jpeg(image: Tensor, level: int, source: torch.Generator) -> Tensor:
    return through_jpeg(image, (40, 25, 15, 10, 5)[level])


def _contrast(image: Tensor, level: int, source: torch.Generator) -> Tensor:
    mean = image.mean(dim=(1, 2), keepdim=True)
    return mean + (0.7, 0.5, 0.35, 0.22, 0.12)[level] * (image - mean)


def _brightness(image: Tensor, level: int, source: torch.Generator) -> Tensor:
    return image + (0.1, 0.2, 0.3, 0.4, 0.5)[level]


def _darkness(image: Tensor, level: int, source: torch.Generator) -> Tensor:
    return image * (0.8, 0.6, 0.45, 0.32, 0.2)[level]


def _crop(image: Tensor, level: int, source: torch.Generator) -> Tensor:
    """A part of it, anywhere, enlarged."""
    share = (0.9, 0.8, 0.7, 0.6, 0.5)[level]
    height, width = image.shape[1:]
    rows, columns = max(1, round(share * height)), max(1, round(share * width))
    top = int(torch.randint(height - rows + 1, (), generator=source))
    left = int(torch.randint(width - columns + 1, (), generator=source))
    part = image[None, :, top : top + rows, left : left + columns]
    return F.interpolate(part, size=(height, width), mode="bilinear", align_corners=False, antialias=True)[0]


def _cover(image: Tensor, level: int, source: torch.Generator) -> Tensor:
    """A grey square, anywhere."""
    share = (0.15, 0.25, 0.35, 0.45, 0.55)[level]
    height, width = image.shape[1:]
    rows, columns = max(1, round(share * height)), max(1, round(share * width))
    top = int(torch.randint(height - rows + 1, (), generator=source))
    left = int(torch.randint(width - columns + 1, (), generator=source))
    spoilt = image.clone()
    spoilt[:, top : top + rows, left : left + columns] = 0.5
    return spoilt


CORRUPTIONS: dict[str, Corruption] = {
    "noise": _noise,
    "salt": _salt,
    "blur": _blur,
    "pixelate": _pixelate,
    "jpeg": _jpeg,
    "contrast": _contrast,
    "brightness": _brightness,
    "darkness": _darkness,
    "crop": _crop,
    "cover": _cover,
}
