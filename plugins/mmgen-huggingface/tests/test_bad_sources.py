"""What is damaged, missing or hostile is told clearly, or left out and counted."""

import json
import pickle
import socket
from pathlib import Path

import mmgen_huggingface.tables as tables
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Features, Image, Value, config
from mmgen_huggingface import HuggingFace

from mmgen.errors import DataError


def all_rows(picture):
    return {
        "good": (picture(0), "a cat"),
        "no picture": (None, "a cat"),
        "no image": (b"<html>404</html>", "a cat"),
        "cut image": (picture(0)[:200], "a cat"),
        "too small": (picture(0, width=4), "a cat"),
        "null": (picture(0), None),
        "empty": (picture(0), " \n"),
        "long": (picture(0), "x" * 9000),
    }


CODES = {"no picture": "D04", "no image": "D04", "cut image": "D04", "too small": "D05"}


def bad_rows(folder, picture):
    features = Features({"image": Image(), "caption": Value("string")})
    images, captions = zip(*all_rows(picture).values(), strict=True)
    rows = {"image": [image and {"bytes": image, "path": None} for image in images], "caption": list(captions)}
    Dataset.from_dict(rows, features=features).to_parquet(folder / "train.parquet")
    return str(folder)


@pytest.mark.parametrize("streaming", [False, True])
def test_bad_rows_are_named_or_left_out(tmp_path, streaming, picture):
    path = bad_rows(tmp_path, picture)
    dataset = HuggingFace(path, streaming=streaming)
    assert dataset[0]["caption"] == "a cat"
    for row, name in list(enumerate(all_rows(picture)))[1:]:
        with pytest.raises(DataError) as refused:
            dataset[row]
        assert refused.value.where == f"{path}, split train, row {row}"
        assert refused.value.code == f"MMG-{CODES.get(name, 'D06')}", name
        assert "dataset.on_bad=skip" in refused.value.fix
    with pytest.warns(UserWarning, match="7 of 8 samples left out"):
        kept = HuggingFace(path, streaming=streaming, on_bad="skip")
    assert (len(kept), kept.ids[0], len(kept.skipped)) == (1, "train-0000000", 7)


def test_nothing_left_is_an_error(tmp_path):
    Dataset.from_dict({"image": [b"x"], "text": ["a"]}).to_parquet(tmp_path / "train.parquet")
    with pytest.raises(DataError, match="no sample can be used"):
        HuggingFace(str(tmp_path), on_bad="skip")
    Dataset.from_dict({"image": [], "text": []}, features=FEATURES_OF_TWO).to_parquet(tmp_path / "train.parquet")
    for streaming in (False, True):
        with pytest.raises(DataError, match="have no rows"):
            HuggingFace(str(tmp_path), streaming=streaming)


FEATURES_OF_TWO = Features({"image": Image(), "text": Value("string")})


@pytest.mark.parametrize("streaming", [False, True])
def test_a_cut_parquet_file_is_named_or_left_out(tmp_path, streaming, table):
    for i in range(3):
        table(i * 4, i * 4 + 4).to_parquet(tmp_path / f"train-0000{i}-of-00003.parquet")
    cut = tmp_path / "train-00001-of-00003.parquet"
    cut.write_bytes(cut.read_bytes()[:-40])
    with pytest.raises(DataError, match="MMG-D30") as refused:
        HuggingFace(str(tmp_path), streaming=streaming)
    assert refused.value.where == str(cut)
    with pytest.warns(UserWarning, match="1 of 9 samples left out"):
        kept = HuggingFace(str(tmp_path), streaming=streaming, on_bad="skip")
    assert [kept[i]["caption"] for i in (0, 4)] == ["picture 0", "picture 8"]


@pytest.mark.parametrize("streaming", [False, True])
def test_damage_inside_a_parquet_file_is_told(tmp_path, streaming, table):
    file = tmp_path / "train.parquet"
    table(0, 20).to_parquet(file)
    content = bytearray(file.read_bytes())
    content[4:2000] = bytes(1996)
    file.write_bytes(content)
    with pytest.raises(DataError, match="MMG-D30"):
        HuggingFace(str(tmp_path), streaming=streaming)[0]


def test_a_saved_data_set_that_is_cut_is_told(tmp_path, table):
    table(0, 20).save_to_disk(tmp_path)
    file = next(tmp_path.glob("*.arrow"))
    whole = file.read_bytes()
    for keep in (0, 100, len(whole) // 2):
        file.write_bytes(whole[:keep])
        with pytest.raises(DataError, match="MMG-D30"):
            HuggingFace(str(tmp_path))[19]
    file.unlink()
    with pytest.raises(DataError, match="MMG-D30"):
        HuggingFace(str(tmp_path))


def test_what_is_not_there_is_told(tmp_path):
    for path in (str(tmp_path / "none"), "pictures", "nobody/nothing"):
        with pytest.raises(DataError, match="MMG-D01"):
            HuggingFace(path)
    with pytest.raises(DataError, match="MMG-D02"):
        HuggingFace(str(tmp_path))
    (tmp_path / "a.csv").write_text("image,text\na.png,a cat\n")
    with pytest.raises(DataError, match="read by 'csv'"):
        HuggingFace(str(tmp_path))


def test_a_column_that_a_file_lacks_is_told(tmp_path, table):
    table(0, 2).to_parquet(tmp_path / "train-00000-of-00002.parquet")
    table(2, 4).remove_columns("text").to_parquet(tmp_path / "train-00001-of-00002.parquet")
    with pytest.raises(DataError, match="lacks the columns text"):
        HuggingFace(str(tmp_path), streaming=True)
    dataset = HuggingFace(str(tmp_path))  # `datasets` fills the column up with nulls
    assert dataset[1]["caption"] == "picture 1"
    with pytest.raises(DataError, match="the row has no caption"):
        dataset[2]


def test_a_row_may_not_name_files_elsewhere(tmp_path, picture):
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.png").write_bytes(picture(0))
    (tmp_path / "data" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "data" / "mine.png").write_bytes(picture(1))
    paths = ["mine.png", str(tmp_path / "secret.png"), "../secret.png", "link.png", "https://example.com/a.png", "a\0b"]
    rows = {"image": [{"bytes": None, "path": path} for path in paths], "text": ["a"] * len(paths)}
    pq.write_table(pa.table(rows), tmp_path / "data" / "train.parquet")
    dataset = HuggingFace(str(tmp_path / "data" / "train.parquet"))
    assert dataset[0]["caption"] == "a"
    for row in range(1, len(paths)):
        with pytest.raises(DataError, match="lies outside the data set"):
            dataset[row]


@pytest.mark.parametrize("streaming", [False, True])
def test_text_that_is_no_utf8_is_told(tmp_path, picture, streaming):
    texts = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\2\0\0\0\4\0\0\0"), pa.py_buffer(b"ok\xff\xfe"))
    pq.write_table(pa.table({"image": [picture(0)] * 2, "text": texts}), tmp_path / "train.parquet")
    dataset = HuggingFace(str(tmp_path), streaming=streaming)
    assert dataset[0]["caption"] == "ok"
    with pytest.raises(DataError, match=r"MMG-D30.*\n.*row 1"):
        dataset[1]
    for option in ("label_column", "id_column"):
        with pytest.raises(DataError, match="MMG-D30"):
            HuggingFace(str(tmp_path), streaming=streaming, **{option: "text"})
    with pytest.warns(UserWarning, match="1 of 2 samples left out"):
        assert len(HuggingFace(str(tmp_path), streaming=streaming, on_bad="skip")) == 1


def test_an_arrow_file_that_points_outside_itself_is_told(tmp_path, table):
    table(0, 2).save_to_disk(tmp_path)
    file = next(tmp_path.glob("*.arrow"))
    content = file.read_bytes()
    offsets = (0).to_bytes(4, "little") + (9).to_bytes(4, "little") + (18).to_bytes(4, "little")  # of "picture 0", …
    assert content.count(offsets) == 1
    file.write_bytes(content.replace(offsets, offsets[:8] + (1 << 30).to_bytes(4, "little")))
    with pytest.raises(DataError, match="MMG-D30"):
        HuggingFace(str(tmp_path))[1]


def test_a_readme_may_not_name_files_elsewhere(tmp_path, table):
    (tmp_path / "data").mkdir()
    table(0, 2).to_parquet(tmp_path / "other.parquet")
    config = f"---\nconfigs:\n- config_name: default\n  data_files: {tmp_path}/other.parquet\n---\n"
    (tmp_path / "data" / "README.md").write_text(config)
    with pytest.raises(DataError, match="lies outside"):
        HuggingFace(str(tmp_path / "data"))


FILE = "data-00000-of-00001.arrow"


@pytest.mark.parametrize("name", [f"../../private/{FILE}", f"{{}}/private/{FILE}", "a\0b"])
def test_a_saved_folder_may_not_name_files_elsewhere(tmp_path, table, name):
    table(0, 2).save_to_disk(tmp_path / "private")
    table(0, 2).save_to_disk(tmp_path / "data" / "train")
    state = json.loads((tmp_path / "data" / "train" / "state.json").read_text())
    state["_data_files"] = [{"filename": name.format(tmp_path)}]
    (tmp_path / "data" / "train" / "state.json").write_text(json.dumps(state))
    (tmp_path / "data" / "dataset_dict.json").write_text(json.dumps({"splits": ["train"]}))
    for folder in (tmp_path / "data" / "train", tmp_path / "data"):
        with pytest.raises(DataError, match="lies outside"):
            HuggingFace(str(folder))


@pytest.mark.parametrize("listing", ['{"splits": ["../private"]}', '{"splits": [3]}', "[]", "["])
def test_a_saved_folder_may_not_name_splits_elsewhere(tmp_path, table, listing):
    table(0, 2).save_to_disk(tmp_path / "private")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "dataset_dict.json").write_text(listing)
    with pytest.raises(DataError, match="MMG-D30"):
        HuggingFace(str(tmp_path / "data"))


def test_no_code_of_a_data_set_runs(tmp_path, table):
    folder, mark = tmp_path / "scripted", tmp_path / "ran"
    folder.mkdir()
    (folder / "scripted.py").write_text(f"open({str(mark)!r}, 'w')")
    for name in ("scripted.py", "other.py"):  # the name that once made it the script of the folder, and another
        (folder / "scripted.py").rename(folder / name)
        with pytest.raises(DataError):
            HuggingFace(str(folder))
    table(0, 2).to_parquet(folder / "train.parquet")
    assert len(HuggingFace(str(folder))) == 2
    assert not mark.exists()


def test_files_here_send_nothing_anywhere(parquet, saved, monkeypatch):
    asked = []
    monkeypatch.setattr(config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **more: asked.append(given) or refuse())
    for options in ({}, {"streaming": True}):
        HuggingFace(str(parquet), **options)[0]
    HuggingFace(str(saved))[0]
    HuggingFace(f"file://{parquet}/data/test-*.parquet")[0]
    assert asked == []


def refuse():
    raise OSError("no network here")


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("kind", [{"_type": "Nonsense"}, {"_type": "subprocess"}, {"_type": "Value"}, "x", 3])
def test_a_schema_of_nonsense_is_told(tmp_path, picture, kind, streaming):
    told = json.dumps({"info": {"features": {"image": {"_type": "Image"}, "text": kind}}}).encode()
    found = pa.table({"image": [picture(0)], "text": ["a"]}).replace_schema_metadata({"huggingface": told})
    pq.write_table(found, tmp_path / "train.parquet")
    with pytest.raises(DataError, match="MMG-D30"):
        HuggingFace(str(tmp_path), streaming=streaming)


class Touch:
    """What a pickle that runs something looks like."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_in_a_schema_is_never_read(tmp_path, picture, table):
    mark = tmp_path / "ran"
    payload = pickle.dumps(Touch(mark))
    metadata = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": payload}
    schema = pa.schema(
        [pa.field("image", pa.binary()), pa.field("text", pa.string(), metadata=metadata), pa.field("n", pa.int64())]
    )
    found = pa.table({"image": [picture(0)], "text": ["a"], "n": [1]}, schema=schema)
    pq.write_table(found, tmp_path / "train.parquet")
    for streaming in (False, True):
        HuggingFace(str(tmp_path), streaming=streaming)[0]
    assert not mark.exists()
    pickle.loads(payload)  # noqa: S301 - our own
    assert mark.exists()  # it would have


def test_row_groups_are_read_once_in_order_and_kept_within_bounds(parquet, monkeypatch):
    dataset = HuggingFace(str(parquet), streaming=True)
    opened, read = [], tables.RowGroups._read
    monkeypatch.setattr(tables.RowGroups, "_read", lambda self, *given: opened.append(given[0]) or read(self, *given))
    for i in dataset.splits["train"]:
        dataset[i]
    assert opened == [0, 1, 2, 3, 4]  # 10, 10 and 5 rows of the first file, 10 and 5 of the second
    dataset[0], dataset[39]
    assert len(opened) == 5
    monkeypatch.setattr(tables, "CACHE_BYTES", 1)
    again = HuggingFace(str(parquet), streaming=True)
    for i in (0, 1, 20, 0):
        assert again[i]["caption"] == f"picture {i}"
    assert opened[5:] == [0, 2, 0]


def test_files_behind_max_samples_are_not_opened(tmp_path, monkeypatch, table):
    for i in range(3):
        table(i * 4, i * 4 + 4).to_parquet(tmp_path / f"train-0000{i}-of-00003.parquet")
    (tmp_path / "train-00002-of-00003.parquet").write_bytes(b"cut")
    monkeypatch.setattr(tables, "AT_ONCE", 1)
    dataset = HuggingFace(str(tmp_path), streaming=True, max_samples=6)
    assert [dataset[i]["caption"] for i in (0, 5)] == ["picture 0", "picture 5"]
    assert len(dataset) == 6


def test_a_row_group_that_would_fill_the_memory_is_refused(parquet, monkeypatch):
    monkeypatch.setattr(tables, "LARGEST_GROUP", 1000)
    with pytest.raises(DataError, match="row group 0 holds") as refused:
        HuggingFace(str(parquet), streaming=True)
    assert "smaller row groups" in refused.value.fix
