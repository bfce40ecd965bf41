"""Drawing with a finished run, by the commands: pictures that can be drawn again, redraw, caption, evaluate."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image

import mmgen as package
from mmgen import cli
from mmgen.images import decode, save_png
from tests.tiny import QUIET, RUN, files


def chunks(file: Path) -> dict[str, str]:
    with Image.open(file) as image:
        return dict(image.text)


# ---- what a picture says of itself


@pytest.fixture
def asked(work, call):
    """Draws into a new directory; gives it."""

    def run(name: str, command: str, *arguments: str) -> Path:
        code, out, err = call(command, f"out={name}", *arguments)
        assert code == 0, err
        assert f"pictures: {name}" in out
        return work / name

    return run


def test_a_picture_says_what_made_it(asked, finished):
    drawn = asked("told", "sample", "a réd bär", "num_images=5", "keep=2", "seed=4", "sampler=greedy")
    facts = chunks(drawn / "002.png")
    model = package.load(str(finished))
    assert (facts["caption"], facts["seed"], facts["num_images"]) == ("a réd bär", "4", "5")
    assert json.loads(facts["sampler"]) == {**model.sampler_config, "temperature": 0.0}
    assert json.loads(facts["parts"]) == model.fingerprints
    assert set(model.fingerprints) == {"tokenizer", "generator", "encoder"}
    assert json.loads(facts["versions"]) == {"mmgen": package.__version__, "torch": torch.__version__}
    (record,) = json.loads((drawn / "samples.json").read_text())
    assert record["files"] == ["001.png", "002.png"]
    assert [float(chunks(drawn / file)["score"]) for file in record["files"]] == pytest.approx(
        record["scores"], abs=1e-6
    )
    assert [int(chunks(drawn / file)["number"]) for file in record["files"]] == record["numbers"]
    for key in ("sampler", "parts", "versions"):
        assert json.loads(facts[key]) == record[key]


def test_an_option_alone_changes_the_sampler_that_the_run_was_judged_with(asked, finished):
    drawn = asked("warmer", "sample", "a red bar", "num_images=3", "sampler.temperature=0.35")
    judged = package.load(str(finished)).sampler_config
    assert json.loads(chunks(drawn / "001.png")["sampler"]) == {**judged, "temperature": 0.35}
    assert len(list(drawn.glob("0*.png"))) == 3  # four are kept, or all where fewer are drawn


@pytest.mark.parametrize(
    "arguments",
    [
        ("sample", "a red bar", "num_images=6", "keep=3", "seed=4", "sampler=autoregressive",
         "sampler.temperature=1.3", "sampler.top_k=20", "sampler.min_p=0.01", "sampler.guidance_scale=1.5"),
        ("sample", "num_images=3", "keep=1", "--", "a=\"b\" 'c'"),
        ("redraw", "red.png", "a blue bar", "num_images=4", "keep=2", "row=9", "column=4", "keep_pixels=true"),
    ],
    ids=["sampler", "quotes", "redraw"],
)  # fmt: skip
def test_from_its_words_alone_a_picture_is_drawn_again_bit_for_bit(asked, arguments, request):
    name = request.node.callspec.id
    first = asked(f"first-{name}", *arguments)
    program, *words = shlex.split(chunks(first / "001.png")["command"])
    assert program == "mmgen"
    second = asked(f"second-{name}", *words)
    names = sorted(path.name for path in first.iterdir())
    assert names == sorted(path.name for path in second.iterdir())
    assert len(names) >= 3
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


# ---- redraw


def test_redraw_keeps_and_draws_and_says_what_could_not_be_seen(work, call, finished):
    code, out, err = call("redraw", "red.png", "a blue bar", "row=14", "column=8", "num_images=5", "out=redrawn")
    assert code == 0, err
    assert "row=14 lies inside a code, so rows from 12 on are redrawn" in out
    assert "column=8 lies inside a code, so columns from 6 on are redrawn" in out
    assert "6 of 16 codes are drawn, 10 are kept bit for bit; 1 of those come later in raster order" in out
    assert "\n....\n....\n.###\no###\n" in out
    (record,) = json.loads((work / "redrawn/samples.json").read_text())
    assert (record["picture"], record["redrawn"]) == ("red.png", "....\n....\n.###\no###")
    model = package.load(str(finished))
    expected = model.redraw(work / "red.png", "a blue bar", region=(14, 8), num_images=5, keep=4, seed=1)
    assert record["numbers"] == expected.numbers.tolist()
    for file, image in zip(record["files"], expected, strict=True):
        torch.testing.assert_close(decode(work / "redrawn" / file), image, atol=2.1e-3, rtol=0)
    kept = ~torch.tensor([[sign == "#" for sign in row] for row in record["redrawn"].splitlines()])
    codes = model.part("tokenizer").encode(model.picture(work / "red.png")[None])[0]
    assert torch.equal(expected.image_tokens.view(-1, 4, 4)[:, kept], codes[kept].expand(4, -1))


def test_every_picture_with_every_caption_each_with_its_own_region(work, call):
    """Pictures of two sizes: one row of pixels is another row of codes."""
    save_png(torch.rand(3, 48, 48, generator=torch.Generator().manual_seed(0)), work / "large.png")
    arguments = ("a blue bar", "large.png", "--", "shape=bar")
    code, out, err = call("redraw", "red.png", "row=12", "num_images=2", "keep=2", "out=every", *arguments)
    assert code == 0, err
    records = json.loads((work / "every/samples.json").read_text())
    assert [(r["picture"], r["caption"]) for r in records] == [
        ("red.png", "a blue bar"),
        ("red.png", "shape=bar"),
        ("large.png", "a blue bar"),
        ("large.png", "shape=bar"),
    ]
    assert [r["redrawn"].count("#") for r in records] == [8, 8, 12, 12]
    assert "red.png: 8 of 16" in out
    assert "large.png, shape=bar: kept 2 of 2" in out
    assert len(list((work / "every").glob("03-*.png"))) == 2


def test_a_mask_redraws_what_is_white(work, call):
    mask = torch.zeros(3, 24, 24)
    mask[:, 6:12, 6:12] = 1
    save_png(mask, work / "mask.png")
    code, out, err = call("redraw", "red.png", "a blue bar", "mask=mask.png", "num_images=2", "keep=2", "out=masked")
    assert code == 0, err
    (record,) = json.loads((work / "masked/samples.json").read_text())
    assert record["redrawn"] == "....\n.#oo\noooo\noooo"
    assert "10 of those come later in raster order" in out


BARS = ("reading: ", "drawing: ", "writing: ")
BAD = [
    (["redraw", "a cat", "row=8"], 2, ["there is no picture to redraw", "none of the words is a file"]),
    (["redraw", "gone.png", "a cat", "row=8"], 2, ["'gone.png' does not exist"]),
    (["redraw", "red.png", "row=8"], 2, ["there is no caption to draw"]),
    (["redraw", "red.png", " ", "row=8"], 2, ["the caption is empty"]),
    (["redraw", "red.png", "word " * 90, "row=8"], 2, ["longer than the 12 tokens"]),
    (["redraw", "red.png", "a cat"], 2, ["nothing says what is to be redrawn", "row=16"]),
    (["redraw", "red.png", "a cat", "row=24"], 2, ["row=24 lies outside the picture, which has 24 rows"]),
    (["redraw", "red.png", "a cat", "row=4", "unit=codes"], 2, ["row=4 lies outside", "4 rows of codes"]),
    (["redraw", "red.png", "a cat", "row=1", "unit=inches"], 2, ["unit", "pixels, codes"]),
    (["redraw", "red.png", "a cat", "row=8", "mask=blue.png"], 2, ["a mask and a corner both say"]),
    (["redraw", "red.png", "a cat", "mask=black.png"], 2, ["nothing of the picture is to be redrawn"]),
    (["redraw", "red.png", "a cat", "mask=small.png"], 2, ["the mask has 12 × 12 pixels, the picture 24 × 24"]),
    (["redraw", "red.png", "a cat", "mask=gone.png"], 3, ["gone.png"]),
    (["redraw", "labels", "a cat", "row=8"], 3, ["cannot decode the picture"]),
    (["redraw", "red.png", "a cat", "row=8", "out=pictures"], 2, ["'pictures' is in use"]),
    (["redraw", "red.png", "a cat", "row=8", "keep=9"], 2, ["cannot keep 9 of 8"]),
    (["sample", "a cat", "sampler=autoregressive", "sampler.min_p=2"], 2, ["min_p is 2.0"]),
    (["sample", "a cat", "sampler.min_p=2"], 2, ["min_p is 2.0"]),
    (["sample", "a cat", "sampler.temprature=2"], 2, ["sampler.temprature", "did you mean sampler.temperature"]),
    (["sample", "a cat", "encoder_from=runs/tiny/generator"], 5, ["holds no encoder", "encoder_from"]),
    (["caption", "gone.png"], 2, ["'gone.png' does not exist"]),
    (["caption", "red.png", "gone"], 2, ["'gone' is no picture"]),
    (["caption", "labels"], 3, ["cannot decode the picture"]),
    (["caption", "red.png"], 5, ["cannot caption pictures", "generator.order=image_first"]),
    (["caption", "red.png", "num_captions=2", "keep=3"], 2, ["cannot keep 3 of 2 captions"]),
    (["caption", "red.png", "top_p=0"], 2, ["top_p is 0.0"]),
    (["caption", "red.png", "out=blue.png"], 2, ["'blue.png' is in use"]),
    (["evaluate", "run=runs/tiny/generator"], 2, ["no evaluator is chosen"]),
    (["evaluate", "run=runs/tiny", "evaluator=[redrw]"], 2, ["redraw"]),
    (["evaluate", "run=runs/tiny", "dataset.image_size=24"], 2, ["dataset"]),
    (["evaluate", "run=runs/tiny", "dataset=folder", "dataset.path=pictures", "dataset.image_size=24"], 5,
     ["reads 16-pixel pictures, these have 24", "dataset.image_size=16"]),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "code", "words"), BAD)
def test_bad_input_is_told_and_nothing_is_written(work, call, arguments, code, words):
    save_png(torch.zeros(3, 24, 24), work / "black.png")
    save_png(torch.ones(3, 12, 12), work / "small.png")
    (work / "labels").write_text("a cat\n")
    before = files(work)
    found, out, err = call(*arguments)
    assert (found, out) == (code, ""), err
    told = [line for line in err.splitlines() if not line.startswith(BARS)]
    assert told[0].startswith("error[MMG-")
    assert 2 <= len(told) <= 6, err
    assert "fix: " in err
    assert [word for word in words if word not in err] == [], err
    assert files(work) == before


# ---- without an encoder, with a tokenizer from elsewhere


def test_a_generator_alone_draws_with_a_tokenizer_from_elsewhere_unranked(work, call):
    shutil.copytree(work / "runs/tiny/generator", work / "alone/generator")
    code, out, err = call(
        "sample", "a red bar", "run=alone", "tokenizer_from=runs/tiny", "num_images=5", "keep=2", "out=unranked"
    )
    assert code == 0, err
    assert "a red bar: drew 2, not ranked" in out
    assert "encoder_from=RUN" in out
    (record,) = json.loads((work / "unranked/samples.json").read_text())
    assert (record["scores"], record["numbers"]) == (None, [0, 1])
    assert "score" not in chunks(work / "unranked/001.png")


# ---- captions


@pytest.fixture(scope="module")
def captioner(work):
    """A generator trained picture first, alone in its run."""
    text = "task.text_tokenizer={vocab_size: 280, context_length: 12, bpe_dropout: 0.0}"
    arguments = [
        *("train", "task=generator", *RUN[:3], "generator.order=image_first", "generator.embed_dim=32"),
        *("generator.num_layers=1", "generator.num_heads=2", "trainer.max_steps=30", "task.batch_size=16", text, QUIET),
        *("task.optimizer.lr=1e-2", "run.name=captioner", "run.dir=captioners", "tokenizer_from=runs/tiny"),
    ]
    before = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        assert cli.main(arguments) == 0
    signal.signal(signal.SIGTERM, before)
    return "captioners/captioner"


def test_caption_with_only_a_generator_and_a_tokenizer_from_elsewhere(work, call, captioner):
    code, out, err = call(
        *("caption", "red.png", "blue.png", f"run={captioner}", "tokenizer_from=runs/tiny", "num_captions=6"),
        *("temperature=0.5", "out=captions.json"),
    )
    assert code == 0, err
    assert "there is no encoder to rank them" in out
    results = json.loads((work / "captions.json").read_text())
    assert [result["picture"] for result in results] == ["red.png", "blue.png"]
    model = package.load(str(work / captioner), tokenizer_from=str(work / "runs/tiny"))
    for result in results:
        expected = model.caption(work / result["picture"], num_captions=6, temperature=0.5)
        assert [c["caption"] for c in result["captions"]] == list(expected)
        assert [c["count"] for c in result["captions"]] == sorted(
            (c["count"] for c in result["captions"]), reverse=True
        )
        assert sum(c["count"] for c in result["captions"]) == 6
        assert all(c["score"] is None for c in result["captions"])
        assert all(c["caption"] in out for c in result["captions"])
    assert all(text.strip() for result in results for text in (c["caption"] for c in result["captions"]))


def test_captions_are_ranked_by_the_encoder_and_numbered(work, captioner):
    model = package.load(
        str(work / captioner), tokenizer_from=str(work / "runs/tiny"), encoder_from=str(work / "runs/tiny")
    )
    image = model.picture(work / "red.png")
    captions = model.caption(image, num_captions=20, seed=3)
    assert len(captions) > 3
    assert len(set(captions)) == len(captions)
    expected = model.encode_captions(list(captions)) @ model.encode_images(image[None])[0]
    torch.testing.assert_close(captions.scores, expected, atol=1e-6, rtol=0)
    assert captions.scores.tolist() == sorted(captions.scores.tolist(), reverse=True)
    few = model.caption(image, num_captions=5, seed=3)
    numbered = dict(zip(captions.numbers.tolist(), captions, strict=True))
    assert all(numbered[number] == text for number, text in zip(few.numbers.tolist(), few, strict=True))
    assert list(model.caption(image, num_captions=20, keep=2, seed=3)) == list(captions)[:2]


def test_a_captioner_does_not_draw(work, call, captioner):
    code, out, err = call("sample", "a red bar", f"run={captioner}", "tokenizer_from=runs/tiny")
    assert (code, out) == (5, "")
    assert "this generator captions pictures; it cannot draw" in err


def test_a_captioner_is_exported_with_a_tokenizer_from_elsewhere(work, call, captioner):
    code, out, err = call("export", captioner, "exported-captioner", "tokenizer_from=runs/tiny")
    assert code == 0, err
    assert "tokenizer" in out
    assert list(package.load(str(work / "exported-captioner")).caption(work / "red.png", num_captions=2))


# ---- evaluate


def test_a_finished_run_is_judged_again_beside_its_first_evaluation(work, call):
    before = files(work / "runs/tiny")
    arguments = (
        "run=runs/tiny",
        "evaluator=[redraw]",
        "evaluator.redraw.drawings=2",
        "evaluator.redraw.max_pictures=2",
    )
    code, out, err = call("evaluate", *arguments)
    assert code == 0, err
    (place,) = (work / "runs/tiny/evaluations").iterdir()
    assert place.name.endswith("redraw")
    assert f"evaluation: {place.relative_to(work) / 'evaluation.json'}" in out
    after = files(work / "runs/tiny")
    assert {name: file for name, file in after.items() if not name.startswith("evaluations/")} == before
    found = json.loads((place / "evaluation.json").read_text())
    numbers = {number["name"]: number for number in found["findings"]["redraw"]["numbers"]}
    gain = 100 * (numbers["redraw/share"]["value"] - numbers["redraw/sample"]["value"])
    assert numbers["redraw/gain"]["value"] == pytest.approx(gain, abs=1e-4)
    assert all(name in out for name in numbers)
    model = package.load(str(work / "runs/tiny"))
    assert found["parts"] == model.fingerprints
    assert found["sampler"] == model.sampler_config


def test_the_runs_own_evaluators_find_the_same_again(work, call):
    code, _, err = call("evaluate", "run=runs/tiny", "out=judged")
    assert code == 0, err
    again = json.loads((work / "judged/evaluation.json").read_text())["findings"]
    first = json.loads((work / "runs/tiny/evaluation.json").read_text())["findings"]
    assert again.keys() == first.keys()
    for name in first:
        assert again[name]["numbers"] == first[name]["numbers"]
        assert again[name]["stood_aside"] == first[name]["stood_aside"]


def test_a_part_alone_is_judged_as_far_as_it_goes(work, call):
    code, out, err = call("evaluate", "run=runs/tiny/tokenizer", "evaluator=[reconstruction,redraw]", "out=partly")
    assert code == 0, err
    judged = json.loads((work / "partly/evaluation.json").read_text())["dataset"]
    assert judged["path"] == "pictures", "the pictures that it was trained on, where none are named"
    assert "reconstruction/psnr" in out
    assert "redraw stood aside: there is no trained generator and no trained encoder" in out


def test_an_evaluation_that_fails_leaves_no_directory(work, call, monkeypatch):
    from mmgen.commands import evaluate

    def fail(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate.Evaluation, "run", fail)
    code, _, err = call("evaluate", "run=runs/tiny", "evaluator=[reconstruction]", "out=stopped-evaluation")
    assert (code, err) == (130, err)
    assert not (work / "stopped-evaluation").exists()
