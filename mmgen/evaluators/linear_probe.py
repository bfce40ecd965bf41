"""`linear_probe`: how well a linear classifier tells classes apart by an encoder's features."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from torch.nn.functional import cross_entropy

from mmgen.evaluators.confusion import by_class, confusion, mean_per_class, mistakes
from mmgen.evaluators.labelled import Labelled, Rows, drawn, hashed, joined, light
from mmgen.evaluators.logistic import Linear, fit, search
from mmgen.evaluators.prompts import usable_classes, why_not
from mmgen.protocols import Evidence, Finding, Findings, Needs, Setting

MOST = 100  # classes of an attribute that is probed without being named
CONFUSION = 20
VALIDATION = 0.2  # of the training pictures, where there is no split for it
LEAST = 2  # training pictures of a class: one to fit, one to choose by


class LinearProbe:
    """Logistic regression on features of the training pictures, judged on others (CLIP, section 3.2, appendix A.3).

    The features are those before the projection, where the encoder has any (`probe_features`). The regression's
    strength C is searched between 1e-6 and 1e6, by accuracy on the split `val`, or where that is judged, or there is
    none, on a fifth of the training pictures of each class, chosen by their ids. Then all of both are fitted.

    Args:
        split: the pictures judged. Without it `val` is; or, where a dataset declares no splits and nothing was trained
            on it, half of each class, chosen by their ids, fitted to the other half.
        attribute: what is told apart; null: every attribute with at most 100 classes, or the only one there is.
        max_train: pictures fitted at most, the first by a hash of their ids, a fifth of them from `val` where strengths
            are chosen by that; null: all.
        max_pictures: pictures judged at most; null: all.
        steps: of L-BFGS at most.

    Raises:
        ValueError: no pictures or steps.
    """

    def __init__(
        self,
        split: str = "test",
        attribute: str | None = None,
        max_train: int | None = None,
        max_pictures: int | None = None,
        steps: int = 1000,
    ) -> None:
        for name, value in (("max_train", max_train), ("steps", steps)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be ≥ 1")
        self.attribute, self.max_train, self.steps = attribute, max_train, steps
        self.needs = Needs(split, max_pictures=max_pictures, probe_features=True, attributes=True)

    def begin(self, setting: Setting) -> None:
        """Starts anew."""
        self._setting = setting
        self._judged: list[Evidence] = []

    def update(self, evidence: Evidence) -> None:
        """Adds pictures to judge."""
        none = evidence.images.new_empty(0, *evidence.images.shape[1:])  # a slice would keep all of them in memory
        kept = Evidence([light(sample) for sample in evidence.samples], none)
        assert evidence.probe_features is not None
        kept.probe_features = evidence.probe_features.cpu()
        self._judged.append(kept)

    def compute(self) -> Findings:
        """Fits, and judges everything since `begin`."""
        wanted = None if self.attribute is None else [self.attribute]
        classes = usable_classes(self._setting, wanted, MOST)
        if not classes:
            return Findings([], stood_aside=why_not(self._setting, wanted, MOST))
        fitted, chosen_by, judged, where = self._parts()
        numbers: list[Finding] = []
        tables: dict[str, list[dict[str, Any]]] = {}
        reasons = []
        for attribute, values in classes.items():
            found = self._probed(attribute, values, fitted, chosen_by, judged, where)
            if isinstance(found, str):
                reasons.append(found)
            else:
                numbers += found.numbers
                tables |= found.tables
        depends_on = ("dataset", "encoder")
        return Findings(numbers, tables, {}, depends_on, None if numbers else "; ".join(reasons))

    def _parts(self) -> tuple[Labelled, Labelled | None, Labelled, str]:
        """What is fitted, what strengths are chosen by (None: part of that), what is judged, and how to call it."""
        setting = self._setting
        judged = joined(self._judged)
        if setting.split == "all":
            return judged, None, judged, "half of all pictures, fitted to the other half"
        assert setting.evidence is not None
        fitted = joined(setting.evidence("train"))
        chosen_by = None
        if setting.split != "val" and "val" in setting.splits:
            chosen_by = joined(setting.evidence("val"))
        return fitted, chosen_by, judged, f"pictures of {setting.split}"

    def _probed(
        self,
        attribute: str,
        values: list[str],
        fitted: Labelled,
        chosen_by: Labelled | None,
        judged: Labelled,
        where: str,
    ) -> Findings | str:
        """The figures of one attribute, or why there are none."""
        own, rest = fitted.having(attribute), judged.having(attribute)
        if self._setting.split == "all":
            test = drawn(own, 0.5, "test")
            own, rest = own.where(~test), own.where(test)
        own = self._fewer(own, self.max_train)
        counts = Counter(own.classes)
        known = [value for value in values if counts[value] >= LEAST]
        if len(known) < 2:
            few = ", ".join(f"{name} has {count}" for name, count in counts.most_common(3)) or "there are none"
            return f"a probe of {attribute} needs {LEAST} training pictures of two classes or more: {few}"
        own, test_rows = own.within(known), rest.within(known)
        if not test_rows.ids:
            return f"no picture to judge has a {attribute} that was trained on"
        other = chosen_by.having(attribute).within(known) if chosen_by is not None else own.where(own.none)
        if other.ids:
            if self.max_train is not None:
                other = self._fewer(other, max(1, round(VALIDATION * self.max_train)))
                own = self._fewer(own, max(1, self.max_train - len(other.ids)))
            parts, own = (own, other), own.with_(other)
        else:
            aside = drawn(own, VALIDATION, "validation")
            parts = own.where(~aside), own.where(aside)
        strength, tried = self._strength(parts, known)
        model = self._fit(own, known, strength, None)
        if len(rest.ids) > len(test_rows.ids):
            where += f" ({len(rest.ids) - len(test_rows.ids)} of classes never trained on left out)"
        return self._findings(attribute, known, model, (strength, tried), own, test_rows, where)

    def _strength(self, parts: tuple[Rows, Rows], known: list[str]) -> tuple[float, dict[float, float]]:
        own, other = parts
        last: Linear | None = None
        labels = other.numbers(known)

        def judge(strength: float) -> tuple[float, float]:
            nonlocal last
            last = self._fit(own, known, strength, last)
            logits = last.logits(other.features)
            return (logits.argmax(1) == labels).float().mean().item(), cross_entropy(logits, labels).item()

        return search(judge)

    def _fit(self, rows: Rows, known: list[str], strength: float, start: Linear | None) -> Linear:
        return fit(rows.features, rows.numbers(known), len(known), strength, start, self.steps)

    def _fewer(self, rows: Rows, most: int | None) -> Rows:
        if most is None or len(rows.ids) <= most:
            return rows
        order = sorted(range(len(rows.ids)), key=lambda i: hashed(rows.ids[i], "fewer"))
        kept = rows.none.clone()
        kept[order[:most]] = True
        return rows.where(kept)

    def _findings(
        self,
        attribute: str,
        known: list[str],
        model: Linear,
        strengths: tuple[float, dict[float, float]],
        own: Rows,
        judged: Rows,
        where: str,
    ) -> Findings:
        strength, tried = strengths
        truth, logits = judged.numbers(known), model.logits(judged.features)
        answers = logits.argmax(1)
        n = len(truth)
        pairs = [(name, known[answer]) for name, answer in zip(judged.classes, answers.tolist(), strict=True)]
        note = f"{where}, {len(known)} classes, fitted to {len(own.ids)} pictures × {own.features.shape[1]} features"
        name = f"linear_probe/{attribute}"
        mean, _, commonest = mean_per_class(pairs)
        said = f"the mean of the classes' own; always saying the commonest gives {commonest:.1%} of pictures"
        train = (model.logits(own.features).argmax(1) == own.numbers(known)).float().mean().item()
        numbers = [
            Finding(name, (answers == truth).float().mean().item(), n, "%", 1 / len(known), note),
            Finding(f"{name}_mean_per_class", mean, n, "%", 1 / len(known), said),
            Finding(f"{name}_train", train, len(own.ids), "%", 1 / len(known), "of the pictures that were fitted"),
            Finding(f"{name}_log10_c", math.log10(strength), n, note="the strength chosen, as a power of ten"),
        ]
        if len(known) > 5:
            right = (logits.topk(5, dim=1).indices == truth[:, None]).any(1).float().mean().item()
            numbers.insert(1, Finding(f"{name}_top5", right, n, "%", 5 / len(known), "the right one among the first 5"))
        title = f"Linear probe: {attribute}"
        tables: dict[str, list[dict[str, Any]]] = by_class(title, pairs, known)
        if len(known) <= CONFUSION:
            tables[f"{title}, how often taken for which"] = confusion(pairs, known)
        else:
            tables[f"{title}, mistaken most often"] = mistakes(pairs)
        tables[f"{title}, strengths tried"] = [
            {"C": float(f"{c:.3g}"), "right of those chosen by, %": round(100 * share, 2)} for c, share in tried.items()
        ]
        return Findings(numbers, tables)
