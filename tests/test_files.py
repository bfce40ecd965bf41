"""Files that a crash leaves whole, and JSON read from strangers."""

import errno
import json
import os
import re

import pytest

from mmgen import files
from mmgen.errors import CheckpointError


def test_a_write_replaces_the_whole_file(tmp_path):
    target = tmp_path / "status.json"
    files.write_atomic(target, "old and long")
    files.write_atomic(target, b"new")
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["status.json"]


@pytest.mark.parametrize("error", [RuntimeError("a bug"), KeyboardInterrupt()])
def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "status.json"
    files.write_atomic(target, "old")

    def fail(file):
        file.write(b"half")
        raise error

    with pytest.raises(type(error)):
        files.write_atomic(target, fail)
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["status.json"]


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    files.write_atomic(tmp_path / "a", "old")

    def fail(file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(CheckpointError, match="No space left on device; nothing was overwritten") as caught:
        files.write_atomic(tmp_path / "a", fail)
    assert caught.value.code == "MMG-K04"
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_the_temporary_file_lies_beside_its_destination_whatever_tmpdir_says(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", "/dev/shm")
    seen = []
    files.write_atomic(tmp_path / "a", lambda file: seen.append(os.path.dirname(file.name)))
    assert seen == [str(tmp_path)]


def test_leftovers_are_removed_and_what_stood_aside_comes_back(tmp_path):
    (tmp_path / ".status.json.12-0123abcd.tmp").write_text("half")
    (tmp_path / ".step-000100.12-0123abcd.tmp").mkdir()
    (tmp_path / ".step-000200.12-0123abcd.old").mkdir()
    (tmp_path / ".step-000300.12-0123abcd.old").mkdir()
    (tmp_path / "step-000300").mkdir()
    for mine in (".hidden.tmp", ".bashrc", "notes.tmp"):
        (tmp_path / mine).write_text("not ours")
    assert len(files.remove_leftovers(tmp_path)) == 4
    assert sorted(os.listdir(tmp_path)) == [".bashrc", ".hidden.tmp", "notes.tmp", "step-000200", "step-000300"]
    assert files.remove_leftovers(tmp_path / "nowhere") == []


def test_a_full_disk_is_told_with_path_needed_and_free(tmp_path):
    with pytest.raises(CheckpointError) as caught:
        files.require_space(tmp_path / "runs" / "step-000200", 10**18)
    assert caught.value.code == "MMG-K04"
    pattern = rf"cannot write {tmp_path}/runs/step-000200: 1000000.0 TB needed, .* free on {tmp_path}"
    assert re.fullmatch(pattern, caught.value.what)
    files.require_space(tmp_path, 1)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "a": 2}', "key 'a' twice"),
        ('{"a": {"_target_": "os.system"}}', "key '_target_' begins with an underscore"),
        ('{"a": ["${oc.env:HOME}"]}', "holds an interpolation"),
        ('{"${a}": 1}', "holds an interpolation"),
        ('{"a": NaN}', "NaN is no JSON number"),
        ('{"a": -Infinity}', "-Infinity is no JSON number"),
        ('"\\ud800"', "broken Unicode"),
        ("[" * 200 + "]" * 200, "nested more than 100 deep"),
        ("[" * 100_000, "nested too deeply"),
        (" " * 1_000_001, "larger than 1.0 MB"),
    ],
)
def test_json_of_strangers_is_refused(text, reason):
    with pytest.raises(CheckpointError) as caught:
        files.parse_json(text.encode(), "config.json")
    assert caught.value.code == "MMG-K06"
    assert reason in caught.value.what


@pytest.mark.parametrize(
    "data", [b"", b"{", b"<html>", b"\xff\xfe{\x00}\x00", b"\xef\xbb\xbf{}", b"9" * 5000, b'{"a": "\xc3"}']
)
def test_what_is_not_utf8_json_is_told_in_one_sentence(data):
    with pytest.raises(CheckpointError) as caught:
        files.parse_json(data, "config.json")
    assert caught.value.what == "config.json is not JSON"
    assert len(caught.value.render().splitlines()) <= 6


def test_trusted_json_may_hold_what_a_vocabulary_holds(tmp_path):
    vocabulary = {"_": 0, "${": 1, "\ud800": 2}
    (tmp_path / "v.json").write_text(json.dumps(vocabulary))
    assert files.read_json(tmp_path / "v.json", trusted=True) == vocabulary
    with pytest.raises(CheckpointError, match="twice"):
        files.parse_json('{"_": 1, "_": 2}', "v.json", trusted=True)
    with pytest.raises(CheckpointError, match="No such file"):
        files.read_json(tmp_path / "nowhere.json")


def test_lone_surrogates_are_written_as_escapes_and_come_back(tmp_path):
    value = {"picture": "ä\\\udcff.png"}
    files.write_json(tmp_path / "x.json", value)
    assert "ä" in (tmp_path / "x.json").read_text("utf-8")
    assert json.loads((tmp_path / "x.json").read_bytes()) == value


def test_sizes_are_written_for_people():
    assert [files.size(n) for n in (0, 999, 1000, 1_100_000_000, 3 * 10**12)] == [
        "0 B",
        "999 B",
        "1 kB",
        "1.1 GB",
        "3.0 TB",
    ]
