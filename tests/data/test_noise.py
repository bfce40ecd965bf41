"""Captions spoilt on purpose: whose, how, and always the same."""

from __future__ import annotations

from collections import Counter

import pytest

from mmgen.data.module import PictureData
from mmgen.data.noise import CaptionNoise
from tests.data.test_module import Numbered

SIZE = 4000
CAPTIONS = [[f"one{i} two{i} three{i} four{i}", f"other {i}"] for i in range(SIZE)]


def spoilt(kind, share=0.3, seed=1):
    noise = CaptionNoise(share, kind, seed)
    return [list(noise(str(i), own, CAPTIONS.__getitem__, SIZE)) for i, own in enumerate(CAPTIONS)]


@pytest.mark.parametrize("kind", ["another", "words", "dropped", "soup"])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_a_share_of_the_samples_is_spoilt_the_same_ones_always(kind, share):
    found = spoilt(kind, share)
    changed = [i for i in range(SIZE) if found[i] != CAPTIONS[i]]
    kept_by_chance = 1 / 24 if kind == "words" else 0.0  # four words in their old order
    deviation = (share * (1 - share) / SIZE) ** 0.5
    assert abs(len(changed) / SIZE - share * (1 - kept_by_chance)) < 5 * deviation
    assert spoilt(kind, share) == found
    assert spoilt(kind, share, seed=2) != found


def test_a_larger_share_spoils_what_a_smaller_one_does_and_more():
    few, many = (CaptionNoise(share, "another", 1) for share in (0.1, 0.3))
    assert all(many.spoils(str(i)) for i in range(SIZE) if few.spoils(str(i)))


def test_another_s_captions_are_whole_and_of_everybody():
    wrong = [(own, found) for own, found in zip(CAPTIONS, spoilt("another", 1.0), strict=True)]
    assert all(found != own and found in CAPTIONS for own, found in wrong)
    # Drawn evenly from 4,000: a sample is drawn once on average, and hardly one more than eight times.
    assert max(Counter(found[0] for _, found in wrong).values()) <= 8


def test_another_is_one_with_another_caption():
    captions = [["same"]] * 9 + [["different"]]
    noise = CaptionNoise(1.0, "another", 3)
    found = [noise(str(i), ["same"], captions.__getitem__, 10)[0] for i in range(50)]
    assert found.count("different") >= 40  # each looks at twenty samples: 1 - 0.9^20 is 88 %


def test_what_becomes_of_the_words():
    for own, shuffled, half, soup in zip(
        CAPTIONS, spoilt("words", 1.0), spoilt("dropped", 1.0), spoilt("soup", 1.0), strict=True
    ):
        words = own[0].split()
        assert sorted(shuffled[0].split()) == sorted(words)
        assert len(half[0].split()) == 2
        assert [word for word in words if word in half[0].split()] == half[0].split()
        assert set(words) <= set(soup[0].split())
        assert len(words) < len(soup[0].split()) <= 2 * len(words)
    assert CaptionNoise(1.0, "dropped", 0)("a", ["cat"], CAPTIONS.__getitem__, SIZE) == ["cat"]


@pytest.mark.parametrize(("share", "kind"), [(-0.1, "another"), (1.5, "another"), (0.5, "wrong")])
def test_nonsense_is_refused(share, kind):
    with pytest.raises(ValueError, match="caption_noise"):
        CaptionNoise(share, kind)


def test_training_sees_it_and_validation_does_not():
    def captions(noise):
        data = PictureData(Numbered(200), batch_size=50, seed=3, max_steps=8, noise=noise)
        train = [dict(zip(batch["id"], batch["caption"], strict=True)) for batch in data.train_dataloader()]
        val = [caption for batch in data.val_dataloader() for caption in batch["caption"]]
        return train, val, data

    clean, val, data = captions(None)
    noisy, same_val, _ = captions(CaptionNoise(0.4, "another", 3))
    assert same_val == val
    truth = {id: caption for batch in clean for id, caption in batch.items()}
    seen = {}
    for batch in noisy:
        for id, caption in batch.items():
            assert seen.setdefault(id, caption) == caption  # of every epoch alike
    share = sum(seen[id] != truth[id] for id in seen) / len(seen)
    assert 0.2 < share < 0.6
    trained_on = {data.samples.captions[position] for position in data.train_positions}
    assert set(seen.values()) <= trained_on  # nothing of what is held out
