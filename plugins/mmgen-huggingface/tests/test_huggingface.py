"""Every kind of source gives the same samples; columns, splits, labels."""

import json
import pickle

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value
from mmgen_huggingface import HuggingFace
from torch.utils.data import DataLoader

import mmgen
from mmgen.cli import main
from mmgen.data.pictures import Pictures
from mmgen.errors import ConfigError, DataError
from mmgen.images import decode
from mmgen.testing import check_dataset


def write(folder, rows, features=None, name="train.parquet"):
    folder.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(rows, features=features).to_parquet(folder / name)
    return str(folder)


def image_folder(folder, listing, picture):
    folder.mkdir()
    for i in range(4):
        (folder / f"{i}.png").write_bytes(picture(i))
    if listing == "jsonl":
        lines = [json.dumps({"file_name": f"{i}.png", "text": f"picture {i}"}) for i in range(4)]
        (folder / "metadata.jsonl").write_text("\n".join(lines))
    else:
        (folder / "metadata.csv").write_text("file_name,text\n" + "\n".join(f"{i}.png,picture {i}" for i in range(4)))
    return str(folder)


@pytest.mark.parametrize("kind", ["parquet", "streamed", "saved", "file", "address"])
def test_every_source_gives_what_was_stored(kind, parquet, saved, picture):
    single = f"{parquet}/data/train-00000-of-00002.parquet"
    path, streaming = {
        "parquet": (parquet, False),
        "streamed": (parquet, True),
        "saved": (saved, False),
        "file": (single, False),
        "address": (f"file://{parquet}/data/train-*.parquet", True),
    }[kind]
    options = {"path": str(path), "image_size": 16, "streaming": streaming}
    dataset = mmgen.build("dataset", {"name": "huggingface", **options})
    check_dataset(dataset)
    assert len(dataset) == {"file": 25, "address": 40}.get(kind, 50)
    for i in (0, 9, 10, 24):
        sample = dataset[i]
        assert sample["id"] == f"train-{i:07d}" == dataset.ids[i]
        assert sample["captions"] == [sample["caption"]] == [f"picture {i}"]
        assert sample["attributes"] == {"label": ["tabby cat", "dog"][i % 2]}
        assert torch.equal(sample["image"], decode(picture(i), 16))
    assert dataset.classes == {"label": ["tabby cat", "dog"]}
    if len(dataset) == 50:
        assert {name: list(found) for name, found in dataset.splits.items()} == {
            "train": list(range(40)),
            "test": list(range(40, 50)),
        }
        assert dataset[49]["caption"] == "picture 49"
        assert dataset.ids[49] == "test-0000009"


def test_pictures_are_as_datasets_decodes_them(parquet, table):
    dataset, theirs = HuggingFace(str(parquet)), table(0, 4)
    for i in range(4):
        found = (dataset.original(i) * 255).round().permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(found, np.array(theirs[i]["image"]))


def test_pictures_are_resized_as_clip_does_where_that_is_asked_for(parquet, picture):
    found = HuggingFace(str(parquet), image_size=12, resize="bicubic")[3]["image"]
    assert torch.equal(found, decode(picture(3), 12, resize="bicubic"))
    assert not torch.equal(found, HuggingFace(str(parquet), image_size=12)[3]["image"])
    with pytest.raises(ValueError, match="resize must be 'lanczos' or 'bicubic', got 'nearest'"):
        HuggingFace(str(parquet), resize="nearest")


@pytest.mark.parametrize("listing", ["jsonl", "csv"])
def test_an_image_folder_with_captions(tmp_path, listing, picture):
    dataset = HuggingFace(image_folder(tmp_path / "pictures", listing, picture))
    check_dataset(dataset)
    found = {sample["caption"]: sample["image"] for sample in (dataset[i] for i in range(4))}
    for i in range(4):
        assert torch.equal(found[f"picture {i}"], decode(picture(i), 32))


def test_folders_of_classes_have_captions_from_templates(tmp_path, picture):
    for name in ("tabby_cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(3):
            (tmp_path / name / f"{i}.png").write_bytes(picture(i))
    dataset = HuggingFace(str(tmp_path))
    check_dataset(dataset)
    assert dataset.classes == {"label": ["dog", "tabby cat"]}
    assert {dataset[i]["caption"] for i in range(6)} == {"a photo of a dog.", "a photo of a tabby cat."}
    own = HuggingFace(str(tmp_path), templates=["one {}", "a {label}, drawn"])
    check_dataset(own)
    assert own[0]["captions"] in (["one dog", "a dog, drawn"], ["one tabby cat", "a tabby cat, drawn"])
    for wrong in ("none", "a {lable}", "a {label.real}"):
        with pytest.raises(ValueError, match="place"):
            HuggingFace(str(tmp_path), templates=[wrong])


def test_labels_of_several_columns_and_of_none(tmp_path, picture):
    features = Features({"img": Image(), "fine": ClassLabel(names=["a_b", "a b"]), "shape": Value("string")})
    rows = {"img": [picture(i) for i in range(4)], "fine": [0, 1, -1, None], "shape": ["round", "round", "flat", None]}
    path = write(tmp_path, rows, features)
    dataset = HuggingFace(path, label_column="shape")
    assert dataset.classes == {"shape": ["flat", "round"]}
    assert dataset[2]["attributes"] == {"shape": "flat"}
    with pytest.raises(DataError, match="row 3") as refused:
        dataset[3]
    assert refused.value.what == "the row has no label"
    fine = HuggingFace(path, max_samples=2)
    check_dataset(fine)
    assert fine.classes == {"fine": ["a_b", "a b"]}  # as words they would be one
    with pytest.warns(UserWarning, match="2 of 4 samples left out"):
        assert len(HuggingFace(path, on_bad="skip")) == 2


def test_classes_may_stand_in_the_readme(tmp_path, picture):
    path = write(tmp_path, {"image": [picture(0)] * 2, "label": [1, 0]})
    features = "- {name: image, dtype: image}\n  - {name: label, dtype: {class_label: {names: {'0': cat, '1': dog}}}}"
    (tmp_path / "README.md").write_text(f"---\ndataset_info:\n  features:\n  {features}\n---\n")
    for streaming in (False, True):
        dataset = HuggingFace(path, streaming=streaming)
        check_dataset(dataset)
        assert [dataset[i]["attributes"]["label"] for i in range(2)] == ["dog", "cat"]


def test_classes_in_another_order_are_refused(tmp_path, picture):
    found = DatasetDict()
    for split, classes in (("train", ["cat", "dog"]), ("test", ["dog", "cat"])):
        features = Features({"image": Image(), "label": ClassLabel(names=classes)})
        found[split] = Dataset.from_dict({"image": [picture(0)], "label": [1]}, features=features)
        write(tmp_path / "splits", found[split].with_format("arrow")[:].to_pydict(), features, f"{split}.parquet")
        write(tmp_path / "files", found[split].with_format("arrow")[:].to_pydict(), features, f"train-{split}.parquet")
    found.save_to_disk(tmp_path / "saved")
    for name, options in (("saved", {}), ("splits", {"streaming": True})):
        with pytest.raises(DataError, match="differ between splits"):
            HuggingFace(str(tmp_path / name), **options)
    for name, options in (("splits", {}), ("files", {}), ("files", {"streaming": True})):
        with pytest.raises(DataError, match="than in the first file"):
            HuggingFace(str(tmp_path / name), **options)


def test_lists_of_captions_lose_what_is_empty_or_twice(tmp_path, picture):
    features = Features({"image": Image(), "captions": List(Value("string"))})
    captions = [["a cat", None, "a\ttabby ", "", "a cat"], ["x"]]
    dataset = HuggingFace(write(tmp_path, {"image": [picture(0)] * 2, "captions": captions}, features))
    check_dataset(dataset)
    assert dataset[0]["captions"] == ["a cat", "a tabby"]


def test_validation_becomes_val_and_the_rest_is_held_out(tmp_path, table):
    parts = {"train": table(0, 6), "validation": table(6, 8), "test": table(8, 12)}
    DatasetDict(parts).save_to_disk(tmp_path)
    dataset = HuggingFace(str(tmp_path))
    check_dataset(dataset)
    assert {name: list(found) for name, found in dataset.splits.items()} == {
        "train": [0, 1, 2, 3, 4, 5],
        "val": [6, 7],
        "test": [8, 9, 10, 11],
    }
    other = HuggingFace(str(tmp_path), split="validation", val_split="test")
    assert list(other.splits) == ["train", "val"]
    assert [other[i]["caption"] for i in other.splits["val"]] == [f"picture {i}" for i in range(8, 12)]
    few = HuggingFace(str(tmp_path), max_samples=1)
    assert [few[i]["caption"] for i in range(len(few))] == ["picture 0", "picture 6", "picture 8"]
    with pytest.raises(DataError, match="there are train, validation, test"):
        HuggingFace(str(tmp_path), split="training")
    with pytest.raises(ValueError, match="both"):
        HuggingFace(str(tmp_path), val_split="train")


def test_ids_are_those_of_a_column_and_occur_once(tmp_path, picture):
    rows = {"image": [{"bytes": picture(0)}] * 3, "text": ["a", "b", "c"], "key": [7, 8, 9], "same": ["x", "y", "x"]}
    path = write(tmp_path, rows)
    dataset = HuggingFace(path, id_column="key")
    check_dataset(dataset)
    assert list(dataset.ids) == ["7", "8", "9"] == dataset.ids[:]
    with pytest.raises(DataError, match="'x' occurs twice") as refused:
        HuggingFace(path, id_column="same")
    assert "row 2" in refused.value.where
    assert "row 0" in refused.value.where


def test_columns_that_are_not_clear_are_listed(tmp_path, picture):
    rows = {"image": [picture(0)], "caption": ["a"], "text": ["b"], "size": [1]}
    path = write(tmp_path / "a", rows)
    with pytest.raises(DataError) as refused:
        HuggingFace(path)
    assert refused.value.what == "caption and text may each hold the captions"
    assert refused.value.why == "the columns are image (binary), caption (string), text (string), size (int64)"
    assert refused.value.fix == "dataset.caption_column=caption"
    assert HuggingFace(path, caption_column="text")[0]["caption"] == "b"
    for option in ("image_column", "caption_column", "label_column", "id_column"):
        with pytest.raises(DataError, match="there is no column 'nothing'"):
            HuggingFace(path, **{option: "nothing"})
    without = write(tmp_path / "b", {"image": [picture(0)], "prompt": ["a"]})
    with pytest.raises(DataError, match="MMG-D03"):
        HuggingFace(without)
    with pytest.raises(DataError, match="no column holds pictures"):
        HuggingFace(write(tmp_path / "c", {"text": ["a"]}))
    with pytest.raises(DataError, match="a caption is no text"):
        HuggingFace(path, caption_column="size")[0]


def test_two_columns_of_pictures_need_a_choice(tmp_path, picture):
    features = Features({"left": Image(), "right": Image(), "text": Value("string")})
    path = write(tmp_path, {"left": [picture(0)], "right": [picture(1)], "text": ["a"]}, features)
    with pytest.raises(DataError, match="left and right may each hold the pictures"):
        HuggingFace(path)
    assert torch.equal(HuggingFace(path, image_column="right")[0]["image"], decode(picture(1), 32))


@pytest.mark.parametrize("streaming", [False, True])
def test_workers_read_the_same(parquet, streaming):
    dataset = HuggingFace(str(parquet), streaming=streaming)
    expected = [dataset[i] for i in range(len(dataset))]  # leaves row groups in memory, which a fork hands on
    loader = DataLoader(dataset, batch_size=None, num_workers=2)
    for sample, other in zip(loader, expected, strict=True):
        assert torch.equal(sample["image"], other["image"])
        assert sample["caption"] == other["caption"]
    again = pickle.loads(pickle.dumps(dataset))  # noqa: S301 - what was just dumped
    assert [again[i]["caption"] for i in (0, 30, 49)] == ["picture 0", "picture 30", "picture 49"]
    assert len(pickle.dumps(dataset)) < 20_000  # no pictures on the way


def test_mmgen_takes_it_as_it_is_and_notices_changes(tmp_path, parquet, saved, picture):
    pictures = Pictures(HuggingFace(str(parquet)))
    assert sorted(pictures.positions("train") + pictures.positions("val")) == list(range(40))
    assert pictures.positions("test") == list(range(40, 50))
    for same in (HuggingFace(str(parquet), streaming=True), HuggingFace(str(saved))):
        assert Pictures(same).fingerprint == pictures.fingerprint
    path = write(tmp_path, {"image": [picture(0)], "text": ["one"]})
    before = Pictures(HuggingFace(path)).fingerprint
    write(tmp_path, {"image": [picture(0)], "text": ["two"]})
    assert HuggingFace(path)[0]["caption"] == "two"  # not what the cache of `datasets` has under the same path
    assert Pictures(HuggingFace(path)).fingerprint != before


@pytest.mark.parametrize("option", [{"image_size": 0}, {"max_samples": 0}, {"on_bad": "ignore"}])
def test_options_out_of_range_are_refused(parquet, option):
    with pytest.raises(ConfigError):
        mmgen.build("dataset", {"name": "huggingface", "path": str(parquet), **option})


def test_trained_from_the_command_line(tmp_path, parquet, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["dataset=huggingface", f"dataset.path={parquet}", "dataset.image_size=16", "tracking=disabled"]
    code = main(["train", "task=tokenizer", *options, "trainer.max_steps=2", "run.name=two"])
    assert code == 0, capsys.readouterr().err
    steps = [json.loads(line) for line in (tmp_path / "runs/two/metrics.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps if "val/psnr" in step] == [1]  # steps count from 0
