"""What is never trained on. Each element (a shape, a colour, a part, a transformation, a letter) is trained on, and
each combination listed here never, in whatever kind of scene it might occur.

- (shape, colour): a diagonal of the 8 × 8 table, so that each shape misses one colour and each colour one shape.
- (part, body shape): a diagonal of the 7 × 8 table: each part misses one shape.
- (transformation, shape, colour): one in ten, spread so that every transformation is seen with every shape and with
  every colour.
- words: one in ten of those with three and four letters, see `mmgen.scenes.words`.
"""

from __future__ import annotations

from mmgen.scenes.description import COLOURS, PARTS, SHAPES, TRANSFORMATIONS, Hybrid, Scene, Thing, Transformation, Word
from mmgen.scenes.words import held_out_words

HELD_OUT_THINGS = tuple(
    Thing(shape, colour)
    for s, shape in enumerate(SHAPES)
    for c, colour in enumerate(COLOURS)
    if (3 * s + c) % len(COLOURS) == 5
)
HELD_OUT_PARTS = tuple(
    (part, shape)
    for p, part in enumerate(PARTS)
    for s, shape in enumerate(SHAPES)
    if (3 * p + s) % len(SHAPES) == 2
)
HELD_OUT_TRANSFORMATIONS = tuple(
    (transformation, Thing(shape, colour))
    for t, transformation in enumerate(TRANSFORMATIONS)
    for s, shape in enumerate(SHAPES)
    for c, colour in enumerate(COLOURS)
    if (3 * t + s + 4 * c) % 10 == 7
)
_THINGS, _PARTS = frozenset(HELD_OUT_THINGS), frozenset(HELD_OUT_PARTS)
_TRANSFORMATIONS = frozenset(HELD_OUT_TRANSFORMATIONS)

RULES = ("thing", "part", "transformation", "word")


def broken_rules(scene: Scene) -> set[str]:
    """Which of `RULES` keep a scene out of training."""
    broken = {"thing"} if not _THINGS.isdisjoint(scene.things) else set()
    if isinstance(scene, Hybrid) and any((part, scene.body.shape) in _PARTS for part in scene.parts):
        broken.add("part")
    if isinstance(scene, Transformation) and any(
        (scene.transformation, thing) in _TRANSFORMATIONS for thing in scene.originals
    ):
        broken.add("transformation")
    letters = scene.letters if isinstance(scene, Word | Transformation) else None
    if letters in held_out_words():
        broken.add("word")
    return broken


def is_held_out(scene: Scene) -> bool:
    """Whether it is never trained on."""
    return bool(broken_rules(scene))
