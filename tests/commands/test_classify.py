"""`mmgen classify`: packs, what is kept for the next time, the page, and questions that make no sense."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

import mmgen as package
from mmgen.trio import Trio
from tests.tiny import files

ASKED = ["classify", "red.png", "a red bar", "a blue bar"]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory of class features of its own."""
    monkeypatch.setenv("MMGEN_CACHE", str(tmp_path / "caches"))
    return tmp_path / "caches" / "classes"


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows when labels are encoded."""
    found: list[int] = []
    encode = Trio.class_features

    def counting(self, labels, templates=("{}",), **options):
        found.append(len(labels))
        return encode(self, labels, templates, **options)

    monkeypatch.setattr(Trio, "class_features", counting)
    return found


def shares(file: Path) -> dict[str, float]:
    return json.loads(file.read_text(encoding="utf-8"))[0]["shares"]


def test_class_features_are_kept_and_taken_the_next_time(call, kept, encoded, tmp_path):
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    assert call(*ASKED, f"out={first}")[0] == 0
    assert (len(list(kept.iterdir())), encoded) == (1, [2])
    assert call(*ASKED, f"out={second}")[0] == 0
    assert (len(list(kept.iterdir())), encoded) == (1, [2])
    assert first.read_bytes() == second.read_bytes()
    assert call(*ASKED, "templates=['my {}']")[0] == 0
    assert call(*ASKED, "a green bar")[0] == 0
    assert (len(list(kept.iterdir())), encoded) == (3, [2, 2, 3])


def test_what_was_kept_and_is_damaged_is_computed_anew_and_said_so(call, kept, encoded, tmp_path):
    assert call(*ASKED, f"out={tmp_path}/first.json")[0] == 0
    (file,) = kept.iterdir()
    good = file.read_bytes()
    file.write_bytes(good[:-3] + b"\0\0\0")
    code, _, err = call(*ASKED, f"out={tmp_path}/second.json")
    assert code == 0
    assert f"{file} is damaged" in err
    assert "computed anew" in err
    assert encoded == [2, 2]
    assert file.read_bytes() == good
    assert shares(tmp_path / "first.json") == shares(tmp_path / "second.json")


def test_nothing_is_kept_where_nothing_shall_or_can_be(call, kept, tmp_path, monkeypatch):
    assert call(*ASKED, "cache=false")[0] == 0
    assert not kept.exists()
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MMGEN_CACHE", str(tmp_path / "file"))
    code, out, err = call(*ASKED)
    assert code == 0
    assert "a red bar" in out
    assert "cannot be kept" in err


def test_an_encoder_alone_classifies(call, work, tmp_path, monkeypatch):
    """The newest finished run with an encoder need not have a generator; a part of a run will do."""
    shutil.copytree(work / "runs/tiny/encoder/model", tmp_path / "runs/alone/model")
    (tmp_path / "runs/alone/status.json").write_text((work / "runs/tiny/encoder/status.json").read_text())
    shutil.copy(work / "red.png", tmp_path)
    expected = call(*ASKED, f"out={tmp_path}/whole.json")
    assert expected[0] == 0
    for run in ("runs/alone", "runs/alone/model"):
        monkeypatch.chdir(tmp_path)
        out = f"{run.replace('/', '-')}.json"
        assert call(*ASKED, f"run={run}", f"out={out}")[0] == 0
        assert shares(tmp_path / out) == shares(tmp_path / "whole.json")


def test_a_pack_gives_labels_and_templates_and_ones_own_stand_in(call, work, tmp_path):
    pack = tmp_path / "pack.yaml"
    pack.write_text('labels: [[red, crimson], blue]\ntemplates: ["a {} bar"]\n')
    model = package.load(str(work / "runs/tiny"))
    for extra, labels, templates in (
        ([], {"red": ("red", "crimson"), "blue": ("blue",)}, ["a {} bar"]),
        (["green", "blue"], ["green", "blue"], ["a {} bar"]),
        (["templates=['{}']"], {"red": ("red", "crimson"), "blue": ("blue",)}, ["{}"]),
    ):
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        code, _, err = call("classify", "red.png", f"prompts={pack}", *extra, f"out={out}")
        assert code == 0, err
        assert shares(out) == pytest.approx(model.classify(work / "red.png", labels, templates), abs=1e-6)


def test_a_published_pack_is_cut_to_the_encoder_and_a_bar_counts_its_captions(call, kept):
    code, out, err = call("classify", "red.png", "prompts=cifar100")
    assert code == 0, err
    assert "encoding: 1800/1800 captions" in err
    (told,) = re.findall(r"[\d,]+ captions are longer than the encoder's 12 tokens, and were cut", err)
    assert f"the class features are kept in {kept}" in err
    assert "and 80 more labels" in out
    code, _, err = call("classify", "red.png", "prompts=cifar100")
    assert (code, err.strip()) == (0, told)  # what was kept was cut as well


@pytest.mark.parametrize(("out", "html"), [("a.json", "./a.json"), ("a.json", "there/a.json"), ("a.json", "a.json")])
def test_a_page_and_a_record_of_one_file_are_refused_however_it_is_spelt(call, tmp_path, monkeypatch, work, out, html):
    (tmp_path / "there").symlink_to(tmp_path, target_is_directory=True)
    shutil.copy(work / "red.png", tmp_path)
    monkeypatch.chdir(tmp_path)
    code, _, err = call(*ASKED, f"run={work}/runs/tiny", f"out={out}", f"html={html}")
    assert (code, "name one file" in err) == (2, True)
    assert not (tmp_path / "a.json").exists()


class Links(HTMLParser):
    """Everything that a page would load, its tags and its text."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_one_file_and_shows_what_was_found(call, tmp_path):
    hostile = "<script>"
    page = tmp_path / "page.html"
    code, out, err = call("classify", "red.png", "blue.png", hostile, *"abcdef", f"html={page}")
    assert code == 0, err
    assert str(page) in out
    text = page.read_text(encoding="utf-8")
    parser = Links()
    parser.feed(text)
    assert len(parser.loaded) == 2
    assert all(link.startswith("data:image/png;base64,") for link in parser.loaded)
    assert "script" not in parser.tags
    assert parser.tags.count("svg") == 10
    assert hostile in "".join(parser.text)
    assert "2 others together" in " ".join("".join(parser.text).split())
    assert re.findall(r"https?://|url\(|@import", text) == []
    assert "default-src 'none'" in text


def test_words_are_no_markup_and_move_no_cursor(call):
    code, out, _ = call("classify", "red.png", "--", "[red]x[/red]", "a\x1b[2Jb")
    assert code == 0
    assert "[red]x[/red]" in out
    assert "\x1b" not in out


def test_a_picture_may_be_called_anything(call, work, tmp_path):
    names = [str(tmp_path / name) for name in ("[red]\x1b[2Jx.png", "\udcff.png")]
    for name in names:
        shutil.copy(work / "red.png", name)
    written = [f"out={tmp_path}/s.json", f"html={tmp_path}/s.html"]
    code, out, err = call("classify", *names, "a red bar", "a blue bar", *written)
    assert code == 0, err
    assert "[red]" in out
    assert "\x1b" not in out
    assert [one["picture"] for one in json.loads((tmp_path / "s.json").read_text("utf-8"))] == names


@pytest.fixture(scope="module")
def asked(work) -> Path:
    """With all that the bad questions name."""
    (work / "few.txt").write_text("a\nb\n")
    (work / "empty.txt").write_text("\n \n")
    (work / "twice.txt").write_text("a\nb\nc\nb\n")
    (work / "latin.txt").write_bytes("ein Bär\n".encode("latin-1"))
    (work / "few.yaml").write_text("labels: [1, 2]\n")
    (work / "long.txt").write_text("a\n" + "x" * 1_000_000)
    (work / "million.txt").write_text("".join(f"label {i}\n" for i in range(1_000_000)))
    return work


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["red.png"], 2, ["at least two labels, there are 0", "MMG-C13"]),
        (["red.png", "a", " "], 2, ["missing or empty"]),
        (["red.png", "a", "a", "labels=few.txt"], 2, ["'a' is given twice"]),
        (["red.png", "a", " a "], 2, ["'a' is given twice"]),
        (["red.png", "b ", "labels=few.txt"], 2, ["'b' is given twice"]),
        (["red.png", "labels=empty.txt"], 2, ["at least two labels, there are 0"]),
        (["red.png", "labels=twice.txt"], 2, ["'b' is given twice"]),
        (["red.png", "labels=latin.txt"], 3, ["'latin.txt' cannot be read"]),
        (["red.png", "labels=."], 3, ["'.' cannot be read"]),
        (["red.png", "labels=million.txt"], 2, ["there are 1,000,000 labels, at most 100,000"]),
        (["red.png", "labels=long.txt"], 2, ["'xxxx", "longer than the 12 tokens"]),
        (["red.png", "a", "b", "templates=['a picture']"], 2, ["no place for the label", "MMG-C14"]),
        (["red.png", "a", "b", "templates=['{} {}']"], 2, ["or more than one"]),
        (["few.txt", "a", "b"], 3, ["few.txt", "not a JPEG"]),
        (["red.png", "a", "b", "html=gone/page.html"], 2, ["'gone/page.html' cannot be written", "mkdir -p 'gone'"]),
        (["red.png", "a", "b", "html=few.txt"], 2, ["'few.txt' is in use", "html=few-2.txt"]),
        (["red.png", "a", "b", "html=new.x", "out=new.x"], 2, ["name one file"]),
        (["red.png", "prompts=cifar"], 2, ["no option 'cifar'", "prompts=cifar10"]),
        (["red.png", "prompts=few.yaml"], 3, ["'few.yaml' is no pack of prompts", "MMG-D21"]),
    ],
)
def test_questions_that_make_no_sense_are_refused_and_nothing_is_written(call, asked, kept, arguments, code, words):
    before = files(asked)
    start = time.process_time()
    found, out, err = call("classify", *arguments)
    assert time.process_time() - start < 5
    assert (found, out) == (code, "")
    assert [word for word in words if word not in err] == [], err
    assert 2 <= err.count("\n") <= 6
    assert files(asked) == before
    assert not kept.exists()


def test_an_endless_file_of_labels_is_refused(call):
    assert os.path.exists("/dev/zero")
    code, _, err = call("classify", "red.png", "labels=/dev/zero")
    assert code == 2
    assert "more than 64 MiB of labels" in err


@pytest.mark.parametrize("arguments", [ASKED, ["sample", "a red bar", "out=drawn", "num_images=1"]])
def test_using_models_takes_no_lightning(arguments: list[str], work: Path):
    """Its import takes seconds, more than classifying does."""
    heavy = ("pytorch_lightning", "lightning_fabric", "torch._dynamo", "wandb")
    code = (
        "import sys, mmgen.cli\n"
        f"code = mmgen.cli.main({arguments!r})\n"
        f"print(code, [m for m in {heavy!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=work)
    assert done.stderr.splitlines()[-1] == "0 []", done.stderr


@pytest.mark.parametrize(("word", "why"), [("bleu.png", "does not exist"), ("more/pictures", "is a directory")])
def test_a_picture_that_is_missing_is_no_label(call, kept, work, word, why):
    (work / "more/pictures").mkdir(parents=True, exist_ok=True)
    code, _, err = call("classify", "red.png", word, "a red bar", "a blue bar")
    assert code == 2
    assert "error[MMG-C15]: a picture is missing" in err
    assert f"{word!r} {why}" in err


def test_a_directory_to_write_into_is_refused_before_anything_is_written(call, kept, tmp_path):
    (tmp_path / "page").mkdir()
    code, _, err = call(*ASKED, f"out={tmp_path}/shares.json", f"html={tmp_path}/page")
    assert code == 2
    assert "is a directory" in err
    assert f"html={tmp_path}/page/classified.html" in err
    assert list(files(tmp_path)) == []
