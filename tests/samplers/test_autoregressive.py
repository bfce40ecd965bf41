import itertools
import math

import numpy as np
import pytest
import torch

from mmgen.errors import NonFiniteError
from mmgen.samplers.autoregressive import Autoregressive

# --- the distribution, against one worked out by enumeration ---


def naive_filter(logits, temperature, top_k, top_p, min_p):
    """Probabilities of one row in double precision, written without regard to speed."""
    probs = np.exp(logits / temperature)
    order = sorted(range(len(probs)), key=lambda i: -probs[i])
    kept = order[:top_k]
    total, mass, inside = sum(probs[i] for i in kept), 0.0, []
    for i in kept:
        if mass < (1.0 if top_p is None else top_p) * total and probs[i] >= (min_p or 0.0) * probs[kept[0]]:
            inside.append(i)
        mass += probs[i]
    probs = np.array([p if i in inside else 0.0 for i, p in enumerate(probs)])
    return probs / probs.sum()


def exact(table, text, temperature=1.0, top_k=None, top_p=None, min_p=None, guidance_scale=1.0):
    """Every picture's probability: {tokens: share} over all codes^4 of them."""
    null = table.text_tokenizer.encode([""])

    def after(tokens):
        logits = [
            table.after(torch.cat([t, torch.tensor([tokens], dtype=torch.long)], 1))[0].double().numpy()
            for t in (null, text)
        ]
        return naive_filter(logits[0] + guidance_scale * (logits[1] - logits[0]), temperature, top_k, top_p, min_p)

    shares = {}
    for tokens in itertools.product(range(table.codes), repeat=table.stream.image_length):
        share = 1.0
        for position, token in enumerate(tokens):
            share *= after(tokens[:position])[token] if share else 0.0
        shares[tokens] = share
    assert math.isclose(sum(shares.values()), 1)
    return shares


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.6},
        {"temperature": 1.7},
        {"top_k": 2},
        {"top_p": 0.7},
        {"min_p": 0.4},
        {"guidance_scale": 2.5},
        {"guidance_scale": 0.0},
        {"temperature": 1.3, "top_k": 3, "top_p": 0.85, "guidance_scale": 1.5},
        {"temperature": 1.3, "top_k": 3, "top_p": 0.9, "min_p": 0.35, "guidance_scale": 1.5},
    ],
    ids=str,
)
def test_pictures_come_as_often_as_they_should(table, captions, options):
    """Chi-square of 20,000 pictures of seed 0 over all that are possible; rare ones (expected < 5) share a cell. The
    statistic has mean d and deviation sqrt(2d) for d cells less one; five deviations are allowed."""
    n = 20_000
    text = captions(3)[2:]
    shares = exact(table, text, **options)
    drawn = Autoregressive(**options, batch_size=1000).draw(table, text, num_images=n, seed=0)
    found = dict.fromkeys(shares, 0)
    for tokens in drawn[0].tolist():
        found[tuple(tokens)] += 1
    assert not [t for t in found if found[t] and not shares[t]], "what was filtered out was drawn"
    cells = [(found[t], n * share) for t, share in shares.items() if n * share >= 5]
    rare = (n - sum(c[0] for c in cells), n - sum(c[1] for c in cells))
    cells += [rare] if rare[1] >= 5 else []
    chi_square = sum((f - e) ** 2 / e for f, e in cells)
    freedom = len(cells) - 1
    assert freedom >= 4
    assert chi_square < freedom + 5 * math.sqrt(2 * freedom)


def test_temperature_0_takes_the_likeliest_every_time(table, captions):
    drawn = Autoregressive(temperature=0).draw(table, captions(2), num_images=3, seed=0)
    for text, pictures in zip(captions(2), drawn, strict=True):
        read = text[None]
        for _ in range(4):
            read = torch.cat([read, table.after(read).argmax(-1, keepdim=True)], 1)
        assert (pictures == read[0, 3:]).all()


def test_kept_tokens_condition_what_follows(table, captions):
    """Of 4 positions the 2nd is kept at code 3: the others as often as the product of their conditionals says."""
    n = 20_000
    text = captions(1)
    kept = torch.tensor([False, True, False, False])
    drawn = Autoregressive(batch_size=1000).draw(
        table, text, num_images=n, seed=1, kept_tokens=torch.tensor([[0, 3, 0, 0]]), kept=kept
    )[0]
    assert (drawn[:, 1] == 3).all()
    probs = torch.zeros(4, 4, 4, dtype=torch.double)
    for a, b, c in itertools.product(range(4), repeat=3):
        read, share = text, 1.0
        for token, is_kept in ((a, False), (3, True), (b, False), (c, False)):
            share *= 1 if is_kept else table.after(read).double().softmax(-1)[0, token].item()
            read = torch.cat([read, torch.tensor([[token]])], 1)
        probs[a, b, c] = share
    found = torch.bincount(drawn[:, 0] * 16 + drawn[:, 2] * 4 + drawn[:, 3], minlength=64).view(4, 4, 4)
    # Total variation of 20,000 true draws over 64 cells stays below sqrt(64 / (2 pi n)) = 0.023 on average.
    assert (found / n - probs).abs().sum() / 2 < 0.03


# --- a picture is a function of (generator, caption, seed, number) ---


@pytest.mark.parametrize(
    "options", [{}, {"guidance_scale": 3.0}, {"top_k": 20, "top_p": 0.9, "temperature": 0.9}], ids=str
)
def test_a_picture_does_not_change_with_what_is_drawn_beside_it(net, captions, options):
    sampler = Autoregressive(**options, batch_size=16)
    text = captions(43)
    everything = sampler.draw(net, text, num_images=3, seed=7)
    assert len({tuple(p) for p in everything.flatten(0, 1).tolist()}) > 100, "the pictures differ, so the test can tell"
    alone = sampler.draw(net, text[30:31], num_images=1, seed=7)
    of_three = sampler.draw(net, text[30:31], num_images=3, seed=7)
    of_forty = sampler.draw(net, text[30:31], num_images=40, seed=7)
    assert torch.equal(alone[0, 0], everything[30, 0])
    assert torch.equal(of_three[0], everything[30])
    assert torch.equal(of_forty[0, :3], everything[30])
    shuffled = torch.randperm(43, generator=torch.Generator().manual_seed(0))
    assert torch.equal(sampler.draw(net, text[shuffled], num_images=3, seed=7), everything[shuffled])
    assert torch.equal(sampler.draw(net, text[-1:], num_images=3, seed=7), everything[-1:])


def test_logits_have_the_same_bits_wherever_a_row_stands(net, captions):
    """The token test could pass by luck, so the logits themselves: every pass of the same rows in the same shape."""
    sampler = Autoregressive(batch_size=16, temperature=0)
    sampler.draw(net, captions(20), num_images=1, seed=0)
    at_first = net.rows.copy()
    net.rows.clear()
    sampler.draw(net, captions(20)[11:], num_images=5, seed=0)
    assert len(net.rows) > 50
    assert net.rows <= at_first


@pytest.mark.parametrize("scale", [1.0, 2.0])
@pytest.mark.parametrize(("count", "num_images"), [(1, 1), (1, 40), (5, 3), (21, 2)])
def test_every_pass_has_one_shape(net, captions, count, num_images, scale):
    Autoregressive(batch_size=10, guidance_scale=scale).draw(net, captions(count), num_images=num_images, seed=0)
    rows = 1 if scale == 1 else 2
    assert set(net.prefills) == {(8 * rows, 3, 0)}
    assert set(net.steps) == {(10 * rows, 1)}
    groups = [min(10, count - first) for first in range(0, count, 10)]
    assert len(net.prefills) == sum(math.ceil(g / 8) for g in groups), "each caption is read once"
    assert len(net.steps) == sum(math.ceil(g * num_images / 10) for g in groups) * 11


def test_seeds_and_numbers_differ_and_repeat(net, captions):
    sampler = Autoregressive()
    drawn = [sampler.draw(net, captions(2), num_images=4, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert len({tuple(p) for p in drawn[0][0].tolist()}) == 4


# --- guidance ---


def test_captions_have_random_numbers_of_their_own(net, captions):
    """By logits that are the same for all. By shared numbers every picture would be alike, and the drawings of 200
    captions as few cases as those of one."""
    text, count = captions(2), 200
    for parameter in net.parameters():
        torch.nn.init.zeros_(parameter)
    drawn = Autoregressive().draw(net, text, num_images=count, seed=1)
    codes, positions = net.codes, drawn.shape[2]
    alike = (drawn[0] == drawn[1]).float().mean().item()
    cases = count * positions
    margin = 4 * (1 / codes * (1 - 1 / codes) / cases) ** 0.5
    assert abs(alike - 1 / codes) < margin, f"{alike:.3f} of {cases} tokens are alike, by chance 1 in {codes}"
    assert torch.equal(drawn[1:], Autoregressive().draw(net, text[1:], num_images=count, seed=1))


def test_guidance_scale_1_is_the_unguided_path(net, captions):
    def refuse(captions, keys=None):
        raise AssertionError("the empty caption was read")

    plain = Autoregressive().draw(net, captions(3), num_images=2, seed=0)
    net.text_tokenizer.encode = refuse
    assert torch.equal(Autoregressive(guidance_scale=1.0).draw(net, captions(3), num_images=2, seed=0), plain)


def test_guidance_reads_the_kept_tokens_in_both_branches(table, captions):
    """Guidance at scale 0 is the empty caption's own picture, whatever the caption says."""
    kept, kept_tokens = torch.tensor([True, True, False, True]), torch.tensor([[1, 2, 0, 3]])
    null = table.text_tokenizer.encode([""])
    options = {"num_images": 30, "seed": 2, "kept": kept}
    guided = Autoregressive(temperature=0, guidance_scale=0).draw(
        table, captions(12), kept_tokens=kept_tokens.expand(12, -1), **options
    )
    plain = Autoregressive(temperature=0).draw(table, null, kept_tokens=kept_tokens, **options)
    assert torch.equal(guided, plain.expand(12, -1, -1))
    own = Autoregressive(temperature=0).draw(table, captions(12), kept_tokens=kept_tokens.expand(12, -1), **options)
    assert not torch.equal(guided, own)


# --- kept tokens ---


def test_kept_tokens_that_lead_are_read_with_the_caption(net, captions):
    full = Autoregressive().draw(net, captions(2), num_images=1, seed=4)[:, 0]
    net.prefills.clear(), net.steps.clear()
    kept = torch.arange(12) < 5
    again = Autoregressive().draw(net, captions(2), num_images=3, seed=4, kept_tokens=full, kept=kept)
    assert net.prefills == [(8, 3, 5)]
    assert len(net.steps) == 12 - 5 - 1
    assert torch.equal(again[:, :, :5], full[:, None, :5].expand(-1, 3, -1))
    assert torch.equal(again[:, 0], full), "the rest of picture 0 is drawn again from the same randomness"


def test_kept_tokens_in_between_go_through_in_one_step(net, captions):
    """The left half of a picture is kept: each row's kept run is read together with the token drawn before it."""
    full = Autoregressive().draw(net, captions(2), num_images=1, seed=4)[:, 0]
    net.steps.clear()
    kept = torch.tensor([True, True, False, False] * 3)
    again = Autoregressive().draw(net, captions(2), num_images=2, seed=4, kept_tokens=full, kept=kept)
    assert [s[1] for s in net.steps] == [1, 3, 1, 3, 1]
    assert torch.equal(again[:, 0], full)
    assert (again[:, :, kept] == full[:, None, kept]).all()
    assert not torch.equal(again[:, 1], full)


def test_all_kept_reads_nothing(net, captions):
    kept_tokens = torch.arange(24).view(2, 12)
    done = []
    same = Autoregressive().draw(
        net,
        captions(2),
        num_images=2,
        seed=0,
        kept_tokens=kept_tokens,
        kept=torch.ones(12).bool(),
        progress=done.append,
    )
    assert torch.equal(same, kept_tokens[:, None].expand(-1, 2, -1))
    assert net.prefills == net.steps == []
    assert sum(done) == 4


def test_what_stands_where_nothing_is_kept_does_not_matter(net, captions):
    kept = torch.arange(12) % 3 == 0
    drawn = [
        Autoregressive().draw(
            net, captions(1), num_images=2, seed=0, kept=kept, kept_tokens=torch.where(kept, 7, other)[None]
        )
        for other in (0, 49, -1)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2])


# --- good manners ---


def test_the_caller_s_things_are_left_as_they_were(net, captions):
    net.train()
    net.layer.eval()  # a frozen part of a training model
    text, kept_tokens, kept = captions(3), torch.full((3, 12), 5), torch.arange(12) == 3
    before = text.clone(), kept_tokens.clone(), kept.clone(), torch.get_rng_state()
    drawn = Autoregressive(guidance_scale=2).draw(net, text, num_images=2, seed=0, kept_tokens=kept_tokens, kept=kept)
    for old, new in zip(before, (text, kept_tokens, kept, torch.get_rng_state()), strict=True):
        assert torch.equal(old, new)
    assert net.training
    assert not net.layer.training
    net.image(drawn).sum().backward()  # tokens drawn here can be trained on
    assert not drawn.requires_grad


def test_modes_come_back_after_an_error(net, captions):
    net.train()
    net.step = None
    with pytest.raises(TypeError):
        Autoregressive().draw(net, captions(1), num_images=1, seed=0)
    assert net.training
    assert net.layer.training


def test_progress_counts_every_picture_once(net, captions):
    done = []
    Autoregressive(batch_size=10).draw(net, captions(13), num_images=3, seed=0, progress=done.append)
    assert sum(done) == 39
    assert max(done) <= 10


def test_no_captions_give_no_pictures(net):
    assert Autoregressive().draw(net, torch.zeros(0, 3).long(), num_images=2, seed=0).shape == (0, 2, 12)


@pytest.mark.parametrize("temperature", [0, 1])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_an_error(net, captions, value, temperature):
    with torch.no_grad():
        net.head.bias[3] = value
    with pytest.raises(NonFiniteError, match="not finite"):
        Autoregressive(temperature=temperature).draw(net, captions(1), num_images=1, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": math.nan}, "temperature is nan"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.01}, "top_p is 1.01"),
        ({"min_p": -0.1}, "min_p is -0.1"),
        ({"min_p": 1.1}, "min_p is 1.1"),
        ({"guidance_scale": -1}, "guidance_scale is -1"),
        ({"guidance_scale": math.inf}, "guidance_scale is inf"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Autoregressive(**options)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_images": 0}, "num_images is 0"),
        ({"text_tokens": torch.zeros(2, 4).long()}, r"reads \(captions, 3\)"),
        ({"kept": torch.zeros(12).bool()}, "go together"),
        ({"kept_tokens": torch.zeros(2, 12).long()}, "go together"),
        ({"kept": torch.zeros(12), "kept_tokens": torch.zeros(2, 12).long()}, "torch.bool"),
        ({"kept": torch.zeros(11).bool(), "kept_tokens": torch.zeros(2, 12).long()}, r"kept is \(11,\)"),
        ({"kept": torch.zeros(12).bool(), "kept_tokens": torch.zeros(1, 12).long()}, r"must be \(2, 12\)"),
        ({"kept": torch.ones(12).bool(), "kept_tokens": torch.full((2, 12), -4)}, "holds -4"),
    ],
    ids=str,
)
def test_arguments_that_do_not_fit_are_refused(net, captions, arguments, message):
    arguments = {"text_tokens": captions(2), "num_images": 1, "seed": 0, **arguments}
    with pytest.raises(ValueError, match=message):
        Autoregressive().draw(net, arguments.pop("text_tokens"), **arguments)
