"""Checks of an evaluator, on evidence that comes with the kit."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from mmgen.protocols import Evaluator, Evidence, Finding, Findings, Needs, Sample, Setting
from mmgen.testing.checks import (
    Prepared,
    require,
    require_random_state_kept,
    require_shared_state_kept,
    require_tensor,
    run,
    seed_everything,
)
from mmgen.testing.stand_ins import COLOURS, PLACES, caption_features, small_samples

COUNT = 24  # pictures judged; twice as many are in the dataset
CODES = 17
PARTS = {"dataset", "tokenizer", "generator", "encoder", "sampler"}


@dataclass
class Subject:
    """An evaluator, and what it is given."""

    evaluator: Evaluator
    samples: Sequence[Sample]

    def setting(self) -> Setting:
        """What it is told first."""
        return setting(self.evaluator.needs, self.samples)

    def evidence(self, chunk: slice) -> Evidence:
        """What it asked for of these pictures."""
        return evidence(self.evaluator.needs, chunk, self.samples[:COUNT])

    def judge(self, *chunks: slice) -> Findings:
        """Begins anew and goes through the evidence in these chunks."""
        self.evaluator.begin(self.setting())
        for chunk in chunks or (slice(0, COUNT),):
            self.evaluator.update(self.evidence(chunk))
        return self.evaluator.compute()


def setting(needs: Needs, samples: Sequence[Sample]) -> Setting:
    """What an evaluator is told first: a dataset of which the first half is judged."""
    fitted = dataclasses.replace(needs, reconstructions=False, teacher_forced=False, drawings=0, redrawings=0)
    more = small_samples(3 * COUNT)[2 * COUNT :]
    return Setting(
        split=needs.split,
        splits=("train", "val", needs.split),
        evidence=lambda split: iter([evidence(fitted, slice(0, None), samples[COUNT:] if split == "train" else more)]),
        seed=1,
        codebook_size=CODES,
        all_images=torch.stack([sample["image"] for sample in samples]) if needs.all_pictures else None,
        all_ids=[sample["id"] for sample in samples] if needs.all_pictures else [],
        all_attributes=[sample["attributes"] for sample in samples] if needs.all_pictures else [],
        train_positions=list(range(COUNT, 2 * COUNT)),
        classes={"name": [f"{place} bar" for place in PLACES], "colour": list(COLOURS)},
        templates=("a {colour} {name}",),
        encode_captions=caption_features,
        encode_images=indices_of,
        image_features=features_of,
        logit_scale=20.0,
    )


def indices_of(images: Tensor) -> Tensor:
    """Pictures (B,3,H,W) to indices (B,4,4): the brightness of each place."""
    return (adaptive_avg_pool2d(images, 4).mean(1) * 100).long() % CODES


def features_of(images: Tensor) -> Tensor:
    """Pictures (B,3,H,W) to image_features (B,16): the colours of a few places."""
    return torch.nn.functional.normalize(adaptive_avg_pool2d(images, 3).flatten(1)[:, :16], dim=-1)


def evidence(needs: Needs, chunk: slice, samples: Sequence[Sample]) -> Evidence:
    """What an evaluator asked for and nothing else, of the pictures in a chunk of `COUNT` samples."""
    source = torch.Generator().manual_seed(0)
    images = torch.stack([sample["image"] for sample in samples])
    features = caption_features([sample["caption"] for sample in samples])
    noise = torch.randn(features.shape, generator=source)
    found = Evidence(samples=list(samples[chunk]), images=images[chunk])
    if needs.teacher_forced:
        found.teacher_forced = (images + 0.1 * torch.rand(images.shape, generator=source)).clamp(0, 1)[chunk]
    if needs.reconstructions:
        found.indices = indices_of(images)[chunk]
        found.reconstructions = (images + 0.05 * torch.rand(images.shape, generator=source)).clamp(0, 1)[chunk]
    if needs.drawings:
        size = (COUNT, needs.drawings, *images.shape[1:])
        drawn = (images[:, None] + 0.1 * torch.rand(size, generator=source)).clamp(0, 1)
        found.drawings = drawn[chunk]
        scores = torch.rand(COUNT, needs.drawings, generator=source).sort(1, descending=True).values
        found.drawing_scores = scores[chunk]
    if needs.redrawings:
        size = (COUNT, needs.redrawings, *images.shape[1:])
        drawn = (images[:, None] + 0.05 * torch.rand(size, generator=source)).clamp(0, 1)
        found.redrawings = drawn[chunk]
        scores = torch.rand(COUNT, needs.redrawings, generator=source).sort(1, descending=True).values
        found.redrawing_scores = scores[chunk]
    if needs.features:
        found.text_features = features[chunk]
        found.image_features = torch.nn.functional.normalize(features + 0.1 * noise, dim=-1)[chunk]
    if needs.probe_features:
        found.probe_features = features_of(images)[chunk]
    return found


def it_says_what_it_needs(subject: Subject) -> None:
    needs = subject.evaluator.needs
    require(isinstance(needs, Needs), f"needs is a {type(needs).__name__}")
    require(isinstance(needs.split, str) and needs.split, "needs.split is not a name")
    require(needs.drawings >= 0, f"needs.drawings is {needs.drawings}")
    require(needs.redrawings >= 0, f"needs.redrawings is {needs.redrawings}")
    inside = all(0 <= share < 1 for share in needs.redrawn_from)
    require(len(needs.redrawn_from) == 2 and inside, f"needs.redrawn_from is {needs.redrawn_from}, not in [0,1)")


def its_numbers_can_be_read(subject: Subject) -> None:
    numbers = subject.judge().numbers
    require(numbers, "it finds no number")
    for number in numbers:
        require(isinstance(number, Finding), f"{number!r} is no Finding")
        require("/" in number.name, f"{number.name!r} is not called evaluator/measure")
        require(isinstance(number.value, float) and math.isfinite(number.value), f"{number.name} is {number.value!r}")
        require(isinstance(number.n, int) and number.n > 0, f"{number.name} is over n={number.n!r}")
        if number.unit == "%":
            require(0 <= number.value <= 1, f"{number.name} is a share of {number.value}, outside [0,1]")
            require(number.chance is None or 0 <= number.chance <= 1, f"{number.name} has a chance of {number.chance}")
    names = [number.name for number in numbers]
    require(len(set(names)) == len(names), f"two numbers have one name: {names}")


def its_tables_and_pictures_can_be_shown(subject: Subject) -> None:
    findings = subject.judge()
    for title, rows in findings.tables.items():
        require(
            isinstance(title, str) and all(isinstance(row, dict) for row in rows), f"table {title!r} is no list of rows"
        )
        plain = all(isinstance(value, str | int | float | None) for row in rows for value in row.values())
        require(plain, f"table {title!r} holds values that no file can: use str, int, float, bool or None")
    for title, picture in findings.pictures.items():
        require_tensor(picture, (3, *picture.shape[1:]), f"picture {title!r}")
        require(bool((picture >= 0).all() and (picture <= 1).all()), f"picture {title!r} leaves [0,1]")


def it_says_what_it_depends_on(subject: Subject) -> None:
    depends_on = subject.judge().depends_on
    require(depends_on, "depends_on is empty")
    require(set(depends_on) <= PARTS, f"depends_on names {sorted(set(depends_on) - PARTS)}; parts are {sorted(PARTS)}")


def chunks_make_no_difference(subject: Subject) -> None:
    whole, parts = subject.judge(), subject.judge(slice(0, 7), slice(7, 8), slice(8, COUNT))
    _require_same(whole, parts, "in three chunks")


def begin_forgets_what_was(subject: Subject) -> None:
    first = subject.judge()
    subject.evaluator.begin(subject.setting())
    subject.evaluator.update(subject.evidence(slice(0, 5)))
    _require_same(first, subject.judge(), "begun anew")


def _require_same(one: Findings, other: Findings, when: str) -> None:
    require([n.name for n in one.numbers] == [n.name for n in other.numbers], f"{when} it finds other numbers")
    for a, b in zip(one.numbers, other.numbers, strict=True):
        close = math.isclose(a.value, b.value, rel_tol=1e-4, abs_tol=1e-6)
        require(close and a.n == b.n, f"{when} {a.name} is {b.value:.6g} (n={b.n}), not {a.value:.6g} (n={a.n})")


def what_it_is_given_stays(subject: Subject) -> None:
    given, kept = (copy.deepcopy(subject.evidence(slice(0, COUNT))) for _ in range(2))
    told, remembered = (subject.setting() for _ in range(2))
    subject.evaluator.begin(told)
    subject.evaluator.update(given)
    subject.evaluator.compute()
    for one, other in ((vars(given), vars(kept)), (vars(told), vars(remembered))):
        for name, value in one.items():
            if isinstance(value, torch.Tensor):
                require(torch.equal(value, other[name]), f"it changes {name}")
    for name in ("all_ids", "all_attributes", "train_positions"):
        require(getattr(told, name) == getattr(remembered, name), f"it changes {name}")
    pictures = zip(given.samples, kept.samples, strict=True)
    require(all(torch.equal(a["image"], b["image"]) for a, b in pictures), "it changes a sample's picture")


def the_random_numbers_are_left_alone(subject: Subject) -> None:
    copied = Subject(copy.deepcopy(subject.evaluator), subject.samples)
    require_random_state_kept(copied.judge)


def the_global_seed_makes_no_difference(subject: Subject) -> None:
    found = []
    for seed in (1, 2):
        seed_everything(seed)
        found.append(subject.judge())
    _require_same(found[0], found[1], "under another global seed")


def nothing_that_all_share_changes(subject: Subject) -> None:
    require_shared_state_kept(subject.judge)


EVALUATOR_CHECKS = (
    it_says_what_it_needs,
    its_numbers_can_be_read,
    its_tables_and_pictures_can_be_shown,
    it_says_what_it_depends_on,
    chunks_make_no_difference,
    begin_forgets_what_was,
    what_it_is_given_stays,
    the_random_numbers_are_left_alone,
    the_global_seed_makes_no_difference,
    nothing_that_all_share_changes,
)


def prepare(evaluator: Evaluator, samples: Sequence[Sample] | None = None) -> Prepared:
    """An evaluator, the kit's evidence, and the checks of its kind; `samples` as in `check_evaluator`."""
    if samples is not None and len(samples) != 2 * COUNT:
        raise ValueError(f"the kit judges half of {2 * COUNT} samples, got {len(samples)}")
    return Prepared(evaluator, Subject(evaluator, samples or small_samples(2 * COUNT)), EVALUATOR_CHECKS)


def check_evaluator(
    evaluator: Evaluator,
    expected_failures: Mapping[str, str] | None = None,
    samples: Sequence[Sample] | None = None,
) -> list[str]:
    """Checks an evaluator against `mmgen.protocols.Evaluator`.

    Args:
        evaluator: an instance.
        expected_failures: reasons, by the names of the checks that are known to fail; strict.
        samples: 48 of your own, where it needs what the kit's lack; those are bars with the attributes `name` and
            `colour`. The first half is judged.

    Returns:
        The names of the checks.

    Raises:
        Nonconforming: an AssertionError that names every check that failed and what it found.
    """
    return run(prepare(evaluator, samples), expected_failures)
