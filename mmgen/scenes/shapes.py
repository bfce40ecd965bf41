"""Forms as signed distances: each function takes coordinates in units of a form's half size, x to the right and y
downwards, and gives the distance to its edge, negative inside.

Only additions, products, comparisons and square roots, which IEEE 754 rounds in one way: the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Array = np.ndarray
Form = Callable[[Array, Array], Array]


def disc(x: Array, y: Array, at: tuple[float, float], radius: float) -> Array:
    """A disc."""
    dx, dy = x - np.float32(at[0]), y - np.float32(at[1])
    return np.sqrt(dx * dx + dy * dy) - np.float32(radius)


def stroke(x: Array, y: Array, start: tuple[float, float], end: tuple[float, float], radius: float) -> Array:
    """A line with round ends."""
    ex, ey = end[0] - start[0], end[1] - start[1]
    dx, dy = x - np.float32(start[0]), y - np.float32(start[1])
    along = np.clip((dx * np.float32(ex) + dy * np.float32(ey)) * np.float32(1 / (ex * ex + ey * ey)), 0, 1)
    dx, dy = dx - along * np.float32(ex), dy - along * np.float32(ey)
    return np.sqrt(dx * dx + dy * dy) - np.float32(radius)


def polygon(x: Array, y: Array, corners: tuple[tuple[float, float], ...], close: bool = True) -> Array:
    """A polygon. With `close` false, one half of a symmetric one, from its axis to its axis; x must not be negative."""
    nearest = np.full(np.broadcast_shapes(x.shape, y.shape), np.inf, dtype=np.float32)
    inside = np.zeros(nearest.shape, dtype=bool)
    edges = list(zip(corners, corners[1:] + corners[:1], strict=True))
    for (ax, ay), (bx, by) in edges if close else edges[:-1]:
        ex, ey = bx - ax, by - ay
        dx, dy = x - np.float32(ax), y - np.float32(ay)
        along = np.clip((dx * np.float32(ex) + dy * np.float32(ey)) * np.float32(1 / (ex * ex + ey * ey)), 0, 1)
        across_x, across_y = dx - along * np.float32(ex), dy - along * np.float32(ey)
        np.minimum(nearest, across_x * across_x + across_y * across_y, out=nearest)
        if ay != by:
            crosses = (y < np.float32(by)) != (y < np.float32(ay))
            inside ^= crosses & (dx < dy * np.float32(ex / ey))
    distance = np.sqrt(nearest)
    return np.where(inside, -distance, distance)


def circle(x: Array, y: Array) -> Array:
    return disc(x, y, (0, 0), 1)


def square(x: Array, y: Array) -> Array:
    return _box(np.abs(x), np.abs(y), 1.0, 1.0)


def _box(x: Array, y: Array, wide: float, high: float) -> Array:
    dx, dy = x - np.float32(wide), y - np.float32(high)
    out_x, out_y = np.maximum(dx, 0), np.maximum(dy, 0)
    return np.sqrt(out_x * out_x + out_y * out_y) + np.minimum(np.maximum(dx, dy), 0)


def triangle(x: Array, y: Array) -> Array:
    return polygon(np.abs(x), y, ((0, -0.95), (1.05, 0.9), (0, 0.9)), close=False)


def diamond(x: Array, y: Array) -> Array:
    return polygon(np.abs(x), y, ((0, -1.08), (0.82, 0), (0, 1.08)), close=False)


def star(x: Array, y: Array) -> Array:
    points = ((0, -1.1), (0.3, -0.4), (1.07, -0.31), (0.5, 0.2), (0.66, 0.95), (0, 0.56))
    return polygon(np.abs(x), y, points, close=False)


def heart(x: Array, y: Array) -> Array:
    # One polygon: the union of discs and a square has seams inside, which its outline would show.
    lobe = ((0.05, -0.59), (0.18, -0.76), (0.37, -0.86), (0.59, -0.87), (0.79, -0.79), (0.93, -0.63), (1.0, -0.42))
    side = ((0.97, -0.21), (0.88, -0.05), (0.62, 0.28))
    return polygon(np.abs(x), y, ((0, -0.38), *lobe, *side, (0, 1.0)), close=False)


def cross(x: Array, y: Array) -> Array:
    x, y = np.abs(x), np.abs(y)
    return _box(np.maximum(x, y), np.minimum(x, y), 1.0, 0.34)


def crescent(x: Array, y: Array) -> Array:
    # Open to the upper right, so that neither its mirror image nor its upside-down one looks the same.
    return np.maximum(disc(x, y, (0, 0), 1.05), -disc(x, y, (0.48, -0.48), 0.78))


def ears(x: Array, y: Array) -> Array:
    return polygon(np.abs(x), y, ((0.95, -1.6), (1.05, -0.1), (0.1, -0.4)))


def eyes(x: Array, y: Array) -> Array:
    return disc(np.abs(x), y, (0.34, -0.02), 0.21)


def whiskers(x: Array, y: Array) -> Array:
    x = np.abs(x)
    upper = stroke(x, y, (0.55, 0.36), (1.4, 0.2), 0.11)
    return np.minimum(upper, stroke(x, y, (0.55, 0.58), (1.4, 0.68), 0.11))


def tail(x: Array, y: Array) -> Array:
    along = stroke(x, y, (0.3, 0.8), (1.45, 1.1), 0.15)
    return np.minimum(along, stroke(x, y, (1.45, 1.1), (1.8, 0.45), 0.15))


def wheels(x: Array, y: Array) -> Array:
    return disc(np.abs(x), y, (0.55, 1.15), 0.36)


def wings(x: Array, y: Array) -> Array:
    return polygon(np.abs(x), y, ((0.3, -0.3), (1.95, -1.0), (1.6, 0.1), (0.3, 0.3)))


def leaves(x: Array, y: Array) -> Array:
    x = np.abs(x)
    stem = stroke(x, y, (0, -0.3), (0, -1.4), 0.11)
    return np.minimum(stem, stroke(x, y, (0.15, -1.4), (0.45, -1.7), 0.2))


def stripes(x: Array, y: Array) -> Array:
    """Two across; what a fill is cut out of the form with."""
    return np.abs(np.abs(y) - np.float32(0.42)) - np.float32(0.2) + 0 * x


def dots(x: Array, y: Array) -> Array:
    """Four, standing on a corner."""
    sides = np.minimum(disc(np.abs(x), y, (0.44, 0.05), 0.22), disc(x, y, (0, -0.42), 0.22))
    return np.minimum(sides, disc(x, y, (0, 0.52), 0.22))


FORMS: dict[str, Form] = {
    "circle": circle,
    "square": square,
    "triangle": triangle,
    "diamond": diamond,
    "star": star,
    "heart": heart,
    "cross": cross,
    "crescent": crescent,
    "ears": ears,
    "eyes": eyes,
    "whiskers": whiskers,
    "tail": tail,
    "wheels": wheels,
    "wings": wings,
    "leaves": leaves,
}
