"""Reads a picture back into the description of a scene, by analysis and synthesis: what could have been drawn is drawn,
and the nearest is taken. Nothing is learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from mmgen.scenes.canvas import draw_guesses
from mmgen.scenes.description import BACKGROUNDS, COLOURS, KINDS, Scene, Word
from mmgen.scenes.drawing import layers
from mmgen.scenes.guesses import Guess, guess_corners, guess_counts, guess_objects, guess_pairs, guess_words
from mmgen.scenes.guesses_hybrid import guess_hybrids
from mmgen.scenes.guesses_transformation import guess_transformations
from mmgen.scenes.layout import Layout
from mmgen.scenes.masks import SIZE, Sheet
from mmgen.scenes.remainder import Blob, blobs

CHUNK = 32  # pictures read at once: what fits the cache

GUESSES: dict[str, Callable[[Sheet], list[list[Guess]]]] = {
    "object": guess_objects,
    "pair": guess_pairs,
    "corner": guess_corners,
    "count": guess_counts,
    "word": guess_words,
    "hybrid": guess_hybrids,
    "transformation": guess_transformations,
}
assert set(GUESSES) == set(KINDS)


@dataclass(frozen=True)
class Reading:
    """What a picture shows."""

    scene: Scene  # canonical
    layout: Layout
    error: float  # mean squared error of a pixel's channel, in [0,1]
    blobs: tuple[Blob, ...] = ()  # where the picture differs from the scene
    notes: tuple[str, ...] = ()  # what it shows that no scene of this kind can have

    @property
    def unexplained(self) -> tuple[str, ...]:
        """What is in the picture but not in the scene, or in the scene but not in the picture; empty if nothing."""
        return (*self.notes, *(f"{blob.area} pixels around ({blob.x:.0f}, {blob.y:.0f})" for blob in self.blobs))


@torch.no_grad()
def read(images: Tensor, kind: str | None = None) -> list[Reading]:
    """What each of the pictures shows.

    Args:
        images: (B,3,S,S) float in [0,1]; they are read at 32 pixels a side.
        kind: of scene, among whose drawings the nearest is looked for; null: among those of all kinds.
    """
    small = at_reading_size(images)
    return [reading for chunk in small.split(CHUNK) for reading in _read(chunk, kind)]


def at_reading_size(images: Tensor) -> Tensor:
    """(B,3,S,S) to (B,3,32,32) on the CPU: each pixel the mean of what it covers."""
    images = images.detach().float().cpu()
    if images.shape[-1] == SIZE == images.shape[-2]:
        return images
    if images.shape[-1] % SIZE == 0 and images.shape[-2] % SIZE == 0:
        return F.adaptive_avg_pool2d(images, SIZE)
    return F.interpolate(images, (SIZE, SIZE), mode="bilinear", antialias=True)


def _stroke(scene: Scene) -> list[float]:
    """What the colour of a word's letters differs from the background; nothing for other scenes."""
    if not isinstance(scene, Word):
        return [0.0, 0.0, 0.0]
    pair = zip(COLOURS[scene.colour], BACKGROUNDS[scene.background], strict=True)
    return [(letter - ground) / 255 for letter, ground in pair]


def _read(images: Tensor, kind: str | None) -> list[Reading]:
    sheet = Sheet.of(images)
    every = [GUESSES[name](sheet) for name in ([kind] if kind else GUESSES)]
    guesses = [[guess for found in every for guess in found[i]] for i in range(len(images))]
    count = len(guesses[0])
    flat = [guess for row in guesses for guess in row]
    drawn = draw_guesses(
        [layers(guess.scene, guess.layout) for guess in flat], [guess.scene.background for guess in flat]
    )
    drawn = drawn.view(len(images), count, *images.shape[1:])
    errors, best = (drawn - images[:, None]).square().flatten(2).mean(dim=2).min(dim=1)
    strokes = torch.tensor([_stroke(row[place].scene) for row, place in zip(guesses, best.tolist(), strict=True)])
    rest = blobs(images, drawn[torch.arange(len(images)), best], strokes)
    return [
        Reading(row[place].scene.canonical(), row[place].layout, error, tuple(left), row[place].notes)
        for row, place, error, left in zip(guesses, best.tolist(), errors.tolist(), rest, strict=True)
    ]
