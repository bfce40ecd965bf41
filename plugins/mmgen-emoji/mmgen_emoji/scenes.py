"""The dataset `emoji_scenes`: two or three real emoji in a relation, "a guitar left of a rocket"."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Mapping, Sequence
from functools import cache
from typing import ClassVar

import torch
from torch import Tensor

from mmgen.images import decode
from mmgen.protocols import Sample
from mmgen_emoji.catalogue import catalogue, picture_folder

VERSION = 1  # goes up with any change that changes a picture
HELD_OUT = 10  # one in so many of the pairs of emoji
THREE_SHARE = 0.2  # of `train` and `val` show three emoji
NAMES = (  # different at 15 pixels, as animals, food, things and faces are
    "cat", "dog", "rocket", "guitar", "automobile", "bicycle", "airplane", "banana", "red apple", "pizza",
    "hamburger", "key", "umbrella", "trumpet", "drum", "crown", "bell", "anchor", "balloon", "deciduous tree",
    "cactus", "tulip", "sunflower", "mushroom", "octopus", "snail", "butterfly", "penguin", "elephant",
    "spouting whale", "frog", "pig face", "rabbit face", "house", "bus", "tractor", "sailboat", "camera",
    "light bulb", "hammer", "soccer ball", "basketball", "wrapped gift", "birthday cake", "strawberry",
    "watermelon", "carrot", "avocado", "skull", "robot", "ghost", "alien", "snowman", "teddy bear", "owl", "crab",
    "turtle", "honeybee", "alarm clock", "trophy", "cloud", "fire", "red heart", "castle",
)
RELATIONS = {  # the four ways to say where the first stands; a scene is kept as left of or above
    "left of": ("left of", "to the left of", "right of", "to the right of"),
    "above": ("above", "over", "below", "under"),
}
PLACES = {  # centres in 1/32 of the side, and the axis along which each is moved
    "left of": ((8, 16, "y"), (24, 16, "y")),
    "above": ((16, 8, "x"), (16, 24, "x")),
    "three": ((8, 8, ""), (24, 8, ""), (16, 24, "x")),
}
MOVED = 2  # by up to so many 1/32 of the side


def is_held_out(names: Sequence[str]) -> bool:
    """Whether some two of these emoji are never trained on together, in any relation."""
    return any(frozenset(pair) in held_out_pairs() for pair in itertools.combinations(names, 2))


@cache
def held_out_pairs() -> frozenset[frozenset[str]]:
    """A tenth of all pairs: those with the lowest hash, which leave every emoji at least 50 to be seen with."""

    def number(pair: tuple[str, str]) -> bytes:
        return hashlib.sha256(f"held out/{'/'.join(sorted(pair))}".encode()).digest()

    pairs = sorted(itertools.combinations(NAMES, 2), key=number)
    held: list[frozenset[str]] = []
    times = dict.fromkeys(NAMES, 0)
    for pair in pairs:
        if len(held) < len(pairs) // HELD_OUT and all(times[name] < 13 for name in pair):
            held.append(frozenset(pair))
            for name in pair:
                times[name] += 1
    return frozenset(held)


class EmojiScenes:
    """Pictures of two different emoji, one left of or above the other, or of three: two above a third.

    Picture number i of a split is a function of (seed, i). A tenth of the pairs of emoji never meet in `train` and
    `val`; `heldout_emoji` holds pictures of two that never do. Attributes: `names`, from left to right or from top to
    bottom, the lower one of three last, joined by " | "; `relation`, "left of", "above" or "three"; `places`, centres
    and the side in pixels as JSON, [[x,y],…,side].

    Args:
        image_size: pixels a side, 32 to 144; an emoji is 15 of 32 pixels wide.
        num_samples: how many are in `train`.
        seed: another seed, other pictures.
        num_val: how many are in `val`.
        num_heldout: how many are in `heldout_emoji`, and in `seen_emoji`, pictures of two that do.

    Raises:
        ValueError: an image size outside that range, or no pictures.
    """

    attribution = (
        "Pictures: Twemoji, © Twitter, Inc and other contributors, CC BY 4.0 (creativecommons.org/licenses/by/4.0)"
    )
    classes: ClassVar[Mapping[str, Sequence[str]]] = {"relation": ("left of", "above", "three")}

    def __init__(
        self,
        image_size: int = 32,
        num_samples: int = 20000,
        seed: int = 0,
        num_val: int = 500,
        num_heldout: int = 500,
    ) -> None:
        if not 32 <= image_size <= 144:
            raise ValueError(f"image_size must be from 32 to 144, got {image_size}")
        if min(num_samples, num_val, num_heldout) < 1:
            raise ValueError("num_samples, num_val and num_heldout must be at least 1")
        self.image_size, self.seed = image_size, seed
        sizes = {"train": num_samples, "val": num_val, "heldout_emoji": num_heldout, "seen_emoji": num_heldout}
        starts = itertools.accumulate(sizes.values(), initial=0)
        self.splits = {
            split: range(start, start + size) for (split, size), start in zip(sizes.items(), starts, strict=False)
        }
        self.ids = [f"{split}-{number}" for split, size in sizes.items() for number in range(size)]
        self._side = emoji_side(image_size)
        self.pictures = emoji_pictures(self._side)
        pixels = torch.stack(list(self.pictures.values())).mul(255).round().byte()
        digest = hashlib.sha256(pixels.numpy().tobytes())
        digest.update(json.dumps([VERSION, image_size, seed, sizes]).encode())
        self.fingerprint = f"emoji_scenes-{digest.hexdigest()[:16]}"

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        names, relation, turned, dice = self._scene(index)
        centres = _places(relation, dice)
        image = torch.ones(3, self.image_size, self.image_size)
        for name, (x, y) in zip(names, centres, strict=True):
            left, top = (first_pixel(at, self.image_size) for at in (x, y))
            image[:, top : top + self._side, left : left + self._side] = self.pictures[name]
        said = captions(names, relation, turned)
        return {
            "image": image,
            "caption": said[0],
            "captions": said,
            "id": self.ids[index],
            "attributes": {
                "names": " | ".join(names),
                "relation": relation,
                "places": json.dumps([*([round(x, 3), round(y, 3)] for x, y in centres), self._side]),
            },
        }

    def names(self, index: int) -> list[str]:
        """Of the emoji in a picture."""
        return self._scene(index)[0]

    def _scene(self, index: int) -> tuple[list[str], str, bool, random.Random]:
        split, _, number = self.ids[index].rpartition("-")
        dice = random.Random(f"{self.seed}/{split}/{number}")  # noqa: S311 - pictures, not secrets
        held = split == "heldout_emoji"
        three = split in ("train", "val") and dice.random() < THREE_SHARE
        while True:
            names = [NAMES[int(dice.random() * len(NAMES))] for _ in range(3 if three else 2)]
            if len(set(names)) == len(names) and is_held_out(names) == held:
                break
        relation = "three" if three else ("left of", "above")[dice.random() < 0.5]
        return names, relation, dice.random() < 0.5, dice


def emoji_side(image_size: int) -> int:
    """How many pixels wide and high an emoji is."""
    return 15 * image_size // 32


def first_pixel(centre: float, image_size: int) -> int:
    """Where an emoji begins whose centre is at so many 1/32 of the side, along either axis."""
    return round(centre * image_size / 32 - emoji_side(image_size) / 2)


def emoji_pictures(side: int) -> dict[str, Tensor]:
    """Each emoji that may occur, (3,side,side) float in [0,1] on white, by its name: what pictures are made of."""
    ids = {emoji.name: emoji.id for emoji in reversed(catalogue()) if not emoji.tones}
    return {name: decode(picture_folder() / f"{ids[name]}.png", size=side) for name in NAMES}


def captions(names: Sequence[str], relation: str, turned: bool = False) -> list[str]:
    """Every wording, at least six; with `turned`, from the side of the other one first."""
    said = [f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in names]
    if relation == "three":
        one, other, below = said
        return [
            f"{one} left of {other}, and {below} below",
            f"{one} and {other} above {below}",
            f"{below} below {one} and {other}",
            f"{names[0]} and {names[1]}, and under them {names[2]}",
            f"at the top {one} left of {other}, at the bottom {below}",
            f"a picture of {one} and {other} over {below}",
        ]
    usual, other_word, inverse, other_inverse = RELATIONS[relation]
    first, second = said
    one = [f"{first} {usual} {second}", f"{second} {inverse} {first}"]
    return [
        *(one[::-1] if turned else one),
        f"{names[0]} {usual} {names[1]}",
        f"there is {first} {other_word} {second}",
        f"a picture of {second} {other_inverse} {first}",
        f"{second} with {first} {usual} it",
        f"{names[1]} {other_inverse} {names[0]}",
    ]


def _places(relation: str, dice: random.Random) -> list[tuple[float, float]]:
    """Centres in 1/32 of the side, each moved along its axis."""
    across = [int(dice.random() * (2 * MOVED + 1)) - MOVED for _ in range(3)]
    return [
        (x + by * (axis == "x"), y + by * (axis == "y"))
        for (x, y, axis), by in zip(PLACES[relation], across, strict=False)
    ]
