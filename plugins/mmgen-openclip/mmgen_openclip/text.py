"""Captions to ids as open_clip's models read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmgen.protocols import TextTokenizer
from mmgen_openclip import models


class OwnTextTokenizer:
    """The text tokenizer that open_clip has for a model, as mmgen uses one: for a model with weights, judged as it is.

    Ids: open_clip's; the highest of a row ends the caption, and 0 or anything else follows.
    """

    def __init__(self, source: models.Source) -> None:
        text = source.config["text_cfg"]
        if text.get("hf_tokenizer_name") and source.folder is None:
            raise ValueError("the model's text tokenizer is downloaded from the hub: give the hub's folder as model")
        self.context_length = int(text.get("context_length", 77))
        self.vocab_size = self.num_ids = int(text.get("vocab_size", 49408))
        package = models.package()
        self._encode: Any
        if source.folder is not None and text.get("hf_tokenizer_name"):
            self._encode = package.get_tokenizer(f"local-dir:{source.folder}")
        else:
            self._encode = package.SimpleTokenizer(context_length=self.context_length)
            own = self._encode.vocab_size
            if own != self.num_ids:
                raise ValueError(f"the model reads {self.num_ids:,} ids of text, open_clip's vocabulary has {own:,}")

    def encode(self, captions: Sequence[str], keys: Sequence[int] | None = None) -> Tensor:
        """(B,T) long; `keys` change nothing."""
        if not captions:
            return torch.zeros(0, self.context_length, dtype=torch.long)
        return self._encode(list(captions))

    def end(self, text_tokens: Tensor) -> Tensor:
        """(B,T) to (B,): where open_clip reads a caption, its highest id."""
        return text_tokens.argmax(-1)


def as_open_clip_reads(text_tokens: Tensor, text_tokenizer: TextTokenizer) -> Tensor:
    """Ids (B,T) of any text tokenizer, so that a row's highest id is where its caption ends.

    What follows the end is 0. mmgen's own fills with ids above all words, the first of which is the end; a caption that
    leaves no place for one loses its last id to the highest. CLIP's ids stay as they are.
    """
    places = torch.arange(text_tokens.shape[1], device=text_tokens.device)
    ends = text_tokenizer.end(text_tokens)[:, None]
    highest = torch.full_like(text_tokens, text_tokenizer.num_ids - 1)
    last = (places == text_tokens.shape[1] - 1) & (ends == places)
    return torch.where(last, highest, text_tokens).masked_fill(places > ends, 0)
