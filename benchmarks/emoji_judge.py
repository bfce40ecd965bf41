"""How often `emoji_judge` of mmgen-emoji is wrong, and how many pictures it reads in a second of one core's time: on
true pictures, on them with noise, blurred, through k-means codes, and through a run's image tokenizer; and on pictures
of two emoji of which one is replaced, or missing, which must not pass.

    python benchmarks/emoji_judge.py [--run runs/abilities] [--count 500]
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable, Sequence

import torch
from mmgen_emoji.reading import Verdict, mark, reader
from mmgen_emoji.scenes import NAMES, EmojiScenes, first_pixel
from torch import Tensor
from torch.nn.functional import avg_pool2d

import mmgen
from mmgen.evaluators.kmeans import PatchCodes
from mmgen.protocols import Sample

SIGMA = 0.05
CENTRES, PATCH, FITTED = 1024, (4, 4), 4000
Way = Callable[[Tensor], Tensor]


def noisy(images: Tensor) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + SIGMA * noise).clamp(0, 1)


def stacked(samples: Sequence[Sample]) -> Tensor:
    return torch.stack([sample["image"] for sample in samples])


def judged(images: Tensor, samples: Sequence[Sample]) -> list[Verdict]:
    asked = [(sample["attributes"]["relation"], sample["attributes"]["names"].split(" | ")) for sample in samples]
    return [mark(*each, reading) for each, reading in zip(asked, reader(images.shape[-1]).read(images), strict=True)]


def accuracy(split: str, samples: Sequence[Sample], ways: dict[str, Way]) -> None:
    for way, changed in ways.items():
        images = changed(stacked(samples))
        began = time.process_time()
        found = judged(images, samples)
        rate = len(images) / (time.process_time() - began)
        names = ("first", "second", "third", "both", "relation")
        marks = {name: [each.marks[name] for each in found if name in each.marks] for name in names}
        shares = ", ".join(f"{name} {sum(made) / len(made):.1%}" for name, made in marks.items() if made)
        right = sum(each.right for each in found) / len(found)
        print(f"{split:14} {way:10} {rate:6,.0f}/s  all right {right:6.1%}  ({shares})", flush=True)


def spoilt(sample: Sample, put: Tensor | None, dice: random.Random) -> Tensor:
    """The picture with another emoji (3,s,s), or nothing, where one of its two stands."""
    image = sample["image"].clone()
    *centres, side = json.loads(sample["attributes"]["places"])
    left, top = (first_pixel(at, image.shape[-1]) for at in dice.choice(centres))
    image[:, top : top + side, left : left + side] = 1 if put is None else put
    return image


def passed(split: str, samples: Sequence[Sample], pictures: dict[str, Tensor], ways: dict[str, Way]) -> None:
    for fault in ("replaced", "missing"):
        dice = random.Random(0)  # noqa: S311 - pictures, not secrets
        made = []
        for sample in samples:
            others = [name for name in NAMES if name not in sample["attributes"]["names"].split(" | ")]
            other = pictures[dice.choice(others)] if fault == "replaced" else None
            made.append(spoilt(sample, other, dice))
        for way, changed in ways.items():
            right = sum(each.right for each in judged(changed(torch.stack(made)), samples)) / len(made)
            print(f"{split:14} {way:10} one emoji {fault}: passed as right {right:.1%}", flush=True)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--run", help="of whose image tokenizer")
    options.add_argument("--count", type=int, default=500)
    chosen = options.parse_args()
    torch.set_num_threads(1)
    dataset = EmojiScenes(num_samples=FITTED, num_val=chosen.count, num_heldout=chosen.count)
    trained = stacked([dataset[i] for i in dataset.splits["train"]])
    codes = PatchCodes.fit(trained, centres=CENTRES, patch=PATCH)
    ways: dict[str, Way] = {
        "true": lambda images: images,
        "noise": noisy,
        "blurred": lambda images: avg_pool2d(images, 3, 1, 1, count_include_pad=False),
        "k-means": codes.quantise,
    }
    if chosen.run:
        model = mmgen.load(chosen.run)
        ways["tokenizer"] = lambda images: torch.cat([model.reconstruct(part)[1] for part in images.split(64)])
    reader(32)  # made before any time is taken
    for split in ("heldout_emoji", "seen_emoji", "val"):
        samples = [dataset[i] for i in dataset.splits[split]]
        accuracy(split, samples, ways)
        if split != "val":
            passed(split, samples, dataset.pictures, ways)


if __name__ == "__main__":
    main()
