"""One's own pictures: what is read, and what each fault is told as."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mmgen.data.folder import Folder
from mmgen.data.pictures import Pictures
from mmgen.errors import DataError
from mmgen.images import save_png


def picture(path: Path, red: float = 1.0) -> Path:
    image = torch.zeros(3, 16, 16)
    image[0] = red
    save_png(image, path)
    return path


def captioned(root: Path, names: str = "b a c/d") -> Path:
    for name in names.split():
        picture(root / f"{name}.png").with_suffix(".txt").write_text(f"a red {name}")
    return root


def lines(root: Path, *rows: dict | str) -> Path:
    text = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    (root / "captions.jsonl").write_text(text, encoding="utf-8")
    return root


def error(root: Path | str, **options) -> DataError:
    with pytest.raises(DataError) as caught:
        Pictures(Folder(str(root), **options))
    e = caught.value
    assert e.exit_code == 3
    assert len(e.render().splitlines()) <= 6
    assert e.fix
    return e


def test_text_files_beside_pictures(tmp_path: Path) -> None:
    data = Folder(str(captioned(tmp_path)), image_size=8)
    assert data.ids == ["a.png", "b.png", "c/d.png"]
    assert [data[i]["caption"] for i in range(len(data))] == ["a red a", "a red b", "a red c/d"]
    assert data[2]["id"] == "c/d.png"
    assert data[0]["image"].shape == (3, 8, 8)
    assert data[0]["image"].amax() == 1
    assert "attributes" not in data[0]


def test_each_line_is_a_caption(tmp_path: Path) -> None:
    picture(tmp_path / "a.png").with_suffix(".txt").write_text("\ufeffa red square\n\n  a   bloody\tsquare \r\n")
    sample = Folder(str(tmp_path))[0]
    assert sample["caption"] == "a red square"
    assert sample["captions"] == ["a red square", "a bloody square"]


def test_folders_inside_can_be_left_out_and_hidden_ones_are(tmp_path: Path) -> None:
    captioned(tmp_path, "a b/c .d .e/f")
    assert Folder(str(tmp_path)).ids == ["a.png", "b/c.png"]
    assert Folder(str(tmp_path), recursive=False).ids == ["a.png"]


def test_captions_jsonl(tmp_path: Path) -> None:
    for name in "abcd":
        picture(tmp_path / "in" / f"{name}.PNG")
    lines(
        tmp_path,
        {"file": "in/b.PNG", "caption": "b", "attributes": {"shape": "square"}},
        {"file_name": "in/a.PNG", "text": "a", "more": 1},
        "",
        {"image": "in/../in/c.PNG", "captions": ["c one", "c two"]},
    )
    data = Folder(str(tmp_path))
    assert data.ids == ["in/a.PNG", "in/b.PNG", "in/c.PNG"]
    assert [data[i]["captions"] for i in range(3)] == [["a"], ["b"], ["c one", "c two"]]
    assert data[1]["attributes"] == {"shape": "square"}


def test_captions_csv(tmp_path: Path) -> None:
    for name in "ab":
        picture(tmp_path / f"{name}.png")
    (tmp_path / "captions.csv").write_text(
        'file_name,size,text\nb.png,3,"a b, with\na break"\na.png,4,é\n', encoding="utf-8-sig"
    )
    data = Folder(str(tmp_path))
    assert [(data[i]["id"], data[i]["caption"]) for i in range(2)] == [("a.png", "é"), ("b.png", "a b, with a break")]


def test_captions_are_cleaned(tmp_path: Path) -> None:
    odd = "e\u0301clair\x00 \x1b[31mred\x1b[0m\u0085 \U0001f468\u200d\U0001f469 \u202ertl"
    picture(tmp_path / "a.png")
    lines(tmp_path, {"file": "a.png", "caption": odd})
    caption = Folder(str(tmp_path))[0]["caption"]
    assert caption == "éclair [31mred[0m \U0001f468\u200d\U0001f469 \u202ertl"


def test_attributes_are_cleaned_as_captions_are(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    told = {"kind\ud800": "\x1b[2Jcafe\u0301\n  \ud800bar", "none": " "}
    lines(tmp_path, {"file": "a.png", "caption": "a", "attributes": told})
    assert Folder(str(tmp_path))[0]["attributes"] == {"kind": "[2Jcaf\xe9 bar"}
    lines(tmp_path, {"file": "a.png", "caption": "a", "attributes": {"kind": "\ud800"}})
    e = error(tmp_path)
    assert (e.code, e.where) == ("MMG-D06", f"{tmp_path}/captions.jsonl:1: attributes")


def test_a_missing_folder(tmp_path: Path) -> None:
    e = error(tmp_path / "nowhere")
    assert e.code == "MMG-D01"
    assert "nowhere' does not exist" in e.what
    assert error(picture(tmp_path / "a.png")).what.endswith("is not a folder")


def test_a_name_that_no_folder_can_have(tmp_path: Path) -> None:
    assert error(tmp_path / ("x" * 300)).code == "MMG-D01"


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    assert error(tmp_path).why == "it is empty"
    for name in ("a.zip", "b.zip", "c.txt"):
        (tmp_path / name).touch()
    e = error(tmp_path)
    assert e.code == "MMG-D02"
    assert e.why == "found: 2 .zip, 1 .txt"


def test_a_folder_without_captions(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    e = error(tmp_path)
    assert e.code == "MMG-D03"
    assert e.fix == f"echo 'what the picture shows' > {tmp_path}/a.txt"


def test_an_empty_list(tmp_path: Path) -> None:
    lines(captioned(tmp_path))
    e = error(tmp_path)
    assert (e.code, e.why) == ("MMG-D03", "captions.jsonl lists no pictures")


def test_some_pictures_without_captions(tmp_path: Path) -> None:
    captioned(tmp_path)
    picture(tmp_path / "z.png")
    e = error(tmp_path)
    assert e.code == "MMG-D03"
    assert e.what == "1 of 4 pictures have no caption, such as 'z.png'"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the caption is empty"),
        (b" \n\t\x00\r\n", "the caption is empty"),
        (b"caf\xe9", "not UTF-8 (byte 3 is 0xe9)"),
        (b"x" * 8193, "the caption has 8,193 bytes, more than 8,192"),
    ],
)
def test_a_bad_caption_is_named(content: bytes, says: str, tmp_path: Path) -> None:
    captioned(tmp_path)
    (tmp_path / "a.txt").write_bytes(content)
    e = error(tmp_path)
    assert (e.code, e.where) == ("MMG-D06", f"{tmp_path}/a.txt")
    assert says in e.what


def test_an_unreadable_picture_is_named(tmp_path: Path) -> None:
    captioned(tmp_path)
    (tmp_path / "a.png").write_bytes(b"<html>")
    e = error(tmp_path)
    assert (e.code, e.where) == ("MMG-D04", f"{tmp_path}/a.png")


@pytest.mark.parametrize(
    ("row", "code", "says"),
    [
        ({"file": "a.png", "caption": " "}, "MMG-D06", "the caption is empty"),
        ({"file": "a.png", "captions": ["a", ""]}, "MMG-D06", "the caption is empty"),
        ({"file": "a.png"}, "MMG-D08", "there is no caption; keys: ['file']"),
        ({"file": "a.png", "caption": 3}, "MMG-D08", "a caption is not a text"),
        ({"file": "a.png", "captions": "a"}, "MMG-D08", "a caption is not a text"),
        ({"file": "a.png", "caption": "a", "attributes": {"n": 1}}, "MMG-D08", "attributes must be texts by name"),
        ({"caption": "a"}, "MMG-D08", "there is no file name; keys: ['caption']"),
        ({"file": 3, "caption": "a"}, "MMG-D08", "there is no file name"),
        ({"file": "no.png", "caption": "a"}, "MMG-D04", "the picture 'no.png' does not exist"),
        ({"file": "a\0.png", "caption": "a"}, "MMG-D04", "the picture 'a\\x00.png' does not exist"),
        ({"file": "\ud800.png", "caption": "a"}, "MMG-D04", "the picture '\\ud800.png' does not exist"),
        ({"file": "a" * 300, "caption": "a"}, "MMG-D04", "does not exist"),
        ({"file": "circle.png", "caption": "a"}, "MMG-D04", "the picture 'circle.png' does not exist"),
        ({"file": "../out.png", "caption": "a"}, "MMG-D08", "leaves the folder"),
        ({"file": "/etc/hostname", "caption": "a"}, "MMG-D08", "leaves the folder"),
        ({"file": "link.png", "caption": "a"}, "MMG-D08", "leaves the folder"),
        ({"file": "./b.png", "caption": "a"}, "MMG-D07", "'b.png' is listed twice"),
        ('{"file": "a.png", ', "MMG-D08", "the line is not JSON"),
        ("[1]", "MMG-D08", "the line is not a JSON object"),
        ("[" * 100_000, "MMG-D08", "the line is not JSON"),
    ],
)
def test_a_bad_line_is_named_or_skipped(row: dict | str, code: str, says: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    picture(root / "a.png")
    picture(root / "b.png")
    (root / "link.png").symlink_to(picture(tmp_path / "out.png"))
    (root / "circle.png").symlink_to(root / "circle.png")
    lines(root, {"file": "b.png", "caption": "b"}, row)
    e = error(root)
    assert e.code == code
    assert says in e.what
    assert f"{root}/captions.jsonl:2" in e.where
    with pytest.warns(UserWarning, match="1 of 2 samples left out"):
        data = Folder(str(root), on_bad="skip")
    assert data.ids == ["b.png"]
    assert says in data.skipped[0]


def test_a_line_in_another_encoding(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "captions.jsonl").write_bytes(b'{"file": "a.png", "caption": "caf\xe9"}')
    e = error(tmp_path)
    assert (e.code, e.where) == ("MMG-D06", f"{tmp_path}/captions.jsonl:1")
    assert "not UTF-8" in e.what


def test_a_csv_without_its_columns(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "captions.csv").write_text("file;caption\na.png;a\n")
    e = error(tmp_path)
    assert e.code == "MMG-D08"
    assert "it says ['file;caption']" in e.what
    (tmp_path / "captions.csv").write_text("")
    assert "it says []" in error(tmp_path).what


def test_two_lists_are_refused(tmp_path: Path) -> None:
    lines(captioned(tmp_path), {"file": "a.png", "caption": "a"})
    (tmp_path / "captions.csv").write_text("file,caption\na.png,a\n")
    assert "two lists of captions" in error(tmp_path).what


def test_bad_samples_can_be_skipped(tmp_path: Path) -> None:
    captioned(tmp_path, "a b c d e")
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.txt").write_bytes(b"\xff")
    (tmp_path / "c.txt").unlink()
    with pytest.warns(UserWarning, match=r"3 of 5 samples left out.*c\.png"):
        data = Folder(str(tmp_path), on_bad="skip")
    assert data.ids == ["d.png", "e.png"]
    assert len(Pictures(data)) == 2


@pytest.mark.filterwarnings("ignore")
def test_skipping_everything_is_an_error(tmp_path: Path) -> None:
    captioned(tmp_path, "a b")
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.txt").write_bytes(b"")
    e = error(tmp_path, on_bad="skip")
    assert e.code == "MMG-D02"
    assert "no sample can be used" in e.what


@pytest.mark.parametrize("options", [{"image_size": 0}, {"on_bad": "ignore"}])
def test_impossible_options(options: dict, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Folder(str(captioned(tmp_path)), **options)
