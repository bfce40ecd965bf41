"""The dataset `mixture`: how often each part is drawn, what the parts become together, and mistakes in a part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from mmgen import registry
from mmgen.commands import composition, places
from mmgen.data.mixture import Mixture
from mmgen.data.module import PictureData
from mmgen.data.order import BatchOrder
from mmgen.data.pictures import Pictures, data_fingerprint
from mmgen.data.tokenizing import positions_of
from mmgen.data.weighted import WeightedOrder
from mmgen.errors import ConfigError, ConfigErrors, DataError, MmgenError
from mmgen.images import save_png
from mmgen.testing import check_dataset
from mmgen.testing.checks import Unmet
from mmgen.testing.datasets import Subject, weights_are_of_its_parts
from tests.data.test_module import STEPS, StopAfter, Tiny, train

# --- how often --------------------------------------------------------------------------------------------------------


def order(sizes: list[int], weights: list[float], batch_size: int = 5, seed: int = 1, **options: Any) -> WeightedOrder:
    """Parts 0, 1 … of these sizes, their places one after the other."""
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    parts = {str(i): range(start, start + size) for i, (start, size) in enumerate(zip(starts, sizes, strict=True))}
    return WeightedOrder(parts, {str(i): w for i, w in enumerate(weights)}, batch_size, seed, **options)


def draws(order: BatchOrder, steps: int) -> list[tuple[int, int]]:
    return [slot for step in range(steps) for slot in order.slots(step)]


def parts_of(sizes: list[int], found: list[tuple[int, int]]) -> Iterator[int]:
    for place, _ in found:
        yield next(i for i in range(len(sizes)) if place < sum(sizes[: i + 1]))


@pytest.mark.parametrize(
    ("sizes", "weights"),
    [
        ([7, 30], [2, 1]),
        ([50, 3], [1, 1]),
        ([3, 11], [0.001, 1000]),
        ([5, 5, 5], [0.1, 0.2, 0.7]),
        ([9], [3]),
        ([4, 2, 6, 2, 2, 2, 2], [10, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_after_every_draw_the_shares_are_what_the_weights_ask(sizes: list[int], weights: list[float]):
    """To within (1 + (P - 2) w) / 2 draws, P parts: a half of two, below one of three (see `WeightedOrder`)."""
    shares = [Fraction(repr(float(weight))) / sum(Fraction(repr(float(w))) for w in weights) for weight in weights]
    counts = [0] * len(sizes)
    for done, part in enumerate(parts_of(sizes, draws(order(sizes, weights), 400)), 1):
        counts[part] += 1
        for count, share in zip(counts, shares, strict=True):
            assert abs(count - share * done) <= (1 + max(0, len(sizes) - 2) * share) / 2
    assert done == 2000


def test_any_step_is_known_without_those_before_it():
    """Exactly, and far into a training too."""
    sizes, weights = [13, 4, 100], [0.3, 0.1, 1.7]
    one_by_one = draws(order(sizes, weights, batch_size=1), 600)
    assert draws(order(sizes, weights, batch_size=6), 100) == one_by_one
    assert [order(sizes, weights, batch_size=6).slots(step) for step in (99, 3)] == [
        one_by_one[594:600],
        one_by_one[18:24],
    ]
    # 7 draws in 21 are 3, 1 and 17: a far step differs from a near one by whole rounds alone
    far = order(sizes, weights, batch_size=21)
    counts = Counter(parts_of(sizes, far.slots(10**12)))
    assert counts == {0: 3, 1: 1, 2: 17}


def test_every_sample_of_a_part_comes_once_before_one_comes_again():
    sizes = [7, 30]
    found = draws(order(sizes, [2, 1]), 100)
    for part, size in enumerate(sizes):
        own = [slot for slot, of in zip(found, parts_of(sizes, found), strict=True) if of == part]
        assert [epoch for _, epoch in own] == [k // size for k in range(len(own))]
        for first in range(0, len(own) - size, size):
            assert len({place for place, _ in own[first : first + size]}) == size
    assert len(set(found)) == len(found), "no (sample, epoch), and so no key, comes twice"


def test_orders_differ_by_seed_epoch_and_part():
    first, second = (draws(order([9, 9], [1, 1], batch_size=2, seed=seed), 18) for seed in (1, 2))
    assert first != second
    one, other = ([place % 9 for place, _ in first[part::2]] for part in (0, 1))
    assert one[:9] != one[9:]
    assert one != other


def test_samples_of_a_group_follow_each_other_within_their_part():
    groups = [place % 4 for place in range(24)]
    found = draws(order([12, 12], [1, 1], batch_size=2, groups=groups), 12)
    for part in (0, 1):
        own = [groups[place] for place, _ in found[part::2]]
        assert sum(one != other for one, other in pairwise(own)) == 3


# --- what the parts become --------------------------------------------------------------------------------------------


def pictures(path: Path, names: list[str], size: int = 8) -> dict[str, Any]:
    """The options of a folder of grey pictures."""
    path.mkdir(parents=True)
    for i, name in enumerate(names):
        save_png(torch.full((3, size, size), i / 255), path / f"{name}.png")
        (path / f"{name}.txt").write_text(f"a {name}")
    return {"name": "folder", "path": str(path)}


@pytest.fixture
def parts(tmp_path: Path) -> dict[str, Any]:
    animals = pictures(tmp_path / "animals", ["ant", "bee", "cat", "dog", "eel", "fox"])
    things = pictures(tmp_path / "things", [f"thing-{i}" for i in range(12)], size=20)
    return {"animals": {**animals, "weight": 3.0}, "things": things}


class Owned:
    """A dataset with everything a dataset may declare."""

    attribution = "Pictures: ours"
    templates = ("a {colour} wall", "all {colour}")
    classes = {"colour": ["black", "grey"]}  # noqa: RUF012
    splits = {"train": [0, 1], "val": [2], "far": [3]}  # noqa: RUF012

    def __init__(self, image_size: int = 4, colours: int = 2) -> None:
        self.image_size, self.colours = image_size, colours

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(4)[index]
        image = torch.full((3, self.image_size, self.image_size), index / 8)
        colour = self.classes["colour"][index % 2]
        return {"image": image, "caption": f"wall {index}", "id": f"w{index}", "attributes": {"colour": colour}}


class Redder(Owned):
    attribution = "Pictures: theirs"
    templates = ("a {colour} wall", "{colour}")
    classes = {"colour": ["grey", "red"]}  # noqa: RUF012


@pytest.fixture
def owned(monkeypatch: pytest.MonkeyPatch) -> None:
    known = registry.components("dataset")
    ours = {"owned": "Owned", "redder": "Redder"}
    more = {name: [registry.Component("dataset", name, f"{__name__}:{own}", "t")] for name, own in ours.items()}
    monkeypatch.setattr(registry, "components", lambda kind: {**known, **more} if kind == "dataset" else {})


def test_it_conforms(parts: dict[str, Any]):
    dataset = registry.build("dataset", {"name": "mixture", "parts": parts, "image_size": 8})
    assert "weights_are_of_its_parts" in check_dataset(dataset)
    assert dataset.part_weights == {"animals": 3.0, "things": 1.0}
    assert dataset.parts == {"animals": range(6), "things": range(6, 18)}
    assert [dataset[i]["id"] for i in (0, 5, 6, -1)] == [
        "animals/ant.png", "animals/fox.png", "things/thing-0.png", "things/thing-9.png",
    ]  # fmt: skip
    assert dataset[7]["image"].shape == (3, 8, 8)
    assert dataset.original(7).shape == (3, 20, 20)


@pytest.mark.parametrize(
    "fault", [{"part_weights": {"animals": 1.0}}, {"parts": {"animals": range(6), "things": range(7)}}]
)
def test_the_kit_finds_weights_without_their_parts(parts: dict[str, Any], fault: dict[str, Any]):
    dataset = Mixture(parts, image_size=8)
    vars(dataset).update(fault)
    with pytest.raises(Unmet, match=r"weights|position"):
        weights_are_of_its_parts(Subject(dataset, 64))


def test_every_part_has_its_own_train_and_val(parts: dict[str, Any]):
    dataset = Mixture(parts, image_size=8)
    for name, positions in dataset.parts.items():
        alone = Pictures(registry.build("dataset", {**{k: v for k, v in parts[name].items() if k != "weight"}}))
        for split in ("train", "val"):
            mixed = [dataset[i]["id"] for i in dataset.splits[split] if i in positions]
            assert mixed == [f"{name}/{alone.ids[i]}" for i in alone.positions(split)] != []


@pytest.mark.usefixtures("owned")
def test_what_a_part_holds_out_is_not_trained_on(parts: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    """Also of a part that declares no `train`."""
    monkeypatch.setattr(Owned, "splits", {"far": [3, 1]})
    dataset = Mixture({"animals": parts["animals"], "one": {"name": "owned"}}, image_size=8)
    one = dataset.parts["one"]
    assert dataset.splits["far"] == [one[3], one[1]]
    assert sorted(i for name in ("train", "val") for i in dataset.splits[name] if i in one) == [one[0], one[2]]


@pytest.mark.usefixtures("owned")
def test_what_parts_declare_is_united(parts: dict[str, Any]):
    dataset = Mixture({"one": {"name": "owned"}, "two": {"name": "redder"}, "animals": parts["animals"]}, image_size=8)
    check_dataset(dataset)
    assert dataset.splits["far"] == [3, 7]
    assert dataset.splits["train"][:4] == [0, 1, 4, 5]
    assert dataset.classes == {"colour": ["black", "grey", "red"]}
    assert dataset.undeclared == list(dataset.parts["animals"])
    assert dataset.templates == ("a {colour} wall", "all {colour}", "{colour}")
    assert dataset.attribution == "Pictures: ours; Pictures: theirs"
    assert not hasattr(dataset, "original"), "two parts have none"


# --- a training -------------------------------------------------------------------------------------------------------


def data(parts: dict[str, Any], **options: Any) -> PictureData:
    return PictureData(Mixture(parts, image_size=8), batch_size=4, seed=3, max_steps=STEPS, **options)


def test_training_batches_hold_the_shares(parts: dict[str, Any]):
    for batch in data(parts).train_dataloader():
        assert Counter(id.partition("/")[0] for id in batch["id"]) == {"animals": 3, "things": 1}
        assert [caption[2:] for caption in batch["caption"]] == [id.partition("/")[2][:-4] for id in batch["id"]]


def test_keys_never_repeat(parts: dict[str, Any]):
    keys = [key for batch in data(parts).train_dataloader() for key in batch["key"]]
    assert len(set(keys)) == len(keys) == 4 * STEPS


@pytest.mark.parametrize("steps", [1, 7, 21])
def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(parts: dict[str, Any], steps: int, tmp_path: Path):
    whole = train(Tiny(), data=data(parts))
    first = train(Tiny(), StopAfter(steps, tmp_path / "ckpt", "on_train_batch_end"), data=data(parts))
    second = train(Tiny(), ckpt=tmp_path / "ckpt", data=data(parts))
    assert len(whole.seen) == STEPS
    assert len(first.seen) == steps
    assert first.seen + second.seen == whole.seen
    assert torch.equal(second.weight, whole.weight)


def test_a_run_cannot_go_on_with_other_weights_unnoticed(parts: dict[str, Any]):
    """What a run knows of its data is the fingerprint."""
    before, again = (data_fingerprint(Mixture(parts, image_size=8)) for _ in range(2))
    parts["animals"]["weight"] = 2.0
    assert before == again != data_fingerprint(Mixture(parts, image_size=8))


def test_a_part_without_training_samples_is_named(parts: dict[str, Any]):
    dataset = Mixture(parts, image_size=8)
    dataset.splits["train"] = [i for i in dataset.splits["train"] if i in dataset.parts["animals"]]
    with pytest.raises(DataError, match="'things' has nothing to train on"):
        PictureData(dataset, batch_size=4, seed=3, max_steps=1)


def test_token_shards_would_lose_the_weights(parts: dict[str, Any]):
    with pytest.raises(ConfigError, match="token shards keep no weights"):
        positions_of(Mixture(parts, image_size=8))


# --- mistakes ---------------------------------------------------------------------------------------------------------


def mistake(parts: Any, **options: Any) -> MmgenError:
    with pytest.raises(MmgenError) as caught:
        registry.build("dataset", {"name": "mixture", "parts": parts, "image_size": 8, **options})
    return caught.value


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf"), "much", True, None])
def test_weights_are_finite_and_above_0(parts: dict[str, Any], weight: Any):
    parts["things"]["weight"] = weight
    error = mistake(parts)
    assert (error.code, error.where) == ("MMG-C02", "dataset.parts.things.weight")


@pytest.mark.parametrize(
    ("part", "code", "where", "told"),
    [
        ({"name": "folder", "path": "nowhere"}, "MMG-D01", "dataset.parts.bad.path", "dataset.parts.bad.path=FOLDER"),
        ({"name": "folder"}, "MMG-C05", "dataset.parts.bad.path", "dataset.parts.bad.path=VALUE"),
        ({"name": "scenes", "sede": 2}, "MMG-C01", "dataset.parts.bad.sede", "did you mean dataset.parts.bad.seed?"),
        ({"name": "scenes", "wieght": 2}, "MMG-C01", "dataset.parts.bad.wieght", "mean dataset.parts.bad.weight?"),
        ({"name": "scenes", "seed": "x"}, "MMG-C02", "dataset.parts.bad.seed", "a whole number"),
        ({"name": "scenes", "image_size": 64}, "MMG-C04", "dataset.parts.bad.image_size", "dataset.image_size=64"),
        ({"name": "folded"}, "MMG-C03", "dataset.parts.bad", "dataset.parts.bad.name=folder"),
        ({}, "MMG-C03", "dataset.parts.bad", "no option 'bad'"),
        ({"name": "mixture", "parts": {"scenes": {}}}, "MMG-C04", "dataset.parts.bad", "is a mixture"),
        ({"name": "tests.data.fakes:Numbered", "size": 3}, "MMG-C03", "dataset.parts.bad", "no option 'tests.data"),
    ],
)
def test_a_mistake_in_a_part_is_told_with_the_part(parts: dict[str, Any], part: Any, code: str, where: str, told: str):
    error = mistake({**parts, "bad": part})
    assert (error.code, error.where) == (code, where)
    assert told in error.render()


def test_all_mistakes_are_told_at_once(parts: dict[str, Any]):
    parts["animals"]["weight"], parts["things"]["on_bad"] = 0, "hide"
    error = mistake(parts)
    assert isinstance(error, ConfigErrors)
    assert [e.where for e in error.errors] == ["dataset.parts.animals.weight", "dataset.parts.things.on_bad"]


@pytest.mark.parametrize("wrong", [None, {}, {"scenes": 2}, ["scenes"], {"a/b": {"name": "scenes"}}])
def test_parts_are_sections(wrong: Any):
    assert mistake(wrong).where == "dataset.parts"


@pytest.mark.parametrize(
    "line",
    [
        "dataset=mixture dataset.parts.folder.path=p dataset.parts.scenes.weight=0.5",
        "dataset=mixture dataset.parts.mine.name=folder dataset.parts.mine.path=p dataset.parts.scenes.weight=0.5",
        "dataset=mixture dataset.parts.mine={name:folder,path:p} dataset.parts.scenes.weight=0.5",
    ],
)
def test_the_command_line_makes_parts(line: str):
    found = composition.checked("train", ["task=encoder", *line.split()], places.places(None)).config["dataset"]
    assert found["name"] == "mixture"
    assert found["parts"].pop("scenes") == {"weight": 0.5}
    [mine] = found["parts"].values()
    assert mine["path"] == "p"
    assert mine.get("name", "folder") == "folder"
