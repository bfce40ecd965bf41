"""Damaged pictures: what a contrastive encoder must not take for the whole one.

Letters: B batch, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

FROM_ANOTHER = 0.4  # of the pictures; the others are damaged with themselves, moved
TWICE = 1 / 3  # of the pictures have two rectangles damaged
WHOLE_WIDTH = 1 / 4  # of the rectangles are as wide as the picture: its rows no longer meet
DIFFERS = 0.06  # squared difference of a pixel, over its channels, that is seen
SEEN = 0.005  # share of a picture's pixels that must differ so


def damaged(images: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures with a rectangle or two cut out of another, as CutMix cuts (Yun et al. 2019, arXiv 1905.04899), or out
    of themselves, moved by up to an eighth: edges that do not meet, pieces missing or too many, as generators err.

    A rectangle is a tenth to half of the picture's side, and holds a pixel that it changes. Random numbers are torch's.

    Args:
        images: (B,3,H,W) in [0,1].

    Returns:
        (B,3,H,W), and whether the damage is to be seen (B,): between two pictures that are equal in places it may not.
    """
    count, device = len(images), images.device
    from_another = torch.rand(count, 1, 1, 1, device=device) < FROM_ANOTHER
    source = torch.where(from_another, images[torch.randperm(count, device=device)], _moved(images))
    result = images
    for share in (1.0, TWICE):
        cut = _rectangles(source, images) & (torch.rand(count, 1, 1, device=device) < share)
        result = torch.where(cut[:, None], source, result)
    differs = (result - images).square().sum(1) > DIFFERS
    return result, differs.flatten(1).float().mean(1) >= SEEN


def _moved(images: Tensor) -> Tensor:
    """Each picture moved along one axis or both by a sixteenth to an eighth of its side; what leaves comes in again."""
    count, _, height, width = images.shape
    rows = (_steps(images, height)[:, None] + torch.arange(height, device=images.device)) % height
    columns = (_steps(images, width)[:, None] + torch.arange(width, device=images.device)) % width
    along = torch.rand(count, 1, device=images.device)  # a third each: rows, columns, both
    rows = torch.where(along < 2 / 3, rows, torch.arange(height, device=images.device))
    columns = torch.where(along > 1 / 3, columns, torch.arange(width, device=images.device))
    picture = torch.arange(count, device=images.device)[:, None, None]
    return images.movedim(1, 3)[picture, rows[:, :, None], columns[:, None, :]].movedim(3, 1)


def _steps(images: Tensor, side: int) -> Tensor:
    low, high = max(1, side // 16), max(1, side // 8)
    size = torch.randint(low, high + 1, (len(images),), device=images.device)
    return torch.where(torch.rand(len(images), device=images.device) < 0.5, size, -size)


def _rectangles(source: Tensor, images: Tensor) -> Tensor:
    """Masks (B,H,W) of a rectangle for each picture, around a pixel in which the two differ if there is one."""
    count, _, height, width = images.shape
    device = images.device
    weight = ((source - images).square().sum(1) > DIFFERS).flatten(1).float()
    weight = torch.where(weight.any(1, keepdim=True), weight, torch.ones_like(weight))
    within = torch.multinomial(weight, 1)
    tall = torch.randint(max(1, height // 10), height // 2 + 1, (count, 1), device=device)
    wide = torch.randint(max(1, width // 10), width // 2 + 1, (count, 1), device=device)
    wide = torch.where(torch.rand(count, 1, device=device) < WHOLE_WIDTH, width, wide)
    rows = _span(within // width, tall, height)
    columns = _span(within % width, wide, width)
    return rows[:, :, None] & columns[:, None, :]


def _span(within: Tensor, length: Tensor, side: int) -> Tensor:
    """Masks (B,side) of `length` places in a row, among them `within`, where it lies at random."""
    first = within - (torch.rand(len(within), 1, device=within.device) * length).long()
    first = torch.minimum(first.clamp_min(0), side - length)
    place = torch.arange(side, device=within.device)
    return (place >= first) & (place < first + length)
