"""`zero_shot`: classifying a picture by naming the classes."""

from __future__ import annotations

import dataclasses
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from mmgen.evaluators.confusion import by_class, confusion, mean_per_class, mistakes
from mmgen.evaluators.prompts import (
    captions_of,
    check_templates,
    fields,
    fill,
    templates_for,
    titles_of,
    usable_classes,
    why_not,
)
from mmgen.evaluators.sheets import Chosen, enlarged
from mmgen.images import to_bytes, two_columns
from mmgen.protocols import Evidence, Finding, Findings, Names, Needs, Sample, Setting

__all__ = ["ZeroShot", "fields", "fill"]

TOP = 5
SHOWN = 32  # pictures of an attribute with what each was called, and as many that were mistaken
CONFUSION = 20  # classes in a table of confusions, at most


@dataclass(frozen=True)
class Question:
    """What pictures are put among: choices, and the captions of each. Pictures that share one are asked at once."""

    attribute: str
    choices: tuple[str, ...]
    templates: tuple[str, ...]
    context: tuple[tuple[str, str], ...]  # the other attributes that the templates name, as the picture has them

    def captions(self, names: Names) -> list[list[list[str]]]:
        """(templates, choices, names of the choice)."""
        return captions_of(self.templates, self.attribute, self.choices, dict(self.context), names)


@dataclass(frozen=True)
class Called:
    """A picture and what it was called."""

    id: str
    image: Tensor  # (3,H,W) uint8
    truth: str
    answer: str

    @property
    def row(self) -> tuple[str, list[Tensor]]:
        """Of a sheet."""
        said = self.truth if self.truth == self.answer else f"{self.truth}, called {self.answer}"
        return said, [enlarged(self.image)]


@dataclass
class Answers:
    """What was answered about one attribute, and some of the pictures, chosen by the seed."""

    some: Chosen[Called]
    mistaken: Chosen[Called]
    pairs: list[tuple[str, str]] = field(default_factory=list)  # truth, answer
    ranks: list[int] = field(default_factory=list)  # of the truth, from 1
    choices: list[int] = field(default_factory=list)  # how many each was put among
    templates: list[int] = field(default_factory=list)  # how many captions each class had
    first: list[bool] = field(default_factory=list)  # whether the first template alone was right
    alone: dict[str, list[bool]] = field(default_factory=lambda: defaultdict(list))  # whether each template alone was


class ZeroShot:
    """For each attribute that has classes: the templates with that attribute varied and the others as they are.

    "woman firefighter with dark skin tone" is put among the same with four other tones, and among the same tone with
    other names. Captions of several templates are averaged by their features (CLIP, section 3.1.4), and the first
    template's accuracy alone stands beside that of the ensemble. Ties count against the encoder.

    Args:
        split: the pictures judged; "all" takes every one.
        choices: how many classes a picture is put among, 2 or more; an attribute with no more classes has them all.
            null: all classes, always.
        attributes: those asked for; null: every one with classes that a template names.
        templates: captions with places for attributes, or with `{}` for the one asked for; null: those of `prompts`, or
            the dataset's.
        prompts: a pack's name or file, whose names stand for the classes of one attribute in captions: `imagenet` for
            folders called n01440764 and so on. A class with several names is the average of all.
        seed: of the choices, which are the same in every run.
        max_pictures: judge no more than these; null: all.

    Raises:
        ValueError: fewer than 2 choices; a template without a place; in `begin`, classes that the pack has not, or of
            several attributes.
    """

    def __init__(
        self,
        split: str = "heldout_pairs",
        choices: int | None = 20,
        attributes: list[str] | None = None,
        templates: list[str] | None = None,
        seed: int = 0,
        max_pictures: int | None = None,
        prompts: str | None = None,
    ) -> None:
        if choices is not None and choices < 2:
            raise ValueError(f"choices is {choices}; a picture must be put among 2 or more")
        if templates is not None:
            check_templates(templates)
        self.choices, self.attributes, self.templates, self.seed = choices, attributes, templates, seed
        self.prompts = prompts
        own_templates = templates is not None or prompts is not None
        self.needs = Needs(
            split,
            max_pictures=max_pictures,
            features=True,
            attributes=True,
            templates=not own_templates,
            prompts=prompts,
        )

    def begin(self, setting: Setting) -> None:
        """Starts anew."""
        self._setting = setting
        self._templates = self.templates if self.templates is not None else list(setting.templates)
        self._classes = usable_classes(setting, self.attributes)
        self._titles: dict[str, str] = {}  # of classes that a pack names
        self._names: Names = {}
        self._by_place = ""  # how a pack's names were given, where classes are numbers
        if self.prompts is not None and self._classes:
            self._take_prompts(self.prompts, setting)
        self._places = {name: {value: i for i, value in enumerate(values)} for name, values in self._classes.items()}
        self._answers: dict[str, Answers] = defaultdict(
            lambda: Answers(Chosen(SHOWN, setting.seed), Chosen(SHOWN, setting.seed))
        )
        # of all classes of an attribute, in templates that name no other: (templates,L,D), for every picture
        self._tables_of: dict[tuple[str, tuple[str, ...]], Tensor] = {}

    def _take_prompts(self, prompts: str, setting: Setting) -> None:
        assert setting.read_prompts is not None
        self._names, templates = setting.read_prompts(prompts)
        if self.templates is None:
            self._templates = list(templates)
        if not self._names:  # a pack may be templates alone
            return
        if len(self._classes) > 1:
            raise ValueError(
                f"prompts={prompts} names one attribute's classes: attributes=[{next(iter(self._classes))}]"
            )
        ((attribute, values),) = self._classes.items()
        self._titles, by_place = titles_of(values, self._names, prompts)
        if by_place:
            first, title = next(iter(self._titles.items()))
            self._by_place = f", in the order of their numbers: {first} is {title}"
        self._classes = {attribute: list(self._titles.values())}

    def update(self, evidence: Evidence) -> None:
        """Classifies pictures by their features."""
        assert evidence.image_features is not None
        asked: dict[Question, list[tuple[int, str]]] = defaultdict(list)
        for row, sample in enumerate(evidence.samples):
            for question, truth in self._questions(sample):
                asked[question].append((row, truth))
        features = self._features([question for question in asked if not self._is_shared(question)])
        images = evidence.image_features.cpu().float()
        for question, rows in asked.items():
            classes = features[question] if question in features else self._shared(question)
            places = [row for row, _ in rows]
            answers = self._answer(question, classes, images[places], [truth for _, truth in rows])
            if not len(evidence.images):
                continue  # who asks for figures alone, such as `robustness`, gives none
            found = self._answers[question.attribute]
            for (row, truth), answer in zip(rows, answers, strict=True):
                id = evidence.samples[row]["id"]
                for chosen in (found.some, found.mistaken) if answer != truth else (found.some,):
                    if chosen.wants(id):
                        chosen.offer(Called(id, to_bytes(evidence.images[row]), truth, answer))

    def _questions(self, sample: Sample) -> list[tuple[Question, str]]:
        """What can be asked of a sample: of each attribute that a template, filled with its attributes, names."""
        own = sample.get("attributes") or {}
        questions = []
        for attribute, values in self._classes.items():
            templates = templates_for(attribute, own, self._templates) if attribute in own else []
            if not templates:
                continue
            truth = self._titles.get(own[attribute], own[attribute])
            named = {name for template in templates for name in fields(template)} - {attribute, ""}
            context = tuple((name, own[name]) for name in sorted(named))
            choices = tuple(values) if truth in values else (truth, *values)
            if self.choices is not None and len(choices) > self.choices:
                told = f"{self.seed}/{sample['id']}/{attribute}".encode("utf-8", "surrogatepass")
                draw = random.Random(told)  # noqa: S311
                others = [value for value in values if value != truth]
                choices = (truth, *draw.sample(others, self.choices - 1))
            questions.append((Question(attribute, choices, tuple(templates), context), truth))
        return questions

    def _features(self, questions: Sequence[Question]) -> dict[Question, Tensor]:
        """Of each question (templates,choices,D), every caption encoded once."""
        assert self._setting.encode_captions is not None
        return _encoded({q: q.captions(self._names) for q in questions}, self._setting.encode_captions)

    def _is_shared(self, question: Question) -> bool:
        """Whether it needs nothing of the picture but which classes it is put among."""
        return not question.context and question.choices[0] in self._places[question.attribute]

    def _shared(self, question: Question) -> Tensor:
        """(templates,choices,D), of what is encoded once for all pictures: every class, in every template."""
        classes, key = tuple(self._classes[question.attribute]), (question.attribute, question.templates)
        if key not in self._tables_of:
            whole = dataclasses.replace(question, choices=classes)
            encode = self._setting.encode_classes or self._setting.encode_captions
            assert encode is not None
            self._tables_of[key] = _encoded({whole: whole.captions(self._names)}, encode)[whole]
        if question.choices == classes:
            return self._tables_of[key]
        place = self._places[question.attribute]
        return self._tables_of[key][:, [place[choice] for choice in question.choices]]

    def _answer(self, question: Question, classes: Tensor, images: Tensor, truths: Sequence[str]) -> list[str]:
        """Pictures (S,D) among class captions (templates,choices,D): what each is called."""
        found = self._answers[question.attribute]
        place = {choice: i for i, choice in enumerate(question.choices)}
        truth = torch.tensor([place[name] for name in truths])
        scores = images @ normalize(classes.mean(dim=0), dim=-1).T
        ranks = _ranks(scores, truth)
        rivals = scores.scatter(1, truth[:, None], -torch.inf).argmax(dim=1)
        answers = [question.choices[place] for place in torch.where(ranks == 1, truth, rivals).tolist()]
        found.pairs += zip(truths, answers, strict=True)
        found.ranks += ranks.tolist()
        found.choices += [len(question.choices)] * len(truths)
        found.templates += [len(question.templates)] * len(truths)
        for number, template in enumerate(question.templates):
            alone = normalize(classes[number], dim=-1) if self._names else classes[number]
            right = (_ranks(images @ alone.T, truth) == 1).tolist()
            found.alone[template] += right
            if number == 0:
                found.first += right
        return answers

    def compute(self) -> Findings:
        """The accuracies over everything since `begin`."""
        if not self._classes:
            return Findings([], stood_aside=why_not(self._setting, self.attributes))
        if not self._answers:
            return Findings([], stood_aside="no picture has the attributes that the templates name")
        numbers: list[Finding] = []
        tables: dict[str, list[dict[str, Any]]] = {}
        pictures: dict[str, Tensor] = {}
        for attribute, found in self._answers.items():
            numbers += self._numbers(attribute, found)
            tables |= self._tables(attribute, found)
            pictures |= _pictures(attribute, found)
        return Findings(numbers, tables, pictures, depends_on=("dataset", "encoder"))

    def _numbers(self, attribute: str, found: Answers) -> list[Finding]:
        n, values = len(found.ranks), self._classes[attribute]
        fewest = min(found.choices)
        among = f"all {len(values)} classes"
        if not self._all_of(values):
            among = f"{self.choices} random classes of {len(values)}"
        captions = max(found.templates)
        note = f"pictures of {self._setting.split}, each among {among}"
        if captions > 1:
            note += f", of {captions} captions each"
        if self.prompts is not None:
            note += f", by the prompts {self.prompts}{self._by_place}"
        name, chance = f"zero_shot/{attribute}", _mean([1 / count for count in found.choices])
        numbers = [Finding(name, _mean([rank == 1 for rank in found.ranks]), n, "%", chance, note)]
        if captions > 1:
            said = f"the same by one caption each, {next(iter(found.alone))!r}"
            numbers.append(Finding(f"{name}_single", _mean(found.first), n, "%", chance, said))
        if fewest > TOP:
            chance = _mean([TOP / count for count in found.choices])
            right = _mean([rank <= TOP for rank in found.ranks])
            numbers.append(Finding(f"{name}_top{TOP}", right, n, "%", chance, f"the right one among the first {TOP}"))
        if self._all_of(values):
            mean, classes, commonest = mean_per_class(found.pairs)
            said = f"the mean of {classes} classes' own; always saying the commonest gives {commonest:.1%} of pictures"
            numbers.append(Finding(f"{name}_mean_per_class", mean, n, "%", 1 / len(values), said))
        return numbers

    def _tables(self, attribute: str, found: Answers) -> dict[str, list[dict[str, Any]]]:
        values, title = self._classes[attribute], f"Zero-shot: {attribute}"
        tables: dict[str, list[dict[str, Any]]] = {}
        if self._all_of(values):
            tables |= by_class(title, found.pairs, values)
        if not self._all_of(values) or len(values) > CONFUSION:
            tables[f"{title}, mistaken most often"] = mistakes(found.pairs)
        if len(values) <= CONFUSION:
            tables[f"{title}, how often taken for which"] = confusion(found.pairs, values)
        if len(found.alone) > 1:
            rows: list[dict[str, Any]] = [
                {"caption": template, "pictures": len(right), "right, %": round(100 * _mean(right), 1)}
                for template, right in found.alone.items()
            ]
            tables[f"{title}, by each caption alone"] = rows
        return tables

    def _all_of(self, values: Sequence[str]) -> bool:
        return self.choices is None or len(values) <= self.choices


def _pictures(attribute: str, found: Answers) -> dict[str, Tensor]:
    sheets = {f"Zero-shot: {attribute}, {len(found.some)} pictures chosen by the seed": found.some}
    sheets[f"Zero-shot: {attribute}, mistaken, chosen by the seed"] = found.mistaken
    return {title: two_columns([called.row for called in chosen], []) for title, chosen in sheets.items() if chosen}


def _encoded(
    captions: Mapping[Question, list[list[list[str]]]], encode: Callable[[Sequence[str]], Tensor]
) -> dict[Question, Tensor]:
    """Of each question's captions (templates, choices, names of the choice) the features (templates,choices,D): every
    caption encoded once, and a choice's names averaged."""
    different = dict.fromkeys(name for rows in captions.values() for row in rows for cell in row for name in cell)
    place = {caption: i for i, caption in enumerate(different)}
    if not place:
        return {}
    encoded = encode(list(place)).cpu().float()
    return {
        question: torch.stack([_averaged(encoded, [[place[n] for n in cell] for cell in row]) for row in rows])
        for question, rows in captions.items()
    }


def _averaged(features: Tensor, cells: Sequence[Sequence[int]]) -> Tensor:
    """Rows (N,D) to (L,D): for each of L cells, the mean of the rows it names."""
    if all(len(cell) == 1 for cell in cells):
        return features[[cell[0] for cell in cells]]
    return torch.stack([features[list(cell)].mean(0) for cell in cells])


def _ranks(scores: Tensor, truth: Tensor) -> Tensor:
    """Scores (S,L) and the places of the right ones (S,): their ranks (S,), from 1. Whatever scores as much, or is no
    number, stands before them."""
    right = scores.gather(1, truth[:, None])
    before = ~(scores < right)
    return 1 + before.scatter(1, truth[:, None], False).sum(dim=1)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
