"""Guesses at a picture that was never trained on, made of trained pictures of its family: what needs no generator.

A family is the pictures that share one attribute (a person's name) and differ in another (the skin tone).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from mmgen.protocols import Sample, Setting


def guesses(
    setting: Setting, samples: Sequence[Sample], family: str, varied: str
) -> dict[str, tuple[str, dict[int, Tensor]]]:
    """Each baseline's name to what it does, and its picture (3,H,W) of every sample (by place) that it has one of."""
    trained = _families(setting, family, varied)
    copied: dict[int, Tensor] = {}
    mean: dict[int, Tensor] = {}
    between: dict[int, Tensor] = {}
    order = {value: float(i) for i, value in enumerate(setting.classes.get(varied, ()))}
    for place, sample in enumerate(samples):
        own = sample.get("attributes") or {}
        relatives = trained.get(own.get(family, ""), {}) if own.get(varied) in order else {}
        known = {order[value]: image for value, image in relatives.items() if value in order}
        if not known:
            continue
        wanted = order[own[varied]]
        nearest = sorted(known, key=lambda at: (abs(at - wanted), at))
        copied[place] = known[nearest[0]]
        mean[place] = torch.stack(list(known.values())).mean(dim=0)
        if wanted not in known and len(known) > 1:
            between[place] = _on_the_line(known, wanted, nearest)
    return {
        "copied": (f"the trained picture with the same {family} and the nearest {varied}", copied),
        "mean": (f"the mean of the trained pictures with the same {family}", mean),
        "interpolated": (f"the line through the two trained pictures of neighbouring {varied}", between),
    }


def _families(setting: Setting, family: str, varied: str) -> dict[str, dict[str, Tensor]]:
    """The trained pictures: by the family, then by what varies in it."""
    assert setting.all_images is not None
    found: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for position in setting.train_positions:
        attributes = setting.all_attributes[position]
        if family in attributes and varied in attributes:
            found[attributes[family]].setdefault(attributes[varied], setting.all_images[position].cpu().float())
    return found


def _on_the_line(known: dict[float, Tensor], wanted: float, nearest: list[float]) -> Tensor:
    """Between the neighbours on both sides; where one side has none, onwards from the two nearest."""
    below = [at for at in nearest if at < wanted]
    above = [at for at in nearest if at > wanted]
    first, second = (below[0], above[0]) if below and above else nearest[:2]
    share = (wanted - first) / (second - first)
    return torch.lerp(known[first], known[second], share).clamp(0, 1)
