"""Several datasets as one, the built-in dataset `mixture`."""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, groupby
from typing import Any

from torch import Tensor

from mmgen import registry
from mmgen.data.pictures import samples_at, split_names, split_positions
from mmgen.errors import ConfigError, ConfigErrors, MmgenError, quoted
from mmgen.options import UnknownKey
from mmgen.protocols import Dataset, Sample, TokenDataset


class Mixture:
    """Several datasets as one; training draws from each as often as its weight asks.

    Args:
        parts: by a name of your choice the options of a dataset, its `name` (without it, the part's name is the
            dataset's), and `weight`, 1 by default. Weights are relative: of 2 and 1, the first has two draws in three.
        image_size: pixels a side of every part that has this option.

    A sample's id is the part's name, a slash, and its id there. `train` and `val` are those of all parts, also of those
    that declare none; other splits of one name are one split. Classes of one attribute and templates are united.

    Attributes:
        parts: the positions of each part, by its name.
        part_weights: by the part's name.
        undeclared: the positions of the parts that declare no classes: theirs are found by counting.

    Raises:
        ConfigError: no part, or one that is no dataset of pictures, refuses its options, or has another image size.
        DataError: what a part raises.
    """

    def __init__(self, parts: dict[str, dict[str, Any]] | None = None, image_size: int = 32) -> None:
        if not parts:
            raise ConfigError(
                "the mixture has no parts",
                code="MMG-C05",
                where="dataset.parts",
                fix="dataset.parts.emoji.weight=2 dataset.parts.folder.path=FOLDER_WITH_PICTURES",
            )
        self.image_size = image_size
        self.part_weights, configs = _checked(parts, image_size)
        self._datasets = [_built(name, config) for name, config in configs.items()]
        ends = list(accumulate(map(len, self._datasets)))
        self._starts = [0, *ends[:-1]]
        self.parts = {name: range(*ends) for name, *ends in zip(configs, self._starts, ends, strict=True)}
        self.splits = self._united_splits()
        self.classes = _united(getattr(dataset, "classes", None) or {} for dataset in self._datasets)
        self.undeclared = [
            position
            for dataset, positions in zip(self._datasets, self.parts.values(), strict=True)
            if not getattr(dataset, "classes", None)
            for position in positions
        ]
        self.templates = tuple(dict.fromkeys(t for d in self._datasets for t in getattr(d, "templates", None) or ()))
        lines = [line for dataset in self._datasets if (line := getattr(dataset, "attribution", ""))]
        if lines:
            self.attribution = "; ".join(dict.fromkeys(lines))

    def __len__(self) -> int:
        return sum(map(len, self._datasets))

    def __getitem__(self, index: int) -> Sample:
        part, place = self._place(index)
        sample = self._datasets[part][place]
        return {**sample, "id": f"{list(self.parts)[part]}/{sample['id']}"}

    def __getitems__(self, positions: Sequence[int]) -> list[Sample]:
        """The samples at these positions; those of one part that follow each other are read together, if it can."""
        found: list[Sample] = []
        places = [self._place(position) for position in positions]
        for part, run in groupby(places, key=lambda place: place[0]):
            name = list(self.parts)[part]
            for sample in samples_at(self._datasets[part], [place for _, place in run]):
                found.append({**sample, "id": f"{name}/{sample['id']}"})
        return found

    @property
    def original(self) -> Callable[[int], Tensor]:
        """`original(index)`: the picture at its own size; only where every part has it.

        Raises:
            AttributeError: a part has none.
        """
        if not all(hasattr(dataset, "original") for dataset in self._datasets):
            raise AttributeError("a part of the mixture has no original pictures")
        return self._original

    def _original(self, index: int) -> Tensor:
        part, place = self._place(index)
        dataset: Any = self._datasets[part]
        return dataset.original(place)

    def before(self, index: int) -> Tensor:
        """What a redrawing of this sample starts from (3,H,W): what its part says, or its own picture."""
        part, place = self._place(index)
        dataset: Any = self._datasets[part]
        return dataset.before(place) if hasattr(dataset, "before") else dataset[place]["image"]

    def _place(self, index: int) -> tuple[int, int]:
        """Which part, and the position there."""
        index = range(len(self))[index]
        part = bisect_right(self._starts, index) - 1
        return part, index - self._starts[part]

    def _united_splits(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {"train": [], "val": []}
        for start, (name, dataset) in zip(self._starts, zip(self.parts, self._datasets, strict=True), strict=True):
            for split in split_names(dataset):
                try:
                    positions = split_positions(dataset, split)
                except MmgenError as error:
                    raise _of_part(error, f"dataset.parts.{name}") from error
                found.setdefault(split, []).extend(start + position for position in positions)
        return found


def _checked(parts: Mapping[str, Any], image_size: int) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """The weights, and the config of every part's dataset.

    Raises:
        ConfigErrors: everything that is wrong with them.
    """
    weights: dict[str, float] = {}
    configs: dict[str, dict[str, Any]] = {}
    errors: list[ConfigError] = []
    for name, part in parts.items():
        try:
            weights[name] = _weight(name, part)
            configs[name] = _config(name, part, image_size)
        except ConfigErrors as several:
            errors += several.errors
        except ConfigError as error:
            errors.append(error)
    if errors:
        raise ConfigErrors(errors)
    return weights, configs


def _weight(name: str, part: Mapping[str, Any]) -> float:
    weight = part.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise ConfigError(
            f"dataset.parts.{name}.weight must be a number above 0, got {quoted(weight)}",
            code="MMG-C02",
            where=f"dataset.parts.{name}.weight",
            fix=f"dataset.parts.{name}.weight=1, or leave the part out",
        )
    return float(weight)


def _config(name: str, part: Mapping[str, Any], image_size: int) -> dict[str, Any]:
    """What the registry builds a part's dataset from, complete."""
    place = f"dataset.parts.{name}"
    if not re.fullmatch(r"[\w-]+", name):
        text = f"a part is called {quoted(name)}; letters, digits, _ and - only"
        raise ConfigError(text, code="MMG-C02", where="dataset.parts", fix="dataset.parts.NAME.name=DATASET")
    config = {"name": name, **{key: value for key, value in part.items() if key != "weight"}}
    if str(config["name"]).partition("@")[0] == "mixture":
        raise ConfigError(
            "a part of a mixture is a mixture",
            code="MMG-C04",
            where=place,
            fix="name its parts beside the others, each weight times this one's",
        )
    try:
        # Registry names only: a run's config comes with the run, from wherever, and would import any module:Class.
        component = registry.find("dataset", str(config["name"]), trusted=False)
    except ConfigError as error:
        error.where = place
        error.fix = error.fix.replace("dataset=", f"{place}.name=")
        raise
    if "image_size" in component.options() and config.setdefault("image_size", image_size) != image_size:
        raise ConfigError(
            f"{place}.image_size is {quoted(config['image_size'])}, and the mixture's is {image_size}",
            code="MMG-C04",
            where=f"{place}.image_size",
            why="all pictures of a dataset have one size",
            fix=f"dataset.image_size={config['image_size']}, and no image_size in any part",
        )
    try:
        return registry.complete("dataset", config, trusted=False, place=place)
    except ConfigErrors as several:
        own = [f"{place}.name", f"{place}.weight"]
        known = [UnknownKey(e.path, [*e.known, *own]) if isinstance(e, UnknownKey) else e for e in several.errors]
        raise ConfigErrors(known) from several


def _built(name: str, config: Mapping[str, Any]) -> Dataset:
    place = f"dataset.parts.{name}"
    try:
        dataset = registry.build("dataset", config, trusted=False)
    except MmgenError as error:
        raise _of_part(error, place) from error
    if isinstance(dataset, TokenDataset):
        raise ConfigError(
            f"{place} holds image tokens, and a mixture is of pictures",
            code="MMG-C27",
            where=place,
            fix=f"{place}.name=DATASET with pictures",
        )
    return dataset


def _of_part(error: MmgenError, place: str) -> MmgenError:
    """The error with the part's keys: `dataset.path` is `dataset.parts.NAME.path`."""
    for told in ("where", "why", "fix"):
        setattr(error, told, re.sub(r"\bdataset\.(?!parts\.)", f"{place}.", getattr(error, told)))
    if error.where in ("", "dataset"):
        error.where = place
    elif place not in error.where:
        error.where = f"{place}: {error.where}"
    return error


def _united(classes: Any) -> dict[str, Sequence[str]]:
    """Of each attribute every part's values, in the order of the parts."""
    found: dict[str, list[str]] = {}
    for own in classes:
        for attribute, values in own.items():
            found.setdefault(attribute, []).extend(values)
    return {attribute: list(dict.fromkeys(values)) for attribute, values in found.items()}
