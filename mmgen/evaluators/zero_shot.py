"""`zero_shot`: classifying a picture by naming the classes."""

from __future__ import annotations

import random
import string
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mmgen.protocols import Evidence, Finding, Findings, Needs, Sample, Setting

CONFUSION = 10  # classes in a table of confusions, at most


@dataclass(frozen=True)
class Question:
    """One picture to be classified: which of `choices` (the true one first), by which captions of each."""

    row: int
    attribute: str
    choices: list[str]
    captions: list[list[str]]  # (choices, templates)


class ZeroShot:
    """For each attribute that has classes: the template with that attribute varied and the others as they are.

    "woman firefighter with dark skin tone" is put among the same with four other tones, and among the same tone with
    other names. Captions of several templates are averaged by their features (CLIP, section 3.1.4). Ties count against
    the encoder.

    Args:
        split: the pictures judged.
        choices: how many captions a picture is put among, 2 or more; an attribute with no more classes has them all.
        seed: of the choices, which are the same in every run.
        max_pictures: judge no more than these; null: all.

    Raises:
        ValueError: fewer than 2 choices.
    """

    def __init__(
        self, split: str = "heldout_pairs", choices: int = 20, seed: int = 0, max_pictures: int | None = None
    ) -> None:
        if choices < 2:
            raise ValueError(f"choices is {choices}; a picture must be put among 2 or more")
        self.choices, self.seed = choices, seed
        self.needs = Needs(split, max_pictures=max_pictures, features=True, attributes=True)

    def begin(self, setting: Setting) -> None:
        """Starts anew."""
        self._setting = setting
        self._answers: dict[str, list[tuple[str, str, int]]] = defaultdict(list)  # truth, answer, choices

    def update(self, evidence: Evidence) -> None:
        """Classifies pictures by their features."""
        assert evidence.image_features is not None
        assert self._setting.encode_captions is not None
        questions = [
            question for row, sample in enumerate(evidence.samples) for question in self._questions(row, sample)
        ]
        place = {c: i for i, c in enumerate(dict.fromkeys(c for q in questions for cs in q.captions for c in cs))}
        if not place:
            return
        features = self._setting.encode_captions(list(place)).cpu().float()
        for question in questions:
            index = torch.tensor([[place[caption] for caption in captions] for captions in question.captions])
            classes = normalize(features[index].mean(dim=1), dim=-1)
            scores = classes @ evidence.image_features[question.row].cpu().float()
            answer = question.choices[_best(scores)]
            self._answers[question.attribute].append((question.choices[0], answer, len(question.choices)))

    def _questions(self, row: int, sample: Sample) -> list[Question]:
        """What can be asked of a sample: of each attribute that a template, filled with its attributes, names."""
        own = sample.get("attributes") or {}
        questions = []
        for attribute, values in self._setting.classes.items():
            templates = [t for t in self._setting.templates if attribute in fields(t) <= own.keys()]
            if attribute not in own or not templates:
                continue
            others = [value for value in values if value != own[attribute]]
            if len(others) >= self.choices:
                draw = random.Random(f"{self.seed}/{sample['id']}/{attribute}")  # noqa: S311
                others = draw.sample(others, self.choices - 1)
            choices = [own[attribute], *others]
            captions = [[fill(t, {**own, attribute: choice}) for t in templates] for choice in choices]
            questions.append(Question(row, attribute, choices, captions))
        return questions

    def compute(self) -> Findings:
        """The accuracies over everything since `begin`."""
        numbers, tables = [], {}
        for attribute, answers in self._answers.items():
            n, values = len(answers), self._setting.classes[attribute]
            right = sum(truth == answer for truth, answer, _ in answers) / n
            chance = sum(1 / count for _, _, count in answers) / n
            all_of_them = len(values) <= self.choices
            among = f"all {len(values)} classes" if all_of_them else f"{self.choices} random classes of {len(values)}"
            note = f"pictures of {self._setting.split}, each among {among}"
            numbers.append(Finding(f"zero_shot/{attribute}", right, n, "%", chance, note))
            if all_of_them:
                tables[f"Zero-shot: {attribute}"] = _by_value(answers, values)
            else:
                tables[f"Zero-shot: {attribute}, mistaken most often"] = _mistakes(answers)
            if len(values) <= CONFUSION:
                tables[f"Zero-shot: {attribute}, how often taken for which"] = _confusion(answers, values)
        return Findings(numbers, tables, depends_on=("dataset", "encoder"))


def fields(template: str) -> set[str]:
    """The attributes that a template names."""
    return {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}


def fill(template: str, attributes: Mapping[str, str]) -> str:
    """The caption; unlike `str.format` it can only put in attributes."""
    parts = string.Formatter().parse(template)
    return "".join(text + ("" if field is None else attributes[field]) for text, field, _, _ in parts)


def _best(scores: Tensor) -> int:
    """The answer: 0, the truth, only where it beats all others."""
    rival = 1 + int(scores[1:].argmax()) if len(scores) > 1 else 0
    return 0 if rival == 0 or scores[0] > scores[rival] else rival


def _by_value(answers: Sequence[tuple[str, str, int]], values: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for value in values:
        taken = [answer for truth, answer, _ in answers if truth == value]
        share = round(100 * sum(answer == value for answer in taken) / len(taken), 1) if taken else None
        rows.append({"class": value, "pictures": len(taken), "right, %": share})
    return rows


def _confusion(answers: Sequence[tuple[str, str, int]], values: Sequence[str]) -> list[dict[str, Any]]:
    pairs = [(truth, answer) for truth, answer, _ in answers]
    return [{"class": truth, **{answer: pairs.count((truth, answer)) for answer in values}} for truth in values]


def _mistakes(answers: Sequence[tuple[str, str, int]]) -> list[dict[str, Any]]:
    """The ten commonest."""
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for truth, answer, _ in answers:
        if truth != answer:
            counts[truth, answer] += 1
    worst = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:10]
    return [{"class": truth, "taken for": answer, "times": count} for (truth, answer), count in worst]
