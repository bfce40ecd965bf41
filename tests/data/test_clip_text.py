"""CLIP's text tokenizer against open_clip's, and what a stranger's file may do to it."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path

import pytest
import torch

from mmgen.data import text_tokenizers
from mmgen.data.clip_text import ClipTextTokenizer
from mmgen.data.text import BpeTextTokenizer
from mmgen.errors import CheckpointError, ConfigError
from tests.models.open_clip_models import open_clip

ODD = [
    "",
    "hello   World's  best 123 ÃƒÂ© café &amp;amp; x",
    "👩🏿‍🚒 firefighter",
    "a " * 200,
    "don't we'll I'M O'Reilly",
    "x" * 3_000,
    "日本語のテキスト",
    "\ttabs\nand\u00a0nbsp",
    "it’s “quoted” — dash",
    "ﬁre Ⅻ ½ ²",
    "ÅNGSTRÖM İstanbul straße",
    "ΟΔΟΣ ΣΟΦΟΣ, Σ",
    "a_b c-d e/f 3.14 #tag @me",
    "<b>bold</b> &lt;tag&gt;",
]


@pytest.fixture(scope="module")
def published() -> Path:
    return Path(open_clip().__file__).parent / "bpe_simple_vocab_16e6.txt.gz"


@pytest.fixture(scope="module")
def tokenizer(published: Path) -> ClipTextTokenizer:
    return ClipTextTokenizer.from_file(published)


def test_its_ids_are_open_clip_s(tokenizer):
    package = open_clip()
    names, templates = package.IMAGENET_CLASSNAMES, package.OPENAI_IMAGENET_TEMPLATES
    captions = [*ODD, *(templates[(3 * i) % 80](name) for i, name in enumerate(names))]
    theirs = package.tokenizer.SimpleTokenizer()(captions)
    ours = tokenizer.encode(captions)
    assert [c for c, one, other in zip(captions, ours, theirs, strict=True) if not torch.equal(one, other)] == []
    assert torch.equal(tokenizer.end(ours), theirs.argmax(1))
    assert (tokenizer.num_ids, tokenizer.start, tokenizer.stop) == (49408, 49406, 49407)
    assert len(captions) > 1_000


def test_a_mark_written_in_a_caption_is_text(tokenizer):
    tokens = tokenizer.encode(["a <|endoftext|> b <|startoftext|>"])[0].tolist()
    assert tokens.count(tokenizer.stop) == 1
    assert tokens.count(tokenizer.start) == 1


def test_what_is_cut_is_counted_and_keeps_its_end(tokenizer):
    before = tokenizer.truncated
    tokens = tokenizer.encode(["a " * 100, "a cat"])
    assert tokenizer.truncated == before + 1
    assert tokens[0, -1] == tokenizer.stop
    assert not tokenizer.fits("a " * 100)
    assert tokenizer.fits("a cat")
    assert tokenizer.decode(tokens[1]) == "a cat"


def test_it_travels_as_json_and_in_a_copy(tokenizer):
    again = text_tokenizers.from_json(tokenizer.to_json())
    assert isinstance(again, ClipTextTokenizer)
    assert again.fingerprint == tokenizer.fingerprint
    for one in (again, copy.deepcopy(tokenizer)):
        assert torch.equal(one.encode(["a photo of a cat"]), tokenizer.encode(["a photo of a cat"]))
    other = BpeTextTokenizer.train(["a cat", "a cat"], 258, 8)
    assert isinstance(text_tokenizers.from_json(other.to_json()), BpeTextTokenizer)


def test_it_reads_the_other_forms_of_the_vocabulary(published, tokenizer, tmp_path):
    text = gzip.decompress(published.read_bytes()).decode()
    (tmp_path / "plain.txt").write_text(text)
    merges = [" ".join(pair) for pair in tokenizer.merges]
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (tmp_path / "old.json").write_text(json.dumps({"model": {"merges": merges}}))
    (tmp_path / "new.json").write_text(json.dumps({"model": {"merges": tokenizer.merges}}))
    (tmp_path / "written.json").write_text(tokenizer.to_hugging_face())
    for name in ("plain.txt", "merges.txt", "old.json", "new.json", "written.json"):
        assert ClipTextTokenizer.from_file(tmp_path / name).fingerprint == tokenizer.fingerprint


BAD = {
    "empty": b"",
    "a page": b"<html><body>404</body></html>",
    "cut": gzip.compress(b"#version: 0.2\n" + b"a b</w>\n" * 40)[:30],
    "bad bytes in it": gzip.compress(b"#version: 0.2\n")[:10] + b"\xff" * 40,
    "no utf-8": b"#version\n\xff\xfe a",
    "not a pair": b"#version\na b c\n",
    "unheard of": b"#version\nab cd\n",
    "twice": b"#version\na b\na b\n",
    "nested": b'{"model": {"merges": ' + b"[" * 5_000,
    "other ids": b'{"model": {"vocab": {"!": 1, "\\"": 0}, "merges": ["a b"]}}',
    "another mark": b'{"model": {"vocab": {"<|endoftext|>": 513, "<|startoftext|>": 514}, "merges": ["a b"]}}',
    "ids that are none": b'{"model": {"vocab": ["!"], "merges": ["a b"]}}',
    "numbers": b'{"model": {"merges": [[1, 2]]}}',
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_holds_none_is_refused(name, tmp_path):
    path = tmp_path / "vocabulary"
    path.write_bytes(BAD[name])
    with pytest.raises(ConfigError, match="no vocabulary of CLIP"):
        ClipTextTokenizer.from_file(path)


def test_a_bomb_of_a_file_is_not_unpacked(tmp_path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(80 << 20), compresslevel=1))
    with pytest.raises(ConfigError, match="64 MiB"):
        ClipTextTokenizer.from_file(path)


NO_LENGTH = '{"format": 1, "kind": "clip-bpe", "context_length": -1}'


@pytest.mark.parametrize("text", ["", "[]", '{"kind": "clip-bpe"}', NO_LENGTH])
def test_json_that_is_none_is_refused(text):
    with pytest.raises(CheckpointError):
        text_tokenizers.from_json(text)
