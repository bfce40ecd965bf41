"""The experiments compose, and what they want to reach is measured."""

from __future__ import annotations

import pytest
import yaml

import mmgen
from mmgen import cli


@pytest.fixture(params=["abilities", "abilities_fast"])
def config(request, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["config", "show", "run", f"experiment={request.param}"]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_every_figure_that_is_wanted_has_its_evaluator(config):
    rivals = {f"{name}_{rival}": name for rival, options in config["rivals"].items() for name in options["evaluator"]}
    measured = {name.partition("/")[0] for name in config["wanted"]}
    assert measured <= config["evaluator"].keys() | rivals.keys()
    assert len([name for name, goal in config["wanted"].items() if goal is not None]) == 9


def test_what_is_judged_is_there_and_never_trained_on(config):
    """Each evaluator's split is one of the dataset, of which the training has no part."""
    dataset = mmgen.build("dataset", config["dataset"])
    trained = set(dataset.splits["train"])
    for options in config["evaluator"].values():
        judged = mmgen.build("evaluator", options).needs.split
        assert judged in dataset.splits
        assert trained.isdisjoint(dataset.splits[judged])
