"""Small sources of every kind, and a cache of `datasets` that goes away; nothing is asked of the network."""

from pathlib import Path

import datasets
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

from mmgen.images import encode_png

datasets.disable_progress_bars()


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return folder


def _picture(number: int, width: int = 20) -> bytes:
    """A PNG of 16 rows, the same for a number."""
    return encode_png(torch.rand(3, 16, width, generator=torch.Generator().manual_seed(number)))


FEATURES = Features({"image": Image(), "text": Value("string"), "label": ClassLabel(names=["tabby_cat", "dog"])})


def _table(start: int, stop: int) -> Dataset:
    rows = range(start, stop)
    found = {
        "image": [{"bytes": _picture(i), "path": f"{i}.png"} for i in rows],
        "text": [f"picture {i}" for i in rows],
        "label": [i % 2 for i in rows],
    }
    return Dataset.from_dict(found, features=FEATURES)


@pytest.fixture(scope="session")
def parquet(tmp_path_factory) -> Path:
    """40 rows of `train` in two files of several row groups, 10 of `test`."""
    folder = tmp_path_factory.mktemp("parquet") / "data"
    folder.mkdir()
    _table(0, 25).to_parquet(folder / "train-00000-of-00002.parquet", batch_size=10)
    _table(25, 40).to_parquet(folder / "train-00001-of-00002.parquet", batch_size=10)
    _table(40, 50).to_parquet(folder / "test-00000-of-00001.parquet")
    return folder.parent


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Path:
    """The same, by `save_to_disk`."""
    folder = tmp_path_factory.mktemp("saved")
    DatasetDict({"train": _table(0, 40), "test": _table(40, 50)}).save_to_disk(folder)
    return folder


@pytest.fixture
def picture():
    """Makes the PNG of a number."""
    return _picture


@pytest.fixture
def table():
    """Makes the rows from a number to another, with pictures, captions and labels."""
    return _table
