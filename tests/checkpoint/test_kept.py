"""Features kept for the next time are what was written, or are found damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mmgen.checkpoint.kept import digest_of, keep, read_kept
from mmgen.errors import CheckpointError
from mmgen.files import cache_directory

FEATURES = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "new" / "one.safetensors"
    keep(path, FEATURES, cut=3)
    return path


def test_what_was_kept_is_read_bit_for_bit(kept, tmp_path):
    features, cut = read_kept(kept, 5)
    assert torch.equal(features, FEATURES)
    assert cut == 3
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]
    assert read_kept(tmp_path / "nothing.safetensors", 5) is None


def test_every_flipped_byte_is_found(kept):
    data = kept.read_bytes()
    places = range(0, len(data), 7)
    assert len(places) > 40
    for place in places:
        kept.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(CheckpointError) as caught:
            read_kept(kept, 5)
        assert caught.value.code == "MMG-K01"


@pytest.mark.parametrize("length", [0, 7, 40, -1])
def test_a_file_that_was_cut_is_found(kept, length):
    kept.write_bytes(kept.read_bytes()[:length])
    with pytest.raises(CheckpointError, match="is damaged"):
        read_kept(kept, 5)


def test_the_answer_to_another_question_is_no_answer(kept):
    with pytest.raises(CheckpointError, match="other tensors"):
        read_kept(kept, 6)
    other = kept.rename(kept.with_name("two.safetensors"))
    with pytest.raises(CheckpointError, match="SHA-256"):
        read_kept(other, 5)


def test_a_directory_in_the_way_is_damage_too(tmp_path):
    with pytest.raises(CheckpointError, match="directory"):
        read_kept(tmp_path, 5)


def test_questions_differ_by_all_that_they_hold():
    asked = [
        (1, "encoder", [["a"], ["b"]], ["{}"]),
        (1, "encoder", [["b"], ["a"]], ["{}"]),
        (1, "encoder", [["a", "b"]], ["{}"]),
        (1, "encoder", [["a"], ["b"]], ["{}."]),
        (1, "other", [["a"], ["b"]], ["{}"]),
        (2, "encoder", [["a"], ["b"]], ["{}"]),
        (1, "encoder", [["a"], ["b"]], ["{}", "\ud800"]),
    ]
    assert len({digest_of(*question) for question in asked}) == len(asked)


def test_where_caches_lie(monkeypatch, tmp_path):
    monkeypatch.delenv("MMGEN_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory() == tmp_path / ".cache" / "mmgen"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache_directory() == tmp_path / "x" / "mmgen"
    monkeypatch.setenv("MMGEN_CACHE", str(tmp_path / "own"))
    assert cache_directory() == tmp_path / "own"
