"""Checks of a text tokenizer. (mmgen has one; whoever writes another builds generators and encoders with it.)"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from mmgen.protocols import TextTokenizer
from mmgen.testing.checks import Prepared, require, require_random_state_kept, require_tensor, run
from mmgen.testing.stand_ins import CAPTIONS

ODD = [
    "",
    " ",
    "\x00\x1b[31m",
    "naïve café",
    "猫",
    "👩🏿‍🚒",
    "<|endoftext|>",
    "<pad>",
    "x" * 3_000,
    "a b " * 3_000,
    "\ud800",
]
KEYS = [2**62 + 12_345 * i for i in range(len(CAPTIONS))]


def its_sizes_agree(tokenizer: TextTokenizer) -> None:
    sizes = (tokenizer.vocab_size, tokenizer.context_length, tokenizer.num_ids)
    require(all(isinstance(size, int) and size > 0 for size in sizes), f"its sizes are {sizes}")
    require(sizes[2] == sizes[0] + sizes[1], "num_ids is not vocab_size + context_length")


def ids_come_first_then_the_pads(tokenizer: TextTokenizer) -> None:
    captions = [*CAPTIONS, *ODD]
    tokens = tokenizer.encode(captions)
    require_tensor(tokens, (len(captions), tokenizer.context_length), "encode's result", integral=True)
    pads = torch.arange(tokenizer.vocab_size, tokenizer.num_ids)
    for row, caption in zip(tokens, captions, strict=True):
        used = int((row < tokenizer.vocab_size).sum())
        right = bool((row[:used] >= 0).all() and (row[:used] < tokenizer.vocab_size).all())
        require(
            right and torch.equal(row[used:], pads[used:]),
            f"{caption[:20]!r}: each position after the text has its pad",
        )


def an_empty_caption_is_all_pads(tokenizer: TextTokenizer) -> None:
    pads = torch.arange(tokenizer.vocab_size, tokenizer.num_ids)
    require(torch.equal(tokenizer.encode([""])[0], pads), "the empty caption has ids that are no pads")


def captions_differ(tokenizer: TextTokenizer) -> None:
    rows = {tuple(row) for row in tokenizer.encode(CAPTIONS).tolist()}
    require(len(rows) == len(CAPTIONS), "different captions have the same ids")


def a_caption_is_encoded_by_itself(tokenizer: TextTokenizer) -> None:
    for keys in (None, KEYS):
        together = tokenizer.encode(CAPTIONS, keys)
        order = list(range(len(CAPTIONS)))[::-1]
        again = tokenizer.encode([CAPTIONS[i] for i in order], keys and [keys[i] for i in order])
        require(
            torch.equal(again.flip(0), together), "ids depend on the captions before, or are others the second time"
        )


def a_copy_encodes_the_same(tokenizer: TextTokenizer) -> None:
    again = copy.deepcopy(tokenizer)
    same: list[tuple[Tensor, Tensor]] = [(t.encode(CAPTIONS), t.encode(CAPTIONS, KEYS)) for t in (tokenizer, again)]
    require(all(map(torch.equal, *same)), "a copy of it encodes differently")


def the_random_numbers_are_left_alone(tokenizer: TextTokenizer) -> None:
    require_random_state_kept(lambda: tokenizer.encode(CAPTIONS, KEYS))


TEXT_TOKENIZER_CHECKS = (
    its_sizes_agree,
    ids_come_first_then_the_pads,
    an_empty_caption_is_all_pads,
    captions_differ,
    a_caption_is_encoded_by_itself,
    a_copy_encodes_the_same,
    the_random_numbers_are_left_alone,
)


def check_text_tokenizer(tokenizer: TextTokenizer) -> list[str]:
    """Checks a text tokenizer against `mmgen.protocols.TextTokenizer`.

    Args:
        tokenizer: an instance, trained, with room for eight words or more.

    Returns:
        The names of the checks.

    Raises:
        Nonconforming: an AssertionError that names every check that failed and what it found.
    """
    return run(Prepared(tokenizer, tokenizer, TEXT_TOKENIZER_CHECKS))
