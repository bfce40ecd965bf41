"""Token shards: they hold what a training on the pictures would see, and nothing damaged gets past them."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmgen.data.augment import keeps
from mmgen.data.checking import check
from mmgen.data.module import PictureData
from mmgen.data.pictures import Pictures
from mmgen.data.shards import INDEX, entries, read_shard, token_type, write_shard
from mmgen.data.tokenizing import plan
from mmgen.data.tokens import MappedShard, Tokens
from mmgen.errors import DataError
from tests.data.fakes import CODES, Noisy, codes, tokens_at

SIZE = 40


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of seven of 40 pictures, with three captions each."""
    return tokens_at(tmp_path_factory.mktemp("tokens") / "plain", Noisy(SIZE, others=2))


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tokens_at(tmp_path_factory.mktemp("tokens") / "varied", Noisy(SIZE), "dalle_tokenizer", variants=3)


def batches(data: PictureData) -> tuple[list[Any], list[Any]]:
    return list(data.train_dataloader()), list(data.val_dataloader())


def same(one: list[Any], other: list[Any], *names: str) -> bool:
    def equal(a: Any, b: Any) -> bool:
        return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b

    pairs = list(zip(one, other, strict=True))
    return bool(pairs) and all(equal(a[name], b[name]) for a, b in pairs for name in names)


# --- what they hold --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_those_of_the_pictures(plain: Path, num_workers: int) -> None:
    pictures = Pictures(Noisy(SIZE, others=2))
    options: dict[str, Any] = {"batch_size": 6, "seed": 3, "max_steps": 20, "alternative_captions": 0.6}
    expected = batches(PictureData(pictures, codes=codes(pictures.batch(range(SIZE))).flatten(1), **options))
    found = batches(PictureData(Tokens(str(plain)), num_workers=num_workers, **options))
    for one, other in zip(expected, found, strict=True):
        assert same(one, other, "id", "key", "caption", "image_tokens")
    assert len(found[0]) == 20
    assert any("in words" in caption for batch in found[0] for caption in batch["caption"])
    assert {batch["image_tokens"].dtype for batch in found[0]} == {torch.int64}


def test_a_variant_is_what_its_epoch_sees_of_the_picture(varied: Path) -> None:
    """Three epochs of the pictures, augmented on the way by the seed that made the shards, are the three variants."""
    count = len(Tokens(str(varied)).positions("train"))
    options: dict[str, Any] = {"batch_size": count, "seed": 3, "max_steps": 4}
    pictures, _ = batches(PictureData(Noisy(SIZE), augment="dalle_tokenizer", **options))
    tokens, val = batches(PictureData(Tokens(str(varied)), **options))
    assert same(pictures, tokens, "id", "key")
    expected = [codes(batch["image"]).flatten(1) for batch in pictures]
    found = [torch.equal(a, b["image_tokens"]) for a, b in zip(expected, tokens, strict=True)]
    assert found == [True, True, True, False]  # the fourth epoch has the first variant again
    by_id = [dict(zip(batch["id"], batch["image_tokens"].tolist(), strict=True)) for batch in tokens]
    assert by_id[3] == by_id[0] != by_id[1]
    plain = PictureData(Noisy(SIZE), **options).val_dataloader()
    held = torch.cat([codes(batch["image"]).flatten(1) for batch in plain])
    assert torch.equal(torch.cat([batch["image_tokens"] for batch in val]), held), "val is not augmented"


def test_pictures_of_a_shape_that_is_not_trained_on_are_left_out(tmp_path: Path) -> None:
    dataset = Noisy(SIZE)
    tokens = Tokens(str(tokens_at(tmp_path / "t", dataset, "dalle_generator", variants=2)))
    pictures = PictureData(dataset, batch_size=4, seed=3, max_steps=1, augment="dalle_generator")
    kept = [dataset[i]["id"] for i in pictures.train_positions]
    assert [record["id"] for record in tokens.records(tokens.positions("train"))] == kept
    assert 0 < pictures.left_out == SIZE - len(tokens.positions("val")) - len(kept)
    assert all(keeps("dalle_generator", dataset.original(i)) for i in pictures.train_positions)
    assert len(tokens.positions("val")) == len(pictures.val_positions)


def test_a_sample_can_be_looked_at(plain: Path) -> None:
    tokens, dataset = Tokens(str(plain)), Noisy(SIZE, others=2)
    positions = Pictures(dataset).positions("train")
    for place in (0, 9, len(positions) - 1):
        sample, found = dataset[positions[place]], tokens[place]
        assert torch.equal(found["image_tokens"], codes(sample["image"][None]).flatten())
        assert {key: found[key] for key in ("id", "caption", "captions", "attributes")} == {
            key: sample[key]  # type: ignore[literal-required]
            for key in ("id", "caption", "captions", "attributes")
        }
    with pytest.raises(IndexError):
        tokens[len(tokens)]


def test_known_ids_go_with_batches_whose_captions_have_no_dropout(plain: Path) -> None:
    tokens = Tokens(str(plain))
    options: dict[str, Any] = {"batch_size": 6, "seed": 3, "max_steps": 5}
    text_tokenizer = tokens.text_tokenizer()
    train, val = batches(PictureData(tokens, bpe_dropout=0.0, **options))
    for batch in (*train, *val):
        assert torch.equal(batch["text_tokens"], text_tokenizer.encode(batch["caption"]))
    train, val = batches(PictureData(tokens, bpe_dropout=0.1, **options))
    assert not any("text_tokens" in batch for batch in train)
    assert all("text_tokens" in batch for batch in val)
    train, _ = batches(PictureData(tokens, bpe_dropout=0.0, alternative_captions=0.5, **options))
    assert not any("text_tokens" in batch for batch in train), "another caption has other ids"


def test_dropout_is_the_training_s(plain: Path) -> None:
    tokens = Tokens(str(plain))
    captions = [f"number {i}" for i in range(30)]
    dropped = tokens.text_tokenizer(0.5)
    assert torch.equal(dropped.encode(captions), tokens.text_tokenizer().encode(captions))
    assert not torch.equal(dropped.encode(captions, range(30)), dropped.encode(captions))


def test_groups_go_by_the_records(plain: Path) -> None:
    options: dict[str, Any] = {"batch_size": 6, "seed": 3, "max_steps": 6, "grouped_by": "parity"}
    pictures = Pictures(Noisy(SIZE, others=2))
    expected, _ = batches(PictureData(pictures, codes=codes(pictures.batch(range(SIZE))).flatten(1), **options))
    found, _ = batches(PictureData(Tokens(str(plain)), **options))
    assert same(expected, found, "id", "image_tokens")


def test_the_fingerprint_changes_with_what_they_hold(plain: Path, varied: Path, tmp_path: Path) -> None:
    one = Tokens(str(plain)).fingerprint
    assert one == Tokens(str(tokens_at(tmp_path / "again", Noisy(SIZE, others=2)))).fingerprint
    others = [
        Tokens(str(varied)),
        Tokens(str(tokens_at(tmp_path / "more", Noisy(SIZE + 1, others=2)))),
        Tokens(str(tokens_at(tmp_path / "captions", Noisy(SIZE, others=1)))),
        Tokens(str(tokens_at(tmp_path / "tokenizer", Noisy(SIZE, others=2), image_tokenizer="e" * 64))),
    ]
    assert len({one, *(other.fingerprint for other in others)}) == 5


@pytest.mark.parametrize(("num_codes", "kind"), [(256, "<u2"), (65536, "<u2"), (65537, "<i4")])
def test_tokens_take_the_smallest_type(num_codes: int, kind: str, tmp_path: Path) -> None:
    tokens = np.array([[[0, 1, num_codes - 1]], [[num_codes // 2, 5, num_codes - 2]]])
    records: list[Any] = [{"id": str(i), "captions": ["a"], "attributes": {}} for i in range(2)]
    shard = write_shard(tmp_path, (0, "train", 0, 2), zip(tokens, records, strict=True), 1, num_codes)
    assert token_type(num_codes) == np.dtype(kind)
    mapped = MappedShard(tmp_path, shard, 3, num_codes)
    assert np.frombuffer(mapped.image_tokens, dtype=kind).tolist() == tokens.flatten().tolist()
    assert [mapped.record(i) for i in range(2)] == records
    assert read_shard(tmp_path, 0) == shard


def test_shards_are_planned_within_splits() -> None:
    found = [(s.number, s.split, s.first, s.last) for s in plan({"train": 25, "val": 3}, 10)]
    assert found == [(0, "train", 0, 10), (1, "train", 10, 20), (2, "train", 20, 25), (3, "val", 0, 3)]
    assert [s.size for s in plan({"train": 5000, "val": 300}, None)] == [4096, 904, 300]
    assert len(plan({"train": 250_000_000, "val": 606_000}, None)) <= 1002


def test_an_id_occurs_once(tmp_path: Path) -> None:
    class Twice(Noisy):
        def __getitem__(self, index: int) -> Any:
            return {**super().__getitem__(index), "id": f"n{index % 39:04d}"}

    Twice.splits = {"train": list(range(38)), "val": [38, 39]}  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="'n0000' occurs twice"):
        tokens_at(tmp_path / "twice", Twice(SIZE))


def test_fixed_tokens_cannot_be_augmented(plain: Path) -> None:
    with pytest.raises(ValueError, match="cannot be augmented"):
        PictureData(Tokens(str(plain)), batch_size=4, seed=1, max_steps=1, augment="dalle_generator")


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(plain: Path, tmp_path: Path) -> Path:
    """A copy, for harm."""
    return Path(shutil.copytree(plain, tmp_path / "damaged"))


def test_a_file_cut_anywhere_is_refused_when_it_is_opened(damaged: Path) -> None:
    cuts = 0
    for name, entry in entries(Tokens(str(damaged)).index).items():
        content = (damaged / name).read_bytes()
        assert len(content) == entry.size
        for end in {*range(0, len(content), 512), len(content) - 1}:
            (damaged / name).write_bytes(content[:end])
            with pytest.raises(DataError) as caught:
                Tokens(str(damaged))
            assert caught.value.code == "MMG-D13"
            assert f"{name} is damaged: it has {end:,} bytes, {len(content):,} were written" in str(caught.value)
            cuts += 1
        (damaged / name).write_bytes(content)
    assert cuts >= 36
    Tokens(str(damaged))


def test_a_cut_index_is_refused(damaged: Path) -> None:
    content = (damaged / INDEX).read_bytes()
    for end in range(0, len(content) - 1, 97):
        (damaged / INDEX).write_bytes(content[:end])
        with pytest.raises(DataError, match=r"index\.json is damaged") as caught:
            Tokens(str(damaged))
        assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"shards": []},
        {"shards": "all"},
        {"text": []},
        {"num_ids": 0},
        {"context_length": "12"},
        {"recipe": {"grid": [2, 2]}},
        {"recipe": []},
        {"text_tokenizer": {"size": -1, "sha256": "0"}},
        {"more": 1},
    ],
)
def test_an_index_that_says_something_else_is_refused(damaged: Path, change: dict[str, Any]) -> None:
    content = json.loads((damaged / INDEX).read_text())
    (damaged / INDEX).write_text(json.dumps({**content, **change}))
    with pytest.raises(DataError, match=r"index\.json is damaged"):
        Tokens(str(damaged))


def test_a_count_that_does_not_fit_is_refused_when_it_is_read(damaged: Path) -> None:
    content = json.loads((damaged / INDEX).read_text())
    for count in (6, 8, 10**12):
        content["shards"][0]["count"] = count
        (damaged / INDEX).write_text(json.dumps(content))
        with pytest.raises(DataError, match=r"shard-00000\.tokens is damaged"):
            Tokens(str(damaged)).image_tokens([0], [0])


@pytest.mark.parametrize("name", ["shard-00000.tokens", "shard-00002.text", "text_tokenizer.json"])
def test_a_missing_file_is_refused(damaged: Path, name: str) -> None:
    (damaged / name).unlink()
    with pytest.raises(DataError, match=f"{name} is damaged: it cannot be read"):
        Tokens(str(damaged))


def test_a_flipped_bit_is_found_by_the_check_and_nothing_else_is(damaged: Path) -> None:
    assert check(Tokens(str(damaged))) == []
    place = torch.Generator().manual_seed(0)
    for name, entry in entries(Tokens(str(damaged)).index).items():
        content = bytearray((damaged / name).read_bytes())
        at = int(torch.randint(entry.size, (), generator=place))
        content[at] ^= 4
        (damaged / name).write_bytes(content)
        counted: list[int] = []
        (error,) = check(Tokens(str(damaged)), counted.append)
        assert f"{name} is damaged: its SHA-256 is" in str(error)
        assert entry.sha256[:16] in str(error)
        assert sum(counted) == Tokens(str(damaged)).size
        content[at] ^= 4
        (damaged / name).write_bytes(content)


def test_a_damaged_text_tokenizer_is_refused(damaged: Path) -> None:
    content = bytearray((damaged / "text_tokenizer.json").read_bytes())
    content[-3] ^= 1
    (damaged / "text_tokenizer.json").write_bytes(content)
    with pytest.raises(DataError, match=r"text_tokenizer\.json is damaged: its SHA-256"):
        Tokens(str(damaged)).text_tokenizer()


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("image", f"image token above {CODES - 1}"),
        ("text", "text token above"),
        ("records", "sample 6 has no id, or no caption"),
    ],
)
def test_tokens_of_no_tokenizer_are_found_by_the_check(damaged: Path, part: str, words: str) -> None:
    """Whoever makes shards by other means makes the hashes agree."""
    index = json.loads((damaged / INDEX).read_text())
    name = "shard-00000.text" if part == "text" else "shard-00000.tokens"
    entry = index["text" if part == "text" else "shards"][0]
    content = bytearray((damaged / name).read_bytes())
    if part == "records":
        at = content.rindex(b'"n0')
        content[at : at + 7] = b'""     '
    else:
        content[:2] = b"\xff\xff"
    (damaged / name).write_bytes(content)
    entry["sha256"] = hashlib.sha256(content).hexdigest()
    (damaged / INDEX).write_text(json.dumps(index))
    (error,) = check(Tokens(str(damaged)))
    assert words in str(error)


def test_what_is_no_directory_of_shards_is_named(tmp_path: Path, plain: Path) -> None:
    with pytest.raises(DataError, match="does not exist") as caught:
        Tokens(str(tmp_path / "gone"))
    assert "mmgen data tokenize" in caught.value.fix
    with pytest.raises(DataError, match="holds no token shards"):
        Tokens(str(tmp_path))
    unfinished = Path(shutil.copytree(plain, tmp_path / "unfinished"))
    (unfinished / INDEX).unlink()
    (unfinished / "recipe.json").write_text("{}")
    with pytest.raises(DataError, match="not finished: 7 shards are written") as caught:
        Tokens(str(unfinished))
    assert caught.value.code == "MMG-D12"


def test_another_split_is_refused(plain: Path) -> None:
    with pytest.raises(DataError, match="no split 'heldout'"):
        Tokens(str(plain)).positions("heldout")
