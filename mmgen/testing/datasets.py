"""Checks of a dataset."""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmgen.protocols import Dataset, Sample, TokenDataset
from mmgen.testing.checks import (
    Prepared,
    Unmet,
    own_random_state,
    require,
    require_random_state_kept,
    require_shared_state_kept,
    require_tensor,
    run,
    seed_everything,
)
from mmgen.testing.token_datasets import TOKEN_DATASET_CHECKS, TokenSubject


@dataclass
class Subject:
    """A dataset, and which of its samples are looked at."""

    dataset: Dataset
    limit: int

    @property
    def positions(self) -> list[int]:
        """At most `limit`, evenly spread, the first and the last among them."""
        size = len(self.dataset)
        if size <= self.limit:
            return list(range(size))
        return sorted({round(i * (size - 1) / (self.limit - 1)) for i in range(self.limit)})

    @property
    def splits(self) -> Mapping[str, Sequence[int]]:
        return getattr(self.dataset, "splits", None) or {}


def it_has_samples(subject: Subject) -> None:
    size = len(subject.dataset)
    require(isinstance(size, int) and size > 0, f"its length is {size}")


def samples_are_captioned_pictures(subject: Subject) -> None:
    for i in subject.positions:
        sample = subject.dataset[i]
        image = sample["image"]
        require(isinstance(image, Tensor) and image.dim() == 3, f"the image of sample {i} is no tensor (3,H,W)")
        require_tensor(image, (3, *image.shape[1:]), f"the image of sample {i}")
        require(bool((image >= 0).all() and (image <= 1).all()), f"the image of sample {i} has values outside [0,1]")
        require(isinstance(sample["id"], str) and sample["id"], f"the id of sample {i} is not a text")
        _require_caption(sample["caption"], f"the caption of sample {i}")


def _require_caption(caption: object, what: str) -> None:
    require(isinstance(caption, str), f"{what} is a {type(caption).__name__}, not a str")
    assert isinstance(caption, str)
    require(caption.strip(), f"{what} is empty")
    require(len(caption.encode("utf-8", "replace")) <= 8192, f"{what} is longer than 8 KiB")


def other_captions_are_captions(subject: Subject) -> None:
    for i in subject.positions:
        sample = subject.dataset[i]
        if "captions" in sample:
            require(
                isinstance(sample["captions"], list) and sample["captions"], f"sample {i} has an empty list of captions"
            )
            for caption in sample["captions"]:
                _require_caption(caption, f"a caption of sample {i}")


def attributes_are_texts(subject: Subject) -> None:
    for i in subject.positions:
        for name, value in subject.dataset[i].get("attributes", {}).items():
            require(isinstance(name, str) and isinstance(value, str), f"an attribute of sample {i} is not a text")


def pictures_have_one_size(subject: Subject) -> None:
    sizes = {tuple(subject.dataset[i]["image"].shape) for i in subject.positions}
    require(len(sizes) == 1, f"its pictures have the shapes {sorted(sizes)}")


def ids_are_unique(subject: Subject) -> None:
    ids = [subject.dataset[i]["id"] for i in subject.positions]
    twice = sorted({id for id in ids if ids.count(id) > 1})
    require(not twice, f"the id {twice[0]!r} occurs twice" if twice else "")


def a_sample_is_always_the_same(subject: Subject) -> None:
    for i in subject.positions:
        _require_same(subject.dataset[i], subject.dataset[i], f"sample {i} is another when it is read again")


def _require_same(one: Sample, other: Sample, what: str) -> None:
    require(torch.equal(one["image"], other["image"]), what)
    rest = [{key: value for key, value in sample.items() if key != "image"} for sample in (one, other)]
    require(rest[0] == rest[1], what)


def samples_read_together_are_the_same(subject: Subject) -> None:
    together = getattr(subject.dataset, "__getitems__", None)
    if together is None:
        return
    positions = subject.positions[::-1][:16]
    found = list(together(positions))
    require(len(found) == len(positions), f"of {len(positions)} samples asked for together there are {len(found)}")
    for i, sample in zip(positions, found, strict=True):
        _require_same(sample, subject.dataset[i], f"sample {i} is another when it is read with others")


def a_sample_belongs_to_its_reader(subject: Subject) -> None:
    i = subject.positions[0]
    kept = subject.dataset[i]["image"].clone()
    subject.dataset[i]["image"].fill_(0.5)
    require(torch.equal(subject.dataset[i]["image"], kept), "changing the picture of a sample changes the dataset")


def reading_leaves_the_random_numbers_alone(subject: Subject) -> None:
    require_random_state_kept(lambda: [subject.dataset[i] for i in subject.positions])


def the_order_of_reading_makes_no_difference(subject: Subject) -> None:
    forth = {i: subject.dataset[i] for i in subject.positions}
    for i in reversed(subject.positions):
        _require_same(subject.dataset[i], forth[i], f"sample {i} is another after others were read")


def the_global_seed_makes_no_difference(subject: Subject) -> None:
    for i in subject.positions[:8]:
        read = []
        for seed in (1, 2):
            with own_random_state():
                seed_everything(seed)
                read.append(subject.dataset[i])
        _require_same(read[0], read[1], f"sample {i} depends on the global random numbers")


def nothing_that_all_share_changes(subject: Subject) -> None:
    require_shared_state_kept(lambda: [subject.dataset[i] for i in subject.positions])


def originals_are_pictures(subject: Subject) -> None:
    read = getattr(subject.dataset, "original", None)
    for i in subject.positions if read is not None else ():
        assert read is not None
        image = read(i)
        require(isinstance(image, Tensor) and image.dim() == 3, f"original({i}) is no tensor (3,H,W)")
        require_tensor(image, (3, *image.shape[1:]), f"original({i})")
        require(min(image.shape[1:]) > 0, f"original({i}) has no pixels")
        require(bool((image >= 0).all() and (image <= 1).all()), f"original({i}) has values outside [0,1]")


def an_original_is_always_the_same(subject: Subject) -> None:
    read = getattr(subject.dataset, "original", None)
    if read is None:
        return
    i = subject.positions[-1]
    first = read(i)
    kept = first.clone()
    first.fill_(0.5)
    require(torch.equal(read(i), kept), f"original({i}) is another when it is read again")
    require_random_state_kept(lambda: read(i))


def it_ends(subject: Subject) -> None:
    try:
        subject.dataset[len(subject.dataset)]
    except IndexError:
        return
    raise Unmet("reading behind its end raises no IndexError")


def it_survives_a_trip_to_a_worker(subject: Subject) -> None:
    again = pickle.loads(pickle.dumps(subject.dataset))  # noqa: S301  what was just dumped
    require(len(again) == len(subject.dataset), "a pickled copy has another length")
    i = subject.positions[-1]
    _require_same(again[i], subject.dataset[i], "a pickled copy has other samples")


def splits_are_disjoint_positions(subject: Subject) -> None:
    size = len(subject.dataset)
    for name, positions in subject.splits.items():
        require(all(isinstance(i, int) and 0 <= i < size for i in positions), f"split {name} leaves the dataset")
        require(len(set(positions)) == len(positions), f"split {name} holds a position twice")
    for one, other in itertools.combinations(subject.splits, 2):
        shared = set(subject.splits[one]) & set(subject.splits[other])
        require(not shared, f"splits {one} and {other} share {len(shared)} positions")


def splits_have_something_to_train_on(subject: Subject) -> None:
    if subject.splits:
        require(subject.splits.get("train"), "it declares splits, but no train")
        require(subject.splits.get("val", [0]), "its val is empty")


def weights_are_of_its_parts(subject: Subject) -> None:
    weights: Mapping[str, float] = getattr(subject.dataset, "part_weights", None) or {}
    if not weights:
        return
    parts: Mapping[str, Sequence[int]] = getattr(subject.dataset, "parts", None) or {}
    require(set(weights) == set(parts), f"it has the weights {sorted(weights)} and the parts {sorted(parts)}")
    require(all(0 < weight < math.inf for weight in weights.values()), "a weight is not a finite number above 0")
    positions = sorted(position for part in parts.values() for position in part)
    require(positions == list(range(len(subject.dataset))), "a position is in no part, or in two")


def classes_are_values_of_attributes(subject: Subject) -> None:
    seen: dict[str, set[str]] = {}
    for i in subject.positions:
        for name, value in subject.dataset[i].get("attributes", {}).items():
            seen.setdefault(name, set()).add(value)
    for name, values in (getattr(subject.dataset, "classes", None) or {}).items():
        require(len(set(values)) == len(values) > 1, f"class {name} needs two different values or more")
        require(seen.get(name, set()) & set(values), f"no sample looked at has one of the values of class {name}")


def templates_name_attributes(subject: Subject) -> None:
    known = {name for i in subject.positions for name in subject.dataset[i].get("attributes", {})}
    known |= set(getattr(subject.dataset, "classes", None) or {})
    for template in getattr(subject.dataset, "templates", None) or ():
        try:
            template.format(**dict.fromkeys(known, "x"))
        except (KeyError, IndexError, ValueError) as e:
            raise Unmet(f"the template {template!r} cannot be filled in from {sorted(known)}") from e


def attribution_is_a_line(subject: Subject) -> None:
    line = getattr(subject.dataset, "attribution", "x")
    require(isinstance(line, str) and line.strip() and "\n" not in line, "its attribution is not one line of text")


DATASET_CHECKS = (
    it_has_samples,
    samples_are_captioned_pictures,
    other_captions_are_captions,
    attributes_are_texts,
    pictures_have_one_size,
    ids_are_unique,
    a_sample_is_always_the_same,
    samples_read_together_are_the_same,
    a_sample_belongs_to_its_reader,
    reading_leaves_the_random_numbers_alone,
    the_order_of_reading_makes_no_difference,
    the_global_seed_makes_no_difference,
    nothing_that_all_share_changes,
    originals_are_pictures,
    an_original_is_always_the_same,
    it_ends,
    it_survives_a_trip_to_a_worker,
    splits_are_disjoint_positions,
    splits_have_something_to_train_on,
    weights_are_of_its_parts,
    classes_are_values_of_attributes,
    templates_name_attributes,
    attribution_is_a_line,
)


def prepare(dataset: Dataset | TokenDataset, limit: int = 64) -> Prepared:
    """A dataset of pictures, or of tokens, and the checks of its kind."""
    if isinstance(dataset, TokenDataset):
        return Prepared(dataset, TokenSubject(dataset, limit), TOKEN_DATASET_CHECKS)
    return Prepared(dataset, Subject(dataset, limit), DATASET_CHECKS)


def check_dataset(
    dataset: Dataset | TokenDataset, limit: int = 64, expected_failures: Mapping[str, str] | None = None
) -> list[str]:
    """Checks a dataset against `mmgen.protocols.Dataset`, or one of tokens against `TokenDataset`.

    Args:
        dataset: an instance, as small as you like.
        limit: how many samples are looked at, evenly spread.
        expected_failures: reasons, by the names of the checks that are known to fail; strict.

    Returns:
        The names of the checks.

    Raises:
        Nonconforming: an AssertionError that names every check that failed and what it found.
    """
    return run(prepare(dataset, limit), expected_failures)
