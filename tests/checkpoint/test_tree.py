"""A training state goes to JSON and tensors and comes back as it was."""

import json
import math
from collections import OrderedDict
from pathlib import Path

import numpy
import pytest
import torch

from mmgen.checkpoint.tree import flatten, unflatten
from mmgen.errors import CheckpointError


def there_and_back(tree):
    encoded, tensors = flatten(tree)
    return unflatten(json.loads(json.dumps(encoded, allow_nan=False)), tensors)


@pytest.mark.parametrize(
    "tree",
    [
        {},
        [],
        (),
        None,
        {"a": {"b": [1, 2.5, True, None, "x"]}},
        {0: {"step": 3}, 1: {"step": 4}},  # an optimizer's state
        {"1": "string", 1: "integer", False: "bool", None: "none", 2.5: "float", (1, "a"): "tuple"},
        {"betas": (0.9, 0.95), "nested": ((1,), [2, (3,)])},
        {"~tensor": 1, "~": {}, "a": {"~tuple": [1]}},
        {"bytes": b"\x00\xff", "big": 2**70, "tiny": 5e-324, "infinite": math.inf, "minus": -math.inf, "zero": -0.0},
        {"": {"": [[], {}, ()]}},
        "ü\ud800${_}",
    ],
)
def test_plain_values_come_back_with_their_types(tree):
    back = there_and_back(tree)
    assert back == tree
    assert repr(back) == repr(tree)  # 1 == True and -0.0 == 0.0, but they are not the same


def test_nan_comes_back():
    assert math.isnan(there_and_back([math.nan])[0])


def test_order_stays_and_dicts_of_other_kinds_become_plain():
    back = there_and_back(OrderedDict([("b", 1), ("a", 2)]))
    assert type(back) is dict
    assert list(back) == ["b", "a"]


def test_a_tensor_in_two_places_is_stored_once_and_views_of_it_apart():
    weight = torch.randn(3, 4)
    tree = {"tied": weight, "again": weight, "row": weight[0], "transposed": weight.t(), "empty": torch.zeros(0)}
    _, tensors = flatten(tree)
    assert sorted(tensors) == ["empty", "row", "tied", "transposed"]
    back = there_and_back(tree)
    assert back["tied"] is back["again"]
    assert torch.equal(back["transposed"], weight.t())


def test_names_of_tensors_never_clash():
    tree = {
        "a": {1: torch.ones(1), "1": torch.zeros(1)},
        "a/1": torch.full((1,), 2.0),
        "__metadata__": torch.full((1,), 3.0),
    }
    back = there_and_back(tree)
    assert [back["a"][1].item(), back["a"]["1"].item(), back["a/1"].item(), back["__metadata__"].item()] == [1, 0, 2, 3]


@pytest.mark.parametrize(
    "value", [Path("x"), numpy.ones(2), numpy.int64(3), {1, 2}, torch.float32, object(), torch.empty(1, device="meta")]
)
def test_what_cannot_be_stored_is_named_with_its_place(value):
    with pytest.raises(CheckpointError) as caught:
        flatten({"callbacks": {"Mine": [0, value]}})
    assert caught.value.where == "callbacks/Mine/1"


@pytest.mark.parametrize(
    "tree", [{"~tensor": "missing"}, {"~what": 1}, {"~tuple": 1}, {"~mapping": [1]}, {"~float": "x"}]
)
def test_a_state_that_does_not_fit_is_an_error_of_ours(tree):
    with pytest.raises(CheckpointError):
        unflatten({"a": [tree]}, {})
