import pytest
import torch

from mmgen.evaluators.retrieval import Retrieval, rank_of_right
from mmgen.protocols import Evidence, Setting


def judge(sample, captions, texts, images, chunk=100):
    evaluator = Retrieval()
    evaluator.begin(Setting("pairs"))
    for first in range(0, len(captions), chunk):
        part = slice(first, first + chunk)
        samples = [sample(caption=c) for c in captions[part]]
        empty = torch.zeros(len(samples), 3, 8, 8)
        evaluator.update(Evidence(samples, empty, image_features=images[part], text_features=texts[part]))
    return {n.name.removeprefix("retrieval/"): n for n in evaluator.compute().numbers}


def unit(*shape, seed=0):
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=-1, keepdim=True)


def test_ranks_with_ties_against():
    scores = torch.tensor([[0.9, 0.1, 0.5], [0.5, 0.5, 0.1], [0.3, 0.2, 0.1], [0.2, 0.2, 0.2], [torch.nan] * 3])
    right = torch.eye(3).bool()[[0, 0, 2, 1, 1]]
    assert rank_of_right(scores, right).tolist() == [1, 2, 3, 3, 3]
    right[2, 1] = True  # the best right one counts
    assert rank_of_right(scores, right)[2] == 2


def test_known_features(sample):
    """Three pictures along the axes; the texts of the 2nd and 3rd are exchanged."""
    axes = torch.eye(3)
    found = judge(sample, ["a", "b", "c"], axes[[0, 2, 1]], axes)
    for way in ("caption_to_picture", "picture_to_caption"):
        assert found[f"{way}_r1"].value == pytest.approx(1 / 3)
        assert found[f"{way}_r1"].chance == pytest.approx(1 / 3)
        assert found[f"{way}_r5"].value == found[f"{way}_r10"].chance == 1
        assert found[f"{way}_r1"].n == 3


def test_both_ways_are_not_the_same(sample):
    """All texts point at picture 0: one caption finds its picture, and no picture is told from another's caption."""
    texts, images = torch.eye(4)[[0, 0, 0, 0]], torch.eye(4)
    found = judge(sample, list("abcd"), texts, images)
    assert found["caption_to_picture_r1"].value == 1 / 4
    assert found["picture_to_caption_r1"].value == 0


def test_features_that_say_nothing_find_nothing(sample):
    found = judge(sample, [str(i) for i in range(50)], torch.ones(50, 2), torch.ones(50, 2))
    assert [n.value for n in found.values()] == [0] * 6


def test_as_torchmetrics_counts_it(sample):
    from torchmetrics.retrieval import RetrievalHitRate

    torch.manual_seed(0)
    captions = [str(i % 80) for i in range(100)]  # 20 captions of two pictures each
    texts, images = unit(100, 8), unit(100, 8, seed=1)
    texts = torch.nn.functional.normalize(texts + 0.8 * images, dim=-1)
    found = judge(sample, captions, texts, images, chunk=33)
    right = torch.tensor([[a == b for a in captions] for b in captions])
    queries = torch.arange(100)[:, None].expand(100, 100).flatten()
    for way, scores in (("caption_to_picture", texts @ images.T), ("picture_to_caption", images @ texts.T)):
        for cut in (1, 5, 10):
            expected = RetrievalHitRate(top_k=cut)(scores.flatten(), right.flatten(), indexes=queries)
            assert 0.1 < expected < 1
            assert found[f"{way}_r{cut}"].value == pytest.approx(expected.item())


def test_an_equal_caption_counts_as_right_and_the_note_says_so(sample):
    """Pictures 0 and 1 share a caption whose text lies on picture 1 for both."""
    axes = torch.eye(3)
    found = judge(sample, ["a", "a", "c"], axes[[1, 1, 2]], axes)
    assert found["caption_to_picture_r1"].value == 1
    assert "2 share their caption" in found["caption_to_picture_r1"].note
    assert found["caption_to_picture_r1"].chance == pytest.approx((2 / 3 + 2 / 3 + 1 / 3) / 3)
    assert "share" not in judge(sample, ["a", "b", "c"], axes, axes)["caption_to_picture_r1"].note


def every_caption(sample, captions, known, images, chunk=100):
    """`captions` of each picture, whose features are `known`."""
    evaluator = Retrieval(captions="all")
    evaluator.begin(Setting("pairs", encode_captions=lambda asked: torch.stack([known[c] for c in asked])))
    for first in range(0, len(images), chunk):
        own = captions[first : first + chunk]
        samples = [{**sample(caption=c[0]), "captions": c[1:]} if c[1:] else sample(caption=c[0]) for c in own]
        part, empty = images[first : first + chunk], torch.zeros(len(own), 3, 8, 8)
        evaluator.update(Evidence(samples, empty, image_features=part, text_features=part))
    return {n.name.removeprefix("retrieval/"): n for n in evaluator.compute().numbers}


def test_every_caption_is_searched_and_any_own_one_is_right(sample):
    """Picture 0 has two captions, of which the second lies on it and the first on picture 1."""
    axes = torch.eye(3)
    known = {"a": axes[1], "another a": axes[0], "b": axes[1] * 2, "c": axes[2]}
    found = every_caption(sample, [["a", "another a"], ["b"], ["c"]], known, axes, chunk=2)
    assert (found["caption_to_picture_r1"].value, found["caption_to_picture_r1"].n) == (3 / 4, 4)
    assert (found["picture_to_caption_r1"].value, found["picture_to_caption_r1"].n) == (1, 3)
    assert found["caption_to_picture_r1"].chance == pytest.approx(1 / 3)
    assert found["picture_to_caption_r1"].chance == pytest.approx((2 / 4 + 1 / 4 + 1 / 4) / 3)
    assert found["picture_to_caption_r1"].note == "among all 4 captions of all 3 of pairs"


def test_every_caption_as_torchmetrics_counts_it(sample):
    from torchmetrics.retrieval import RetrievalHitRate

    images = unit(40, 8)
    captions = [[f"{i} {j}" for j in range(1 + i % 5)] for i in range(40)]
    owners = torch.tensor([i for i, own in enumerate(captions) for _ in own])
    texts = torch.nn.functional.normalize(unit(len(owners), 8, seed=1) + 0.8 * images[owners], dim=-1)
    known = dict(zip((c for own in captions for c in own), texts, strict=True))
    found = every_caption(sample, captions, known, images, chunk=9)
    right = owners[:, None] == torch.arange(40)
    for way, scores, truth in (
        ("caption_to_picture", texts @ images.T, right),
        ("picture_to_caption", images @ texts.T, right.T),
    ):
        queries = torch.arange(len(truth))[:, None].expand(truth.shape).flatten()
        for cut in (1, 5, 10):
            expected = RetrievalHitRate(top_k=cut)(scores.flatten(), truth.flatten(), indexes=queries)
            assert 0.1 < expected <= 1
            assert found[f"{way}_r{cut}"].value == pytest.approx(expected.item())


def test_a_caption_of_two_pictures_is_right_for_both(sample):
    axes = torch.eye(3)
    known = {"a": axes[0], "bar": axes[1], "c": axes[2]}
    found = every_caption(sample, [["a", "bar"], ["bar", "bar"], ["c"]], known, axes)
    assert (found["caption_to_picture_r1"].value, found["caption_to_picture_r1"].n) == (1, 4)
    assert "2 captions are shared by pictures, each of which counts as right" in found["caption_to_picture_r1"].note


def test_chance_is_what_random_features_reach(sample):
    """40 captions of two pictures each, 30 draws of random features: 2,400 queries each way. The deviation of R@5,
    about 0.12, is sqrt(0.12 · 0.88 / 2400) = 0.007; four of them are allowed."""
    captions = [str(i // 2) for i in range(80)]
    runs = [judge(sample, captions, unit(80, 16, seed=2 * s), unit(80, 16, seed=2 * s + 1)) for s in range(30)]
    chance = runs[0]["caption_to_picture_r5"].chance
    assert 0.1 < chance < 0.14
    assert sum(r["caption_to_picture_r5"].value for r in runs) / 30 == pytest.approx(chance, abs=0.028)
