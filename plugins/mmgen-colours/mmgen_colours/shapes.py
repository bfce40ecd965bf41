"""How the shapes are drawn: each is a function that is negative inside, in units of its radius."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

COLOURS = {
    "red": (0.86, 0.18, 0.16),
    "pink": (0.96, 0.55, 0.68),
    "yellow": (0.93, 0.80, 0.18),
    "green": (0.23, 0.65, 0.30),
    "blue": (0.18, 0.42, 0.85),
    "purple": (0.55, 0.29, 0.70),
    "brown": (0.50, 0.32, 0.20),
    "black": (0.12, 0.12, 0.14),
}
GROUND = (0.96, 0.95, 0.92)
_FINE = 4  # each pixel is the mean of 4×4 points


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    sides = [math.pi / 2 + i * 2 * math.pi / 3 for i in range(3)]  # of what points outwards from each side
    return torch.stack([x * math.cos(a) + y * math.sin(a) for a in sides]).amax(0) - 0.5


def _star(x: Tensor, y: Tensor) -> Tensor:
    """Five times the same: folded onto one half of a tip, which is bounded by the line from the tip to the notch."""
    tenth, notch = math.pi / 5, 0.45
    turned = torch.atan2(x, -y) % (2 * tenth)
    angle, distance = torch.minimum(turned, 2 * tenth - turned), torch.hypot(x, y)
    run, rise = notch * math.cos(tenth) - 1, notch * math.sin(tenth)
    return rise * (distance * torch.cos(angle) - 1) - run * distance * torch.sin(angle)


SHAPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "circle": lambda x, y: torch.hypot(x, y) - 1,
    "ring": lambda x, y: (torch.hypot(x, y) - 0.75).abs() - 0.25,
    "square": lambda x, y: torch.maximum(x.abs(), y.abs()) - 0.85,
    "diamond": lambda x, y: x.abs() + y.abs() - 1,
    "triangle": _triangle,
    "star": _star,
    "cross": lambda x, y: torch.minimum(torch.maximum(x.abs(), 3 * y.abs()), torch.maximum(3 * x.abs(), y.abs())) - 1,
    "moon": lambda x, y: torch.maximum(torch.hypot(x, y) - 1, 0.8 - torch.hypot(x - 0.5, y)),
}


def draw(
    shape: str, colour: tuple[float, float, float], centre: tuple[float, float], radius: float, size: int
) -> Tensor:
    """A picture (3,size,size) in [0,1]; centre and radius are shares of its side."""
    points = (torch.arange(size * _FINE, dtype=torch.float64) + 0.5) / (size * _FINE)
    y, x = torch.meshgrid(points, points, indexing="ij")
    inside = SHAPES[shape]((x - centre[0]) / radius, (y - centre[1]) / radius) <= 0
    share = inside.double().view(size, _FINE, size, _FINE).mean((1, 3))
    ink, ground = (torch.tensor(c, dtype=torch.float64)[:, None, None] for c in (colour, GROUND))
    return (ground + share * (ink - ground)).float()
