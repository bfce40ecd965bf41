"""`scenes`: the small world of `mmgen.scenes` as a dataset, drawn as it is read."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor

from mmgen.protocols import Sample
from mmgen.scenes.description import (
    BACKGROUNDS,
    COLOURS,
    KINDS,
    SHAPES,
    Corner,
    Count,
    Hybrid,
    Object,
    Pair,
    Scene,
    Thing,
    Transformation,
    Word,
    kind_of,
    to_json,
)
from mmgen.scenes.drawing import DRAWING_VERSION, draw, draw_many, draw_top
from mmgen.scenes.grammar import captions
from mmgen.scenes.layout import Layout, layout_json
from mmgen.scenes.lexicon import thing
from mmgen.scenes.sampling import SPLITS, Dice, check_emphasis, emphasised, layout_for, scene_of


class Scenes:
    """Drawn scenes with exact captions: objects, pairs in a relation, corners to redraw, counted things with fills,
    words, hybrids such as "a red square cat", and pictures above a transformed copy of themselves.

    Picture number i of a split is a function of (seed, i), whatever the other options but `kinds`, `weights`,
    `emphasis` and `backgrounds`; there is nothing to download. `train` and `val` hold nothing that
    `mmgen.scenes.heldout` keeps out; each `heldout_…` split holds what one of its rules keeps out, and nothing that
    another does: `heldout_objects`, `heldout_pairs`, `heldout_redraws`, `heldout_counts`, `heldout_words`,
    `heldout_hybrids` and `heldout_transformations`, of the chosen kinds. Beside each stands a split `seen_…` of the
    same kind, whose scenes break no rule.

    Its attributes are `kind`; `scene`, the canonical description as JSON (`mmgen.scenes.description.from_json`);
    `layout`, where things stand (`mmgen.scenes.layout.layout_from_json`); what the kind has: `shape`, `colour`,
    `number`, `size`, `fill`, `relation`, `letters`, `parts`, `transformation`; of an object, `object`, its name with
    the article; and of a corner, `before`, the same scene with another thing in the lower right, to be redrawn.

    Args:
        image_size: pixels a side, 32 to 256; a picture looks the same at every size.
        num_samples: how many are in `train`.
        seed: another seed, other pictures.
        kinds: of object, pair, corner, count, word, hybrid, transformation; null: all.
        weights: how often each of the kinds comes in `train` and `val`; null: equally often.
        emphasis: by a relation, size, fill, part or transformation, how many times as often as the others of its kind
            scenes that have it come in `train` and `val`: `{inside: 3}`. Of several, the largest counts.
        backgrounds: of white, grey, cream, dark; half the pictures have the first one, which is white in null, all
            four. What is made greyscale stands on white or dark whatever is chosen.
        num_val: how many are in `val`.
        num_heldout: how many are in each `heldout_…` and each `seen_…` split.

    Raises:
        ValueError: a size outside that range, no pictures, an unknown kind or background, weights that do not fit,
            emphasis on what is not known.
    """

    classes: ClassVar[Mapping[str, Sequence[str]]] = {
        "object": tuple(thing(Thing(shape, colour)) for shape in SHAPES for colour in COLOURS),
        "shape": SHAPES,
        "colour": tuple(COLOURS),
    }
    templates: ClassVar[Sequence[str]] = (
        "{object}",
        "there is {object}",
        "a picture of {object}",
        "a drawing of {object}",
    )

    def __init__(
        self,
        image_size: int = 32,
        num_samples: int = 20000,
        seed: int = 0,
        kinds: list[str] | None = None,
        weights: list[float] | None = None,
        backgrounds: list[str] | None = None,
        num_val: int = 500,
        num_heldout: int = 500,
        emphasis: dict[str, float] | None = None,
    ) -> None:
        if not 32 <= image_size <= 256:
            raise ValueError(f"image_size must be from 32 to 256, got {image_size}")
        if min(num_samples, num_val, num_heldout) < 1:
            raise ValueError("num_samples, num_val and num_heldout must be at least 1")
        self.image_size, self.seed = image_size, seed
        self.kinds = _chosen(kinds, tuple(KINDS), "kinds")
        self.backgrounds = _chosen(backgrounds, tuple(BACKGROUNDS), "backgrounds")
        self.weights = [1.0] * len(self.kinds) if weights is None else list(weights)
        unfit = any(not 0 <= weight < math.inf for weight in self.weights)
        if len(self.weights) != len(self.kinds) or unfit or sum(self.weights) <= 0:
            raise ValueError(f"weights needs a number for each of {self.kinds}, none negative, got {weights}")
        self.emphasis = dict(emphasis or {})
        check_emphasis(self.emphasis)
        sizes = {"train": num_samples, "val": num_val}
        sizes |= {split: num_heldout for split, (kind, _) in SPLITS.items() if kind in self.kinds}
        self.splits: dict[str, range] = {}
        start = 0
        for split, size in sizes.items():
            self.splits[split] = range(start, start + size)
            start += size
        self.ids = [f"{split}-{number}" for split, size in sizes.items() for number in range(size)]
        options = [DRAWING_VERSION, image_size, seed, self.kinds, self.weights, self.backgrounds, sizes]
        options += [self.emphasis] if self.emphasis else []
        self.fingerprint = "scenes-" + hashlib.sha256(json.dumps(options).encode()).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[Sample]:
        """The samples at these positions, drawn together: several times as fast as each by itself."""
        drawn = [self._drawn(position) for position in positions]
        images = draw_many([(scene.canonical(), layout) for scene, layout, _ in drawn], self.image_size)
        samples: list[Sample] = []
        for position, image, (scene, layout, dice) in zip(positions, images, drawn, strict=True):
            said = captions(scene)
            samples.append(
                {
                    "image": image.float().div(255),
                    "caption": said[0],
                    "captions": said,
                    "id": self.ids[position],
                    "attributes": self._attributes(scene.canonical(), layout, dice),
                }
            )
        return samples

    def scene(self, index: int) -> tuple[Scene, Layout]:
        """The canonical description of a picture, and its layout: what `mmgen.scenes.drawing.draw` takes."""
        scene, layout, _ = self._drawn(index)
        return scene.canonical(), layout

    def before(self, index: int) -> Tensor:
        """What a redrawing of this picture starts from (3,H,W): of a corner, the scene with another thing in the lower
        right; of a transformation, the top half alone; else the picture itself."""
        scene, layout, dice = self._drawn(index)
        scene = scene.canonical()
        if isinstance(scene, Corner):
            return draw(_before(scene, dice), layout, self.image_size)
        if isinstance(scene, Transformation):
            return draw_top(scene, layout, self.image_size)
        return draw(scene, layout, self.image_size)

    def _drawn(self, index: int) -> tuple[Scene, Layout, Dice]:
        """The scene as it is said first, the layout of the canonical one, and the dice for what is drawn besides."""
        split, _, number = self.ids[index].rpartition("-")
        dice = Dice(f"{self.seed}/{split}/{number}")
        kind, rule = SPLITS.get(split, (None, None))
        if kind is None:
            kind = self.kinds[dice.weighted(self.weights)]
            scene = emphasised(kind, dice, self.backgrounds, self.emphasis)
        else:
            scene = scene_of(kind, dice, rule, self.backgrounds)
        return scene, layout_for(scene.canonical(), dice), dice

    def _attributes(self, scene: Scene, layout: Layout, dice: Dice) -> dict[str, str]:
        found = {"kind": kind_of(scene), "scene": to_json(scene), "layout": layout_json(layout)}
        if isinstance(scene, Object | Count | Hybrid):
            (shown,) = scene.things
            found |= {"shape": shown.shape, "colour": shown.colour}
        if isinstance(scene, Object):
            found["object"] = thing(scene.thing)
        elif isinstance(scene, Pair):
            found["relation"] = scene.relation
        elif isinstance(scene, Corner):
            found["before"] = to_json(_before(scene, dice))
        elif isinstance(scene, Count):
            found |= {"number": str(scene.number), "size": scene.size, "fill": scene.fill}
        elif isinstance(scene, Word):
            found |= {"letters": scene.letters, "colour": scene.colour}
        elif isinstance(scene, Hybrid):
            found["parts"] = ", ".join(scene.parts)
        elif isinstance(scene, Transformation):
            found["transformation"] = scene.transformation
        return found


def _before(scene: Corner, dice: Dice) -> Corner:
    """The same with another thing of the training's in the lower right."""
    while True:
        other = scene_of("object", dice)
        assert isinstance(other, Object)
        if other.thing not in (scene.first, scene.second):
            return Corner(scene.first, other.thing, background=scene.background)


def _chosen(names: Sequence[str] | None, known: Sequence[str], what: str) -> list[str]:
    if names is None:
        return list(known)
    unknown = [name for name in names if name not in known]
    if unknown or not names or len(set(names)) < len(names):
        raise ValueError(f"{what} must be different ones of {', '.join(known)}, got {list(names)}")
    return list(names)
