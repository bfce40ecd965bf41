"""Linear probes, against scikit-learn's logistic regression and features whose classes are known."""

from __future__ import annotations

import dataclasses
import weakref

import pytest
import torch
from sklearn.linear_model import LogisticRegression  # of mmgen-digits, which is installed beside

from mmgen.evaluators.linear_probe import LinearProbe
from mmgen.evaluators.logistic import fit, search
from mmgen.protocols import Evidence, Setting

COLOURS = ["red", "green", "blue"]


def clouds(count: int, seed: int, spread: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (count,6) around a corner for each of three classes."""
    source = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    return torch.eye(6)[labels] + spread * torch.randn(count, 6, generator=source), labels


def evidence(features: torch.Tensor, labels: torch.Tensor, prefix: str) -> Evidence:
    samples = [
        {"image": torch.zeros(3, 4, 4), "caption": "x", "id": f"{prefix}-{i}", "attributes": {"colour": COLOURS[k]}}
        for i, k in enumerate(labels.tolist())
    ]
    return Evidence(samples, torch.zeros(len(samples), 3, 4, 4), probe_features=features)


def judge(probe: LinearProbe, judged: Evidence, splits: dict[str, Evidence], split: str = "test", classes=None):
    asked = []

    def other(name: str):
        asked.append(name)
        return iter([splits[name]])

    classes = classes or {"colour": COLOURS}
    probe.begin(Setting(split, splits=tuple(splits), evidence=other, classes=classes))
    probe.update(judged)
    return probe.compute(), asked


@pytest.mark.parametrize("strength", [0.01, 1.0, 30.0])
def test_the_regression_is_that_of_scikit_learn(strength):
    features, labels = clouds(150, 0, spread=0.8)
    ours = fit(features, labels, 3, strength, tolerance=1e-9)
    theirs = LogisticRegression(C=strength, tol=1e-9, max_iter=10000).fit(features.double(), labels)
    torch.testing.assert_close(ours.weights, torch.tensor(theirs.coef_), atol=1e-5, rtol=0)
    probs = ours.logits(features).softmax(1)
    torch.testing.assert_close(probs, torch.tensor(theirs.predict_proba(features.double())), atol=1e-5, rtol=0)


def test_where_it_starts_makes_no_difference():
    features, labels = clouds(60, 1, spread=0.8)
    cold = fit(features, labels, 3, 1.0, tolerance=1e-9)
    warm = fit(features, labels, 3, 1.0, start=fit(features, labels, 3, 100.0), tolerance=1e-9)
    torch.testing.assert_close(cold.weights, warm.weights, atol=1e-5, rtol=0)


def test_the_search_finds_the_best_strength_to_an_eighth_of_a_decade():
    """As the paper searches: 7 strengths, two decades apart, then the neighbours at half the distance, four times."""
    seen = []

    def accuracy(strength: float) -> tuple[float, float]:
        power = torch.tensor(strength).log10().item()
        seen.append(power)
        return -abs(power - 1.3), 0.0

    best, tried = search(accuracy)
    assert torch.tensor(best).log10().item() == pytest.approx(1.3, abs=1 / 16 + 1e-6)
    assert len(seen) == len(tried) == len(set(seen))
    assert len(seen) <= 7 + 4 * 2
    assert min(seen) == pytest.approx(-6)
    assert max(seen) == pytest.approx(6)


def test_of_equally_accurate_strengths_the_lowest_loss_wins():
    best, _ = search(lambda strength: (1.0, abs(strength - 100.0)))
    assert best == pytest.approx(100.0)


def test_accuracy_against_a_count_by_hand(number):
    """Every third picture to judge lies where another class does."""
    train, val, test = (clouds(60, seed, 0.05) for seed in range(3))
    features, labels = test[0].clone(), test[1]
    features[::6] = torch.eye(6)[(labels[::6] + 1) % 3]
    findings, asked = judge(
        LinearProbe(),
        evidence(features, labels, "test"),
        {"train": evidence(*train, "train"), "val": evidence(*val, "val")},
    )
    assert sorted(asked) == ["train", "val"]
    right = number(findings, "linear_probe/colour")
    assert (right.value, right.n, right.chance) == (pytest.approx(50 / 60), 60, pytest.approx(1 / 3))
    assert "fitted to 120 pictures × 6 features" in right.note
    assert number(findings, "linear_probe/colour_train").value == 1
    table = findings.tables["Linear probe: colour, how often taken for which"]
    assert sum(row[name] for row in table for name in COLOURS) == 60
    assert sum(row[row["class"]] for row in table) == 50


def test_a_dataset_with_nothing_to_train_on_has_nothing_to_fit():
    """One that declares all of its pictures to be held out."""
    probe = LinearProbe()
    probe.begin(Setting("test", splits=("test",), evidence=lambda name: iter(()), classes={"colour": COLOURS}))
    probe.update(evidence(*clouds(30, 1), "test"))
    assert probe.compute().stood_aside.endswith("training pictures of two classes or more: there are none")


def test_without_a_split_for_it_part_of_the_training_pictures_choose_the_strength(number):
    train, val = clouds(90, 0), clouds(45, 1)
    findings, asked = judge(LinearProbe(), evidence(*val, "val"), {"train": evidence(*train, "train")}, "val")
    assert asked == ["train"], "what is judged chooses nothing"
    assert "fitted to 90 pictures" in number(findings, "linear_probe/colour").note


def test_all_pictures_are_divided_by_their_ids(number):
    features, labels = clouds(120, 0)
    whole = evidence(features, labels, "x")
    first, asked = judge(LinearProbe(), whole, {}, "all")
    assert asked == []
    right = number(first, "linear_probe/colour")
    assert right.n == 60
    assert "fitted to 60 pictures" in right.note
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    shuffled = dataclasses.replace(whole, samples=[whole.samples[i] for i in order], probe_features=features[order])
    again, _ = judge(LinearProbe(), shuffled, {}, "all")
    assert number(again, "linear_probe/colour").value == right.value


def test_features_that_say_nothing_reach_chance(number):
    """300 pictures judged: a deviation of 0.027, four of them allowed."""
    source = torch.Generator().manual_seed(0)
    train, test = (torch.randn(300, 6, generator=source) for _ in range(2))
    labels = torch.arange(300) % 3
    splits = {"train": evidence(train, labels, "train")}
    findings, _ = judge(LinearProbe(steps=50), evidence(test, labels, "test"), splits)
    assert number(findings, "linear_probe/colour").value == pytest.approx(1 / 3, abs=0.11)


def test_classes_that_were_never_trained_on_are_left_out_and_told(number):
    features, labels = clouds(60, 0)
    known = labels != 2
    splits = {"train": evidence(features[known], labels[known], "train")}
    findings, _ = judge(LinearProbe(), evidence(features, labels, "test"), splits)
    right = number(findings, "linear_probe/colour")
    assert (right.n, right.chance) == (40, 0.5)
    assert "20 of classes never trained on left out" in right.note


@pytest.mark.parametrize(
    ("classes", "count", "reason"),
    [
        ({"colour": ["red"]}, 30, "needs two classes"),
        ({"size": ["large", "small"]}, 30, "no picture has the attribute colour"),
        ({"colour": COLOURS}, 3, "needs 2 training pictures of two classes or more: red has 1"),
    ],
)
def test_what_cannot_be_probed_is_told(classes, count, reason):
    """One class; no such attribute; one training picture of each."""
    splits = {"train": evidence(*clouds(count, 0), "train")}
    findings, _ = judge(LinearProbe(attribute="colour"), evidence(*clouds(9, 1), "test"), splits, classes=classes)
    assert findings.numbers == []
    assert reason in findings.stood_aside


def test_fewer_training_pictures_can_be_asked_for(number):
    splits = {"train": evidence(*clouds(90, 0), "train")}
    findings, _ = judge(LinearProbe(max_train=30), evidence(*clouds(30, 1), "test"), splits)
    assert "fitted to 30 pictures" in number(findings, "linear_probe/colour").note


def test_pictures_to_choose_strengths_by_count_as_fitted(number):
    splits = {"train": evidence(*clouds(90, 0), "train"), "val": evidence(*clouds(90, 2), "val")}
    findings, _ = judge(LinearProbe(max_train=30), evidence(*clouds(30, 1), "test"), splits)
    assert "fitted to 30 pictures" in number(findings, "linear_probe/colour").note


def test_an_attribute_of_very_many_classes_is_probed_where_it_is_the_only_one(number):
    splits = {"train": evidence(*clouds(90, 0), "train")}
    many = [*COLOURS, *(f"colour {i}" for i in range(200))]
    findings, _ = judge(LinearProbe(), evidence(*clouds(30, 1), "test"), splits, classes={"colour": many})
    assert number(findings, "linear_probe/colour").n == 30
    several = {"colour": many, "name": many}
    findings, _ = judge(LinearProbe(), evidence(*clouds(30, 1), "test"), splits, classes=several)
    assert findings.stood_aside.startswith("an attribute of more than 100 classes is judged where it is named")
    assert "colour (" in findings.stood_aside


def test_pictures_are_not_kept():
    """30,000 of 224 pixels would take 18 GB."""
    seen: list[weakref.ref] = []

    def chunks(name: str):
        for first in range(0, 60, 6):
            alive = sum(one() is not None for one in seen)
            assert alive <= 1, "only the chunk before may still be there"
            made = evidence(*(part[first : first + 6] for part in clouds(60, 0)), f"{name}-{first}")
            seen.append(weakref.ref(made))
            yield made
            del made

    probe = LinearProbe()
    probe.begin(Setting("test", splits=("train", "val", "test"), evidence=chunks, classes={"colour": COLOURS}))
    for chunk in chunks("test"):
        probe.update(chunk)
    del chunk
    assert all(kept.images.untyped_storage().nbytes() == 0 for kept in probe._judged)
    assert probe.compute().numbers
    assert len(seen) == 30
