"""The words that are drawn: every letter alone, and pronounceable ones of two to four letters, in a fixed order.

Consonant and vowel take turns (KO, AN, MIB, LUVA); which of all such words are taken is drawn by their hash, so that
the list is the same everywhere. A tenth of those of three and four letters is never trained on; every letter of such a
word is trained on in its place, and every two neighbours are trained on in some word. Of those that are held out, the
few that stand whole inside a trained one are not asked for either.
"""

from __future__ import annotations

import hashlib
import itertools
from functools import cache

from mmgen.scenes.font import LETTERS

VOWELS = "AEIOU"
CONSONANTS = "".join(letter for letter in LETTERS if letter not in VOWELS)
NUMBERS = {2: 120, 3: 480, 4: 900}  # how many words of so many letters
HELD_OUT = 10  # one in so many of three and four letters
REFUSED = {  # no word has one of these in it
    "ASS", "COC", "COK", "CUM", "DIK", "FAG", "FUC", "FUK", "GAY", "GOD", "JAP", "JEW", "NAZ", "NIG",
    "PIS", "POO", "RAP", "SEX", "TIT", "VAG", "WOG", "HOR", "HOM", "PED", "ANU", "PEN", "PUS", "KIK",
    "DAG", "CAC", "KAK", "SUC",
}


def number_of(text: str) -> int:
    """A 64-bit number that looks random and is the same everywhere."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


@cache
def words() -> tuple[str, ...]:
    """All of them, shortest first."""
    found = list(LETTERS)
    for length, number in NUMBERS.items():
        pools = [[VOWELS, CONSONANTS] * 2, [CONSONANTS, VOWELS] * 2] if length != 3 else [[CONSONANTS, VOWELS] * 2]
        every = ["".join(word) for pool in pools for word in itertools.product(*pool[:length])]
        fit = [word for word in every if not any(part in word for part in REFUSED)]
        found += sorted(fit, key=lambda word: number_of(f"word/{word}"))[:number]
    return tuple(found)


@cache
def held_out_words() -> frozenset[str]:
    """Those never trained on: by their hash, less those whose letters or neighbours nothing else would teach."""
    long = sorted((word for word in words() if len(word) > 2), key=lambda word: number_of(f"held out/{word}"))
    wanted = len(long) // HELD_OUT
    counts: dict[tuple[object, ...], int] = {}
    for word in words():
        for piece in _pieces(word):
            counts[piece] = counts.get(piece, 0) + 1
    held: set[str] = set()
    for word in long:
        pieces = _pieces(word)
        if len(held) < wanted and all(counts[piece] > pieces.count(piece) for piece in pieces):
            held.add(word)
            for piece in pieces:
                counts[piece] -= 1
    return frozenset(held)


@cache
def words_trained_inside_others() -> frozenset[str]:
    """Held-out words that stand whole inside a trained one, as QIT does in QITO: nobody is asked for them."""
    held = held_out_words()
    trained = [word for word in words() if word not in held]
    return frozenset(word for word in held if any(word in other for other in trained))


def _pieces(word: str) -> list[tuple[object, ...]]:
    """What has to be seen elsewhere: each letter in its place of a word of this length, and each two neighbours."""
    places: list[tuple[object, ...]] = [(len(word), place, letter) for place, letter in enumerate(word)]
    return places + [(word[i : i + 2],) for i in range(len(word) - 1)]
