"""The text tokenizer of the original CLIP, expressed with `tokenizers`; the vocabulary comes from a file of the user's.

The rules are those of `simple_tokenizer.py` of openai/CLIP (section 2.4 of arXiv 2103.00020): mended text, lower case,
words split by kind of character, byte-level BPE whose last piece of a word carries `</w>`, a mark before and one after
the caption. One thing differs on purpose: "<|endoftext|>" written in a caption is ordinary text here, never a mark.
"""

from __future__ import annotations

import gzip
import hashlib
import html
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from mmgen.data.text import MAX_CAPTION_BYTES, reading, sound, whole
from mmgen.errors import ConfigError, quoted

CONTEXT_LENGTH = 77
END_OF_WORD = "</w>"
MARKS = ("<|startoftext|>", "<|endoftext|>")
_PUBLISHED_MERGES = 49152 - 256 - 2  # what the published file's reader takes of it, from its second line on
_PUBLISHED_SHA256 = "66e3e95d342fce38063fd91c8ff3b3f2a75793db89a0416157bcc59e3812ab73"  # of them as JSON
_MAX_MERGES = 1 << 20
_MAX_FILE = 64 << 20
_UNREADABLE = (OSError, EOFError, zlib.error, ValueError, TypeError, KeyError, RecursionError)
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"

Pair = tuple[str, str]


def _alphabet() -> list[str]:
    """The characters that stand for the 256 bytes, in the order of the published vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + place) for place in range(len(others))]


def _pieces(merges: Sequence[Pair]) -> list[str]:
    """Every piece, at the place that is its id."""
    alphabet = _alphabet()
    ends = [character + END_OF_WORD for character in alphabet]
    return [*alphabet, *ends, *(left + right for left, right in merges)]


class ClipTextTokenizer:
    """CLIP's byte-level BPE for one context length.

    Ids: the 256 bytes, the same at the end of a word, one for each merge, the mark before a caption, the mark after it.
    What follows a caption is filled with 0, as the original does; nothing reads it.

    Args:
        merges: pairs of pieces, the most frequent first.
        context_length: T, the two marks included.

    Attributes:
        truncated: how many captions were cut to T so far.
    """

    def __init__(self, merges: Sequence[Pair], context_length: int = CONTEXT_LENGTH) -> None:
        if context_length < 3:
            raise ValueError(f"context_length is {context_length}; two marks and a word need at least 3")
        self.merges, self.context_length = [(left, right) for left, right in merges], context_length
        pieces = _pieces(self.merges)
        ids = {piece: i for i, piece in enumerate(pieces)}
        if len(ids) != len(pieces):
            raise ValueError("two merges make the same piece")
        missing = next((pair for pair in self.merges if pair[0] not in ids or pair[1] not in ids), None)
        if missing is not None:
            raise ValueError(f"a merge joins {missing}, which no merge before it makes")
        self.start, self.stop = len(pieces), len(pieces) + 1
        self.vocab_size = self.num_ids = len(pieces) + 2
        self.truncated = 0
        self._tokenizer = _with_clip_rules(ids, self.merges)

    @classmethod
    def from_file(cls, path: str | Path, context_length: int = CONTEXT_LENGTH) -> ClipTextTokenizer:
        """Reads `bpe_simple_vocab_16e6.txt.gz` (also unpacked), a `merges.txt` or a `tokenizer.json`.

        Raises:
            ConfigError: there is no such file, or it holds no such vocabulary.
        """
        try:
            text = _text_of(path)
            found = cls(_merges_in(text), context_length)
            found._hold_ids(_ids_in(text))
            return found
        except _UNREADABLE as error:
            raise ConfigError(
                f"{quoted(str(path))} is no vocabulary of CLIP's text tokenizer",
                code="MMG-C34",
                where="task.text_tokenizer.vocabulary",
                why=quoted(f"{type(error).__name__}: {error}"),
                fix="task.text_tokenizer.vocabulary=bpe_simple_vocab_16e6.txt.gz, as in the repository openai/CLIP",
            ) from error

    def hold_ids_of(self, path: str | Path) -> None:
        """Holds the ids that a `vocab.json` or a `tokenizer.json` gives against those that the merges make.

        Raises:
            ValueError: one differs, or the file holds no ids.
        """
        try:
            text = _text_of(path)
            if not text.lstrip().startswith("{"):
                raise ValueError("it is no object of ids")
            self._hold_ids(_ids_in(text))
        except _UNREADABLE as error:
            raise ValueError(str(error)) from error

    def _hold_ids(self, ids: Mapping[str, object]) -> None:
        """Raises ValueError where a file gives a piece or a mark another id than the merges do."""
        ours = {piece: i for i, piece in enumerate((*_pieces(self.merges), *MARKS))}
        for piece, i in ids.items():
            if ours.get(piece) != i:
                raise ValueError(f"{quoted(piece)} has the id {quoted(i, 60)}, and by the merges {ours.get(piece)}")

    def encode(self, captions: Sequence[str], keys: Sequence[int] | None = None) -> Tensor:
        """Captions to ids (B,T) long; longer ones are cut, with the mark after them kept, and counted in `truncated`.

        `keys` change nothing: CLIP was trained without BPE dropout.
        """
        tokens = torch.zeros(len(captions), self.context_length, dtype=torch.long)
        for row, encoded in enumerate(self._tokenizer.encode_batch([_mended(caption) for caption in captions])):
            room = self.context_length - 2
            self.truncated += len(encoded.ids) > room
            ids = [self.start, *encoded.ids[:room], self.stop]
            tokens[row, : len(ids)] = torch.tensor(ids)
        return tokens

    def end(self, text_tokens: Tensor) -> Tensor:
        """(B,T) to the position (B,) of the mark after each caption."""
        return (text_tokens == self.stop).int().argmax(1)

    def fits(self, caption: str) -> bool:
        """Whether nothing of the caption is cut."""
        return len(self._tokenizer.encode(_mended(caption)).ids) <= self.context_length - 2

    def decode(self, ids: Tensor | Sequence[int]) -> str:
        """Ids of one caption to its lower-cased text, up to the mark after it."""
        known = []
        for i in map(int, ids):
            if i == self.stop:
                break
            if 0 <= i < self.start:
                known.append(i)
        return self._tokenizer.decode(known).strip()

    def to_json(self) -> str:
        """All of it as JSON text, the same text for equal tokenizers."""
        content = {"format": 1, "kind": "clip-bpe", "context_length": self.context_length, "merges": self.merges}
        return json.dumps(content, separators=(",", ":"))

    def to_hugging_face(self) -> str:
        """`tokenizer.json` as packages that read Hugging Face's take it: the same ids, with both marks. What they leave
        to callers is mending (`ftfy`, HTML), cutting and filling; and a mark written in a caption is a mark there.
        """
        pieces = _pieces(self.merges)
        tokenizer = _with_clip_rules({piece: i for i, piece in enumerate(pieces)}, self.merges)
        tokenizer.add_special_tokens(list(MARKS))
        marks = list(zip(MARKS, (self.start, self.stop), strict=True))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{MARKS[0]} $A {MARKS[1]}", pair=f"{MARKS[0]} $A $B {MARKS[1]}", special_tokens=marks
        )
        return str(tokenizer.to_str())

    @property
    def published(self) -> bool:
        """Whether these are the merges that OpenAI published."""
        return hashlib.sha256(json.dumps(self.merges).encode()).hexdigest() == _PUBLISHED_SHA256

    @classmethod
    def from_json(cls, text: str) -> ClipTextTokenizer:
        """The inverse of `to_json`; the text may come from a stranger.

        Raises:
            CheckpointError: it is not such a text.
        """
        with reading(text, "clip-bpe") as content:
            return cls(_checked(content["merges"]), whole(content["context_length"], 3, 1 << 20))

    @property
    def fingerprint(self) -> str:
        """16 hex digits that tell two tokenizers apart."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def __getstate__(self) -> dict[str, str | int]:
        return {"json": self.to_json(), "truncated": self.truncated}

    def __setstate__(self, state: dict[str, str | int]) -> None:
        self.__dict__.update(ClipTextTokenizer.from_json(str(state["json"])).__dict__)
        self.truncated = int(state["truncated"])


def _with_clip_rules(ids: dict[str, int], merges: list[Pair]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ids, merges, end_of_word_suffix=END_OF_WORD, fuse_unk=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.Replace(END_OF_WORD, " "), decoders.ByteLevel()])
    return tokenizer


def _mended(caption: str) -> str:
    """What the original does before it splits words: mojibake mended, HTML's entities resolved, twice; lower case."""
    import ftfy  # 0.1 s, and only this tokenizer wants it

    text = sound(caption)[:MAX_CAPTION_BYTES]
    # Python's lower case looks at neighbours (a final Σ becomes ς), that of `tokenizers` at each letter alone.
    return html.unescape(html.unescape(ftfy.fix_text(text))).strip().lower()


def _text_of(path: str | Path) -> str:
    """What a file says, unpacked if it is by gzip. Raises one of `_UNREADABLE`."""
    with open(path, "rb") as plain:
        data = plain.read(_MAX_FILE + 1)
    if data[:2] == b"\x1f\x8b":
        with gzip.open(path) as file:
            data = file.read(_MAX_FILE + 1)
    if len(data) > _MAX_FILE:
        raise ValueError(f"it is larger than {_MAX_FILE >> 20} MiB")
    return data.decode("utf-8")


def _merges_in(text: str) -> list[Pair]:
    """The merges of a file in one of the three forms."""
    if text.lstrip().startswith("{"):
        return _checked(json.loads(text)["model"]["merges"])
    head, *lines = text.split("\n")
    if not head.startswith(("#version", '"bpe_simple_vocab')):
        raise ValueError("its first line names no version of a list of merges")
    return _checked([line.split() for line in lines[:_PUBLISHED_MERGES] if line.strip()])


def _ids_in(text: str) -> dict[str, object]:
    """The ids that a file in JSON gives, marks included; none of the lists of merges, whose ids are their lines."""
    if not text.lstrip().startswith("{"):
        return {}
    content = json.loads(text)
    if not isinstance(content.get("model"), dict):  # a `vocab.json`, in which "model" may be a piece
        return dict(content)
    ids = content["model"].get("vocab", {})
    if not isinstance(ids, dict):
        raise ValueError("its ids must be an object")
    return {**ids, **{token["content"]: token["id"] for token in content.get("added_tokens") or []}}


def _checked(merges: object) -> list[Pair]:
    if not isinstance(merges, list) or len(merges) > _MAX_MERGES:
        raise ValueError("merges must be a list")
    pairs = []
    for merge in merges:
        parts = merge.split(" ") if isinstance(merge, str) else merge
        if not (isinstance(parts, list) and len(parts) == 2 and all(isinstance(part, str) and part for part in parts)):
            raise ValueError(f"{quoted(str(merge))} is no pair of pieces")
        pairs.append((parts[0], parts[1]))
    if not pairs:
        raise ValueError("it holds no merges")
    return pairs
