"""How fast scenes are drawn, which shapes are nearest to each other, and the sheet in docs/scenes.md.

    python benchmarks/scenes.py
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import numpy as np
import torch

from mmgen.data.scenes import Scenes
from mmgen.images import save_png, sheet
from mmgen.scenes.description import KINDS, SHAPES
from mmgen.scenes.drawing import Layer, coverage, draw, draw_many
from mmgen.scenes.layout import Place

SHEET = Path(__file__).parents[1] / "docs" / "images" / "scenes.png"


def speed(kind: str, count: int = 4000) -> None:
    dataset = Scenes(num_samples=count, kinds=[kind])
    scenes = [dataset.scene(i) for i in range(count)]
    rates = []
    for size in (32, 64, 128):
        part = scenes[: count * 32 * 32 // size**2]
        start = time.perf_counter()
        draw_many(part, size)
        rates.append(f"{len(part) / (time.perf_counter() - start):8,.0f} at {size}")
    start = time.perf_counter()
    for i in range(500):
        dataset[i]
    print(f"{kind:15}" + "  ".join(rates) + f"  {500 / (time.perf_counter() - start):6,.0f} as samples at 32 pixels")


def nearest_shapes(half: float) -> None:
    """Squared distance of two masks after the best shift (half pixels) and size (half a pixel), as a share of the
    area."""
    shifts = np.arange(-2, 2.01, 0.5)
    found = []
    for one, other in itertools.combinations(SHAPES, 2):
        target = coverage([Layer(one, Place(16, 16, half), (0, 0, 0))], 32)[0]
        places = [Place(16 + x, 16 + y, half + h) for x in shifts for y in shifts for h in (-0.5, 0, 0.5)]
        tries = coverage([Layer(other, place, (0, 0, 0)) for place in places], 32)
        distance = np.square(tries - target).sum(axis=(1, 2)).min()
        found.append((float(distance / target.sum()), float(distance**0.5), one, other))
    near = [f"{one} and {other} {share:.1%} (L2 {length:.2f})" for share, length, one, other in sorted(found)[:3]]
    print(f"shapes of {2 * half:g} pixels, nearest: {', '.join(near)}")


def framed(picture: torch.Tensor) -> torch.Tensor:
    """With a line around it, which shows where a white picture ends."""
    return torch.nn.functional.pad(picture, (1, 1, 1, 1), value=0.8)


def main() -> None:
    torch.set_num_threads(1)
    for kind in KINDS:
        speed(kind)
    for half in (4.5, 5, 6, 6.5):
        nearest_shapes(half)
    rows = []
    for kind in KINDS:
        dataset = Scenes(num_samples=8, kinds=[kind])
        rows.append((f"{kind}: {dataset[0]['caption']}, …", [framed(draw(*dataset.scene(i), 96)) for i in range(8)]))
    save_png(sheet(rows, headers=(), picture_size=96), SHEET)
    print(f"{SHEET}: {SHEET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
