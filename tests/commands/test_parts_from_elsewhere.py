"""`mmgen run tokenizer_from=RUN …`: what another run trained is copied, and the rest trained beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mmgen as package
from mmgen import cli
from tests.tiny import QUIET, RUN, write_pictures

OTHER = ["run.name=other", "tokenizer_from=runs/first", "encoder_from=runs/first", "seed=2", "tokenizer.width=64"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a whole run, and with another one that has its image tokenizer and encoder."""
    work = tmp_path_factory.mktemp("taken")
    write_pictures(work / "pictures")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        assert cli.main(["run", *RUN, QUIET, "run.name=first"]) == 0
        assert cli.main(["run", *RUN, QUIET, *OTHER]) == 0
        pictures = ["dataset=folder", "dataset.path=pictures", "dataset.image_size=16"]
        alone = ["task=tokenizer", "run.name=foreign", "tokenizer.width=8", "tokenizer.codebook_size=32"]
        assert cli.main(["train", *alone, *pictures, QUIET, "seed=5", "trainer.max_steps=2"]) == 0
    return work


def fingerprints(run: Path) -> dict[str, str]:
    lineage = json.loads((run / "lineage.json").read_text())
    return {kind: part["fingerprint"] for kind, part in lineage["parts"].items()}


def test_only_the_generator_is_trained_and_the_run_is_whole(work, monkeypatch):
    first, other = fingerprints(work / "runs/first"), fingerprints(work / "runs/other")
    assert {kind for kind in first if first[kind] == other[kind]} == {"tokenizer", "encoder"}
    lineage = json.loads((work / "runs/other/lineage.json").read_text())
    assert lineage["parts"]["generator"]["requires"] == {"tokenizer": first["tokenizer"]}
    assert not (work / "runs/other/tokenizer/checkpoints").exists()
    assert (work / "runs/other/report.html").is_file()
    (work / "runs/first").rename(work / "gone")
    try:
        model = package.load(str(work / "runs/other"))
        assert len(model.generate("a red bar", num_images=2)) == 2
    finally:
        (work / "gone").rename(work / "runs/first")


def test_only_the_encoder_is_trained(work, monkeypatch):
    monkeypatch.chdir(work)
    taken = ["tokenizer_from=runs/first", "generator_from=runs/first"]
    assert cli.main(["run", *RUN, QUIET, "run.name=ranked", *taken, "stages.encoder.trainer.max_steps=3"]) == 0
    first, ranked = fingerprints(work / "runs/first"), fingerprints(work / "runs/ranked")
    assert {kind for kind in first if first[kind] == ranked[kind]} == {"tokenizer", "generator"}
    assert (work / "runs/ranked/report.html").is_file()


def test_it_goes_on_and_keeps_what_it_took(work, monkeypatch, capfd):
    monkeypatch.chdir(work)
    before = fingerprints(work / "runs/other")
    assert cli.main(["run", *RUN, QUIET, *OTHER]) == 0
    assert fingerprints(work / "runs/other") == before
    assert cli.main(["run", *RUN, QUIET, *OTHER, "encoder_from=null"]) == 2
    assert "made with another config" in capfd.readouterr().err


def test_it_is_run_again_from_its_own_record(work, monkeypatch, capfd):
    monkeypatch.chdir(work)
    assert cli.main(["reproduce", "runs/other", "name=again"]) == 0, capfd.readouterr().err
    assert fingerprints(work / "runs/again") == fingerprints(work / "runs/other")


@pytest.mark.parametrize(
    ("overrides", "code", "words"),
    [
        (["tokenizer_from=runs/gone"], 5, "'runs/gone' holds no finished run"),
        (["tokenizer_from=runs/first", "dataset.image_size=8"], 5, "reads 16-pixel pictures"),
        (["generator_from=runs/first"], 2, "tokenizer_from=runs/first"),
        (["generator_from=runs/first", "tokenizer_from=runs/foreign"], 5, "the generator needs tokenizer"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_written(work, overrides, code, words, monkeypatch, capfd):
    monkeypatch.chdir(work)
    assert cli.main(["run", *RUN, QUIET, "run.name=no", *overrides]) == code
    assert words in capfd.readouterr().err
    assert not (work / "runs/no/config.yaml").exists()
