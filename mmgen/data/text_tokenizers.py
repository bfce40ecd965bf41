"""The text tokenizers that a file or a config can name."""

from __future__ import annotations

import json
from collections.abc import Iterable

from mmgen.data.clip_text import ClipTextTokenizer
from mmgen.data.text import BpeTextTokenizer

AnyTextTokenizer = BpeTextTokenizer | ClipTextTokenizer


def from_json(text: str) -> AnyTextTokenizer:
    """The tokenizer that wrote this text with `to_json`; the text may come from a stranger.

    Raises:
        CheckpointError: it is none of them.
    """
    try:
        kind = json.loads(text)["kind"]
    except (ValueError, TypeError, KeyError, RecursionError):
        kind = None
    return ClipTextTokenizer.from_json(text) if kind == "clip-bpe" else BpeTextTokenizer.from_json(text)


def make(
    captions: Iterable[str], *, vocabulary: str | None = None, vocab_size: int, context_length: int, bpe_dropout: float
) -> AnyTextTokenizer:
    """CLIP's from the file `vocabulary`, or one trained on the captions.

    Raises:
        ConfigError: the file holds no vocabulary.
    """
    if vocabulary is not None:
        return ClipTextTokenizer.from_file(vocabulary, context_length)
    return BpeTextTokenizer.train(captions, vocab_size, context_length, bpe_dropout)
