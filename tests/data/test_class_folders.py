"""Folders named after what their pictures show."""

from __future__ import annotations

import pytest
import torch

from mmgen.data.folder import Folder
from mmgen.data.pictures import Pictures
from mmgen.errors import DataError
from mmgen.images import save_png
from mmgen.testing import check_dataset


def fill(root, *paths):
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        save_png(torch.full((3, 8, 8), (number + 1) / (len(paths) + 1)), root / path)
    return str(root)


def test_the_folder_is_the_class_and_the_caption(tmp_path):
    path = fill(tmp_path, "golden_retriever/1.png", "golden_retriever/more/2.png", "tabby cat/1.png")
    dataset = Folder(path, image_size=8)
    classes = {sample["id"]: sample["attributes"]["class"] for sample in dataset}
    assert classes == {
        "golden_retriever/1.png": "golden retriever",
        "golden_retriever/more/2.png": "golden retriever",
        "tabby cat/1.png": "tabby cat",
    }
    assert dataset[0]["caption"] == "golden retriever"
    assert dataset.splits == {}
    assert all("{class}" in template for template in dataset.templates)
    check_dataset(dataset)


def test_folders_of_splits_are_splits(tmp_path):
    path = fill(tmp_path, "train/cat/1.png", "train/dog/1.png", "validation/cat/1.png", "test/dog/1.png")
    dataset = Folder(path, image_size=8)
    names = {split: [dataset.ids[i] for i in positions] for split, positions in dataset.splits.items()}
    assert names == {
        "train": ["train/cat/1.png", "train/dog/1.png"],
        "val": ["validation/cat/1.png"],
        "test": ["test/dog/1.png"],
    }
    assert dataset[0]["attributes"] == {"class": "dog"}
    assert Pictures(dataset).positions("test") == dataset.splits["test"]
    check_dataset(dataset)


def test_splits_need_no_train_among_them(tmp_path):
    dataset = Folder(fill(tmp_path, "val/cat/1.png", "test/cat/2.png", "test/dog/1.png"), image_size=8)
    assert {name: len(positions) for name, positions in dataset.splits.items()} == {"val": 1, "test": 2}
    assert {sample["attributes"]["class"] for sample in dataset} == {"cat", "dog"}


def test_folders_named_like_splits_may_be_classes(tmp_path):
    dataset = Folder(fill(tmp_path, "val/1.png", "test/2.png"), image_size=8)
    assert dataset.splits == {}
    assert {sample["attributes"]["class"] for sample in dataset} == {"val", "test"}


@pytest.mark.parametrize(
    "paths",
    [
        ("1.png", "2.png"),
        ("cat/1.png", "cat/2.png"),
        ("cat/1.png", "dog/1.png", "stray.png"),
        ("train/1.png", "test/cat/1.png"),
    ],
    ids=["no folders", "one class", "a picture beside the folders", "a picture in no class"],
)
def test_what_is_no_folder_of_classes_has_no_captions(tmp_path, paths):
    with pytest.raises(DataError) as caught:
        Folder(fill(tmp_path, *paths), image_size=8)
    assert caught.value.code == "MMG-D03"
    assert "no two folders by class" in caught.value.why


def test_captions_come_first(tmp_path):
    path = fill(tmp_path, "cat/1.png", "dog/1.png")
    for name in ("cat", "dog"):
        (tmp_path / name / "1.txt").write_text(f"my own {name}")
    dataset = Folder(path, image_size=8)
    assert dataset[0]["caption"] == "my own cat"
    assert "attributes" not in dataset[0]
    assert dataset.templates == ()


def test_a_link_out_of_the_folder_is_refused_or_skipped(tmp_path):
    path = fill(tmp_path / "photos", "cat/1.png", "dog/1.png", "dog/2.png")
    fill(tmp_path, "private.png")
    (tmp_path / "photos" / "cat" / "2.png").symlink_to(tmp_path / "private.png")
    (tmp_path / "photos" / "cat" / "3.png").symlink_to(tmp_path / "photos" / "cat" / "1.png")
    with pytest.raises(DataError, match="leaves the folder") as caught:
        Folder(path, image_size=8)
    assert (caught.value.code, caught.value.where) == ("MMG-D08", f"{path}/cat/2.png")
    with pytest.warns(UserWarning, match="1 of 5"):
        dataset = Folder(path, image_size=8, on_bad="skip")
    assert dataset.ids == ["cat/1.png", "cat/3.png", "dog/1.png", "dog/2.png"]


def test_a_class_with_a_broken_picture_can_be_skipped(tmp_path):
    path = fill(tmp_path, "train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "test/dog/1.png")
    (tmp_path / "test" / "cat" / "1.png").write_bytes(b"no picture")
    with pytest.warns(UserWarning, match="1 of 4"):
        dataset = Folder(path, image_size=8, on_bad="skip")
    assert {name: len(positions) for name, positions in dataset.splits.items()} == {"train": 2, "test": 1}
