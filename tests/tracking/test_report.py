"""The report, written from a directory as `mmgen run` leaves it, whole, in pieces and damaged."""

from __future__ import annotations

import base64
import copy
import html
import json
import random
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mmgen.images import save_png
from mmgen.tracking.album import Album
from mmgen.tracking.report import write_report
from mmgen.tracking.run_files import Figure, duration, readable, wilson
from tests.tracking.fake_run import CAPTIONS, make_run, make_stage, status, write

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """A page as a browser takes it apart: its tags with their attributes, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = re.sub(r"\s+", " ", self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)
        self.text += " "

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def ids(self) -> set[str]:
        return {str(attributes["id"]) for _, attributes in self.tags if "id" in attributes}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "quickstart")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to break."""
    return Path(shutil.copytree(finished, tmp_path / "quickstart"))


def change(path: Path, **values: Any) -> None:
    write(path, json.loads(path.read_text()) | values)


def test_the_report_of_a_whole_run(finished: Path) -> None:
    path = write_report(finished)
    assert path == finished / "report.html"
    assert path.stat().st_size < 2_000_000
    page = Page(path)
    sections = {"figures", "drawings", "reconstructions", "classified", "curves", "timings", "lineage", "config"}
    assert sections <= page.ids()
    for text in (
        "image tokenizer vq, generator transformer, encoder clip", "emoji, 3,919 pictures, 32 × 32 pixels",
        "22 November 2026, 20:40 UTC", "15 min 34 s", "24.31 dB", "46.3 %", "41–52 %", "0.3 %", "k-means on patches",
        "depends on dataset, encoder",
        "Aesthetics: the dataset declares no classes and templates", "1 · 0.412", "Held-out pairs", "from the data",
        "7 of the 8 shown are right", "Learning rate", "train 0.498 val 0.584", "Measuring: Nearest picture 6.3 s",
        "03fa9c1e5b7d", "CC-BY 4.0", "torch 2.13.0", "guidance_scale: 3.0",
    ):  # fmt: skip
        assert text in page.text, text
    for caption in CAPTIONS:
        assert caption in page.text
    # four drawings of each caption, all but one with its original; two grids; the classified
    assert len(page.all("img")) == 4 * 8 + 7 + 2 + 8
    charts = [svg for svg in page.all("svg") if svg.get("class") == "chart"]
    assert len(charts) == 6 + 3 + 3


def test_nothing_comes_from_elsewhere_and_nothing_runs(finished: Path) -> None:
    path = write_report(finished)
    page = Page(path)
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in page.all("img"))
    assert not page.all("script")
    assert not page.all("link")
    assert not page.all("iframe")
    links = [str(link["href"]) for link in page.all("a")]
    assert links
    assert all(link[1:] in page.ids() for link in links if link.startswith("#"))
    assert all((finished / link).exists() for link in links if not link.startswith("#"))
    assert not re.search(r"url\(|@import|https?:", path.read_text())


def test_it_can_be_read_by_who_cannot_see_it(finished: Path) -> None:
    page = Page(write_report(finished))
    assert all(image["alt"] for image in page.all("img"))
    assert all(header.get("scope") for header in page.all("th"))
    assert all(svg.get("aria-label") or svg.get("aria-hidden") == "true" for svg in page.all("svg"))
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == 1


def test_no_text_from_data_becomes_markup(run: Path) -> None:
    evidence = json.loads((run / "evaluation.json").read_text())
    for entry in evidence["drawings"]:
        entry["caption"] = entry["split"] = HOSTILE
    for entry in evidence["classified"]:
        entry["truth"] = HOSTILE
        entry["labels"][0]["label"] = HOSTILE
    zero_shot = evidence["findings"]["zero_shot"]
    zero_shot["numbers"][0] |= {"note": HOSTILE, "name": f"zero_shot/{HOSTILE}", "unit": HOSTILE}
    zero_shot["tables"] = {HOSTILE: [{HOSTILE: HOSTILE}]}
    evidence["findings"] |= {HOSTILE: {"stood_aside": HOSTILE}}
    evidence["seconds"] = {HOSTILE: 1.0}
    write(run / "evaluation.json", evidence)
    change(run / "lineage.json", attribution=HOSTILE, versions={HOSTILE: HOSTILE}, config_fingerprint=HOSTILE)
    (run / "config.yaml").write_text(yaml.safe_dump({"run": {"name": HOSTILE}, "dataset": {"name": HOSTILE}}))
    with (run / "tokenizer" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 1500, f"{HOSTILE}/{HOSTILE}": 1.0, HOSTILE: 2.0}) + "\n")

    page = Page(write_report(run))
    assert not page.all("script")
    assert not [tag for tag, attributes in page.tags if "onerror" in attributes]
    assert page.text.count("<script>alert(1)</script>") > 30


def test_secrets_and_paths_of_this_machine_stay_out(finished: Path) -> None:
    text = write_report(finished).read_text()
    assert "hunter2" not in text
    assert str(finished.parent) not in text


def test_the_report_of_a_single_stage(tmp_path: Path) -> None:
    page = Page(write_report(make_stage(tmp_path / "tokenizer-1", "tokenizer", 600)))
    assert page.ids() >= {"curves", "timings", "config"}
    assert not page.ids() & {"figures", "drawings", "reconstructions", "classified", "lineage"}
    assert "image tokenizer vq" in page.text
    assert "Training the image tokenizer" in page.text
    assert len([svg for svg in page.all("svg") if svg.get("class") == "chart"]) == 6


def test_a_generator_s_attention_is_shown_as_it_was_last_and_as_large_as_it_is(tmp_path: Path) -> None:
    stage = make_stage(tmp_path / "generator-1", "generator", 600)
    assert "Where the generator looked" not in Page(write_report(stage)).text
    for step in (200, 600):
        save_png(torch.full((3, 1200, 900), step / 1000), stage / "samples" / f"attention-{step:06d}.png")
    page = Page(write_report(stage))
    assert "Where the generator looked at the last validation" in page.text
    (picture,) = [img for img in page.all("img") if img["alt"].startswith("Where the generator looks")]
    newest = stage / "samples" / "attention-000600.png"
    assert base64.b64decode(picture["src"].partition(",")[2]) == newest.read_bytes()


def test_the_codebook_is_shown_as_it_was_last(tmp_path: Path) -> None:
    stage = make_stage(tmp_path / "tokenizer-1", "tokenizer", 600)
    before = Page(write_report(stage))
    assert "How often each code is used" not in before.text
    for step, grey in ((200, 0.2), (600, 0.6), (90, 0.9)):
        save_png(torch.full((3, 8, 16), grey), stage / "samples" / f"codebook-{step:06d}.png")
    shares = ((54, 0.5), (109, 0.873))
    rows = [{"step": step, "time": 1.0, "train/epoch_codebook_usage": share} for step, share in shares]
    rows[-1] |= {"train/epoch_codebook_perplexity": 431.7, "train/epoch_dead_codes": 130, "train/tau": 0.25}
    with (stage / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    page = Page(write_report(stage))
    assert "Over the last whole pass: 87.3 % of the codes, perplexity 432, dead codes: 130." in page.text
    (picture,) = [img for img in page.all("img") if img["alt"].startswith("How often each code")]
    newest = stage / "samples" / "codebook-000600.png"
    assert base64.b64decode(picture["src"].partition(",")[2]) == newest.read_bytes()
    charts = [svg["aria-label"].partition(" over")[0] for svg in page.all("svg") if svg.get("class") == "chart"]
    assert {"Epoch codebook usage", "Epoch dead codes", "Tau"} <= set(charts)


def test_an_interrupted_run_says_how_far_it_came(run: Path) -> None:
    for name in ("evaluation.json", "lineage.json"):
        (run / name).unlink()
    shutil.rmtree(run / "encoder")
    write(run / "generator" / "status.json", status("generator", 1200, 3000, 200.0) | {"state": "preempted"})
    write(run / "status.json", status("generator", 0, 0, 0.0) | {"state": "preempted"})
    page = Page(write_report(run))
    assert "preempted: generator, step 1,200 of 3,000" in page.text
    assert "preempted" not in Page(write_report(make_stage(run.parent / "x", "encoder", 100))).text


def test_every_file_may_be_missing_or_damaged(run: Path) -> None:
    files = [file for file in run.rglob("*") if file.is_file()]
    assert len(files) > 50
    damaged = {}
    for file in [file for file in files if file.suffix != ".png"]:
        content = file.read_bytes()
        file.write_bytes(b"\xff\x00{not json: [")
        damaged[str(file.relative_to(run))] = Page(write_report(run)).text
        file.unlink()
        write_report(run)
        file.write_bytes(content)
    for name in ("evaluation.json", "lineage.json", "status.json", "config.yaml"):
        assert f"{name} could not be read" in damaged[name]
    for file in files:
        if file.suffix == ".png":
            file.write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    page = Page(write_report(run))
    assert not page.all("img")
    assert "pictures are not in this report" in page.text
    shutil.rmtree(run / "samples")
    write_report(run)


def test_an_empty_directory_has_a_report(tmp_path: Path) -> None:
    assert tmp_path.name in Page(write_report(tmp_path)).text


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in nested JSON; of a list, the first."""
    inside = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, inner in inside for place in places(inner, (*path, key))]


def test_no_value_of_a_wrong_type_stops_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", captions=CAPTIONS[:1], steps={"generator": 30})
    files = [run / name for name in ("evaluation.json", "lineage.json", "status.json", "generator/status.json")]
    cases = [(file, place) for file in files for place in places(json.loads(file.read_text()))]
    assert len(cases) > 120
    wrong = [None, "x", -1, float("nan"), [], {}, [1], {"x": 1}, True]
    dice = random.Random(1)
    for file, place in dice.sample(cases, 120):
        content = json.loads(file.read_text())
        changed = copy.deepcopy(content)
        inner = changed
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = dice.choice(wrong)
        write(file, changed)
        assert "</html>" in write_report(run).read_text(), (file.name, place)
        write(file, content)


def test_large_pictures_are_made_small_and_too_many_left_out(run: Path) -> None:
    save_png(torch.rand(3, 1200, 800), run / "samples" / "originals.png")
    album = Album(run, budget=1_000_000)
    small = album.picture("samples/originals.png", 150)
    assert small is not None
    assert (small.width, small.height) == (100, 150)
    assert len(small.address) < 300_000
    drawn = [album.picture(f"samples/{number}.png") for number in range(3)]
    assert drawn == [None] * 3
    for number in range(4):
        save_png(torch.rand(3, 400, 400), run / "samples" / f"{number}.png")
    album = Album(run, budget=1_000_000)
    drawn = [album.picture(f"samples/{number}.png") for number in range(4)]
    assert [picture is not None for picture in drawn] == [True, True, False, False]
    assert album.left_out == ["samples/2.png", "samples/3.png"]


def test_only_pictures_of_the_run_get_in(run: Path) -> None:
    save_png(torch.rand(3, 32, 32), run.parent / "other.png")
    (run / "samples" / "link.png").symlink_to(run.parent / "other.png")
    (run / "samples" / "notes.png").write_text("no picture")
    album = Album(run)
    for path in (
        "../other.png",
        str(run.parent / "other.png"),
        "samples/link.png",
        "samples/notes.png",
        "samples",
        None,
        3,
    ):
        assert album.picture(path) is None


def test_pictures_are_shown_at_whole_multiples(run: Path) -> None:
    picture = Album(run).picture("samples/drawing-00-1.png")
    assert picture is not None
    assert (picture.width, picture.height) == (32, 32)
    assert picture.zoomed(128) == (128, 128)
    assert picture.zoomed(100) == (96, 96)
    assert picture.zoomed(20) == (32, 32)


def test_intervals_are_wilsons() -> None:
    assert wilson(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(1.0, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)


def test_a_share_of_the_codes_has_no_interval_over_pictures() -> None:
    assert Figure("zero_shot/tone", 0.9, 330, "%").shown_interval == "86–93 %"
    assert Figure("reconstruction/codebook_usage", 0.9, 330, "%").shown_interval == ""
    assert Figure("reconstruction/psnr", 24.0, 330, "dB").shown_interval == ""


def test_what_should_be_reached_stands_first(run: Path) -> None:
    found = json.loads((run / "evaluation.json").read_text())
    finding = next(one for one in found["findings"].values() if len(one["numbers"]) > 1)
    assert "What should be reached" not in write_report(run).read_text()
    finding["numbers"][0]["wanted"] = None
    finding["numbers"][1]["wanted"] = 1e9
    found["wanted_and_not_found"] = ["other/right"]
    (run / "evaluation.json").write_text(json.dumps(found))
    page = write_report(run).read_text()
    first = page[page.index("What should be reached") : page.index("</tbody>")]
    assert "✗ wanted" in first
    assert "other/right" in first
    noted = next(number for number in finding["numbers"][:2] if number["note"])
    assert html.escape(noted["note"], quote=False) in first, "how a figure is to be read stands beside it"
    assert first.count("<tr>") == 3, "one with nothing to reach, one that is missed, one that nobody found"
    assert page.count("✗ wanted") == 2, "and once more in its place"


def test_a_table_over_n_has_a_chart(run: Path) -> None:
    evidence = json.loads((run / "evaluation.json").read_text())
    finding = next(iter(evidence["findings"].values()))
    rows = [{"N": n, "ranked %": 10.0 * n, "by a perfect ranker %": 20.0 * n} for n in (1, 2, 4)]
    others = {"two rows": rows[:2], "another": [{"steps": n, "a %": n} for n in (1, 2, 3)]}
    finding["tables"] = {"the best of N": rows, **others}
    (run / "evaluation.json").write_text(json.dumps(evidence))
    page = write_report(run).read_text()
    charts = re.findall(r'aria-label="([^"]*) over N[^"]*: ([^"]*)"', page)
    assert charts == [("the best of N", "ranked % ends at 40; by a perfect ranker % ends at 80")]


def test_tables_keep_what_only_later_rows_have(run: Path) -> None:
    evidence = json.loads((run / "evaluation.json").read_text())
    evidence["findings"]["zero_shot"]["tables"] = {
        "Zero-shot: tone": [{"class": "a"}, {"class": "b", "right, %": 91.26}]
    }
    write(run / "evaluation.json", evidence)
    assert "Zero-shot: tone class right, % a – b 91.3" in Page(write_report(run)).text


def test_names_and_durations_read_well() -> None:
    assert [readable(name) for name in ("codebook_usage", "psnr", "lr", "R@1", "heldout_pairs", "n")] == [
        "Codebook usage", "PSNR", "Learning rate", "R@1", "Held-out pairs", "n",
    ]  # fmt: skip
    assert [duration(seconds) for seconds in (0.84, 41.2, 680, 7500)] == ["0.8 s", "41 s", "11 min 20 s", "2 h 5 min"]
