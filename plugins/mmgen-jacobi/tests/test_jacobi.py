"""The sampler keeps its contract, draws what drawing one token at a time draws, and needs fewer passes."""

import itertools
import math

import numpy as np
import pytest
import torch
from mmgen_jacobi import Jacobi
from mmgen_jacobi.probabilities import filtered, inverted, redrawn, uniforms
from torch import nn

import mmgen
from mmgen.testing import SmallGenerator, check_sampler, small_text_tokenizer

CODES = 3


@pytest.mark.parametrize(
    "options",
    [{}, {"drafts": "fresh"}, {"window": 1}, {"window": 100}, {"window": 5, "top_k": 9, "top_p": 0.95, "min_p": 0.01}],
    ids=str,
)
def test_it_conforms(options):
    assert len(check_sampler(Jacobi(**options))) >= 11


# --- the distribution ---


def small() -> SmallGenerator:
    return SmallGenerator(grid=(2, 2), codebook_size=CODES, sharpness=1.0).eval()


def expected(logits: np.ndarray, temperature=1.0, top_k=None, top_p=None, min_p=None) -> np.ndarray:
    """The filtered probabilities (V,) of logits (V,), spelt out."""
    probs = np.exp(logits / temperature)
    probs /= probs.sum()
    order = sorted(range(len(probs)), key=lambda i: -probs[i])[: top_k or len(probs)]
    total, kept = sum(probs[i] for i in order), []
    for i in order:
        if not kept or sum(probs[j] for j in kept) < (top_p or 1) * total:
            kept.append(i)
    kept = [i for i in kept if probs[i] >= (min_p or 0) * probs[order[0]]]
    return np.array([probs[i] if i in kept else 0 for i in range(len(probs))]) / sum(probs[i] for i in kept)


def exact(generator, text, kept=None, guidance_scale=1.0, **options) -> dict[tuple[int, ...], float]:
    """The probability of every picture, from the generator's forward pass over all of it."""
    given = kept or {}
    free = [[given[p]] if p in given else range(CODES) for p in range(4)]
    pictures = list(itertools.product(*free))
    texts = [text.expand(len(pictures), -1), generator.text_tokenizer.encode([""]).expand(len(pictures), -1)]
    with torch.no_grad():
        one, null = (generator(t, torch.tensor(pictures))[1].double().numpy() for t in texts)
    logits = null + guidance_scale * (one - null)
    shares = {}
    for row, picture in zip(logits, pictures, strict=True):
        factors = [expected(row[p], **options)[picture[p]] for p in range(4) if p not in given]
        shares[picture] = float(np.prod(factors))
    assert sum(shares.values()) == pytest.approx(1)
    return shares


def surprise(drawn: torch.Tensor, shares: dict[tuple[int, ...], float]) -> float:
    """Chi-square of pictures (n,4) over the possible ones, in deviations from its mean; rare ones share a cell."""
    n, found = len(drawn), dict.fromkeys(shares, 0)
    for tokens in drawn.tolist():
        found[tuple(tokens)] += 1
    assert not [t for t in found if found[t] and not shares[t]], "what was filtered out was drawn"
    cells = [(found[t], n * share) for t, share in shares.items() if n * share >= 5]
    rare = (n - sum(c[0] for c in cells), n - sum(c[1] for c in cells))
    cells += [rare] if rare[1] >= 5 else []
    freedom = len(cells) - 1
    assert freedom >= 4
    return (sum((f - e) ** 2 / e for f, e in cells) - freedom) / math.sqrt(2 * freedom)


DRAWS = 600


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"window": 2, "temperature": 0.7, "guidance_scale": 1.5},
        {"top_k": 2, "top_p": 0.9, "temperature": 1.3},
        {"min_p": 0.2, "drafts": "fresh"},
    ],
    ids=str,
)
def test_pictures_come_as_often_as_they_should(options):
    """600 pictures of seed 0, chi-square over the 81 possible. For d cells less one the statistic has mean d and
    deviation sqrt(2d); five deviations are allowed, which true draws exceed once in some hundred thousand seeds."""
    generator = small()
    text = generator.text_tokenizer.encode(["a red bar on the left"])
    drawn = Jacobi(**options).draw(generator, text, num_images=DRAWS, seed=0)[0]
    asked = {key: value for key, value in options.items() if key not in ("window", "drafts")}
    assert surprise(drawn, exact(generator, text, **asked)) < 5


def test_kept_tokens_condition_what_follows():
    generator = small()
    text = generator.text_tokenizer.encode(["a red bar on the left"])
    kept, kept_tokens = torch.tensor([False, True, False, False]), torch.tensor([[0, 2, 0, 0]])
    drawn = Jacobi().draw(generator, text, num_images=DRAWS, seed=1, kept=kept, kept_tokens=kept_tokens)[0]
    assert surprise(drawn, exact(generator, text, kept={1: 2})) < 5


def test_a_wrong_rule_is_noticed(monkeypatch):
    """The margin is narrow enough: of two slightly wrong rules both are far outside."""

    def always_kept(tokens, old, new, uniform):
        return tokens

    def drawn_from_all(tokens, old, new, uniform):
        stays = uniform[0] * old.gather(-1, tokens[:, None])[:, 0] < new.gather(-1, tokens[:, None])[:, 0]
        return torch.where(stays, tokens, inverted(new, uniform[1]))

    generator = small()
    text = generator.text_tokenizer.encode(["a red bar on the left"])
    shares = exact(generator, text)
    for rule in (always_kept, drawn_from_all):
        monkeypatch.setattr("mmgen_jacobi.redrawn", rule)
        assert surprise(Jacobi().draw(generator, text, num_images=DRAWS, seed=0)[0], shares) > 10


def test_a_draw_from_one_distribution_becomes_one_from_another():
    """200,000 tokens of 8 kinds, chi-square with 7 degrees of freedom; and they stay as often as any rule can let them:
    with probability 1 - TV, within five deviations of a share of n."""
    n = 200_000
    source = torch.Generator().manual_seed(0)
    old, new = (torch.randn(2, 8, generator=source) * 1.5).softmax(-1)
    numbers = uniforms(0, 0, 0, (3, n))
    tokens = inverted(old.expand(n, -1), numbers[2])
    redrawn_tokens = redrawn(tokens, old.expand(n, -1), new.expand(n, -1), numbers[:2])
    found = torch.bincount(redrawn_tokens, minlength=8)
    assert ((found - n * new) ** 2 / (n * new)).sum() < 7 + 5 * math.sqrt(14)
    stayed = float((tokens == redrawn_tokens).float().mean())
    total_variation = float((old - new).abs().sum()) / 2
    assert total_variation > 0.2
    assert abs(stayed - (1 - total_variation)) < 5 * math.sqrt(0.25 / n)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 2},
        {"top_k": 99},
        {"top_p": 0.69},
        {"top_p": 1e-9},
        {"top_k": 3, "top_p": 0.8},
        {"top_k": 3, "top_p": 0.84},
        {"min_p": 0.4},
        {"min_p": 1.0},
        {"top_p": 0.84, "min_p": 0.5},
    ],
    ids=str,
)
def test_filters(options):
    logits = torch.tensor([0.1, 0.4, 0.05, 0.3, 0.15]).log()
    asked = {"temperature": 1.0, "top_k": None, "top_p": None, "min_p": None, **options}
    probs = filtered(torch.stack([logits, logits.flip(0)]), **asked)
    wanted = torch.from_numpy(expected(logits.double().numpy(), **options)).float()
    assert torch.allclose(probs[0], wanted, atol=1e-6)
    assert torch.allclose(probs[1], wanted.flip(0), atol=1e-6)


def test_temperatures_at_the_end():
    logits = torch.tensor([[0.0, 2.0, 1.9]])
    assert filtered(logits, 0, None, None, None).tolist() == [[0, 1, 0]]
    assert filtered(logits, 1e-40, None, None, None).tolist() == [[0, 1, 0]]


def test_uniforms_belong_to_seed_picture_and_turn():
    every = [uniforms(s, i, t, (3, 8)) for s in (0, -1, 2**32) for i in (0, 11) for t in (0, 1)]
    assert torch.stack(every).unique().numel() > 0.99 * 24 * len(every)
    assert torch.equal(uniforms(1, 2, 3, (3, 8)), uniforms(1, 2, 3, (3, 8)))
    assert 0 <= torch.stack(every).min() <= torch.stack(every).max() < 1


# --- passes ---


class Counting(nn.Module):
    """A generator whose every pass is counted."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.inner, self.stream, self.text_tokenizer = generator, generator.stream, generator.text_tokenizer
        self.prefills, self.steps = [], []

    def prefill(self, text_tokens, image_tokens=None):
        self.prefills.append((len(text_tokens), 0 if image_tokens is None else image_tokens.shape[1]))
        return self.inner.prefill(text_tokens, image_tokens)

    def step(self, image_tokens, kv_cache):
        self.steps.append(tuple(image_tokens.shape))
        return self.inner.step(image_tokens, kv_cache)


@pytest.fixture
def transformer():
    torch.manual_seed(0)
    parts = {"text_tokenizer": small_text_tokenizer(), "grid": (4, 5), "codebook_size": 50}
    config = {"name": "transformer", "embed_dim": 32, "num_heads": 2, "num_layers": 2}
    generator = mmgen.build("generator", config, **parts)
    with torch.no_grad():  # as made, every token is as likely as any other
        for parameter in generator.parameters():
            parameter.mul_(4)
    return generator


@pytest.mark.parametrize("drafts", ["coupled", "fresh"])
@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_it_counts_the_passes_it_makes(transformer, drafts, guidance_scale):
    counting = Counting(transformer)
    text = transformer.text_tokenizer.encode(["a red bar on the left", "a blue bar on the left"])
    sampler = Jacobi(window=6, drafts=drafts, guidance_scale=guidance_scale)
    sampler.draw(counting, text, num_images=3, seed=0)
    rows = 1 if guidance_scale == 1 else 2
    assert counting.prefills == [(rows, 0)] * 2, "each caption is read once"
    assert {shape[0] for shape in counting.steps} == {rows}
    assert max(shape[1] for shape in counting.steps) == 6
    assert (sampler.passes.pictures, sampler.passes.made) == (6, len(counting.steps))
    assert sampler.passes.one_by_one == 6 * 19
    assert len(counting.steps) < 6 * 19
    assert sampler.summary().endswith("one token at a time takes 19.0")
    sampler.draw(counting, text, num_images=1, seed=0)
    assert (sampler.passes.pictures, sampler.passes.made) == (8, len(counting.steps))


def test_a_window_of_one_draws_one_token_a_pass(transformer):
    sampler = Jacobi(window=1)
    sampler.draw(transformer, transformer.text_tokenizer.encode(["a red bar"]), num_images=2, seed=0)
    assert sampler.passes.made == sampler.passes.one_by_one == 38


def test_what_does_not_depend_on_the_tokens_is_right_at_once(transformer):
    """Logits that no token changes: the second time a window is read, all of it stays."""
    with torch.no_grad():
        transformer.image_head.weight.zero_()
        transformer.image_head.bias.copy_(torch.randn(50))
    sampler = Jacobi(window=100)
    sampler.draw(transformer, transformer.text_tokenizer.encode(["a red bar"]), num_images=5, seed=0)
    assert sampler.passes.made == 2 * 5


def test_at_temperature_0_it_draws_the_very_pictures_of_one_token_at_a_time(transformer):
    text = transformer.text_tokenizer.encode(["a red bar on the left", "a blue bar on the left"])
    one_by_one = mmgen.build("sampler", {"name": "autoregressive", "temperature": 0.0, "guidance_scale": 2.0})
    sampler = Jacobi(temperature=0.0, guidance_scale=2.0)
    drawn = sampler.draw(transformer, text, num_images=1, seed=0)
    assert torch.equal(drawn, one_by_one.draw(transformer, text, num_images=1, seed=0))
    assert len(drawn.unique()) > 3
    kept = torch.arange(20) % 7 < 2
    again = sampler.draw(transformer, text, num_images=1, seed=0, kept=kept, kept_tokens=drawn[:, 0])
    assert torch.equal(again, drawn)


def test_a_picture_does_not_change_with_what_is_drawn_beside_it(transformer):
    """With real logits, whose last bits depend on the shape of a pass."""
    text = transformer.text_tokenizer.encode([f"a {c} bar on the left" for c in ("red", "green", "blue")])
    sampler = Jacobi(window=7)
    everything = sampler.draw(transformer, text, num_images=3, seed=7)
    assert len({tuple(p) for p in everything.flatten(0, 1).tolist()}) == 9
    assert torch.equal(sampler.draw(transformer, text[1:2], num_images=1, seed=7)[0, 0], everything[1, 0])
    assert torch.equal(sampler.draw(transformer, text[2:], num_images=2, seed=7), everything[2:, :2])


def test_kept_tokens_cost_no_pass_of_their_own(transformer):
    counting = Counting(transformer)
    text = transformer.text_tokenizer.encode(["a red bar on the left"])
    kept = (torch.arange(20) < 10) | (torch.arange(20) > 12)
    sampler = Jacobi(window=1)
    kept_tokens = torch.arange(20)[None]
    drawn = sampler.draw(counting, text, num_images=2, seed=0, kept=kept, kept_tokens=kept_tokens)
    assert counting.prefills == [(1, 10)]
    assert counting.steps == [(1, 1), (1, 1)] * 2
    assert (drawn[:, :, kept] == kept_tokens[:, None, kept]).all()
    everything = sampler.draw(counting, text, num_images=2, seed=0, kept=torch.ones(20).bool(), kept_tokens=kept_tokens)
    assert torch.equal(everything, kept_tokens[None].expand(1, 2, -1))
    assert str(Jacobi().passes) == "jacobi: nothing drawn"


# --- what does not fit ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window is 0"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"min_p": 1.5}, "min_p is 1.5"),
        ({"guidance_scale": math.inf}, "guidance_scale is inf"),
        ({"drafts": "old"}, "drafts is old"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Jacobi(**options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_images": 0}, "num_images is 0"),
        ({"text_tokens": torch.zeros(2, 4).long()}, r"reads \(captions, 12\)"),
        ({"kept": torch.zeros(4).bool()}, "go together"),
        ({"kept": torch.zeros(4), "kept_tokens": torch.zeros(2, 4).long()}, "torch.bool"),
        ({"kept": torch.zeros(4).bool(), "kept_tokens": torch.zeros(1, 4).long()}, r"must be \(2, 4\)"),
        ({"kept": torch.ones(4).bool(), "kept_tokens": torch.full((2, 4), -4)}, "holds -4"),
    ],
    ids=str,
)
def test_arguments_that_do_not_fit_are_refused(arguments, message):
    arguments = {"text_tokens": torch.zeros(2, 12).long(), "num_images": 1, "seed": 0, **arguments}
    with pytest.raises(ValueError, match=message):
        Jacobi().draw(small(), arguments.pop("text_tokens"), **arguments)


def test_logits_that_are_no_numbers_are_an_error():
    generator = small()
    with torch.no_grad():
        generator.image_table[5:] = math.nan
    with pytest.raises(Exception, match="not finite") as caught:
        Jacobi().draw(generator, torch.zeros(1, 12).long(), num_images=3, seed=0)
    assert getattr(caught.value, "code", None) == "MMG-N02", "as any sampler of mmgen's own says it"
