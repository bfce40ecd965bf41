"""Judging a trained trio: makes what the evaluators need once, shares it, and writes what they found.

Letters: B pictures judged, n drawings of each, M pictures of the dataset.
"""

from __future__ import annotations

import dataclasses
import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mmgen import registry
from mmgen.commands.attempts import Attempts
from mmgen.commands.classes import caption_features, tell_cut
from mmgen.commands.rivals import Rival
from mmgen.commands.showing import Shown
from mmgen.commands.subject import Subject
from mmgen.data.pictures import Pictures
from mmgen.data.prompts import read_prompts
from mmgen.drawings import Drawings, Redrawing
from mmgen.files import write_json
from mmgen.progress import Bar
from mmgen.protocols import Evaluator, Evidence, Findings, Names, Needs, Sample, Setting
from mmgen.runs.directory import RunDirectory
from mmgen.samplers.region import Region
from mmgen.text_to_image import TextToImage

CHUNK = 256  # pictures of evidence handed over at once
TURN = 1_000_003  # between the seeds by which pictures of one caption are redrawn
DRAWING = "(drawing)"  # what fails where a sampler does; no evaluator is called so
NOTHING: dict[str, Any] = {"numbers": [], "tables": {}, "pictures": {}, "stood_aside": None, "failed": None}


class Evaluation:
    """Everything that follows the training of a run.

    Args:
        model: the parts.
        pictures: the dataset, read.
        directory: the run's; gets evaluation.json, samples/ and sheet.png.
        config: the run's: its evaluators, its seed and what it draws.
        shows: whether it also draws, classifies and reconstructs what a report shows beside the figures.
        about: what else evaluation.json is to say.
        foreign: whether nothing was trained on these pictures, as far as is known.
        rivals: other encoders, each judged by those of the evaluators that it names.
    """

    def __init__(
        self,
        model: TextToImage,
        pictures: Pictures,
        directory: RunDirectory,
        config: dict[str, Any],
        *,
        shows: bool = True,
        about: dict[str, Any] | None = None,
        foreign: bool = False,
        rivals: Sequence[tuple[Rival, TextToImage]] = (),
    ) -> None:
        self.rivals = rivals
        self.model, self.pictures, self.directory, self.config = model, pictures, directory, config
        self.seed, self.drawing_seed = int(config["seed"]), int(config["drawing"]["seed"])
        self.dataset: Any = pictures.dataset
        self.shown = Shown(model, pictures, directory.path, config["drawing"], self.seed)
        self.shows, self.about = shows, about or {}
        self.subject = Subject(model, pictures, foreign)
        self._drawings: dict[str, Drawings] = {}  # of a caption, as many as its pictures need
        self._redrawings: dict[tuple[int, Redrawn], Drawings] = {}
        self._seconds: dict[str, float] = {}
        self._cut = 0  # captions that the encoder read shortened, of the evaluator that judges

    def run(self) -> dict[str, Any]:
        """Draws, judges, writes pictures and evaluation.json; gives what each evaluator found, as it stands there.

        An evaluator that raises is told there, as `failed`, and the others are not hurt. Where drawing itself raised
        what nobody foresaw, those that need drawings have failed.
        """
        attempts = Attempts(self.directory.path / "error.log")
        findings = self.judge(attempts)
        for rival, model in self.rivals:
            chosen = {rival.figures(name): self.config["evaluator"][name] for name in rival.evaluators}
            own = {**self.config, "evaluator": chosen}
            judging = Evaluation(model, self.pictures, self.directory, own, shows=False)
            findings |= judging.judge(attempts)
            self._seconds |= judging._seconds
        undrawn = attempts.failed.get(DRAWING)
        result: dict[str, Any] = {**self.about, "findings": findings}
        note_wanted(result, self.config.get("wanted", {}))
        if attempts.failed:
            result["failed"] = attempts.failed
        if self.shows:
            count = int(self.config["drawing"]["num_images"])
            drawn = {} if undrawn else {c: self._drawings[c].numbered(0, count) for c in self._sheet}
            result |= {
                "drawings": [] if undrawn else self.shown.sheet(drawn),
                "classified": self.shown.classified(),
                "reconstructions": self.shown.reconstructions(),
            }
        result["seconds"] = {name: round(seconds, 1) for name, seconds in self._seconds.items()}
        write_json(self.directory.path / "evaluation.json", result)
        return findings

    def judge(self, attempts: Attempts) -> dict[str, Any]:
        """Draws what the evaluators need, and judges; what each of them found, with its pictures written."""
        chosen = self.config["evaluator"]
        built = {name: attempts.of(name, registry.build, "evaluator", options) for name, options in chosen.items()}
        reasons = {name: attempts.of(name, self._aside, evaluator) for name, evaluator in built.items()}
        judged: dict[str, Evaluator] = {
            name: evaluator
            for name, evaluator in built.items()
            if evaluator is not None and reasons[name] is None and name not in attempts.failed
        }
        attempts.of(DRAWING, self._draw_all, judged, foreseen=False)
        undrawn = attempts.failed.get(DRAWING)
        findings: dict[str, Any] = {}
        for name in built:
            failed = undrawn if name in judged and _draws(judged[name].needs) else None
            found = attempts.of(name, self._found, name, judged[name]) if name in judged and not failed else None
            failed = attempts.failed.get(name, failed)
            findings[name] = found or {**NOTHING, "stood_aside": reasons[name], "failed": failed}
        return findings

    @property
    def _sheet(self) -> list[str]:
        return self.shown.captions() if self.shows else []

    def _aside(self, evaluator: Evaluator) -> str | None:
        return self.subject.aside(evaluator.needs)

    def _found(self, name: str, evaluator: Evaluator) -> dict[str, Any]:
        """What an evaluator found, as evaluation.json holds it."""
        with registry.find("evaluator", self.config["evaluator"][name]["name"]).alone("judges"):
            found = self._stored(name, self._timed(name, self._judge, evaluator))
        tell_cut(self.model, self._cut, name)
        json.dumps(found, allow_nan=False)  # what no file can hold is this evaluator's failure, not everyone's
        return found

    # ---- what each evaluator gets

    def _positions(self, needs: Needs) -> list[int]:
        """The pictures to judge; fewer than all are a choice by the seed."""
        positions = self.subject.positions(needs)
        if needs.max_pictures is not None and len(positions) > needs.max_pictures:
            positions = sorted(random.Random(self.seed).sample(positions, needs.max_pictures))  # noqa: S311
        return positions

    def _draw_all(self, judged: dict[str, Evaluator]) -> None:
        """Every drawing that anyone needs, in one pass behind one bar. Pictures that share a caption have drawings of
        their own: of the same ones, each would be counted as a case, and there would be one."""
        wanted: dict[str, int] = {}
        again: dict[Redrawn, dict[int, None]] = {}
        for evaluator in judged.values():
            needs = evaluator.needs
            judged_on = self._positions(needs)
            if needs.drawings:
                for caption, pictures in Counter(self.pictures.captions[p] for p in judged_on).items():
                    wanted[caption] = max(wanted.get(caption, 0), needs.drawings * pictures)
            if needs.redrawings:
                again.setdefault(_redrawn(needs), {}).update(dict.fromkeys(judged_on))
        if self.shows:
            for caption in self._sheet:
                wanted[caption] = max(wanted.get(caption, 0), int(self.config["drawing"]["num_images"]))
        total = sum(wanted.values())
        total += sum(redrawn[0] * len(positions) for redrawn, positions in again.items())
        if not total:
            return
        began = time.monotonic()
        with Bar("drawing", total=total, unit="pictures") as bar:
            options: dict[str, Any] = {
                "seed": self.drawing_seed,
                "progress": lambda pictures: bar.advance(pictures, ""),
                "cut": True,
            }
            for count in sorted(set(wanted.values())):
                captions = [caption for caption, needed in wanted.items() if needed == count]
                drawn = self.model.draw(captions, num_images=count, **options)
                self._drawings.update(zip(captions, drawn, strict=True))
            for redrawn, positions in again.items():
                drawn = self._redraw(list(positions), redrawn, options)
                self._redrawings.update({(p, redrawn): d for p, d in zip(positions, drawn, strict=True)})
        self._seconds["drawing"] = time.monotonic() - began

    def _redraw(self, positions: list[int], redrawn: Redrawn, options: dict[str, Any]) -> list[Drawings]:
        """Pictures of the dataset, from a share of their height and width on, to fit their own captions. The second
        picture of one caption is drawn by another seed than the first, and so on: where as much is kept, it would get
        the same drawings."""
        count, region = redrawn[0], self._region(redrawn)
        before: Counter[str] = Counter()
        turns: dict[int, list[int]] = {}
        for position in positions:
            caption = self.pictures.captions[position]
            turns.setdefault(before[caption], []).append(position)
            before[caption] += 1
        found: dict[int, Drawings] = {}
        for turn, same in turns.items():
            captions = [self.pictures.captions[p] for p in same]
            redrawing = Redrawing(self.pictures.before(same), region)
            settings = options | {"seed": self.drawing_seed + turn * TURN}
            drawn = self.model.draw(captions, num_images=count, redrawing=redrawing, **settings)
            found.update(zip(same, drawn, strict=True))
        return [found[position] for position in positions]

    def _region(self, redrawn: Redrawn) -> Region:
        grid, (_, row, column) = self.model.part("tokenizer").grid, redrawn
        return Region.corner(grid, int(row * grid[0]), int(column * grid[1]), unit="codes")

    def _kept(self, positions: Sequence[int], drawn: Sequence[Drawings], redrawn: Redrawn) -> Tensor:
        """(B,n): how many of the codes to be kept are those of the picture that was given."""
        kept = self._region(redrawn).kept
        given = self.model.reconstruct(self.pictures.before(positions))[0].flatten(1)[:, None, kept]
        found = torch.stack([d.image_tokens for d in drawn])[:, :, kept]
        return (found == given).float().mean(2) if kept.any() else torch.ones(found.shape[:2])

    def _judge(self, evaluator: Evaluator) -> Findings:
        needs, self._cut = evaluator.needs, 0
        evaluator.begin(self._setting(needs))
        positions = self._positions(needs)
        for chunk in self._chunks(positions, needs):
            evaluator.update(chunk)
        return evaluator.compute()

    def _encode_captions(self, captions: Sequence[str], keep: bool = False) -> Tensor:
        features, cut = caption_features(self.model, captions, keep=keep)
        self._cut += cut
        return features

    def _chunks(self, positions: Sequence[int], needs: Needs) -> Iterator[Evidence]:
        before: Counter[str] = Counter()  # how many pictures came before, by caption
        for first in range(0, len(positions), CHUNK):
            yield self._evidence(positions[first : first + CHUNK], needs, before)

    def _setting(self, needs: Needs) -> Setting:
        model, every, subject = self.model, needs.all_pictures, self.subject
        fitted = dataclasses.replace(needs, reconstructions=False, teacher_forced=False, drawings=0, redrawings=0)
        return Setting(
            split=subject.split(needs) or "val",
            splits=subject.splits,
            evidence=lambda name: self._chunks(self.pictures.positions(name), fitted),
            seed=self.seed,
            codebook_size=model.part("tokenizer").codebook_size if model.has("tokenizer") else 0,
            all_images=self.pictures.batch(range(len(self.pictures))) if every else None,
            all_ids=list(self.pictures.ids) if every else [],
            all_attributes=list(self.pictures.attributes) if every else [],
            train_positions=self.pictures.positions("train"),
            classes=subject.classes,
            templates=subject.templates,
            encode_captions=self._encode_captions if subject.reads_text else None,
            encode_classes=partial(self._encode_captions, keep=True) if subject.reads_text else None,
            read_prompts=_prompts,
            image_features=model.encode_images if model.has("encoder") else None,
            encode_images=(lambda images: model.reconstruct(images)[0]) if model.has("tokenizer") else None,
            logit_scale=subject.logit_scale,
            collapse_advice=getattr(model.part("tokenizer"), "collapse_advice", "") if model.has("tokenizer") else "",
        )

    def _evidence(self, positions: Sequence[int], needs: Needs, before: Counter[str]) -> Evidence:
        images = self.pictures.batch(positions)
        evidence = Evidence(samples=[self._sample(p, images[i]) for i, p in enumerate(positions)], images=images)
        captions = [self.pictures.captions[p] for p in positions]
        if needs.reconstructions:
            evidence.indices, evidence.reconstructions = self.model.reconstruct(images)
        if needs.teacher_forced:
            evidence.teacher_forced = self.model.teacher_forced(images, captions)
        if needs.drawings:
            drawn = [self._own(caption, needs.drawings, before) for caption in captions]
            evidence.drawings, evidence.drawing_scores = _stacked(drawn)
        if needs.redrawings:
            drawn = [self._redrawings[p, _redrawn(needs)] for p in positions]
            evidence.redrawings, evidence.redrawing_scores = _stacked(drawn)
            evidence.kept_codes = self._kept(positions, drawn, _redrawn(needs))
        if needs.features:
            evidence.image_features = self.model.encode_images(images)
            evidence.text_features = self._encode_captions(captions)
        if needs.probe_features:
            evidence.probe_features = self.model.encode_images(images, probe=True)
        return evidence

    def _own(self, caption: str, count: int, before: Counter[str]) -> Drawings:
        """The next picture's with this caption: numbers 0 … count - 1 are the first one's."""
        before[caption] += 1
        return self._drawings[caption].numbered((before[caption] - 1) * count, count)

    def _sample(self, position: int, image: Tensor) -> Sample:
        return {
            "image": image,
            "caption": self.pictures.captions[position],
            "captions": self.pictures.alternatives[position],
            "id": self.pictures.ids[position],
            "attributes": self.pictures.attributes[position],
        }

    def _stored(self, name: str, findings: Findings) -> dict[str, Any]:
        pictures = {
            title: self.shown.picture(f"{name}-{number}", image)
            for number, (title, image) in enumerate(findings.pictures.items())
        }
        numbers = [dataclasses.asdict(number) for number in findings.numbers]
        if name != str(self.config["evaluator"][name]["name"]).partition("@")[0]:
            for number in numbers:  # one of several of its kind: its figures are told apart by its own name
                number["name"] = f"{name}/{number['name'].rpartition('/')[2]}"
        return {
            "numbers": numbers,
            "tables": findings.tables,
            "pictures": pictures,
            "depends_on": list(findings.depends_on),
            "stood_aside": findings.stood_aside,
            "failed": None,
        }

    def _timed(self, name: str, function: Any, *arguments: Any) -> Any:
        began = time.monotonic()
        result = function(*arguments)
        self._seconds[name] = time.monotonic() - began
        return result


def _prompts(name: str) -> tuple[Names, Sequence[str]]:
    pack = read_prompts(name)
    return pack.labels, pack.templates


def note_wanted(result: dict[str, Any], wanted: Mapping[str, float | None]) -> None:
    """Writes beside each figure of an evaluation what it should reach, in place of what an earlier start wanted; null
    where it is only told among the first."""
    numbers = [number for finding in result["findings"].values() for number in finding["numbers"]]
    for number in numbers:
        number.pop("wanted", None)
        if number["name"] in wanted:
            number["wanted"] = wanted[number["name"]]
    result.pop("wanted_and_not_found", None)
    if lacking := sorted(wanted.keys() - {number["name"] for number in numbers}):
        result["wanted_and_not_found"] = lacking


Redrawn = tuple[int, float, float]  # how many of each picture, from which share of its height and width on


def _draws(needs: Needs) -> bool:
    return bool(needs.drawings or needs.redrawings)


def _redrawn(needs: Needs) -> Redrawn:
    return (needs.redrawings, *needs.redrawn_from)


def _stacked(drawn: Sequence[Drawings]) -> tuple[Tensor, Tensor]:
    """Pictures (B,n,3,H,W) and scores (B,n)."""
    scores = [d.scores for d in drawn if d.scores is not None]
    return torch.stack([d.images for d in drawn]), torch.stack(scores)
