"""The evaluator emoji_judge: its shares, tables and pictures, of drawings made by hand."""

from __future__ import annotations

import itertools

import pytest
import torch
from mmgen_emoji.judge import EmojiJudge
from mmgen_emoji.judge_figures import by_ranking, by_truth, powers
from mmgen_emoji.judge_sheets import FRAME, GREEN, RED
from mmgen_emoji.scenes import EmojiScenes

import mmgen
from mmgen.protocols import Evidence, Setting
from mmgen.testing import check_evaluator, small_samples


@pytest.fixture(scope="module")
def scenes() -> EmojiScenes:
    return EmojiScenes(num_samples=48, num_heldout=8)


@pytest.fixture(scope="module")
def pairs(scenes):
    return [scenes[i] for i in scenes.splits["heldout_emoji"]][:4]


def judge(evaluator, samples, drawn=None, reconstructions=None, seed=0):
    """`drawn` (B,n,3,32,32), in chunks of one; beside them the likeliest tokens lack an emoji of the first picture."""
    evaluator.begin(Setting("some", seed=seed))
    images = torch.stack([sample["image"] for sample in samples])
    made = images if reconstructions is None else reconstructions
    for part in (slice(i, i + 1) for i in range(len(samples))):
        evidence = Evidence(samples[part], images[part], reconstructions=made[part])
        if drawn is not None:
            evidence.drawings = drawn[part]
            evidence.teacher_forced = cut(samples[0])[None] if part.start == 0 else images[part]
        evaluator.update(evidence)
    return evaluator.compute()


def number(findings, name):
    (found,) = [each for each in findings.numbers if each.name == f"emoji_judge/{name}"]
    return found


def cut(sample):
    """The picture without its second emoji."""
    image = sample["image"].clone()
    if sample["attributes"]["relation"] == "left of":
        image[:, :, 16:] = 1
    else:
        image[:, 16:] = 1
    return image


def test_shares_are_those_of_right_drawings(pairs):
    """The first of three drawings is right twice, the second of the second caption, and the third of the first."""
    right, wrong = [sample["image"] for sample in pairs], [cut(sample) for sample in pairs]
    drawn = torch.stack(
        [
            torch.stack([right[0], wrong[0], right[0]]),
            torch.stack([wrong[1], right[1], wrong[1]]),
            torch.stack([wrong[2], wrong[2], wrong[2]]),
            torch.stack([right[3], wrong[3], wrong[3]]),
        ]
    )
    findings = judge(EmojiJudge(drawings=3), pairs, drawn)
    found = {n.name.partition("/")[2]: (n.value, n.n, n.unit) for n in findings.numbers}
    assert found == {
        "right": (0.5, 4, "%"),
        "right_unranked": (pytest.approx(4 / 12), 4, "%"),
        "first": (1, 4, "%"),
        "second": (0.5, 4, "%"),
        "both": (0.5, 4, "%"),
        "relation": (1, 4, "%"),
        "psnr": (100, 4, "dB"),
        "true": (1, 4, "%"),
        "noisy": (1, 4, "%"),
        "reconstructions": (1, 4, "%"),
        "teacher_forced": (0.75, 4, "%"),
    }
    note = number(findings, "right").note
    assert "the best of 3 by the encoder, of some" in note
    assert "the judge on true pictures 100.0%, them with noise 100.0%, reconstructions 100.0%" in note
    assert "the likeliest tokens after true ones 75.0%" in note
    assert findings.depends_on == ("dataset", "tokenizer", "generator", "encoder", "sampler")
    curve = findings.tables["All right, the best of N drawings"]
    assert [row["N"] for row in curve] == [1, 2, 3]
    assert [row["ranked by the encoder %"] for row in curve] == [33.3, 41.7, 50.0]
    assert [row["by a perfect ranker %"] for row in curve] == [33.3, 58.3, 75.0]
    worst = findings.tables["All right, the worst pairs"]
    assert worst[0] == {
        "emoji": ", ".join(sorted(pairs[2]["attributes"]["names"].split(" | "))),
        "best of 3 %": 0.0,
        "unranked %": 0.0,
        "captions": 1,
    }
    assert [row["unranked %"] for row in worst] == [0.0, 33.3, 33.3, 66.7]
    failures = findings.tables["Not all right, chosen by the seed"]
    assert {(row["caption"], row["what is wrong"]) for row in failures} == {
        (pairs[i]["caption"], "second") for i in (1, 2)
    }
    assert all("nothing" in row["read as"] for row in failures)


def test_the_ten_worst_pairs_are_listed(scenes):
    samples = [scenes[i] for i in scenes.splits["train"]]
    images = torch.stack([sample["image"] for sample in samples])
    findings = judge(EmojiJudge(drawings=1), samples, images.flip(0)[:, None])
    assert len(findings.tables["All right, the worst pairs"]) == 10
    assert len(findings.tables["Not all right, chosen by the seed"]) == 24
    assert number(findings, "third").n == sum(s["attributes"]["relation"] == "three" for s in samples) > 0


def test_the_frames_tell_the_verdicts(pairs):
    drawn = torch.stack([pairs[0]["image"], cut(pairs[1]), pairs[2]["image"], cut(pairs[3])])[:, None]
    findings = judge(EmojiJudge(drawings=1), pairs, drawn)
    sheet = next(iter(findings.pictures.values()))
    corners = [sheet[:, 6 + FRAME // 2, 6 + 134 * i + 64 + FRAME // 2] for i in range(4)]
    counts = [sum(torch.allclose(corner, torch.tensor(colour)) for corner in corners) for colour in (GREEN, RED)]
    assert counts == [2, 2]
    assert len(findings.pictures) == 2  # the failures too
    true = torch.stack([sample["image"] for sample in pairs])[:, None]
    assert len(judge(EmojiJudge(drawings=1), pairs, true).pictures) == 1


def test_the_sheet_is_chosen_by_the_seed(pairs):
    drawn = torch.stack([cut(sample) for sample in pairs])[:, None]
    sheets = [
        next(iter(judge(EmojiJudge(drawings=1, shown=1), pairs, drawn, seed=seed).pictures.values()))
        for seed in (0, 0, *range(1, 8))
    ]
    assert torch.equal(sheets[0], sheets[1])
    assert len({sheet.numpy().tobytes() for sheet in sheets}) > 1


def test_the_judges_own_error_is_measured(pairs):
    """Two reconstructions lack an emoji; without drawings that is all there is."""
    spoilt = torch.stack([cut(pairs[0]), cut(pairs[1]), pairs[2]["image"], pairs[3]["image"]])
    findings = judge(EmojiJudge(drawings=0, noise=5.0), pairs, reconstructions=spoilt)
    assert [n.name for n in findings.numbers] == [f"emoji_judge/{c}" for c in ("true", "noisy", "reconstructions")]
    assert number(findings, "true").value == 1
    assert number(findings, "noisy").value < 1
    assert "sigma 5" in number(findings, "noisy").note
    assert number(findings, "reconstructions").value == 0.5
    rows = {row["attribute"]: row["reconstructions %"] for row in findings.tables["The judge itself"]}
    assert rows == {"first": 100, "second": 50, "both": 50, "relation": 100, "all right": 50}
    assert findings.depends_on == ("dataset", "tokenizer")


def test_noise_is_of_the_seed_and_the_picture(pairs):
    once, again, other = (EmojiJudge(noise=0.1) for _ in range(3))
    images = torch.stack([sample["image"] for sample in pairs])
    for evaluator, seed in ((once, 0), (again, 0), (other, 1)):
        evaluator.begin(Setting("some", seed=seed))
    assert torch.equal(once._noisy(images, pairs), again._noisy(images, pairs))
    assert torch.equal(once._noisy(images, pairs)[2:], again._noisy(images[2:], pairs[2:]))
    assert not torch.equal(once._noisy(images, pairs), other._noisy(images, pairs))


def test_in_a_mixture_the_other_parts_are_left_out():
    parts = {"scenes": {"num_samples": 6}, "mine": {"name": "emoji_scenes", "num_samples": 6}}
    mixture = mmgen.build("dataset", {"name": "mixture", "parts": parts})
    samples = [mixture[i] for i in mixture.splits["train"]]
    samples += [*small_samples(4), {"image": samples[0]["image"], "caption": "none", "id": "none"}]
    images = torch.stack([sample["image"] for sample in samples])
    findings = judge(EmojiJudge(drawings=1, split="train"), samples, images[:, None])
    assert number(findings, "right").n == 6
    assert number(findings, "right").value == 1
    others = [sample for sample in samples if not sample["id"].startswith("mine/")]
    findings = judge(EmojiJudge(drawings=1), others, torch.stack([s["image"] for s in others])[:, None])
    assert findings.numbers == []
    assert "no picture of the split is one of emoji_scenes" in findings.stood_aside


def test_the_best_of_n_is_the_mean_over_all_subsets():
    right = torch.rand(9, 6, generator=torch.Generator().manual_seed(0)) < 0.4
    for count in (1, 2, 4, 6):
        subsets = [list(subset) for subset in itertools.combinations(range(6), count)]
        first = torch.stack([right[:, subset[0]] for subset in subsets]).double().mean(0)
        some = torch.stack([right[:, subset].any(1) for subset in subsets]).double().mean(0)
        assert torch.allclose(by_ranking(right, count), first)
        assert torch.allclose(by_truth(right, count), some)
    assert [powers(n) for n in (1, 2, 3, 6, 16)] == [[1], [1, 2], [1, 2, 3], [1, 2, 4, 6], [1, 2, 4, 8, 16]]


def test_it_conforms_and_says_what_it_needs(scenes):
    evaluator = mmgen.build("evaluator", {"name": "emoji_judge"})
    assert len(check_evaluator(evaluator, samples=[scenes[i] for i in range(48)])) >= 8
    needs = evaluator.needs
    assert (needs.split, needs.or_val, needs.drawings, needs.max_pictures) == ("heldout_emoji", False, 4, 200)
    assert (needs.reconstructions, needs.all_pictures, needs.attributes) == (True, False, False)
    assert needs.teacher_forced
    assert not EmojiJudge(drawings=0).needs.teacher_forced


def test_bad_options_are_refused():
    for options in ({"drawings": -1}, {"shown": 0}, {"noise": -0.1}):
        with pytest.raises(ValueError, match="none may be negative"):
            EmojiJudge(**options)
