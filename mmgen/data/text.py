"""Caption to ids and back: byte-level BPE, with a dropout that can be repeated.

The merges are trained by `tokenizers`; the segmentation with dropout is drawn by the loop below, because the dropout of
`tokenizers` cannot be seeded. Any text encodes (the alphabet is the 256 bytes), and no text is special: "<pad>" in a
caption is five ordinary characters.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor

from mmgen.errors import CheckpointError, quoted

MAX_CAPTION_BYTES = 8192
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())  # 256 printable characters, each standing for a byte
_MAX_VOCAB = 1 << 20
# A word is cut into chunks of so many bytes, so that one without spaces costs no more than a long sentence.
_CHUNK = 32
_REMEMBERED = 100_000

Merge = tuple[int, int]


class BpeTextTokenizer:
    """Byte-level BPE over NFC, lower-cased text, for one context length.

    Ids 0..255 are the bytes, then one id for each merge; `vocab_size + position` is the pad of that position, so that
    every position learns its own (DALL·E, section 2.2).

    Args:
        merges: pairs of ids, the most frequent first; merge i makes the id 256 + i.
        context_length: T.
        bpe_dropout: how often a merge is left out when a key is given (BPE-dropout, Provilkov et al. 2020, algorithm 1;
            DALL·E uses 0.1).

    Attributes:
        truncated: how many captions were cut to T so far.
    """

    def __init__(self, merges: Sequence[Merge], context_length: int, bpe_dropout: float = 0.1) -> None:
        if context_length < 1:
            raise ValueError(f"context_length must be at least 1, got {context_length}")
        if not 0 <= bpe_dropout <= 1:
            raise ValueError(f"bpe_dropout must be in [0,1], got {bpe_dropout}")
        self.merges = [(int(left), int(right)) for left, right in merges]
        self.context_length = context_length
        self.bpe_dropout = bpe_dropout
        self.vocab_size = len(ALPHABET) + len(self.merges)
        self.num_ids = self.vocab_size + context_length
        self.truncated = 0
        self._pads = list(range(self.vocab_size, self.num_ids))
        self._rank = {pair: rank for rank, pair in enumerate(self.merges)}
        self._tokenizer = _ordinary(self.merges)
        self._byte = {character: i for i, character in enumerate(ALPHABET)}
        self._chunks: dict[str, list[str]] = {}
        self._paths: dict[str, list[list[int]]] = {}

    @classmethod
    def train(
        cls, captions: Iterable[str], vocab_size: int, context_length: int, bpe_dropout: float = 0.1
    ) -> BpeTextTokenizer:
        """Learns the merges of a corpus.

        Args:
            captions: the training captions.
            vocab_size: at least 257. Fewer merges than asked come out of a small corpus; `vocab_size` of the result is
                the true number.
        """
        if not len(ALPHABET) < vocab_size <= _MAX_VOCAB:
            raise ValueError(f"vocab_size must be from 257 (the bytes and one merge) to {_MAX_VOCAB}, got {vocab_size}")
        tokenizer = _ordinary([])
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,  # what occurs once teaches nothing
            initial_alphabet=ALPHABET,
            special_tokens=[],
            show_progress=False,
        )
        tokenizer.train_from_iterator((sound(caption) for caption in captions), trainer)
        trained = json.loads(tokenizer.to_str())["model"]["merges"]
        ids = {character: i for i, character in enumerate(ALPHABET)}
        merges: list[Merge] = []
        for left, right in trained:
            # Two pairs can make the same string; the trainer gives both one id, here only the first pair counts.
            if left + right not in ids:
                ids[left + right] = len(ids)
                merges.append((ids[left], ids[right]))
        return cls(merges, context_length, bpe_dropout)

    def encode(self, captions: Sequence[str], keys: Sequence[int] | None = None) -> Tensor:
        """Captions to ids (B,T) long, padded; longer ones are cut at T and counted in `truncated`.

        Args:
            captions: any text.
            keys: one a caption: draws a segmentation with BPE dropout, a pure function of caption and key. None gives
                the ordinary segmentation.
        """
        if keys is not None and len(keys) != len(captions):
            raise ValueError(f"{len(captions)} captions need as many keys, got {len(keys)}")
        length = self.context_length
        rows = []
        for row, caption in enumerate(captions):
            ids = self._segment(caption, None if keys is None else keys[row])
            self.truncated += len(ids) > length
            rows.append(ids[:length] + self._pads[len(ids) :])
        return torch.tensor(rows, dtype=torch.long).reshape(len(captions), length)

    def end(self, text_tokens: Tensor) -> Tensor:
        """(B,T) to the position (B,) of each caption's first pad; of a caption that fills T, the last one."""
        return (text_tokens < self.vocab_size).sum(1).clamp_max(text_tokens.shape[1] - 1)

    def fits(self, caption: str) -> bool:
        """Whether the ordinary segmentation needs no more than T ids."""
        return len(self._segment(caption, None)) <= self.context_length

    def decode(self, ids: Tensor | Sequence[int]) -> str:
        """Ids of one caption to its (lower-cased) text; pads are left out, bytes that are no UTF-8 become U+FFFD."""
        known = [int(i) for i in ids if 0 <= int(i) < self.vocab_size]
        return self._tokenizer.decode(known, skip_special_tokens=False).removeprefix(" ")

    def to_json(self) -> str:
        """All of it as JSON text, the same text for equal tokenizers."""
        content = {
            "format": 1,
            "kind": "byte-level-bpe",
            "context_length": self.context_length,
            "bpe_dropout": self.bpe_dropout,
            "merges": self.merges,
        }
        return json.dumps(content, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> BpeTextTokenizer:
        """The inverse of `to_json`; the text may come from a stranger.

        Raises:
            CheckpointError: it is not such a text.
        """
        with reading(text, "byte-level-bpe") as content:
            merges = _checked_merges(content["merges"])
            return cls(merges, whole(content["context_length"], 1, 1 << 20), float(content["bpe_dropout"]))

    @property
    def fingerprint(self) -> str:
        """16 hex digits that tell two tokenizers apart."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def __getstate__(self) -> dict[str, str | int]:
        return {"json": self.to_json(), "truncated": self.truncated}  # copies leave the caches behind

    def __setstate__(self, state: dict[str, str | int]) -> None:
        self.__dict__.update(BpeTextTokenizer.from_json(str(state["json"])).__dict__)
        self.truncated = int(state["truncated"])

    def _segment(self, caption: str, key: int | None) -> list[int]:
        """The ids of a caption; of one that does not fit, at least T + 1."""
        ids: list[int] = []
        dropout = 0.0 if key is None else self.bpe_dropout
        draw = random.Random(key).random if dropout else None  # noqa: S311  a seeded draw is the point
        for chunk in self._chunks_of(caption):
            path = self._path(chunk)
            ids += path[-1] if draw is None else self._with_dropout(path, dropout, draw)
            if len(ids) > self.context_length:
                break
        return ids

    def _chunks_of(self, caption: str) -> list[str]:
        """Words of at most 32 bytes each, written in the 256 characters that stand for bytes."""
        chunks = self._chunks.get(caption)
        if chunks is None:
            text = self._tokenizer.normalizer.normalize_str(sound(caption)[:MAX_CAPTION_BYTES])
            chunks = [chunk for chunk, _ in self._tokenizer.pre_tokenizer.pre_tokenize_str(text)]
            _remember(self._chunks, caption, chunks)
        return chunks

    def _path(self, chunk: str) -> list[list[int]]:
        """The ids of a chunk after 0, 1, 2 … merges; the last is its ordinary segmentation."""
        path = self._paths.get(chunk)
        if path is None:
            path = [[self._byte[character] for character in chunk]]
            while candidates := self._candidates(path[-1]):
                path.append(self._apply(path[-1], *candidates[0]))
            _remember(self._paths, chunk, path)
        return path

    def _candidates(self, ids: list[int]) -> list[tuple[int, int]]:
        """(rank, position) of every merge that could be applied, the most frequent first."""
        rank = self._rank
        pairs = enumerate(itertools.pairwise(ids))
        return sorted([(rank[pair], position) for position, pair in pairs if pair in rank])

    def _apply(self, ids: list[int], rank: int, position: int) -> list[int]:
        return [*ids[:position], len(ALPHABET) + rank, *ids[position + 2 :]]

    def _with_dropout(self, path: list[list[int]], dropout: float, draw: Callable[[], float]) -> list[int]:
        """Algorithm 1 of BPE-dropout on one chunk: before each merge every candidate is left out with the given
        probability, and the best of the rest is applied, until none is left.

        As long as the best candidate stays, the way is the ordinary one, which is remembered. (`tokenizers` drops
        less: there a merge that has become impossible gives the ones left out another chance.)
        """
        step = 0
        while step < len(path) - 1 and draw() >= dropout:
            step += 1
        ids = path[step]
        if step == len(path) - 1:
            return ids
        candidates = self._candidates(ids)[1:]  # the best one was just left out
        while True:
            chosen = next((candidate for candidate in candidates if draw() >= dropout), None)
            if chosen is None:
                return ids
            ids = self._apply(ids, *chosen)
            candidates = self._candidates(ids)


def _ordinary(merges: Sequence[Merge]) -> Tokenizer:
    """The tokenizer of `tokenizers` with these merges, the same text rules and no special tokens."""
    strings = list(ALPHABET)
    for left, right in merges:
        strings.append(strings[left] + strings[right])
    pairs = [(strings[left], strings[right]) for left, right in merges]
    tokenizer = Tokenizer(models.BPE({string: i for i, string in enumerate(strings)}, pairs))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    # A space before the first word makes it the same word as in the middle of a caption.
    bytes_of_words = pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=True)
    chunks = pre_tokenizers.Split(Regex(f".{{1,{_CHUNK}}}"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([bytes_of_words, chunks])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@contextmanager
def reading(text: str, kind: str) -> Iterator[dict[str, Any]]:
    """What a text tokenizer of this kind wrote as JSON. What is wrong with it, also inside, is a CheckpointError."""
    try:
        content = json.loads(text)
        if content["format"] != 1 or content["kind"] != kind:
            raise ValueError(f"format {content['format']!r}, kind {content['kind']!r}")
        yield content
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CheckpointError(
            "the text tokenizer's file cannot be used",
            code="MMG-K20",
            why=quoted(f"{type(error).__name__}: {error}"),
            fix="copy the run or the export again, or use one written by this version of mmgen",
        ) from error


def sound(caption: str) -> str:
    """Text that can be written as UTF-8: lone surrogates, which JSON can smuggle in, become question marks."""
    return caption.encode("utf-8", "replace").decode("utf-8")


def _checked_merges(merges: object) -> list[Merge]:
    """Merges from a file: each of two ids that exist before it, no string made twice."""
    if not isinstance(merges, list) or len(merges) > _MAX_VOCAB:
        raise ValueError("merges must be a list")
    lengths, seen = [1] * len(ALPHABET), set()
    for merge in merges:
        left, right = (whole(part, 0, len(lengths) - 1) for part in merge)
        lengths.append(lengths[left] + lengths[right])
        if lengths[-1] > _CHUNK:
            raise ValueError(f"merge {len(lengths) - 1} is longer than {_CHUNK} bytes")
        if (left, right) in seen:
            raise ValueError(f"merge {left}, {right} occurs twice")
        seen.add((left, right))
    return [(left, right) for left, right in merges]


def whole(value: object, low: int, high: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{quoted(value)} is not a whole number from {low} to {high}")
    return value


def _remember(cache: dict, key: str, value: object) -> None:
    if len(cache) >= _REMEMBERED:
        cache.clear()
    cache[key] = value
