"""Tar shards: read as the webdataset package reads them, wherever they are cut, whatever they hold."""

from __future__ import annotations

import gc
import io
import json
import os
import pickle
import random
import tarfile
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
import webdataset
from webdataset.tariterators import group_by_keys, tar_file_expander

from mmgen.data import webdataset_index
from mmgen.data.module import PictureData
from mmgen.data.pictures import Pictures, data_fingerprint
from mmgen.data.scenes import Scenes
from mmgen.data.webdataset import Webdataset
from mmgen.data.webdataset_files import expanded
from mmgen.errors import DataError
from mmgen.images import decode, encode_png
from mmgen.testing import check_dataset

Member = tuple[str, bytes]


def png(red: float = 1.0, side: int = 16) -> bytes:
    image = torch.zeros(3, side, side)
    image[0] = red
    return encode_png(image)


def sample(key: str, caption: str = "", red: float = 1.0) -> list[Member]:
    return [(f"{key}.png", png(red)), (f"{key}.txt", (caption or f"a red {key}").encode())]


def shard(path: Path, members: Sequence[Member | tarfile.TarInfo], format: int = tarfile.USTAR_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=format) as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            tar.addfile(info, io.BytesIO(member[1]))
    return path


def abc(path: Path) -> Path:
    return shard(path, [member for key in "abc" for member in sample(key)])


def error(path: Path | str, **options: Any) -> DataError:
    """What is wrong with it; and where that is left out, it is counted."""
    with pytest.raises(DataError) as caught:
        Pictures(Webdataset(str(path), image_size=8, **options))
    e = caught.value
    assert e.exit_code == 3
    assert len(e.render().splitlines()) <= 6
    assert e.fix
    return e


def skipping(path: Path | str, **options: Any) -> Webdataset:
    with pytest.warns(UserWarning, match="samples left out"):
        return Webdataset(str(path), image_size=8, on_bad="skip", **options)


def test_shards_of_the_webdataset_package_are_read_as_it_reads_them(tmp_path: Path):
    random.seed(0)
    pattern = str(tmp_path / "part-%05d.tar")
    with webdataset.ShardWriter(pattern, maxcount=7, verbose=0) as writer:
        for i in range(20):
            key = f"dir{i % 3}/{'long' * 40}é-{i:03d}" if i % 5 == 0 else f"{i:06d}"
            fields = {"caption": f"json {i}", "width": i, "url": f"http://x/{i}", "wide": i > 3}
            row = {"__key__": key, "png": png(i / 20), "txt": f"caption no. {i}", "json": fields, "cls": i % 4}
            if i % 4 == 1:
                del row["txt"]
            writer.write(row)
    with ExitStack() as stack:
        # The package's own reader of files leaves them open, which this test suite takes for an error.
        files = [stack.enter_context(path.open("rb")) for path in sorted(tmp_path.glob("*.tar"))]
        theirs = list(group_by_keys(tar_file_expander([{"url": file.name, "stream": file} for file in files])))
    names = ["width", "url", "wide", "none"]
    ours = Webdataset(f"{tmp_path}/part-{{00000..00002}}.tar", image_size=8, attributes=names)
    assert len(theirs) == len(ours) == 20
    for i, their in enumerate(theirs):
        mine, fields = ours[i], json.loads(their["json"])
        assert mine["id"] == ours.ids[i] == their["__key__"]
        assert mine["caption"] == (their["txt"].decode() if "txt" in their else fields["caption"])
        assert torch.equal(mine["image"], decode(their["png"], 8))
        expected = {"width": str(i), "url": f"http://x/{i}", "wide": json.dumps(i > 3), "class": their["cls"].decode()}
        assert mine["attributes"] == expected
    assert ours.blocks.tolist() == [i // 7 for i in range(20)]


def test_it_is_a_dataset(tmp_path: Path):
    abc(tmp_path / "x" / "0.tar")
    shard(tmp_path / "1.tar", sample("d", "one\n\n two  words\n"))
    data = Webdataset(str(tmp_path), image_size=8)
    assert list(data.ids) == ["d", "a", "b", "c"]
    assert data.ids[1:3] == ["a", "b"]
    assert data[0]["captions"] == ["one", "two words"]
    assert data.original(0).shape == (3, 16, 16)
    assert "attributes" not in data[0]
    assert check_dataset(data)


def test_formats_of_tar_and_names_as_they_are(tmp_path: Path):
    names = ["a.b/c", "../../etc/passwd", "/abs/olute", "./dot", "x" * 120, "ü", "sp ace"]
    for format in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        used = [n for n in names if format != tarfile.USTAR_FORMAT or len(n) < 100]
        path = shard(tmp_path / f"{format}.tar", [m for n in used for m in sample(n, "c")], format)
        assert list(Webdataset(str(path)).ids) == used
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0.tar", "1.tar", "2.tar"]


def test_what_is_no_sample_is_passed_over(tmp_path: Path):
    folder = tarfile.TarInfo("in.dir")
    folder.type = tarfile.DIRTYPE
    more = [("README", b"x"), ("README.md", b"x"), ("__info__/a.json", b"{}"), (".DS_Store", b""), ("._a.png", b"x")]
    more = [folder, *more]
    path = shard(tmp_path / "0.tar", [*more, ("a.PNG", png()), ("a.seg.png", b"?"), ("a.Txt", b"a"), *more[1:3]])
    data = Webdataset(str(path))
    assert (list(data.ids), data[0]["caption"]) == (["a"], "a")


def test_a_key_in_several_shards(tmp_path: Path):
    shard(tmp_path / "n/0.tar", [*sample("a"), *sample("b")])
    shard(tmp_path / "n/1.tar", [*sample("c"), *sample("a")])
    assert list(Webdataset(str(tmp_path)).ids) == ["n/0/a", "b", "c", "n/1/a"]
    assert list(Webdataset(str(tmp_path / "n/{1,0}.tar")).ids) == ["c", "1/a", "0/a", "b"]


def test_patterns():
    assert list(expanded("s/{008..010}-{a,b}.tar")) == [f"s/{n}-{x}.tar" for n in ("008", "009", "010") for x in "ab"]
    assert list(expanded("{10..8}")) == ["10", "9", "8"]
    assert list(expanded("x")) == ["x"]
    assert next(expanded("{00000..99999999999}")) == "00000000000"


def test_places_that_are_none(tmp_path: Path):
    assert error(tmp_path / "no").code == "MMG-D01"
    e = error(f"{tmp_path}/{{00..09}}.tar")
    assert (e.code, "none of the 10 shards" in e.what) == ("MMG-D01", True)
    assert "more than 100,000" in error(f"{tmp_path}/{{0..999999999999}}.tar").what
    assert error("s3://bucket/0.tar").code == error("pipe:cat x").code == "MMG-D01"
    assert error(tmp_path).code == "MMG-D02"
    (tmp_path / "0.tar.gz").touch()
    assert "compressed" in error(tmp_path).why


def test_a_shard_of_a_pattern_is_missing(tmp_path: Path):
    abc(tmp_path / "0.tar")
    pattern = f"{tmp_path}/{{0..2}}.tar"
    e = error(pattern)
    assert (e.code, e.where) == ("MMG-D50", str(tmp_path / "1.tar"))
    data = skipping(pattern)
    assert (len(data), len(data.skipped)) == (3, 2)
    numbers = ",".join(map(str, range(200)))
    assert error(f"{tmp_path}/{{{numbers}}}.tar").where == str(tmp_path / "1.tar"), "longer than a name may be"
    assert error(f"{tmp_path}/none/{{{numbers}}}.tar").code == "MMG-D01"
    assert error(f"{tmp_path}/{'x' * 300}").code == "MMG-D01"


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"<!DOCTYPE html><html>" + b"x" * 1000, "begins with"),
        (b"\x1f\x8b\x08\x00" + b"x" * 1000, "compressed"),
        (b"", "empty file"),
        (b"\0" * 10240, "no samples"),
        (b"\0" * 100, "begins with"),
        (b"PK\x03\x04", "begins with"),
    ],
)
def test_files_that_are_no_shards(tmp_path: Path, content: bytes, word: str):
    path = tmp_path / "0.tar"
    path.write_bytes(content)
    e = error(path)
    assert e.code == "MMG-D50"
    assert word in e.render()
    assert error(path, on_bad="skip").code == "MMG-D02"
    abc(tmp_path / "1.tar")
    assert list(skipping(tmp_path).ids) == ["a", "b", "c"]


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_cut_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: int):
    """Nothing of a cut shard is read as anything else, and with its end mark gone it is told, at every byte."""
    whole = shard(tmp_path / "w.tar", [m for key in ("a", "é" * 60, "c") for m in sample(key)], format)
    content = whole.read_bytes()
    ends = len(content.rstrip(b"\0"))
    ends += -ends % 512
    keys = list(Webdataset(str(whole)).ids)
    path = tmp_path / "0.tar"
    monkeypatch.setattr(webdataset_index, "_keep", lambda place, index: None)
    for cut in {*random.Random(0).sample(range(ends + 512), 150), *range(0, ends + 512, 512), ends + 511}:
        path.write_bytes(content[:cut])
        e = error(path)
        assert e.code == "MMG-D50"
        index = webdataset_index.indexed(path)
        found = [index.key(i) for i in range(len(index))]
        assert found == keys[: len(found)]
        assert len(found) < len(keys)
    for cut in (ends + 512, ends + 700, ends + 1024):
        path.write_bytes(content[:cut])
        assert list(Webdataset(str(path)).ids) == keys


def test_changed_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Bytes turned over: an error of ours or a dataset, never anything else, and never without end."""
    monkeypatch.setattr(webdataset_index, "_keep", lambda place, index: None)
    content = shard(tmp_path / "w.tar", [m for key in ("a", "é" * 60, "c") for m in sample(key)], tarfile.PAX_FORMAT)
    dice, path, told = random.Random(1), tmp_path / "0.tar", 0
    for _ in range(300):
        spoilt = bytearray(content.read_bytes())
        for _ in range(dice.choice([1, 3])):
            start = 512 * dice.randrange(len(spoilt) // 512)
            spoilt[start + dice.randrange(512)] = dice.randrange(256)
            if dice.random() < 0.7:  # a header that is well-formed all the same
                head = bytes(spoilt[start : start + 148]) + b" " * 8 + bytes(spoilt[start + 156 : start + 512])
                spoilt[start + 148 : start + 156] = b"%06o\0 " % sum(head)
        path.write_bytes(spoilt)
        try:
            Pictures(Webdataset(str(path), image_size=8))
        except DataError:
            told += 1
    assert told > 100


def test_sizes_that_lie(tmp_path: Path):
    """A negative size would lead back to the same header for ever; a long one would fill the memory."""
    for name, size in (("a.png", -512), ("a.png", 1 << 60), ("a.txt", 1 << 33)):
        info = tarfile.TarInfo(name)
        buffer = bytearray(info.tobuf(tarfile.GNU_FORMAT))
        buffer[124:136] = size.to_bytes(12, "big", signed=True) if size < 0 else b"\x80" + size.to_bytes(11, "big")
        buffer[148:156] = b"%06o\0 " % (sum(buffer[:148]) + 256 + sum(buffer[156:]))
        first = shard(tmp_path / "0.tar", [("0.json", b"")]).read_bytes()[:512]
        (tmp_path / "0.tar").write_bytes(first + bytes(buffer) + b"\0" * 10240)
        assert error(tmp_path).code == "MMG-D50"
    long = tarfile.TarInfo("././@LongLink")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 1 << 20
    (tmp_path / "0.tar").write_bytes(long.tobuf() + b"x" * (2 << 20))
    assert "header of 1,04" in error(tmp_path).why


def test_members_that_cannot_be_used(tmp_path: Path):
    link = tarfile.TarInfo("a.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    text = ("a.txt", b"x")
    faults: list[tuple[str, str, list[Any]]] = [
        ("MMG-D04", "0.tar: a.png", [("a.png", b"<html>"), text]),
        ("MMG-D05", "0.tar: a.png", [("a.png", png(side=4)), text]),
        ("MMG-D06", "0.tar: a.txt", [("a.png", png()), ("a.txt", b" \n")]),
        ("MMG-D06", "0.tar: a.txt", [("a.png", png()), ("a.txt", b"\xff\xfe")]),
        ("MMG-D03", "0.tar: a.png", [("a.png", png()), ("a.cls", b"3")]),
        ("MMG-D03", "0.tar: a.json", [("a.png", png()), ("a.json", b'{"text": "x"}')]),
        ("MMG-D03", "0.tar: a.json", [("a.png", png()), ("a.json", b'{"caption": ["x", 3]}')]),
        ("MMG-D51", "0.tar: a.json", [("a.png", png()), ("a.json", b'{"caption": "x"')]),
        ("MMG-D51", "0.tar: a.json", [("a.png", png()), ("a.json", b"[" * 100_000)]),
        ("MMG-D51", "0.tar: a.json", [("a.png", png()), ("a.json", b"[1]")]),
        ("MMG-D51", "0.tar: a.json", [("a.png", png()), ("a.json", b'{"caption": "x", "tag": {}}')]),
        ("MMG-D51", "0.tar: a.txt", [("a.png", png()), ("a.txt", b"x" * 9000)]),
        ("MMG-D51", "0.tar: a", [("a.txt", b"x")]),
        ("MMG-D51", "0.tar: a", [("a.png", png()), ("a.jpg", png()), text]),
        ("MMG-D51", "0.tar: a.png", [("a.png", png()), text, ("a.png", png())]),
        ("MMG-D51", "0.tar: a.png", [link, text]),
    ]
    for code, where, members in faults:
        shard(tmp_path / "0.tar", [*sample("b"), *members, *sample("c")])
        e = error(tmp_path, attributes=["tag"])
        assert (e.code, e.where) == (code, f"{tmp_path}/{where}"), members
        data = skipping(tmp_path, attributes=["tag"])
        assert list(data.ids) == ["b", "c"]
        assert len(data.skipped) == 1
        assert check_dataset(data)


def test_attributes_are_cleaned_as_captions_are(tmp_path: Path):
    fields = {"caption": "x", "tag": "a\x1b[2J\n \ud800b", "blank": "", "n": 3}
    shard(tmp_path / "0.tar", [("a.png", png()), ("a.json", json.dumps(fields).encode())])
    data = Webdataset(str(tmp_path), image_size=8, attributes=["tag", "blank", "n"])
    assert data[0]["attributes"] == {"tag": "a[2J b", "n": "3"}


def test_a_key_twice_in_a_shard(tmp_path: Path):
    shard(tmp_path / "0.tar", [*sample("a", "first"), *sample("b"), *sample("a", "second")])
    assert error(tmp_path).code == "MMG-D51"
    data = skipping(tmp_path)
    assert [data[i]["caption"] for i in range(2)] == ["first", "a red b"]


def test_a_huge_member_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(webdataset_index.LIMITS, "picture", len(png()) - 1)
    abc(tmp_path / "0.tar")
    e = error(tmp_path)
    assert (e.code, "more than" in e.what) == ("MMG-D51", True)


def test_shards_that_were_joined_by_cat(tmp_path: Path):
    one, two = abc(tmp_path / "1.tar"), shard(tmp_path / "2.tar", sample("d"))
    both = tmp_path / "both" / "0.tar"
    both.parent.mkdir()
    both.write_bytes(one.read_bytes() + two.read_bytes())
    assert "behind its end mark" in error(both).what


def test_headers_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caches: Path):
    path = abc(tmp_path / "0.tar")
    scanned: list[int] = []
    scan = webdataset_index.scan
    monkeypatch.setattr(webdataset_index, "scan", lambda *given: scanned.append(1) or scan(*given))
    before = set((caches / "shards").glob("*")) if (caches / "shards").exists() else set()
    first = Webdataset(str(path))
    assert Webdataset(str(path)).fingerprint == first.fingerprint
    assert len(scanned) == 1
    (kept,) = set((caches / "shards").glob("*")) - before
    content = kept.read_bytes()
    for damaged in (b"", content[:-1], content[:50] + b"?" + content[51:], b"\x80\x04."):
        kept.write_bytes(damaged)
        assert list(Webdataset(str(path)).ids) == ["a", "b", "c"]
        assert kept.read_bytes() == content
    assert len(scanned) == 5
    os.utime(path, ns=(1, 1))
    Webdataset(str(path))
    assert len(scanned) == 6
    monkeypatch.setenv("MMGEN_CACHE", str(path / "no"))
    assert len(Webdataset(str(path))) == 3


def test_faults_are_kept_too(tmp_path: Path):
    shard(tmp_path / "0.tar", [*sample("a"), ("b.txt", b"x")])
    assert error(tmp_path).render() == error(tmp_path).render()
    assert skipping(tmp_path).skipped == skipping(tmp_path).skipped


def test_what_changes_the_fingerprint(tmp_path: Path):
    path = abc(tmp_path / "0.tar")

    def fingerprint(**options: Any) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return data_fingerprint(Webdataset(str(path), **options))

    found = [fingerprint(), fingerprint(image_size=8), fingerprint(attributes=["x"]), fingerprint(caption_key="x")]
    shard(path, [*sample("a"), *sample("c"), *sample("b")])
    found.append(fingerprint())
    shard(path, [*sample("a"), *sample("c", "longer caption"), *sample("b")])
    found.append(fingerprint())
    shard(path, [*sample("a"), *sample("c"), ("b.png", b"?"), ("b.txt", b"x")])
    found += [fingerprint(), fingerprint(on_bad="skip")]
    path.rename(tmp_path / "1.tar")
    path = tmp_path / "1.tar"
    found.append(fingerprint())
    assert len(set(found)) == len(found)


def test_few_files_are_open_and_none_travels(tmp_path: Path):
    for number in range(40):
        shard(tmp_path / f"{number:02d}.tar", sample(str(number)))
    data = Webdataset(str(tmp_path), image_size=8)
    gc.collect()  # datasets of other tests, with files of theirs
    before = len(os.listdir("/proc/self/fd"))
    for i in range(40):
        assert data[i]["id"] == str(i)
    assert len(os.listdir("/proc/self/fd")) - before == 16
    again = pickle.loads(pickle.dumps(data))  # noqa: S301  what was just dumped
    assert len(os.listdir("/proc/self/fd")) - before == 16
    assert torch.equal(again[3]["image"], data[3]["image"])
    del again, data
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_shard_that_changes_while_it_is_used(tmp_path: Path):
    path = abc(tmp_path / "0.tar")
    data = Webdataset(str(path))
    path.write_bytes(path.read_bytes()[:-512])
    with pytest.raises(DataError, match="changed since") as caught:
        data[0]
    assert caught.value.code == "MMG-D50"
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        data[0]


def test_training_by_blocks(tmp_path: Path):
    for number in range(30):
        shard(tmp_path / f"{number:02d}.tar", [m for i in range(4) for m in sample(f"{number}-{i}")])
    data = Webdataset(str(tmp_path), image_size=8)

    def batches(**options: Any) -> list[list[str]]:
        module = PictureData(data, batch_size=5, seed=1, max_steps=40, **options)
        return [batch["id"] for batch in module.train_dataloader()]

    found = batches(shuffle="blocks")
    assert found == batches(shuffle="blocks")
    assert found != batches()
    ids = [id for batch in found for id in batch]
    epoch = len(Pictures(data).positions("train"))
    assert len(set(ids[:epoch])) == epoch
    assert len({id.split("-")[0] for id in ids[:20]}) <= 8
    with pytest.raises(DataError) as caught:
        batches(shuffle="blocks", grouped_by="x")
    assert caught.value.code == "MMG-D11"
    with pytest.raises(DataError) as caught:
        PictureData(Scenes(num_samples=4, num_val=1), batch_size=2, seed=1, max_steps=1, shuffle="blocks")
    assert caught.value.code == "MMG-D52"


def test_pictures_are_resized_as_clip_does_where_that_is_asked_for(tmp_path: Path):
    picture = encode_png(torch.rand(3, 40, 31, generator=torch.Generator().manual_seed(0)))
    path = shard(tmp_path / "a.tar", [("a.png", picture), ("a.txt", b"noise")])
    usual, asked = Webdataset(str(path)), Webdataset(str(path), resize="bicubic")
    assert torch.equal(usual[0]["image"], decode(picture, 32))
    assert torch.equal(asked[0]["image"], decode(picture, 32, resize="bicubic"))
    assert not torch.equal(usual[0]["image"], asked[0]["image"])
    assert usual.fingerprint != asked.fingerprint
    with pytest.raises(ValueError, match="resize must be 'lanczos' or 'bicubic', got 'nearest'"):
        Webdataset(str(path), resize="nearest")
