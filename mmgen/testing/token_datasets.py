"""Checks of a dataset of tokens (`mmgen.protocols.TokenDataset`)."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmgen.protocols import TokenDataset
from mmgen.testing.checks import require, require_random_state_kept, require_shared_state_kept, require_tensor

EPOCHS = (0, 1, 2, 5)


@dataclass
class TokenSubject:
    """A dataset of tokens, and which of its samples are looked at."""

    dataset: TokenDataset
    limit: int

    @property
    def positions(self) -> list[int]:
        """At most `limit`, evenly spread, the first and the last among them."""
        size = len(self.dataset)
        count = min(size, max(2, self.limit))
        return sorted({round(i * (size - 1) / max(1, count - 1)) for i in range(count)})

    def image_tokens(self, epoch: int = 0, positions: Sequence[int] | None = None) -> Tensor:
        wanted = self.positions if positions is None else positions
        return self.dataset.image_tokens(wanted, [epoch] * len(wanted))


def its_splits_make_it_up(subject: TokenSubject) -> None:
    train, val = (list(subject.dataset.positions(split)) for split in ("train", "val"))
    require(train, "its train is empty")
    require(val, "its val is empty")
    require([*train, *val] == list(range(len(subject.dataset))), "train, then val, are not its positions in order")


def it_says_what_made_it(subject: TokenSubject) -> None:
    for name in ("image_tokenizer", "fingerprint"):
        value = getattr(subject.dataset, name)
        require(isinstance(value, str) and value, f"its {name} is {value!r}")
    grid, codes = subject.dataset.grid, subject.dataset.codebook_size
    require(isinstance(grid, tuple) and len(grid) == 2 and min(grid) > 0, f"its grid is {grid!r}")
    require(isinstance(codes, int) and codes > 0, f"its codebook_size is {codes!r}")


def records_have_ids_and_captions(subject: TokenSubject) -> None:
    ids = []
    for position, record in zip(subject.positions, subject.dataset.records(subject.positions), strict=True):
        ids.append(record["id"])
        require(isinstance(record["id"], str) and record["id"], f"the id of sample {position} is not a text")
        captions = record["captions"]
        sound = isinstance(captions, list) and captions and all(isinstance(c, str) and c.strip() for c in captions)
        require(sound, f"the captions of sample {position} are {captions!r}")
        require(isinstance(record["attributes"], dict), f"the attributes of sample {position} are no texts by name")
    twice = sorted({id for id in ids if ids.count(id) > 1})
    require(not twice, f"the id {twice[0]!r} occurs twice" if twice else "")


def image_tokens_are_of_the_codebook(subject: TokenSubject) -> None:
    height, width = subject.dataset.grid
    for epoch in EPOCHS:
        shape = (len(subject.positions), height * width)
        tokens = require_tensor(subject.image_tokens(epoch), shape, f"its image tokens in epoch {epoch}", integral=True)
        inside = bool((tokens >= 0).all() and (tokens < subject.dataset.codebook_size).all())
        require(inside, f"image tokens of epoch {epoch} are no indices of the codebook")


def text_tokens_are_those_of_its_text_tokenizer(subject: TokenSubject) -> None:
    captions = [record["captions"][0] for record in subject.dataset.records(subject.positions)]
    tokens = subject.dataset.text_tokens(subject.positions)
    text_tokenizer = subject.dataset.text_tokenizer(0.5)
    shape = (len(captions), text_tokenizer.context_length)
    require_tensor(tokens, shape, "its text tokens", integral=True)
    require(torch.equal(tokens, text_tokenizer.encode(captions)), "its text tokens are not those of its captions")


def a_sample_is_the_same_in_every_batch(subject: TokenSubject) -> None:
    positions = subject.positions
    for epoch in EPOCHS:
        whole = subject.image_tokens(epoch)
        single = torch.cat([subject.image_tokens(epoch, [position]) for position in positions])
        require(torch.equal(whole, single), "image tokens depend on what else is in the batch")
        reverse = subject.image_tokens(epoch, positions[::-1]).flip(0)
        require(torch.equal(whole, reverse), "image tokens depend on the order of the batch")
    mixed = subject.dataset.image_tokens(positions[:1] * len(EPOCHS), EPOCHS)
    alone = torch.cat([subject.image_tokens(epoch, positions[:1]) for epoch in EPOCHS])
    require(torch.equal(mixed, alone), "a batch of several epochs has other image tokens")


def val_is_never_augmented(subject: TokenSubject) -> None:
    val = [position for position in subject.positions if position in subject.dataset.positions("val")]
    first = subject.image_tokens(0, val)
    same = all(torch.equal(subject.image_tokens(epoch, val), first) for epoch in EPOCHS)
    require(same, "image tokens of val change with the epoch")


def a_batch_belongs_to_its_reader(subject: TokenSubject) -> None:
    for read in (subject.image_tokens, lambda: subject.dataset.text_tokens(subject.positions)):
        tokens = read()
        kept = tokens.clone()
        tokens.zero_()
        require(torch.equal(read(), kept), "changing the tokens of a batch changes the dataset")


def reading_leaves_the_random_numbers_alone(subject: TokenSubject) -> None:
    require_random_state_kept(lambda: (subject.image_tokens(), subject.dataset.records(subject.positions)))


def nothing_that_all_share_changes(subject: TokenSubject) -> None:
    require_shared_state_kept(lambda: (subject.image_tokens(), subject.dataset.records(subject.positions)))


def it_survives_a_trip_to_a_worker(subject: TokenSubject) -> None:
    before = subject.image_tokens(1)
    again = pickle.loads(pickle.dumps(subject.dataset))  # noqa: S301  what was just dumped
    require(len(again) == len(subject.dataset), "a pickled copy has another length")
    require(torch.equal(TokenSubject(again, subject.limit).image_tokens(1), before), "a pickled copy has other tokens")
    records = again.records(subject.positions)
    require(records == subject.dataset.records(subject.positions), "a pickled copy has other captions")


TOKEN_DATASET_CHECKS = (
    its_splits_make_it_up,
    it_says_what_made_it,
    records_have_ids_and_captions,
    image_tokens_are_of_the_codebook,
    text_tokens_are_those_of_its_text_tokenizer,
    a_sample_is_the_same_in_every_batch,
    val_is_never_augmented,
    a_batch_belongs_to_its_reader,
    reading_leaves_the_random_numbers_alone,
    nothing_that_all_share_changes,
    it_survives_a_trip_to_a_worker,
)
