"""Everything that follows the training: what is drawn once and shared, what steps aside, what lies on the disk."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

import mmgen
from mmgen.commands import evaluation
from mmgen.commands.evaluation import Evaluation
from mmgen.commands.subject import Subject
from mmgen.data.pictures import Pictures
from mmgen.evaluators.retrieval import Retrieval
from mmgen.images import decode
from mmgen.protocols import Needs
from mmgen.runs.directory import RunDirectory
from mmgen.testing.stand_ins import small_samples


class Bars(list):
    """Pictures of two classes; the captions of some are longer than any of the parts reads."""

    templates = ("a {colour} bar",)
    classes = {"colour": ["red", "green", "blue", "grey"]}  # noqa: RUF012

    def __init__(self, splits=None):
        super().__init__(small_samples(48, 16))
        for sample in self[::2]:
            sample["caption"] += " which goes on and on" * 9
        if splits:
            self.splits = splits


@pytest.fixture(scope="module")
def config(finished):
    return RunDirectory(finished).read_config()


def evaluate(finished, config, dataset, directory, count=None):
    model = mmgen.load(str(finished))
    if count is not None:
        draw = model.draw

        def counted(captions, **options):
            count.extend((caption, options["num_images"]) for caption in captions)
            return draw(captions, **options)

        model.draw = counted
    run = RunDirectory(directory).create({})
    Evaluation(model, Pictures(dataset), run, config).run()
    return json.loads((run.path / "evaluation.json").read_text())


@pytest.fixture(scope="module")
def judged(finished, config, tmp_path_factory):
    """With a split of its own and classes: (directory, evaluation.json, what was drawn)."""
    directory, drawn = tmp_path_factory.mktemp("judged"), []
    splits = {"train": range(30), "val": range(30, 38), "heldout_pairs": range(38, 48)}
    return directory, evaluate(finished, config, Bars(splits), directory, drawn), drawn


def test_every_number_is_a_number_and_says_over_how_many(judged):
    _, result, _ = judged
    numbers = [number for findings in result["findings"].values() for number in findings["numbers"]]
    assert {name.partition("/")[0] for name in (n["name"] for n in numbers)} >= {
        "reconstruction",
        "retrieval",
        "zero_shot",
    }
    assert len(numbers) > 10
    for number in numbers:
        assert math.isfinite(number["value"]), number["name"]
        assert number["n"] >= 1, number["name"]


def test_the_sheet_shows_captions_that_were_not_trained_on_beside_the_true_pictures(judged):
    directory, result, _ = judged
    assert len(result["drawings"]) == 3
    samples = {sample["id"]: sample for sample in Bars()}
    unseen = {sample["id"] for sample in Bars()[38:48]}
    for entry in result["drawings"]:
        assert entry["split"] == "heldout_pairs"
        assert entry["id"] in unseen
        assert entry["caption"] == samples[entry["id"]]["caption"]
        assert len(entry["pictures"]) == 2
        assert entry["scores"] == sorted(entry["scores"], reverse=True)
        torch.testing.assert_close(
            decode(directory / entry["original"]), samples[entry["id"]]["image"], atol=3e-3, rtol=0
        )
        for picture in entry["pictures"]:
            assert decode(directory / picture).shape == (3, 16, 16)
    assert decode(directory / "sheet.png").shape[1] > 3 * 16


def test_a_picture_is_classified_among_its_own_caption_and_others_of_its_split(judged):
    _, result, _ = judged
    captions = {sample["caption"] for sample in Bars()[38:48]}
    assert len(result["classified"]) == 2
    for entry in result["classified"]:
        labels = {label["label"]: label["share"] for label in entry["labels"]}
        assert entry["truth"] in labels
        assert set(labels) <= captions
        assert len(labels) == min(8, len(captions))
        assert sum(labels.values()) == pytest.approx(1)


def test_each_caption_is_drawn_once_however_many_ask_for_it(judged):
    _, _, drawn = judged
    assert len(drawn) == len(set(drawn))
    assert len(drawn) >= 4


class Judge:
    """Keeps what it is given."""

    def __init__(self, **needs):
        self.needs, self.given = Needs("heldout_pairs", **needs), []

    def begin(self, setting):
        pass

    def update(self, evidence):
        self.given += zip([sample["caption"] for sample in evidence.samples], evidence.drawings, strict=True)

    def compute(self):
        pass


def test_pictures_that_share_a_caption_have_drawings_of_their_own(finished, config, tmp_path, monkeypatch):
    """Given the same ones, each would be counted as a case, and the interval would be too narrow."""
    monkeypatch.setattr(evaluation, "CHUNK", 5)
    model = mmgen.load(str(finished))
    dataset = Bars({"train": range(20), "val": range(20, 30), "heldout_pairs": range(30, 48)})
    own = Evaluation(model, Pictures(dataset), RunDirectory(tmp_path).create({}), config, shows=False)
    judges = {"two": Judge(drawings=2), "three": Judge(drawings=3, max_pictures=4)}
    own._draw_all(judges)
    for judge in judges.values():
        own._judge(judge)
        count, before = judge.needs.drawings, {}
        for caption, images in judge.given:
            k = before[caption] = before.get(caption, -1) + 1
            drawn = model.draw([caption], num_images=(k + 1) * count, seed=config["drawing"]["seed"], cut=True)[0]
            chosen = [i for i, number in enumerate(drawn.numbers.tolist()) if number >= k * count]
            torch.testing.assert_close(images, drawn.images[chosen], msg=f"{caption}, picture {k}")
    assert len(judges["two"].given) == 18
    assert len({caption for caption, _ in judges["two"].given}) == 12


def test_pictures_that_share_a_caption_are_redrawn_each_in_its_own_way(finished, config, tmp_path):
    """Where as much is kept of both, the same numbers would be the same drawings, counted twice."""
    model = mmgen.load(str(finished))
    dataset = Bars({"train": range(20), "val": range(20, 30), "heldout_pairs": range(30, 48)})
    own = Evaluation(model, Pictures(dataset), RunDirectory(tmp_path).create({}), config, shows=False)
    judge = Judge(redrawings=2, redrawn_from=(0.5, 0.0))
    positions = own._positions(judge.needs)
    own._draw_all({"one": judge})
    drawn = [own._redrawings[position, evaluation._redrawn(judge.needs)] for position in positions]
    captions = [dataset[position]["caption"] for position in positions]
    twins = [(i, j) for j, caption in enumerate(captions) for i in range(j) if captions[i] == caption]
    assert len(twins) > 4
    differ = [not torch.equal(drawn[i].image_tokens, drawn[j].image_tokens) for i, j in twins]
    assert sum(differ) > len(differ) / 2  # two may come out alike by chance
    seeds = {d.seed for d in drawn}
    redrawn = evaluation._redrawn(judge.needs)
    assert (own._kept(positions, drawn, redrawn) == 1).all()
    spoilt = [dataclasses.replace(drawn[0], image_tokens=drawn[0].image_tokens.clone()), *drawn[1:]]
    spoilt[0].image_tokens[1, 0] += 1
    found = own._kept(positions, spoilt, redrawn)
    assert found[0, 1] < 1
    assert (found == 1).sum() == found.numel() - 1
    assert config["drawing"]["seed"] in seeds
    assert len(seeds) == max(captions.count(caption) for caption in captions)


def test_retrieval_is_given_every_caption_of_a_picture(finished, config, tmp_path):
    dataset = Bars({"train": range(20), "val": range(20, 30), "heldout_pairs": range(30, 48)})
    for i, sample in enumerate(dataset):
        sample["captions"] = [sample["caption"], f"bar number {i}"]
    own = Evaluation(
        mmgen.load(str(finished)), Pictures(dataset), RunDirectory(tmp_path).create({}), config, shows=False
    )
    sizes = {way: {n.n for n in own._judge(Retrieval(captions=way)).numbers} for way in ("first", "all")}
    assert sizes == {"first": {18}, "all": {18, 36}}


def test_reconstructions_lie_beside_the_originals(judged):
    directory, result, _ = judged
    shapes = {decode(directory / result["reconstructions"][name]).shape for name in ("originals", "reconstructions")}
    assert len(shapes) == 1


def test_what_a_dataset_lacks_makes_an_evaluator_step_aside_and_say_why(finished, config, tmp_path):
    class Bare(Bars):
        templates = ()

    result = evaluate(finished, config, Bare(), tmp_path)
    aside = {name: found["stood_aside"] for name, found in result["findings"].items() if found["stood_aside"]}
    assert aside == {"zero_shot": "the dataset declares no templates"}
    assert result["findings"]["zero_shot"]["numbers"] == []
    assert {entry["split"] for entry in result["drawings"]} == {"val"}


def test_a_split_without_pictures_makes_an_evaluator_step_aside():
    """All are held out, under another name; none is left to validate on."""
    subject = Subject(None, Pictures(Bars({"test": range(48)})))
    assert subject.aside(Needs("heldout_pairs")) == "the dataset has no pictures in val; it has the splits test"


def test_the_same_model_is_judged_the_same(finished, config, judged, tmp_path):
    splits = {"train": range(30), "val": range(30, 38), "heldout_pairs": range(38, 48)}
    again = evaluate(finished, config, Bars(splits), tmp_path)
    for key in ("findings", "drawings", "classified"):
        assert again[key] == judged[1][key]
