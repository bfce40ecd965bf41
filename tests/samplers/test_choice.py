import math

import pytest
import torch

from mmgen.samplers.choice import choose, uniforms

LOGITS = torch.tensor([0.1, 0.4, 0.05, 0.3, 0.15]).log()


def spread(**options):
    """How much of [0,1) each id takes, seen through 100,000 evenly spaced uniforms."""
    count = 100_000
    uniform = (torch.arange(count) + 0.5) / count
    ids = choose(LOGITS.expand(count, -1), uniform, **options)
    return torch.bincount(ids, minlength=5) / count


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.1, 0.4, 0.05, 0.3, 0.15]),
        ({"temperature": 0.5}, [p * p / 0.285 for p in (0.1, 0.4, 0.05, 0.3, 0.15)]),
        ({"top_k": 2}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_k": 5}, [0.1, 0.4, 0.05, 0.3, 0.15]),
        ({"top_k": 99}, [0.1, 0.4, 0.05, 0.3, 0.15]),
        ({"top_k": 1}, [0, 1, 0, 0, 0]),
        ({"top_p": 0.39}, [0, 1, 0, 0, 0]),
        ({"top_p": 0.69}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.71}, [0, 4 / 8.5, 0, 3 / 8.5, 1.5 / 8.5]),
        ({"top_p": 1.0}, [0.1, 0.4, 0.05, 0.3, 0.15]),
        ({"top_p": 1e-9}, [0, 1, 0, 0, 0]),
        # Of the three likeliest the first two are 0.7 / 0.85 = 0.82 of the mass: top_p comes after top_k.
        ({"top_k": 3, "top_p": 0.8}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_k": 3, "top_p": 0.84}, [0, 4 / 8.5, 0, 3 / 8.5, 1.5 / 8.5]),
        # At least half, a quarter, a tenth as likely as the likeliest, which has 0.4.
        ({"min_p": 0.5}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"min_p": 0.25 * 0.999}, [0.1 / 0.95, 0.4 / 0.95, 0, 0.3 / 0.95, 0.15 / 0.95]),
        ({"min_p": 0.1}, [0.1, 0.4, 0.05, 0.3, 0.15]),
        ({"min_p": 0.0}, [0.1, 0.4, 0.05, 0.3, 0.15]),
        ({"min_p": 1.0}, [0, 1, 0, 0, 0]),
        # At temperature 0.5 the ratios are squared: 9/16 of the likeliest stays, (3/8)² does not.
        ({"temperature": 0.5, "min_p": 0.5}, [0, 16 / 25, 0, 9 / 25, 0]),
        ({"top_k": 2, "min_p": 0.3}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_k": 4, "min_p": 0.5}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.9, "min_p": 0.5}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_p": 0.5, "min_p": 0.1}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"top_k": 3, "top_p": 0.84, "min_p": 0.7}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"temperature": 0.0, "min_p": 0.5}, [0, 1, 0, 0, 0]),
        ({"temperature": 0.0}, [0, 1, 0, 0, 0]),
        ({"temperature": 1e-40}, [0, 1, 0, 0, 0]),
    ],
)
def test_every_id_takes_its_share(options, expected):
    assert torch.allclose(spread(**options), torch.tensor(expected, dtype=torch.float32), atol=3e-5)


def test_an_id_of_no_probability_is_never_drawn_at_the_ends():
    logits = torch.tensor([[-math.inf, 0.0, -math.inf]]).expand(2, -1)
    assert choose(logits, torch.tensor([0.0, 1 - 2**-24])).tolist() == [1, 1]


def test_large_vocabularies_do_not_lose_their_tail():
    last = choose(torch.zeros(1, 16384), torch.tensor([1 - 2**-24]))
    assert last.item() == 16383


def test_uniforms_belong_to_seed_image_and_position():
    rows = torch.stack([uniforms(seed, image, 64) for seed in (0, 1, -1, 2**32, 2**40) for image in (0, 1, 11)])
    assert rows.unique().numel() > 0.999 * rows.numel(), "2**32 + seed must not repeat seed"
    assert torch.equal(uniforms(1, 2, 64)[:10], uniforms(1, 2, 10))
    # Written down once: pictures drawn today can be drawn again next year.
    assert not torch.equal(uniforms(1, 2, 64, beside="7 8"), uniforms(1, 2, 64, beside="7 9"))
    assert uniforms(1, 0, 3).tolist() == [0.9267236590385437, 0.13509482145309448, 0.013604342937469482]


def test_uniforms_are_uniform():
    # 200,000 numbers in 50 bins: chi-square has mean 49 and deviation 9.9; 100 lies 5 deviations out.
    sample = torch.cat([uniforms(5, image, 1000) for image in range(200)])
    assert sample.min() >= 0
    assert sample.max() < 1
    counts = torch.histc(sample, 50, 0, 1)
    assert ((counts - 4000) ** 2 / 4000).sum() < 100
