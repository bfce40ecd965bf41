"""What is judged: a model and a dataset, what the two can give an evaluator, and what they lack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mmgen.data.pictures import Pictures, split_names
from mmgen.protocols import Needs
from mmgen.text_to_image import TextToImage

ALL = "all"  # the split of every picture


class Subject:
    """A model and a dataset.

    Args:
        model: the parts that are there.
        pictures: the dataset, read.
        foreign: whether nothing was trained on these pictures, as far as is known.
    """

    def __init__(self, model: TextToImage, pictures: Pictures, foreign: bool = False) -> None:
        self.model, self.pictures, self.foreign = model, pictures, foreign
        self.dataset: Any = pictures.dataset
        self.splits = tuple(getattr(self.dataset, "splits", None) or ())
        self.classes: Mapping[str, Sequence[str]] = self._all_classes()
        self.templates: Sequence[str] = getattr(self.dataset, "templates", None) or ()

    def _all_classes(self) -> dict[str, list[str]]:
        """Those declared; and of a dataset, or the parts of one, that declare none: the values of each attribute, where
        they are not all different, or other parts declare some."""
        declared = getattr(self.dataset, "classes", None) or {}
        everywhere = range(len(self.pictures.attributes))
        counts: dict[str, Counter[str]] = {}
        for position in getattr(self.dataset, "undeclared", ()) if declared else everywhere:
            for name, value in self.pictures.attributes[position].items():
                counts.setdefault(name, Counter())[value] += 1
        classes = {name: list(values) for name, values in declared.items()}
        for name, found in counts.items():
            if name in declared or max(found.values()) > 1:
                classes[name] = list(dict.fromkeys([*classes.get(name, ()), *sorted(found)]))
        return classes

    @property
    def reads_text(self) -> bool:
        """Whether there is an encoder with both sides."""
        return self.model.has("encoder") and hasattr(self.model.part("encoder"), "encode_text")

    @property
    def logit_scale(self) -> float:
        """What cosines are multiplied by; 1 without an encoder of text."""
        return min(float(self.model.part("encoder").logit_scale.detach().exp()), 100.0) if self.reads_text else 1.0

    def split(self, needs: Needs) -> str | None:
        """The split to judge: the one asked for, or what stands in for it."""
        if needs.split == ALL or needs.split in split_names(self.dataset):
            return needs.split
        if not needs.or_val:
            return None
        if not self.foreign or "val" in self.splits:
            return "val"
        held_out = [name for name in self.splits if name != "train"]  # rather than a `val` cut from the rest
        if "test" in held_out:
            return "test"
        return held_out[0] if len(held_out) == 1 else "val" if self.splits else ALL

    def positions(self, needs: Needs) -> list[int]:
        """Of the split to judge."""
        split = self.split(needs)
        assert split is not None
        return list(range(len(self.pictures))) if split == ALL else self.pictures.positions(split)

    def aside(self, needs: Needs) -> str | None:
        """Why an evaluator cannot judge this, or None."""
        if self.split(needs) is None:
            return f"the dataset has no split {needs.split}"
        if not self.positions(needs):
            return f"the dataset has no pictures in {self.split(needs)}; it has the splits {', '.join(self.splits)}"
        wanted = {"classes": (needs.attributes, self.classes), "templates": (needs.templates, self.templates)}
        lacking = [name for name, (needed, there) in wanted.items() if needed and not there]
        if lacking:
            return f"the dataset declares no {' and no '.join(lacking)}"
        draws = bool(needs.drawings or needs.redrawings)
        both_sides = needs.features or draws  # drawings come ranked
        parts = {
            "tokenizer": needs.reconstructions or needs.teacher_forced or draws,
            "generator": needs.teacher_forced or draws,
            "encoder": both_sides or needs.probe_features,
        }
        missing = [kind for kind, needed in parts.items() if needed and not self.model.has(kind)]
        if missing:
            return f"there is no trained {' and no trained '.join(missing)}"
        return "the encoder reads pictures only, no captions" if both_sides and not self.reads_text else None
