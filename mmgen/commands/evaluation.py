"""Judging a trained trio: makes what the evaluators need once, shares it, and writes what they found.

Letters: B pictures judged, n drawings of each, k kept, M pictures of the dataset.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmgen import registry
from mmgen.data.pictures import Pictures, split_names
from mmgen.files import write_json
from mmgen.images import grid, save_png, sheet
from mmgen.protocols import Evaluator, Evidence, Findings, Needs, Sample, Setting
from mmgen.runs.directory import RunDirectory
from mmgen.runs.progress import Bar
from mmgen.text_to_image import Drawings, TextToImage

CHOICES = 8  # captions that a classified picture is put among
SHOWN = 24  # reconstructions in the report


class Evaluation:
    """Everything that follows the training of a run.

    Args:
        model: the three parts.
        pictures: the dataset, read.
        directory: the run's; gets evaluation.json, samples/ and sheet.png.
        config: the run's.
    """

    def __init__(self, model: TextToImage, pictures: Pictures, directory: RunDirectory, config: dict[str, Any]) -> None:
        self.model, self.pictures, self.directory, self.config = model, pictures, directory, config
        self.seed = int(config["seed"])
        self.dataset: Any = pictures.dataset
        self._drawings: dict[tuple[str, int], Drawings] = {}
        self._seconds: dict[str, float] = {}

    def run(self) -> None:
        """Draws, judges, writes pictures and evaluation.json."""
        evaluators = {name: registry.build("evaluator", options) for name, options in self.config["evaluator"].items()}
        reasons = {name: self._aside(evaluator.needs) for name, evaluator in evaluators.items()}
        judged = {name: evaluator for name, evaluator in evaluators.items() if reasons[name] is None}
        self._draw_all(judged)
        findings: dict[str, Any] = {}
        for name in evaluators:
            if reason := reasons[name]:
                findings[name] = {"numbers": [], "tables": {}, "pictures": {}, "stood_aside": reason}
            else:
                findings[name] = self._stored(name, self._timed(name, self._judge, judged[name]))
        result = {
            "findings": findings,
            "drawings": self._sheet(),
            "classified": self._classified(),
            "reconstructions": self._reconstructions(),
            "seconds": {name: round(seconds, 1) for name, seconds in self._seconds.items()},
        }
        write_json(self.directory.path / "evaluation.json", result)

    # ---- what each evaluator gets

    def _split(self, needs: Needs) -> str | None:
        if needs.split in split_names(self.dataset):
            return needs.split
        return "val" if needs.or_val else None

    def _aside(self, needs: Needs) -> str | None:
        """Why an evaluator cannot judge this dataset, or None."""
        if self._split(needs) is None:
            return f"the dataset has no split {needs.split}"
        if needs.attributes and not (getattr(self.dataset, "classes", 0) and getattr(self.dataset, "templates", 0)):
            return "the dataset declares no classes and templates"
        return None

    def _positions(self, needs: Needs) -> list[int]:
        """The pictures to judge; fewer than all are a choice by the seed."""
        split = self._split(needs)
        assert split is not None
        positions = self.pictures.positions(split)
        if needs.max_pictures is not None and len(positions) > needs.max_pictures:
            positions = sorted(random.Random(self.seed).sample(positions, needs.max_pictures))  # noqa: S311
        return positions

    def _draw_all(self, judged: dict[str, Evaluator]) -> None:
        """Every drawing that anyone needs, in one pass behind one bar."""
        wanted: dict[int, dict[str, None]] = {}
        for evaluator in judged.values():
            if evaluator.needs.drawings:
                captions = wanted.setdefault(evaluator.needs.drawings, {})
                captions.update(dict.fromkeys(self.pictures.captions[p] for p in self._positions(evaluator.needs)))
        shown = wanted.setdefault(int(self.config["drawing"]["num_images"]), {})
        shown.update(dict.fromkeys(self._sheet_captions()))
        total = sum(count * len(captions) for count, captions in wanted.items())
        began = time.monotonic()
        with Bar("drawing", total=total, unit="pictures") as bar:
            for count, captions in wanted.items():
                listed = list(captions)
                drawn = self.model.draw(
                    listed,
                    num_images=count,
                    seed=int(self.config["drawing"]["seed"]),
                    progress=lambda pictures: bar.advance(pictures, ""),
                    cut=True,
                )
                self._drawings.update({(c, count): d for c, d in zip(listed, drawn, strict=True)})
        self._seconds["drawing"] = time.monotonic() - began

    def _judge(self, evaluator: Evaluator) -> Findings:
        needs = evaluator.needs
        split = self._split(needs)
        assert split is not None
        evaluator.begin(self._setting(split, needs))
        positions = self._positions(needs)
        for first in range(0, len(positions), 256):
            evaluator.update(self._evidence(positions[first : first + 256], needs))
        return evaluator.compute()

    def _setting(self, split: str, needs: Needs) -> Setting:
        encoder = self.model.part("encoder")
        every = needs.all_pictures
        return Setting(
            split=split,
            seed=self.seed,
            codebook_size=self.model.part("tokenizer").codebook_size,
            all_images=self.pictures.batch(range(len(self.pictures))) if every else None,
            all_ids=list(self.pictures.ids) if every else [],
            all_attributes=list(self.pictures.attributes) if every else [],
            train_positions=self.pictures.positions("train"),
            classes=getattr(self.dataset, "classes", None) or {},
            templates=getattr(self.dataset, "templates", None) or (),
            encode_captions=self.model.encode_captions,
            encode_images=lambda images: self.model.reconstruct(images)[0],
            logit_scale=min(float(encoder.logit_scale.detach().exp()), 100.0),
        )

    def _evidence(self, positions: Sequence[int], needs: Needs) -> Evidence:
        images = self.pictures.batch(positions)
        evidence = Evidence(samples=[self._sample(p, images[i]) for i, p in enumerate(positions)], images=images)
        captions = [self.pictures.captions[p] for p in positions]
        if needs.reconstructions:
            evidence.indices, evidence.reconstructions = self.model.reconstruct(images)
        if needs.drawings:
            drawn = [self._drawings[caption, needs.drawings] for caption in captions]
            evidence.drawings = torch.stack([d.images for d in drawn])
            evidence.drawing_scores = torch.stack([d.scores for d in drawn])
        if needs.features:
            evidence.image_features = self.model.encode_images(images)
            evidence.text_features = self.model.encode_captions(captions)
        return evidence

    def _sample(self, position: int, image: Tensor) -> Sample:
        return {
            "image": image,
            "caption": self.pictures.captions[position],
            "id": self.pictures.ids[position],
            "attributes": self.pictures.attributes[position],
        }

    # ---- what the report shows

    def _shown_split(self) -> str:
        """The first split that is never trained on, or `val`."""
        return next((name for name in split_names(self.dataset) if name not in ("train", "val")), "val")

    def _shown_positions(self, count: int, salt: str) -> list[int]:
        positions = self.pictures.positions(self._shown_split())
        return random.Random(f"{self.config['drawing']['seed']}/{salt}").sample(positions, min(count, len(positions)))  # noqa: S311

    def _sheet_rows(self) -> list[tuple[str, int | None]]:
        """Captions of the sheet, each with the position of the picture it was taken from."""
        drawing = self.config["drawing"]
        own: list[tuple[str, int | None]] = [(caption, None) for caption in drawing["captions"]]
        positions = self._shown_positions(drawing["num_captions"], "sheet")
        return own + [(self.pictures.captions[p], p) for p in positions]

    def _sheet_captions(self) -> list[str]:
        return [caption for caption, _ in self._sheet_rows()]

    def _sheet(self) -> list[dict[str, Any]]:
        """Draws the sheet and the single pictures; returns their entries for evaluation.json."""
        keep = int(self.config["drawing"]["keep"])
        entries, rows = [], []
        for number, (caption, position) in enumerate(self._sheet_rows()):
            drawings = self._drawings[caption, int(self.config["drawing"]["num_images"])]
            files = []
            for rank in range(min(keep, len(drawings))):
                facts = {"caption": caption, "seed": str(drawings.seed), "number": str(int(drawings.numbers[rank]))}
                files.append(self._picture(f"drawing-{number:02d}-{rank + 1}", drawings[rank], facts))
            pictures = list(drawings.images[:keep])
            entry: dict[str, Any] = {"caption": caption, "id": "", "split": "", "original": None}
            if position is not None:
                original = self.pictures.batch([position])[0]
                entry |= {"id": self.pictures.ids[position], "split": self._shown_split()}
                entry["original"] = self._picture(f"original-{number:02d}", original)
                pictures.append(original)
            entries.append(entry | {"pictures": files, "scores": _plain(drawings.scores, keep)})
            rows.append((caption, pictures))
        headers = [f"rank {rank + 1}" for rank in range(keep)] + ["true picture"]
        save_png(sheet(rows, headers=headers, title="Captions never seen"), self.directory.path / "sheet.png")
        return entries

    def _classified(self) -> list[dict[str, Any]]:
        """Unseen pictures, each put among its own caption and others of the same split."""
        count = int(self.config["drawing"]["classified"])
        split = [self.pictures.captions[p] for p in self.pictures.positions(self._shown_split())]
        entries = []
        for number, position in enumerate(self._shown_positions(count, "classified")):
            truth = self.pictures.captions[position]
            others = sorted(set(split) - {truth})
            draw = random.Random(f"{self.seed}/{self.pictures.ids[position]}")  # noqa: S311
            labels = [truth, *draw.sample(others, min(CHOICES - 1, len(others)))]
            image = self.pictures.batch([position])[0]
            shares = self.model.classify(image, labels, cut=True)
            entries.append(
                {
                    "picture": self._picture(f"classified-{number:02d}", image),
                    "id": self.pictures.ids[position],
                    "truth": truth,
                    "labels": [{"label": label, "share": share} for label, share in shares.items()],
                }
            )
        return entries

    def _reconstructions(self) -> dict[str, str]:
        images = self.pictures.batch(self._shown_positions(SHOWN, "reconstructions"))
        rows = {"originals": images, "reconstructions": self.model.reconstruct(images)[1]}
        return {name: self._picture(name, grid(batch, columns=12)) for name, batch in rows.items()}

    def _picture(self, name: str, image: Tensor, text: dict[str, str] | None = None) -> str:
        """Writes samples/NAME.png; returns that path, relative to the run."""
        file = f"samples/{name}.png"
        (self.directory.path / "samples").mkdir(exist_ok=True)
        save_png(image, self.directory.path / file, text or {})
        return file

    def _stored(self, name: str, findings: Findings) -> dict[str, Any]:
        pictures = {
            title: self._picture(f"{name}-{number}", image)
            for number, (title, image) in enumerate(findings.pictures.items())
        }
        numbers = [dataclasses.asdict(number) for number in findings.numbers]
        return {
            "numbers": numbers,
            "tables": findings.tables,
            "pictures": pictures,
            "depends_on": list(findings.depends_on),
            "stood_aside": None,
        }

    def _timed(self, name: str, function: Any, *arguments: Any) -> Any:
        began = time.monotonic()
        result = function(*arguments)
        self._seconds[name] = time.monotonic() - began
        return result


def _plain(scores: Tensor | None, keep: int) -> list[float]:
    return [] if scores is None else [float(score) for score in scores[:keep]]
