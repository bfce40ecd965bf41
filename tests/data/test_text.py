"""The text tokenizer against `tokenizers` itself, on the names of Unicode's pictographs and symbols."""

from __future__ import annotations

import copy
import itertools
import json
import pickle
import random
import time
import unicodedata
from collections import Counter

import pytest
import torch

from mmgen.data.text import ALPHABET, BpeTextTokenizer, _ordinary
from mmgen.errors import CheckpointError

CHARACTERS = [*range(0x2190, 0x2C00), *range(0x1F000, 0x1FB00)]
NAMES = sorted({name for c in CHARACTERS if (name := unicodedata.name(chr(c), "").lower())})

ODD = [
    "", " ", "  two  spaces ", "\t\n", "\x00\x01\x7f\x85", "\x1b[31mred", "naïve café", "e\u0301", "ΑΒΓς İ ß", "猫と犬",
    "кошка", "שלום \u202eabc", "👩🏿‍🚒", "🏴󠁧󠁢󠁳󠁣󠁴󠁿", "\ud800 lone", "x" * 10_000, "a " * 10_000, "é" * 9_000,
    "'s 're don't", "1234567890",
    "<|endoftext|>", "<pad>", "[MASK]", "</s>", "[UNK]", "Ġ Ċ", "A CAT", "\ufeffmark", "\u200b", "𝕬𝖇𝖈", "ﬁ", "½",
    "ＡＢＣ", "%s {0} ${x}", "\\u0041", "&amp;<b>", "a\u0300\u0301\u0302" * 50, "\uffff\ufffe", "१२३", "ﷺ",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained() -> BpeTextTokenizer:
    return BpeTextTokenizer.train(NAMES, vocab_size=1024, context_length=48)


def ids_of(tokenizer: BpeTextTokenizer, row: torch.Tensor) -> list[int]:
    return [i for i in row.tolist() if i < tokenizer.vocab_size]


def with_dropout(tokenizer: BpeTextTokenizer, dropout: float) -> BpeTextTokenizer:
    return BpeTextTokenizer(tokenizer.merges, tokenizer.context_length, dropout)


def test_training_gives_the_size_asked_for(trained: BpeTextTokenizer) -> None:
    assert len(NAMES) >= 2_000
    assert trained.vocab_size == 1024
    assert trained.num_ids == 1024 + 48
    assert trained.encode(NAMES).max() < trained.num_ids


def test_without_dropout_every_caption_encodes_as_with_tokenizers(trained: BpeTextTokenizer) -> None:
    ordinary, zero = _ordinary(trained.merges), with_dropout(trained, 0.0)
    captions = NAMES + ODD[:14]
    expected = [encoding.ids[:48] for encoding in ordinary.encode_batch(captions)]
    assert [ids_of(trained, row) for row in trained.encode(captions)] == expected
    assert torch.equal(zero.encode(captions, keys=range(len(captions))), trained.encode(captions))


def test_decoding_gives_the_caption_back(trained: BpeTextTokenizer) -> None:
    for keys in (None, range(len(NAMES))):
        tokens = trained.encode(NAMES, keys)
        assert all(trained.decode(row) == name for row, name in zip(tokens, NAMES, strict=True) if trained.fits(name))
    assert sum(map(trained.fits, NAMES)) > 0.95 * len(NAMES)


def test_dropout_is_a_function_of_caption_and_key(trained: BpeTextTokenizer) -> None:
    captions, keys = NAMES[:200], [random.Random(1).getrandbits(63) + i for i in range(200)]
    first = trained.encode(captions, keys)
    fresh = BpeTextTokenizer.from_json(trained.to_json())
    backwards = fresh.encode(captions[::-1], keys[::-1]).flip(0)
    assert torch.equal(first, backwards)
    assert not torch.equal(first, trained.encode(captions, [key + 1 for key in keys]))


def test_the_segmentations_stay_as_they_were() -> None:
    """Resuming a run of an older version depends on these numbers."""
    tokenizer = BpeTextTokenizer([(65, 66), (256, 67), (68, 69)], context_length=8, bpe_dropout=0.5)
    text = "".join(ALPHABET[i] for i in (65, 66, 67, 68, 69))
    assert text == "bcdef"
    assert [ids_of(tokenizer, tokenizer.encode([text], [key])[0]) for key in range(4)] == [
        [220, 257, 68, 69],
        [220, 256, 67, 258],
        [220, 257, 68, 69],
        [220, 65, 66, 67, 258],
    ]


def test_one_merge_is_dropped_as_often_as_asked() -> None:
    tokenizer = BpeTextTokenizer([(64, 65)], context_length=8, bpe_dropout=0.1)
    tokens = tokenizer.encode(["ab"] * 20_000, range(20_000))
    dropped = (tokens[:, 2] < tokenizer.vocab_size).double().mean().item()
    assert abs(dropped - 0.1) < 0.0085  # four standard deviations of 20,000 draws


def algorithm_1(tokenizer: BpeTextTokenizer, word: str, dropout: float, rng: random.Random) -> tuple[str, ...]:
    """BPE-dropout as the paper's listing has it, on strings, with nothing remembered."""
    strings = list(ALPHABET)
    for left, right in tokenizer.merges:
        strings.append(strings[left] + strings[right])
    rank = {(strings[left], strings[right]): i for i, (left, right) in enumerate(tokenizer.merges)}
    split = list(word)
    while True:
        possible = [(rank[pair], i) for i, pair in enumerate(itertools.pairwise(split)) if pair in rank]
        remaining = [merge for merge in possible if rng.random() >= dropout]
        if not remaining:
            return tuple(split)
        _, i = min(remaining)
        split[i : i + 2] = [split[i] + split[i + 1]]


@pytest.mark.parametrize("dropout", [0.1, 0.5])
def test_words_fall_apart_as_in_the_paper(dropout: float) -> None:
    tokenizer = BpeTextTokenizer.train(NAMES, 400, context_length=16, bpe_dropout=dropout)
    draws, rng = 6_000, random.Random(3)
    ours = Counter(tuple(ids_of(tokenizer, row)) for row in tokenizer.encode(["rightwards"] * draws, range(draws)))
    theirs = Counter(algorithm_1(tokenizer, "Ġrightwards", dropout, rng) for _ in range(draws))
    of_ids = {tuple(tokenizer.decode([i]) for i in ids): count for ids, count in ours.items()}
    of_strings = {tuple(part.removeprefix("Ġ") for part in parts): count for parts, count in theirs.items()}
    assert sum(of_ids.values()) == sum(of_strings.values()) == draws
    assert len(of_ids) > 8
    for parts in {*of_ids, *of_strings}:
        one, other = of_ids.get(parts, 0), of_strings.get(parts, 0)
        assert abs(one - other) <= 4.5 * (one + other + 1) ** 0.5, parts


def test_dropping_everything_leaves_the_bytes(trained: BpeTextTokenizer) -> None:
    tokens = with_dropout(trained, 1.0).encode(["Katze café"], [7])
    assert [ALPHABET[i] for i in ids_of(trained, tokens[0])] == list("ĠkatzeĠcafÃ©")


def test_each_position_has_its_pad(trained: BpeTextTokenizer) -> None:
    row = trained.encode(["cat"])[0]
    used = len(ids_of(trained, row))
    assert 0 < used < 48
    assert row[used:].tolist() == list(range(1024 + used, 1024 + 48))
    assert trained.encode([""])[0].tolist() == list(range(1024, 1072))
    assert trained.encode([]).shape == (0, 48)


def test_long_captions_are_cut_and_counted() -> None:
    tokenizer = BpeTextTokenizer([], context_length=4, bpe_dropout=0.1)
    tokens = tokenizer.encode(["abc", "abcd", "ab cd"])
    assert tokenizer.truncated == 2
    assert tokenizer.decode(tokens[1]) == "abc"
    assert [tokenizer.fits(caption) for caption in ("abc", "abcd", "")] == [True, False, True]
    assert tokenizer.truncated == 2


@pytest.mark.parametrize("caption", ODD, ids=range(len(ODD)))
def test_any_text_encodes_fast_and_is_ordinary(caption: str, trained: BpeTextTokenizer) -> None:
    start = time.process_time()
    rows = [trained.encode([caption])[0], trained.encode([caption], [1])[0]]
    assert time.process_time() - start < 0.1  # 5 ms alone; the machine has other work
    for row in rows:
        ids = row.tolist()
        used = len(ids_of(trained, row))
        assert ids[used:] == list(range(1024 + used, 1024 + 48))
    if trained.fits(caption):
        expected = unicodedata.normalize("NFC", caption.encode("utf-8", "replace").decode()).lower()
        assert trained.decode(rows[0]).strip(" ") in (expected.strip(" "), expected.strip(" ").replace("σ", "ς"))


def test_what_looks_special_is_spelled_out(trained: BpeTextTokenizer) -> None:
    for text in ("<|endoftext|>", "<pad>", "[UNK]"):
        assert len(ids_of(trained, trained.encode([text])[0])) > 2


def test_upper_case_and_composition_make_no_difference(trained: BpeTextTokenizer) -> None:
    same = trained.encode(["A Café", "a cafe\u0301", " a café"])
    assert torch.equal(same[0], same[1])
    assert torch.equal(same[0], same[2])
    assert ids_of(trained, trained.encode(["cat"])[0]) == ids_of(trained, trained.encode(["a cat"])[0])[1:]


def test_a_small_corpus_gives_a_small_vocabulary() -> None:
    tokenizer = BpeTextTokenizer.train(["ab ab"], vocab_size=1000, context_length=8)
    assert tokenizer.vocab_size == 256 + len(tokenizer.merges) < 265
    assert ids_of(tokenizer, tokenizer.encode(["ab"])[0]) == [tokenizer.vocab_size - 1]


def test_training_is_repeatable() -> None:
    one, other = (BpeTextTokenizer.train(NAMES[:500], 512, 16) for _ in range(2))
    assert one.to_json() == other.to_json()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"vocab_size": 256}, "from 257"),
        ({"context_length": 0}, "context_length"),
        ({"bpe_dropout": 1.5}, "bpe_dropout"),
    ],
)
def test_impossible_options(options: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        BpeTextTokenizer.train(["a"], **{"vocab_size": 300, "context_length": 8, **options})


def test_keys_must_be_as_many_as_captions(trained: BpeTextTokenizer) -> None:
    with pytest.raises(ValueError, match="2 captions need as many keys, got 1"):
        trained.encode(["a", "b"], [1])


def test_json_keeps_everything(trained: BpeTextTokenizer) -> None:
    again = BpeTextTokenizer.from_json(trained.to_json())
    assert again.to_json() == trained.to_json()
    assert again.fingerprint == trained.fingerprint
    assert torch.equal(again.encode(NAMES[:100], range(100)), trained.encode(NAMES[:100], range(100)))
    for other in (
        with_dropout(trained, 0.2),
        BpeTextTokenizer(trained.merges[:-1], 48),
        BpeTextTokenizer(trained.merges, 47),
    ):
        assert other.fingerprint != trained.fingerprint


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t))], ids=["deepcopy", "pickle"])  # noqa: S301
def test_copies_are_equal(copied: object, trained: BpeTextTokenizer) -> None:
    again = copied(trained)  # type: ignore[operator]
    assert again.to_json() == trained.to_json()
    assert torch.equal(again.encode(NAMES[:9], range(9)), trained.encode(NAMES[:9], range(9)))


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2}, {"kind": "other"}, {"merges": [[0, 300]]}, {"merges": [[0, 1], [0, 1]]}, {"merges": [[0]]},
        {"merges": [[0, 1, 2]]}, {"merges": [["a", "b"]]}, {"merges": [[True, 1]]}, {"merges": "ab"}, {"merges": None},
        {"context_length": 0}, {"context_length": 10**9}, {"context_length": "8"},
        {"bpe_dropout": 2}, {"bpe_dropout": None},
        {"merges": [[0, 0], [256, 256], [257, 257], [258, 258], [259, 259], [260, 260]]},
    ],
    ids=str,
)  # fmt: skip
def test_a_strange_file_is_refused(change: dict, trained: BpeTextTokenizer) -> None:
    with pytest.raises(CheckpointError, match="MMG-K20"):
        BpeTextTokenizer.from_json(json.dumps({**json.loads(trained.to_json()), **change}))


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "[" * 100_000, '{"format": 1'], ids=range(6))
def test_no_file_at_all_is_refused(text: str) -> None:
    with pytest.raises(CheckpointError):
        BpeTextTokenizer.from_json(text)


def test_a_batch_with_dropout_takes_milliseconds(trained: BpeTextTokenizer) -> None:
    def seconds() -> float:
        start = time.process_time()
        trained.encode(NAMES[:64], range(64))
        return time.process_time() - start

    assert min(seconds() for _ in range(20)) < 0.005
