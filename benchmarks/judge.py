"""How often the judge of scenes is wrong, and how many pictures it reads in a second of one core's time: on true
pictures, on them with noise, through k-means codes, and through a run's image tokenizer. Then what it says to pictures
with something more, or less, than their scene.

    python benchmarks/judge.py [--run runs/abilities] [--count 500] [--kinds word,hybrid]
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

import mmgen
from mmgen.data.scenes import Scenes
from mmgen.evaluators.kmeans import PatchCodes
from mmgen.scenes.description import BACKGROUNDS, COLOURS, KINDS, SHAPES, Scene
from mmgen.scenes.drawing import Layer, coverage, draw_layers, draw_many, ink_on, layers
from mmgen.scenes.font import LETTERS
from mmgen.scenes.layout import Layout, Place
from mmgen.scenes.marking import ATTRIBUTES, Verdict, judge
from mmgen.scenes.reading import read
from mmgen.scenes.sampling import SPLITS

SIGMA = 0.05
CENTRES, PATCH, FITTED = 1024, (4, 4), 4000

Drawn = tuple[Scene, Layout]


def scenes(kind: str, count: int) -> dict[str, list[Drawn]]:
    """As trained on, and held out."""
    dataset = Scenes(num_samples=1, num_val=count, num_heldout=count, kinds=[kind])
    held = next(split for split, (name, _) in SPLITS.items() if name == kind)
    return {name: [dataset.scene(i) for i in dataset.splits[name]] for name in ("val", held)}


def pictures(drawn: Sequence[Drawn]) -> Tensor:
    return draw_many(drawn, 32).float().div(255)


def noisy(images: Tensor) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + SIGMA * noise).clamp(0, 1)


def marks_line(verdicts: Sequence[Verdict]) -> str:
    every: dict[str, list[bool]] = {}
    for verdict in verdicts:
        for name, marks in verdict.marks.items():
            every.setdefault(name, []).extend(marks)
    flat = [mark for marks in every.values() for mark in marks]
    right = np.mean([verdict.right() for verdict in verdicts])
    shares = ", ".join(f"{name} {np.mean(every[name]):.2%}" for name in ATTRIBUTES if name in every)
    return f"attributes {np.mean(flat):7.2%}  all right {right:7.2%}  ({shares})"


def accuracy(kind: str, count: int, ways: dict[str, object]) -> None:
    for split, drawn in scenes(kind, count).items():
        images, truths = pictures(drawn), [scene for scene, _ in drawn]
        read(images[:2], kind)  # makes the masks
        for way, changed in ways.items():
            given = changed(images)  # type: ignore[operator]
            start = time.process_time()
            found = judge(given, truths)
            rate = len(images) / (time.process_time() - start)
            print(f"{split:23} {way:10} {rate:6,.0f}/s  {marks_line([verdict for _, verdict in found])}", flush=True)


def covers(layer: Layer) -> np.ndarray:
    return coverage([layer], 32)[0]


def planted(kind: str, count: int) -> dict[str, list[tuple[Scene, list[Layer]]]]:
    """With a third thing, with a letter, and without one of the layers."""
    dice, found = random.Random(0), {"a thing more": [], "a letter more": [], "a layer less": []}  # noqa: S311
    for scene, layout in scenes(kind, count)["val"]:
        pieces = layers(scene, layout)
        taken = np.max([covers(piece) for piece in pieces if piece.form != "half"], axis=0)
        ink = COLOURS[scene.colour] if kind == "word" else ink_on(scene.background)  # type: ignore[attr-defined]
        for name, forms, colours in (
            ("a thing more", SHAPES, tuple(COLOURS.values())),
            ("a letter more", tuple(LETTERS), (ink,)),
        ):
            for _ in range(50):
                place = Place(dice.uniform(5, 27), dice.uniform(8, 25), dice.choice((4.5, 5)))
                extra = Layer(dice.choice(forms), place, dice.choice(colours), cell_height=2)
                if (covers(extra) * taken).sum() < 0.15 * covers(extra).sum():
                    found[name].append((scene, [*pieces, extra]))
                    break
        whole = [i for i, piece in enumerate(pieces) if piece.form != "half" and piece.cut == "plain"]
        if len(pieces) > 1 and whole and kind != "count":
            lost = dice.choice(whole)
            found["a layer less"].append((scene, pieces[:lost] + pieces[lost + 1 :]))
    return {name: cases for name, cases in found.items() if cases}


def alarms(kind: str, count: int, ways: dict[str, object]) -> None:
    for name, cases in planted(kind, count).items():
        grounds = [BACKGROUNDS[scene.background] for scene, _ in cases]
        images = torch.from_numpy(draw_layers([pieces for _, pieces in cases], grounds, 32)).float().div(255)
        passed = []
        for way, changed in ways.items():
            found = judge(changed(images), [scene for scene, _ in cases])  # type: ignore[operator]
            passed.append(f"{way} {np.mean([verdict.right() for _, verdict in found]):.2%}")
        print(f"{kind:15} {name:14} n={len(cases):4}  passed as right: {', '.join(passed)}", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--run", help="of whose image tokenizer")
    options.add_argument("--count", type=int, default=500)
    options.add_argument("--kinds", default=",".join(KINDS))
    chosen = options.parse_args()
    torch.set_num_threads(1)
    dataset = Scenes(num_samples=FITTED)
    trained = pictures([dataset.scene(i) for i in range(FITTED)])
    codes = PatchCodes.fit(trained, centres=CENTRES, patch=PATCH)
    ways: dict[str, object] = {"true": lambda images: images, "noise": noisy, "k-means": codes.quantise}
    if chosen.run:
        model = mmgen.load(chosen.run)
        ways["tokenizer"] = lambda images: torch.cat([model.reconstruct(part)[1] for part in images.split(64)])
    for kind in chosen.kinds.split(","):
        accuracy(kind, chosen.count, ways)
    for kind in chosen.kinds.split(","):
        alarms(kind, chosen.count, ways)


if __name__ == "__main__":
    main()
