"""A dataset read once: what is kept, how it is split, what its fingerprint covers."""

from __future__ import annotations

import pytest
import torch

from mmgen.data.pictures import Pictures, data_fingerprint, split_names, split_positions
from mmgen.errors import DataError
from mmgen.protocols import Sample
from tests.data.fakes import Numbered


class Changed(Numbered):
    """Twenty samples, of which number 3 has something else in it."""

    def __init__(self, **change: object) -> None:
        super().__init__(20)
        self.change = change

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        return {**sample, **self.change} if index == 3 else sample  # type: ignore[typeddict-item]


def test_reading_keeps_everything_in_place() -> None:
    seen: list[tuple[int, int]] = []
    pictures = Pictures(Numbered(20, others=2), progress=lambda done, total: seen.append((done, total)))
    assert pictures.images is not None
    assert pictures.images.dtype == torch.uint8
    assert pictures.images[:, 0, 0, 0].tolist() == list(range(20))
    assert pictures.captions[7] == "number 7"
    assert pictures.alternatives[7] == ["number 7", "number 7 in words 0", "number 7 in words 1"]
    assert (len(pictures), pictures.shape) == (20, (8, 8))
    assert seen == [(i + 1, 20) for i in range(20)]


def test_what_is_too_large_for_memory_is_read_when_asked_for() -> None:
    kept, unkept = Pictures(Numbered(20)), Pictures(Numbered(20), memory_cap=20 * 3 * 8 * 8 - 1)
    assert unkept.images is None
    assert Pictures(Numbered(20), memory_cap=20 * 3 * 8 * 8).images is not None
    assert torch.equal(kept.batch([3, 1, 3]), unkept.batch([3, 1, 3]))
    assert kept.fingerprint == unkept.fingerprint


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"id": "n0004"}, "MMG-D07"),
        ({"caption": " "}, "MMG-D06"),
        ({"image": torch.zeros(3, 9, 9)}, "MMG-D09"),
        ({"image": torch.zeros(1, 8, 8)}, "MMG-D09"),
        ({"image": torch.zeros(3, 8, 8, dtype=torch.uint8)}, "MMG-D09"),
        ({"image": torch.full((3, 8, 8), 1.01)}, "MMG-D09"),
        ({"image": torch.full((3, 8, 8), torch.nan)}, "MMG-D09"),
        ({"image": None}, "MMG-D09"),
    ],
)
def test_a_sample_that_breaks_the_contract_is_named(change: dict, code: str) -> None:
    with pytest.raises(DataError) as caught:
        Pictures(Changed(**change))
    assert caught.value.code == code
    assert "sample 3" in caught.value.what or "samples 3 and 4" in caught.value.what


def test_no_samples_are_an_error() -> None:
    with pytest.raises(DataError, match="holds no samples"):
        Pictures(Numbered(0))


@pytest.mark.parametrize(
    "change",
    [
        {"id": "x"},
        {"caption": "x", "captions": ["x"]},
        {"captions": ["number 3", "x"]},
        {"image": torch.zeros(3, 8, 8)},
    ],
)
def test_the_fingerprint_covers_ids_captions_and_pixels(change: dict) -> None:
    same = data_fingerprint(Numbered(20))
    assert same == data_fingerprint(Changed()) == Pictures(Numbered(20)).fingerprint
    assert len(same) == 16
    assert data_fingerprint(Changed(**change)) != same
    assert data_fingerprint(Numbered(19)) != same


def test_a_dataset_may_bring_its_own_fingerprint() -> None:
    dataset = Numbered(20)
    dataset.fingerprint = "mine"  # type: ignore[attr-defined]
    assert data_fingerprint(dataset) == Pictures(dataset).fingerprint == "mine"


def test_without_declared_splits_a_twentieth_is_held_out_by_id() -> None:
    dataset = Numbered(2_000)
    train, val = split_positions(dataset, "train"), split_positions(dataset, "val")
    assert sorted(train + val) == list(range(2_000))
    assert 60 < len(val) < 140
    larger = split_positions(Numbered(3_000), "val")
    assert [i for i in larger if i < 2_000] == val  # more pictures move none to the other side
    assert split_names(dataset) == ["train", "val"]


@pytest.mark.parametrize("size", [2, 3, 10])
def test_a_few_pictures_still_train_and_validate(size: int) -> None:
    train, val = split_positions(Numbered(size), "train"), split_positions(Numbered(size), "val")
    assert len(val) == 1
    assert sorted(train + val) == list(range(size))


def test_a_single_picture_is_in_both() -> None:
    assert split_positions(Numbered(1), "train") == split_positions(Numbered(1), "val") == [0]


def test_declared_splits_are_taken_as_they_are() -> None:
    dataset = Numbered(100, splits={"train": [5, 3], "val": [9, 8], "far": [1]})
    assert [split_positions(dataset, name) for name in ("train", "val", "far")] == [[5, 3], [9, 8], [1]]
    assert split_names(dataset) == ["train", "val", "far"]


def test_val_is_taken_from_a_declared_train() -> None:
    dataset = Numbered(1_000, splits={"train": list(range(900)), "far": list(range(900, 1_000))})
    train, val = split_positions(dataset, "train"), split_positions(dataset, "val")
    assert sorted(train + val) == list(range(900))
    assert 20 < len(val) < 80
    assert Pictures(dataset).positions("val") == val


def test_what_is_declared_to_be_held_out_is_never_trained_on() -> None:
    """Also where no `train` is declared: it is what is in no split."""
    far = list(range(0, 1_000, 2))
    dataset = Numbered(1_000, splits={"far": far})
    train, val = split_positions(dataset, "train"), split_positions(dataset, "val")
    assert sorted(train + val) == list(range(1, 1_000, 2))
    assert 0 < len(val) < 60
    assert (Pictures(dataset).positions("train"), Pictures(dataset).positions("val")) == (train, val)
    with_val = Numbered(6, splits={"far": [0], "val": [3, 2]})
    assert [split_positions(with_val, name) for name in ("train", "val")] == [[1, 4, 5], [3, 2]]
    for name in ("train", "val"):
        assert split_positions(Numbered(2, splits={"far": [0, 1]}), name) == []


def test_an_unknown_split_names_the_known_ones() -> None:
    with pytest.raises(DataError, match="no split 'test'") as caught:
        split_positions(Numbered(10, splits={"train": [1], "val": [2], "far": [3]}), "test")
    assert caught.value.fix == "choose one of: train, val, far"
