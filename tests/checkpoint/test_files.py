"""Directories that are whole or absent, and proven whole before anybody parses them."""

import json
import os
import random

import pytest

from mmgen.checkpoint import files
from mmgen.errors import CheckpointError

DATA = bytes(range(256)) * 16
ALLOWED = ("state.json", "state.safetensors")


def fill(directory, data=DATA):
    (directory / "state.json").write_text('{"a": 1}')
    (directory / "state.safetensors").write_bytes(data)


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "step-000100"
    files.write_directory_atomic(path, fill)
    return path


def caught(path, **options):
    with pytest.raises(CheckpointError) as error:
        files.verify_directory(path, **options)
    assert error.value.exit_code == 5
    assert len(error.value.render().splitlines()) <= 6
    return error.value


def test_a_written_directory_is_whole(checkpoint):
    manifest = files.verify_directory(checkpoint, ALLOWED)
    assert manifest["state.safetensors"].size == len(DATA)
    assert files.read_verified(checkpoint, "state.safetensors", manifest, 10_000) == DATA
    assert os.listdir(checkpoint.parent) == ["step-000100"]


def test_truncation_is_detected_at_every_point_with_both_sizes(checkpoint):
    for length in range(0, len(DATA), len(DATA) // 20):
        (checkpoint / "state.safetensors").write_bytes(DATA[:length])
        error = caught(checkpoint)
        assert error.code == "MMG-K01"
        assert f"state.safetensors has {length:,} bytes, 4,096 were written" in error.what


def test_every_flipped_bit_is_detected(checkpoint):
    generator = random.Random(0)
    for place in generator.sample(range(len(DATA) * 8), 100):
        data = bytearray(DATA)
        data[place // 8] ^= 1 << place % 8
        (checkpoint / "state.safetensors").write_bytes(data)
        assert "sha256 differs in state.safetensors" in caught(checkpoint).what
        with pytest.raises(CheckpointError, match="sha256 differs"):
            files.read_verified(checkpoint, "state.safetensors", files.read_manifest(checkpoint), 10_000)


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html>Not found</html>", bytes(len(DATA))])
@pytest.mark.parametrize("name", ["state.json", "state.safetensors", "manifest.json"])
def test_other_content_is_detected(checkpoint, name, content):
    (checkpoint / name).write_bytes(content)
    assert name in caught(checkpoint).render()


@pytest.mark.parametrize("name", ["state.json", "manifest.json"])
def test_a_missing_file_is_named(checkpoint, name):
    (checkpoint / name).unlink()
    assert name in caught(checkpoint).render()


@pytest.mark.parametrize(
    "manifest",
    [
        [],
        {"format": 1},
        {"format": 1, "files": []},
        {"format": 2, "files": {}},
        {"format": 1, "files": {}, "more": 1},
        {"format": 1, "files": {"state.json": 3}},
        {"format": 1, "files": {"state.json": {"size": True, "sha256": "0" * 64}}},
        {"format": 1, "files": {"state.json": {"size": -1, "sha256": "0" * 64}}},
        {"format": 1, "files": {"state.json": {"size": 8, "sha256": "0" * 63 + "G"}}},
        {"format": 1, "files": {"state.json": {"size": 8, "sha256": None}}},
    ],
)
def test_a_manifest_of_another_form_is_refused(checkpoint, manifest):
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    assert caught(checkpoint).code in ("MMG-K01", "MMG-K05")


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "a/../../b", ".", "", "a//b", "a\\b", "a\n", "a/b/c/d", ".x"]
)
def test_names_that_lead_elsewhere_are_refused(checkpoint, name):
    (checkpoint.parent / "secret").write_text("s")
    entry = {"size": 1, "sha256": "0" * 64}
    (checkpoint / "manifest.json").write_text(json.dumps({"format": 1, "files": {name: entry}}))
    error = caught(checkpoint)
    assert error.code == "MMG-K06"
    assert "file name" in error.what


def test_only_allowed_names_are_opened(tmp_path):
    files.write_directory_atomic(tmp_path / "a", lambda d: (d / "evil.pkl").write_bytes(b"x"))
    assert caught(tmp_path / "a", allowed=ALLOWED).code == "MMG-K06"
    assert files.verify_directory(tmp_path / "a").keys() == {"evil.pkl"}


@pytest.mark.parametrize("name", ["state.json", "manifest.json"])
def test_symbolic_links_and_pipes_are_refused(checkpoint, name):
    outside = checkpoint.parent / "outside"
    (checkpoint / name).rename(outside)
    (checkpoint / name).symlink_to(outside)
    assert caught(checkpoint).code == "MMG-K06"
    (checkpoint / name).unlink()
    os.mkfifo(checkpoint / name)  # opening it for reading would wait for ever
    assert "not a regular file" in caught(checkpoint).what
    (checkpoint / name).unlink()
    (checkpoint / name).mkdir()
    assert caught(checkpoint).code == "MMG-K06"


def test_a_linked_folder_inside_is_refused(tmp_path):
    def nested(directory):
        (directory / "tokenizer").mkdir()
        (directory / "tokenizer" / "x").write_text("x")

    files.write_directory_atomic(tmp_path / "export", nested)
    files.verify_directory(tmp_path / "export")
    (tmp_path / "export" / "tokenizer").rename(tmp_path / "elsewhere")
    (tmp_path / "export" / "tokenizer").symlink_to(tmp_path / "elsewhere")
    assert caught(tmp_path / "export").code == "MMG-K06"


def test_a_file_larger_than_its_limit_is_not_read(checkpoint):
    with pytest.raises(CheckpointError, match="4 kB, at most 1 kB"):
        files.read_verified(checkpoint, "state.safetensors", files.read_manifest(checkpoint), 1000)


@pytest.mark.parametrize(
    ("content", "code", "reason"),
    [
        (b"PK\x03\x04....", "MMG-X01", "pickle"),
        (b"\x80\x02}q", "MMG-X01", "pickle"),
        (b"  <html>", "MMG-K05", "a web page"),
        (b"", "MMG-K05", "empty"),
        (b"GIF89a", "MMG-K05", "a file, not a directory"),
    ],
)
def test_a_file_where_a_directory_should_be(tmp_path, content, code, reason):
    (tmp_path / "model.ckpt").write_bytes(content)
    error = caught(tmp_path / "model.ckpt")
    assert error.code == code
    assert reason in error.render()


def test_nothing_and_a_pipe_where_a_directory_should_be(tmp_path):
    assert "nothing lies at" in caught(tmp_path / "nowhere").what
    assert "nothing lies at" in caught(tmp_path / ("x" * 300)).what
    os.mkfifo(tmp_path / "pipe")
    assert caught(tmp_path / "pipe").code == "MMG-K05"


def test_a_directory_of_ours_is_replaced_and_nothing_else(checkpoint, tmp_path):
    files.write_directory_atomic(checkpoint, lambda d: fill(d, b"new"))
    assert (checkpoint / "state.safetensors").read_bytes() == b"new"
    photos = tmp_path / "photos"
    photos.mkdir()
    files.write_directory_atomic(photos, fill)  # empty: nothing is lost
    (photos / "manifest.json").unlink()
    for foreign in (photos, photos / "state.json"):
        with pytest.raises(CheckpointError, match="not overwritten") as error:
            files.write_directory_atomic(foreign, fill)
        assert error.value.code == "MMG-K07"
    assert sorted(os.listdir(tmp_path)) == ["photos", "step-000100"]


def test_a_fill_that_fails_leaves_the_old_directory_and_nothing_else(checkpoint):
    def fail(directory):
        fill(directory, b"half")
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError):
        files.write_directory_atomic(checkpoint, fail)
    files.verify_directory(checkpoint)
    assert (checkpoint / "state.safetensors").read_bytes() == DATA
    assert os.listdir(checkpoint.parent) == ["step-000100"]


def test_it_is_filled_beside_its_destination_whatever_tmpdir_says(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/dev/shm")
    seen = []
    files.write_directory_atomic(tmp_path / "a", lambda d: seen.append(d.parent))
    assert seen == [tmp_path]


def test_everything_is_synced_before_the_rename(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(os, "fsync", lambda fd: events.append(os.readlink(f"/proc/self/fd/{fd}")))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append(f"rename to {b}"), replace(a, b)))

    def fill_two(directory):
        fill(directory)
        (directory / "inner").mkdir()
        fill(directory / "inner")

    files.write_directory_atomic(tmp_path / "a", fill_two)
    rename = events.index(f"rename to {tmp_path / 'a'}")
    before = [os.path.basename(e) for e in events[:rename]]
    assert before.count("state.json") == before.count("state.safetensors") == 2
    assert "inner" in before  # a directory's names must last too
    assert any(name.startswith(".a.") and name.endswith(".tmp") for name in before)
    assert events[rename + 1] == str(tmp_path)
