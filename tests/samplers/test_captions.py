"""Captions of pictures, from a captioner whose distribution is known exactly."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from mmgen.errors import ConfigError, NonFiniteError
from mmgen.samplers.captions import ROWS, write_captions
from mmgen.samplers.choice import Choice
from mmgen.stream import KVCache, TokenStream

WORDS, LENGTH, CODES = 4, 3, 5


class Text:
    vocab_size, context_length, num_ids = WORDS, LENGTH, WORDS + LENGTH


class Captioner(nn.Module):
    """The logits of a token follow from the picture's first token and the text token before it."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.text_tokenizer, self.stream = Text(), TokenStream(LENGTH, (2, 2), order="image_first")
        self.layer = nn.Dropout(0.5)
        source = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(1.5 * torch.randn(CODES, WORDS + 1, Text.num_ids, generator=source))
        self.prefills: list[int] = []
        self.steps: list[tuple[int, ...]] = []

    def prefill_image(self, image_tokens: Tensor, text_tokens: Tensor | None = None) -> tuple[Tensor, KVCache]:
        assert not self.layer.training
        assert not torch.is_grad_enabled()
        assert text_tokens is None
        self.prefills.append(len(image_tokens))
        cache = KVCache.empty(1, len(image_tokens), 1, self.stream.length, 1)
        new = image_tokens[:, None, :, None].float()
        cache.write(0, new, new)
        cache.advance(image_tokens.shape[1])
        return self.after(image_tokens[:, 0], torch.full((len(image_tokens),), WORDS)), cache

    def step_text(self, text_tokens: Tensor, kv_cache: KVCache) -> Tensor:
        assert text_tokens.is_contiguous()
        self.steps.append(tuple(text_tokens.shape))
        new = text_tokens[:, None, :, None].float()
        read, _ = kv_cache.write(0, new, new)
        kv_cache.advance(text_tokens.shape[1])
        read = read[:, 0, :, 0].long()
        return self.after(read[:, 0], read[:, -1])[:, None]

    def after(self, code: Tensor, word: Tensor) -> Tensor:
        return self.table[code, word.clamp(max=WORDS)]


def exact(captioner: Captioner, code: int) -> dict[tuple[int, ...], float]:
    """Every caption's probability; a caption has at least one word, and ends at its first pad."""
    table = captioner.table[code].detach().double()

    def probs(word: int, first: bool) -> Tensor:
        logits = table[word].clone()
        if first:
            logits[WORDS:] = -math.inf
        return logits.softmax(-1)

    shares = {}
    for length in range(1, LENGTH + 1):
        for words in itertools.product(range(WORDS), repeat=length):
            share, before = 1.0, WORDS
            for place, word in enumerate(words):
                share *= float(probs(before, place == 0)[word])
                before = word
            if length < LENGTH:
                share *= float(probs(before, False)[WORDS:].sum())
            shares[words] = share
    assert math.isclose(sum(shares.values()), 1)
    return shares


def texts(tokens: Tensor) -> list[tuple[int, ...]]:
    return [tuple(word for word in row if word < WORDS) for row in tokens.tolist()]


@pytest.fixture
def captioner() -> Captioner:
    return Captioner()


def pictures(count: int) -> Tensor:
    return torch.arange(count)[:, None].expand(-1, 4).clone() % CODES


def test_captions_come_as_often_as_they_should(captioner):
    """Chi-square of 20,000 captions; mean d and deviation sqrt(2d) for d cells less one, five deviations allowed."""
    n, code = 20_000, 3
    shares = exact(captioner, code)
    written = texts(write_captions(captioner, pictures(5)[code : code + 1], num_captions=n, seed=0, batch_size=1000)[0])
    cells = [(written.count(words), n * share) for words, share in shares.items() if n * share >= 5]
    chi_square = sum((found - expected) ** 2 / expected for found, expected in cells)
    assert len(cells) > 20
    assert set(written) <= set(shares)
    assert chi_square < len(cells) + 5 * math.sqrt(2 * len(cells))


def test_a_caption_ends_at_its_first_pad_and_is_padded_from_there(captioner):
    written = write_captions(captioner, pictures(5), num_captions=50, seed=0)
    pads = torch.arange(WORDS, WORDS + LENGTH)
    ended = (written >= WORDS).cumsum(-1) > 0
    assert torch.equal(torch.where(ended, written, 0), torch.where(ended, pads, 0))
    assert (written[..., 0] < WORDS).all(), "an empty caption"
    assert {len(words) for words in texts(written.flatten(0, 1))} == {1, 2, 3}


def test_a_caption_depends_on_picture_seed_and_number_alone(captioner):
    every = write_captions(captioner, pictures(2 * ROWS + 3), num_captions=20, seed=4, batch_size=16)
    assert torch.equal(
        write_captions(captioner, pictures(4)[3:], num_captions=3, seed=4, batch_size=16), every[3:4, :3]
    )
    assert torch.equal(every[: 2 * CODES : CODES][0], every[CODES]), "the same picture has the same captions"
    other = write_captions(captioner, pictures(4), num_captions=20, seed=5, batch_size=16)
    assert not torch.equal(other, every[:4])
    assert len(set(texts(every[0]))) > 5


def test_every_pass_has_one_shape_and_stops_when_all_have_ended(captioner):
    counted = []
    write_captions(captioner, pictures(11), num_captions=3, seed=0, batch_size=10, progress=counted.append)
    assert captioner.prefills == [ROWS, ROWS], "each picture is read once"
    assert set(captioner.steps) == {(10, 1)}
    assert sum(counted) == 33
    with torch.no_grad():
        captioner.table[:, :WORDS, WORDS:] = 50.0  # after any word, the end
    captioner.steps.clear()
    written = write_captions(captioner, pictures(1), num_captions=3, seed=0)
    assert len(captioner.steps) == 1
    assert {len(words) for words in texts(written[0])} == {1}


def test_the_likeliest_caption(captioner):
    (words,) = texts(
        write_captions(captioner, pictures(3)[2:], num_captions=1, seed=0, choice=Choice(temperature=0))[0]
    )
    found, before = [], WORDS
    for place in range(LENGTH):
        logits = captioner.table[2, before].clone()
        before = int((logits[:WORDS] if place == 0 else logits).argmax())
        if before >= WORDS:
            break
        found.append(before)
    assert words == tuple(found)


def test_good_manners(captioner):
    captioner.train()
    images = pictures(3)
    before = images.clone(), torch.get_rng_state()
    write_captions(captioner, images, num_captions=2, seed=0)
    assert torch.equal(images, before[0])
    assert torch.equal(torch.get_rng_state(), before[1])
    assert captioner.layer.training
    assert write_captions(captioner, images[:0], num_captions=2, seed=0).shape == (0, 2, LENGTH)


def test_what_cannot_be_written_is_refused(captioner):
    with pytest.raises(ConfigError, match="cannot write 0 captions"):
        write_captions(captioner, pictures(1), num_captions=0, seed=0)
    with torch.no_grad():
        captioner.table[0, 0] = math.nan
        captioner.table[0, WORDS, 0] = 99.0  # the first word leads there
    with pytest.raises(NonFiniteError):
        write_captions(captioner, pictures(1), num_captions=2, seed=0)
