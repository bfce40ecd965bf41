"""The digits: their pictures, their halves, their captions."""

import pytest
import torch
from mmgen_digits import NAMES, Digits
from sklearn.datasets import load_digits

import mmgen
from mmgen.data.pictures import Pictures
from mmgen.testing import check_dataset


def test_it_conforms_and_is_found():
    dataset = mmgen.build("dataset", "digits")
    assert isinstance(dataset, Digits)
    check_dataset(dataset)


def test_pictures_and_captions_are_scikit_learns():
    dataset, found = Digits(image_size=8), load_digits()
    assert len(dataset) == 1797
    for i in (0, 7, 1796):
        torch.testing.assert_close(dataset[i]["image"][1].double(), torch.tensor(found.images[i] / 16))
        assert dataset[i]["caption"] == f"the digit {NAMES[found.target[i]]}"
        assert dataset[i]["attributes"] == {"digit": NAMES[found.target[i]]}
    assert dataset[0]["caption"] == "the digit zero"


def test_half_of_each_digit_is_held_out_always_the_same():
    pictures = Pictures(Digits())
    test, train = pictures.positions("test"), pictures.positions("train") + pictures.positions("val")
    assert sorted(test + train) == list(range(1797))
    assert len(test) == 896
    digits = [pictures.attributes[i]["digit"] for i in test]
    for name in NAMES:
        every = sum(attributes["digit"] == name for attributes in pictures.attributes)
        assert digits.count(name) == every // 2
    assert test[:6] == FIRST


FIRST = [3, 8, 9, 10, 11, 13]


def test_a_picture_smaller_than_it_is_is_refused():
    with pytest.raises(ValueError, match="at least 8"):
        Digits(image_size=7)
