"""What is done with a finished run: sample, classify, and train on it, by the commands."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image

import mmgen as package
from mmgen.images import decode
from tests.pipes import unread
from tests.tiny import QUIET, RUN, mmgen, start


def numbered(directory: Path) -> dict[int, tuple[str, torch.Tensor]]:
    """Drawings by their number, with the caption they say in a text chunk."""
    found = {}
    for file in sorted(directory.glob("[0-9]*.png")):
        with Image.open(file) as image:
            facts = dict(image.text)
        found[int(facts["number"])] = (facts["caption"], decode(file))
    return found


def test_a_run_that_nobody_reads_does_everything(work, call):
    """As in `mmgen run … 2>&1 | head -1`, at the earliest possible time."""
    run = work / "runs/tiny"
    (run / "report.html").unlink()
    with unread(errors=True):
        code, _, _ = call("run", "run.name=tiny", *RUN, QUIET)
    assert code == 141
    assert (run / "report.html").is_file()
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert not (run / "error.log").exists()


def test_sample_draws_ranks_and_keeps(work):
    result = mmgen("sample", "a red bar", "num_images=9", "keep=3", "seed=4", "out=drawn", cwd=work)
    assert result.returncode == 0, result.stderr
    assert str(Path("drawn", "sheet.png")) in result.stdout
    assert sorted(p.name for p in (work / "drawn").iterdir()) == [
        "001.png",
        "002.png",
        "003.png",
        "samples.json",
        "sheet.png",
    ]
    (record,) = json.loads((work / "drawn/samples.json").read_text())
    assert (record["caption"], record["seed"]) == ("a red bar", 4)
    assert record["scores"] == sorted(record["scores"], reverse=True)
    expected = package.load(str(work / "runs/tiny")).generate("a red bar", num_images=9, keep=3, seed=4)
    assert record["numbers"] == expected.numbers.tolist()
    assert record["scores"] == pytest.approx(expected.scores.tolist(), abs=1e-6)
    for rank, image in enumerate(expected.images):
        torch.testing.assert_close(decode(work / f"drawn/{rank + 1:03d}.png"), image, atol=2.1e-3, rtol=0)


def test_the_same_seed_and_number_is_the_same_picture(work, call):
    for count in (3, 9):
        code, _, err = call("sample", "a red bar", f"num_images={count}", f"keep={count}", "seed=4", f"out=of{count}")
        assert code == 0, err
    few, more = numbered(work / "of3"), numbered(work / "of9")
    assert (sorted(few), sorted(more)) == (list(range(3)), list(range(9)))
    for number, (caption, image) in few.items():
        assert caption == more[number][0] == "a red bar"
        assert torch.equal(image, more[number][1])


def test_several_captions_each_get_their_pictures(work, call):
    code, out, err = call("sample", "a red bar", "num_images=2", "keep=2", "out=both", "--", "colour=blue")
    assert code == 0, err
    assert len(list((work / "both").glob("00-*.png"))) == 2
    assert len(list((work / "both").glob("01-*.png"))) == 2
    assert "colour=blue: kept 2 of 2" in out


def test_without_a_place_a_new_one_is_made_each_time(work, call):
    for _ in range(2):
        assert call("sample", "a red bar!", "num_images=1", "keep=1")[0] == 0
    places = list((work / "samples").iterdir())
    assert len(places) == 2
    assert all("a-red-bar" in place.name for place in places)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["sample"], 2, "there is no caption"),
        (["sample", " "], 2, "the caption is empty"),
        (["sample", "word " * 90], 2, "longer than the 12 tokens"),
        (["sample", "a", "num_images=2", "keep=3"], 2, "cannot keep 3 of 2"),
        (["sample", "a", "num_images=0"], 2, "num_images"),
        (["sample", "a", "out=red.png"], 2, "'red.png' is in use"),
        (["sample", "a", "run=runs/tiny/tokenizer"], 5, "no trained generator"),
        (["classify", "gone.png", "a", "b"], 2, "'gone.png' does not exist"),
        (["classify", "red.png", "a"], 2, "at least two labels"),
        (["classify", "red.png", "a", "a"], 2, "given twice"),
        (["classify", "red.png", "labels=gone.txt"], 3, "'gone.txt' cannot be read"),
        (["classify", "red.png", "a", "b", "out=blue.png"], 2, "'blue.png' is in use"),
        (["export"], 2, "needs a directory"),
        (["export", "runs/gone", "exported-gone"], 5, "holds no finished run"),
    ],
)
def test_what_cannot_be_done_is_refused(call, arguments, code, words):
    found, out, err = call(*arguments)
    assert (found, out) == (code, "")
    assert words in err
    assert err.count("\n") <= 6


def test_classify_takes_files_for_pictures_and_the_rest_for_labels(work, call):
    (work / "labels.txt").write_text("a blue bar\n\n a green square \n", encoding="utf-8")
    code, out, err = call("classify", "red.png", "a red bar", "blue.png", "labels=labels.txt", "out=shares.json")
    assert code == 0, err
    results = json.loads((work / "shares.json").read_text())
    assert [result["picture"] for result in results] == ["red.png", "blue.png"]
    model = package.load(str(work / "runs/tiny"))
    for result in results:
        assert result["shares"].keys() == {"a red bar", "a blue bar", "a green square"}
        assert sum(result["shares"].values()) == pytest.approx(1)
        expected = model.classify(work / result["picture"], ["a red bar", "a blue bar", "a green square"])
        assert result["shares"] == expected
    assert "red.png" in out
    assert "a green square" in out


def test_classify_takes_everything_after_two_dashes_as_words(call):
    code, out, err = call("classify", "red.png", "--", "colour=red", "-blue")
    assert code == 0, err
    assert "colour=red" in out
    assert "-blue" in out


def test_templates_stand_around_the_labels(work, call):
    code, _, err = call("classify", "red.png", "red", "blue", "templates=['a {} bar']", "out=templates.json")
    assert code == 0, err
    (result,) = json.loads((work / "templates.json").read_text())
    model = package.load(str(work / "runs/tiny"))
    shares = model.classify(work / "red.png", ["a red bar", "a blue bar"])
    assert result["shares"] == pytest.approx({"red": shares["a red bar"], "blue": shares["a blue bar"]}, abs=1e-6)


def test_ctrl_c_while_drawing_is_one_line(work):
    with start("sample", "a red bar", "num_images=100000", "keep=1", "out=stopped-drawing", cwd=work) as process:
        line = process.stderr.readline()
        assert line.startswith("drawing: "), line
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    (line,) = [line for line in err.splitlines() if not line.startswith("drawing: ")]  # the bar's last state
    assert line == "interrupted"
    assert out == ""
    assert not (work / "stopped-drawing").exists()


# ---- training one part at a time


def test_a_generator_is_trained_on_an_earlier_tokenizer_and_goes_on_from_an_earlier_one(work, call):
    train = [
        *("train", "task=generator", *RUN[:3], "generator.embed_dim=32", "generator.num_layers=1"),
        *("generator.num_heads=2", "trainer.max_steps=3", "task.batch_size=8", QUIET),
    ]
    text = "task.text_tokenizer={vocab_size: 280, context_length: 12, bpe_dropout: 0.1}"
    code, out, err = call(*train, text, "run.name=first", "tokenizer_from=runs/tiny")
    assert code == 0, err
    assert str(Path("runs/first/model")) in out
    # A fine-tuning reads with the text tokenizer that the weights were trained with.
    other = text.replace("280", "270")
    code, _, err = call(*train, other, "run.name=second", "tokenizer_from=runs/tiny", "init_from=runs/first", "seed=8")
    assert code == 0, err
    texts = {name: (work / "runs" / name / "model/text_tokenizer.json").read_text() for name in ("first", "second")}
    assert texts["first"] == texts["second"]
    code, _, err = call(*train, text, "run.name=third", "tokenizer_from=runs/tiny", "init_from=runs/first",
                        "generator.embed_dim=16")  # fmt: skip
    assert code == 5
    assert "do not fit" in err
    code, _, err = call(*train, text, "run.name=fourth", "tokenizer_from=runs/tiny", "init_from=runs/tiny/encoder")
    assert code == 5
    assert "holds no generator, only encoder" in err
