"""What stands in for a split that a dataset has not, and which classes it has."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mmgen.commands.subject import Subject
from mmgen.protocols import Needs


def subject(foreign: bool = False, splits: tuple[str, ...] = (), attributes=(), **declared) -> Subject:
    dataset = SimpleNamespace(splits={name: [0] for name in splits}, **declared)
    pictures = SimpleNamespace(dataset=dataset, attributes=list(attributes))
    return Subject(None, pictures, foreign)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("splits", "trained", "foreign"),
    [
        ((), "val", "all"),
        (("train", "test"), "val", "test"),
        (("train", "test", "hard"), "val", "test"),
        (("train", "hard"), "val", "hard"),
        (("hard",), "val", "hard"),
        (("train", "hard", "harder"), "val", "val"),
        (("train",), "val", "val"),
        (("train", "val", "test"), "val", "val"),
    ],
)
def test_what_was_held_out_stands_in_before_what_is_cut_from_train(splits, trained, foreign):
    assert subject(False, splits).split(Needs("heldout_pairs")) == trained
    assert subject(True, splits).split(Needs("heldout_pairs")) == foreign
    assert subject(True, splits).split(Needs("heldout_pairs", or_val=False)) is None
    assert subject(True, splits).split(Needs("val")) == "val"


COUNTED = [{"digit": "one", "pen": "ink"}, {"class": "cat", "n": "1"}, {"class": "ape"}, {"class": "cat", "digit": "x"}]


def test_classes_are_those_declared_or_counted():
    assert subject(attributes=COUNTED).classes == {"class": ["ape", "cat"]}
    assert subject(attributes=COUNTED, classes={"digit": ["two", "one"]}).classes == {"digit": ["two", "one"]}


def test_of_a_mixture_those_of_parts_that_declare_none_are_counted():
    mixed = subject(attributes=COUNTED, classes={"digit": ["two", "one"]}, undeclared=[1, 2, 3])
    assert mixed.classes == {"digit": ["two", "one", "x"], "class": ["ape", "cat"]}
