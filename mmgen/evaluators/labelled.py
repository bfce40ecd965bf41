"""Pictures by what an encoder reads off them, with a class each; divided by their ids, so that it stays the same.

Letters: N pictures, F features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mmgen.protocols import Evidence, Sample


class Rows(NamedTuple):
    """Pictures of which the class is known."""

    ids: list[str]
    classes: list[str]
    features: Tensor  # (N,F)

    def where(self, kept: Tensor) -> Rows:
        """Those where `kept` (N,) is true."""
        places = kept.nonzero().flatten().tolist()
        return Rows([self.ids[i] for i in places], [self.classes[i] for i in places], self.features[places])

    def within(self, classes: Sequence[str]) -> Rows:
        """Those of these classes."""
        wanted = set(classes)
        return self.where(torch.tensor([name in wanted for name in self.classes], dtype=torch.bool))

    def with_(self, other: Rows) -> Rows:
        """Both, one after the other."""
        return Rows(self.ids + other.ids, self.classes + other.classes, torch.cat([self.features, other.features]))

    def numbers(self, classes: Sequence[str]) -> Tensor:
        """(N,) long: the place of each one's class."""
        place = {name: i for i, name in enumerate(classes)}
        return torch.tensor([place[name] for name in self.classes], dtype=torch.long)

    @property
    def none(self) -> Tensor:
        """(N,) bool, all false."""
        return torch.zeros(len(self.ids), dtype=torch.bool)


class Labelled(NamedTuple):
    """Pictures, whatever attributes they have."""

    samples: list[Sample]
    features: Tensor  # (N,F)

    def having(self, attribute: str) -> Rows:
        """Those that have an attribute, with its value as their class."""
        found = [(sample.get("attributes") or {}).get(attribute) for sample in self.samples]
        rows = Rows([sample["id"] for sample in self.samples], [value or "" for value in found], self.features)
        return rows.where(torch.tensor([value is not None for value in found], dtype=torch.bool))


def light(sample: Sample) -> Sample:
    """Without the picture."""
    return {**sample, "image": torch.empty(0)}


def joined(chunks: Iterable[Evidence]) -> Labelled:
    """The chunks' samples without their pictures, and their `probe_features`; no chunk is kept."""
    samples: list[Sample] = []
    features: list[Tensor] = []
    for chunk in chunks:
        samples += [light(sample) for sample in chunk.samples]
        if chunk.probe_features is not None:
            features.append(chunk.probe_features.cpu().float())
    return Labelled(samples, torch.cat(features) if features else torch.zeros(0, 0))


def drawn(rows: Rows, share: float, salt: str) -> Tensor:
    """(N,) bool: a share of each class, by the ids' hash; of a class of two or more at least one, never all."""
    members: dict[str, list[int]] = {}
    for i, name in enumerate(rows.classes):
        members.setdefault(name, []).append(i)
    chosen = rows.none
    for places in members.values():
        places.sort(key=lambda i: (hashed(rows.ids[i], salt), rows.ids[i]))
        count = min(max(1, round(share * len(places))), len(places) - 1)
        chosen[places[:count]] = True
    return chosen


def hashed(id: str, salt: str) -> int:
    """A number that only the id and the salt decide."""
    return int.from_bytes(hashlib.blake2b(f"{salt}/{id}".encode("utf-8", "surrogatepass"), digest_size=8).digest())
