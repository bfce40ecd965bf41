"""How the pictures are split; `python -m mmgen_emoji.splits` writes `splits.json`, which ships with the package.

The rules (seed 2021, the year of DALL·E):

1. Pictures with equal pixels are merged: the first keeps its caption, the others are left out.
2. `heldout_names`: 100 base emoji, with all their tones, never trained on, drawn by whole families.
3. `heldout_pairs`: of every other emoji with all five skin tones, one tone, the same for the whole family. A family is
   what man, woman, person and facing right share, joined further where two pictures are within 35 dB of each other.
4. A picture within 35 dB of a held-out one (at 72 or at 32 pixels) that is not held out itself is in no split.
5. Of the rest, 5 % is `val`, by hash of the id; the remainder is `train`.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from mmgen.images import decode
from mmgen_emoji.catalogue import TONES, Emoji, catalogue, picture_folder

SEED = 2021
NEAR_DB = 35.0
HELDOUT_NAMES = 100
VAL_SHARE = 0.05
FILE = Path(__file__).with_name("splits.json")


def near_pairs(images: Tensor, decibel: float = NEAR_DB) -> list[tuple[int, int]]:
    """Positions (i<j) of pictures (M,3,H,W) whose PSNR to each other is above `decibel`."""
    flat = images.flatten(1).double()
    squares = flat.square().sum(1)
    limit = flat.shape[1] * 10 ** (-decibel / 10)
    pairs = []
    for start in range(0, len(flat), 512):
        block = flat[start : start + 512]
        distance = squares[start : start + 512, None] + squares[None] - 2 * block @ flat.T
        rows, columns = torch.where(distance < limit)
        pairs += [(start + int(i), int(j)) for i, j in zip(rows, columns, strict=True) if start + int(i) < int(j)]
    return pairs


def make() -> dict[str, list[str]]:
    """The splits, ids in the catalogue's order; `merged` and `near` name the pictures that are in none."""
    emoji = {e.id: e for e in catalogue()}
    pixels = {i: decode(picture_folder() / f"{i}.png") for i in emoji}
    first: dict[bytes, str] = {}
    for i, image in pixels.items():
        first.setdefault(image.numpy().tobytes(), i)
    kept = list(first.values())

    near = set(near_pairs(torch.stack([pixels[i] for i in kept])))
    near |= set(near_pairs(torch.stack([decode(picture_folder() / f"{i}.png", size=32) for i in kept])))
    twins: dict[str, set[str]] = defaultdict(set)
    for a, b in near:
        twins[kept[a]].add(kept[b])
        twins[kept[b]].add(kept[a])

    families = _families([emoji[i] for i in kept], twins)
    draw = random.Random(SEED)  # noqa: S311 - a documented split, not a secret
    names = _heldout_names(families, draw)
    pairs = _heldout_pairs([f for f in families if not names & {e.id for e in f}], draw)
    held = names | pairs
    close = {i for i in kept if i not in held and twins[i] & held}
    rest = [i for i in kept if i not in held and i not in close]
    val = {i for i in rest if int(hashlib.sha256(f"{SEED}/{i}".encode()).hexdigest()[:8], 16) < VAL_SHARE * 2**32}
    return {
        "train": [i for i in rest if i not in val],
        "val": [i for i in rest if i in val],
        "heldout_pairs": [i for i in kept if i in pairs],
        "heldout_names": [i for i in kept if i in names],
        "near": [i for i in kept if i in close],
        "merged": [i for i in emoji if i not in set(kept)],
    }


def _families(emoji: list[Emoji], twins: dict[str, set[str]]) -> list[list[Emoji]]:
    """Groups of emoji that are held out together, in a fixed order."""
    parent: dict[str, str] = {}

    def root(family: str) -> str:
        while parent.setdefault(family, family) != family:
            family = parent[family]
        return family

    by_id = {e.id: e for e in emoji}
    for e in emoji:
        for twin in twins[e.id]:
            parent[root(e.family)] = root(by_id[twin].family)
    groups: dict[str, list[Emoji]] = defaultdict(list)
    for e in emoji:
        groups[root(e.family)].append(e)
    return [groups[key] for key in sorted(groups)]


def _bases(family: Iterable[Emoji]) -> dict[str, list[Emoji]]:
    bases: dict[str, list[Emoji]] = defaultdict(list)
    for e in family:
        bases[e.name].append(e)
    return bases


def _heldout_names(families: list[list[Emoji]], draw: random.Random) -> set[str]:
    """Whole families until there are exactly 100 base emoji."""
    held: set[str] = set()
    missing = HELDOUT_NAMES
    for family in draw.sample(families, len(families)):
        size = len(_bases(family))
        if size <= missing:
            held |= {e.id for e in family}
            missing -= size
        if not missing:
            break
    return held


def _heldout_pairs(families: list[list[Emoji]], draw: random.Random) -> set[str]:
    """One tone of every emoji that has all five, the same tone for the whole family."""
    held = set()
    for family in families:
        tone = (draw.choice(list(TONES.values())),)
        for members in _bases(family).values():
            if {e.tones for e in members} >= {(t,) for t in TONES.values()}:
                held |= {e.id for e in members if e.tones == tone}
    return held


if __name__ == "__main__":
    splits = make()
    FILE.write_text(json.dumps(splits, indent=0) + "\n", encoding="utf-8")
    print({name: len(ids) for name, ids in splits.items()})
