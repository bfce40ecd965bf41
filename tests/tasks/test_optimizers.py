"""Parameter groups, the schedule, and Muon beside AdamW against torch's own two."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from mmgen.errors import ConfigError
from mmgen.models.clip import Clip
from mmgen.models.dvae import Dvae
from mmgen.models.transformer import Transformer
from mmgen.models.vq import VQ
from mmgen.tasks.muon import Muon, MuonAdamW, orthogonalised
from mmgen.tasks.optimizers import hidden_matrices, make_optimizer, make_schedule, parameter_groups, warmup_cosine
from mmgen.testing.stand_ins import small_text_tokenizer
from tests.models.words import Words

ADAMW = {"name": "adamw", "lr": 3e-3, "betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1}
MUON = {**ADAMW, "name": "muon"}


def transformer() -> Transformer:
    torch.manual_seed(0)
    return Transformer(
        text_tokenizer=small_text_tokenizer(6), grid=(2, 2), codebook_size=7, embed_dim=16, num_layers=2, num_heads=2
    )


def clip() -> Clip:
    torch.manual_seed(0)
    return Clip(text_tokenizer=small_text_tokenizer(6), image_size=16, width=16, image_layers=1, text_layers=1)


MODELS = {
    "transformer": transformer,
    "clip": clip,
    "dvae": lambda: Dvae(image_size=8, codebook_size=7, decoder_width=6, width=4, blocks_per_group=1),
    "vq": lambda: VQ(image_size=8, codebook_size=7, codebook_dim=6, width=4, blocks=1),
}
# Two-dimensional, and yet tables that are looked up in or added, not multiplied with.
TABLES = {"embedding", "text_embedding", "text_position", "image_embedding", "row", "column", "position", "codebook"}


@pytest.mark.parametrize("name", MODELS)
def test_weights_are_decayed_and_gains_biases_and_tables_are_not(name):
    model = MODELS[name]()
    decayed, others = parameter_groups(model, 0.1)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    names = {id(p): n for n, p in model.named_parameters()}
    plain = {names[id(p)] for p in others["params"]}
    expected = {
        n for n, p in model.named_parameters() if p.ndim < 2 or n.removesuffix(".weight").split(".")[-1] in TABLES
    }
    assert plain == expected
    assert {names[id(p)] for p in decayed["params"]} == set(names.values()) - expected
    assert len(decayed["params"]) >= 5
    assert any(n.endswith("bias") for n in plain)


def test_what_does_not_learn_is_in_no_group():
    model = transformer()
    model.text_head.requires_grad_(False)
    count = sum(len(group["params"]) for group in parameter_groups(model, 0.1))
    assert count == len(list(model.parameters())) - 2


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.1),
        (4, 0.5),
        (9, 1.0),
        (10, 1.0),
        (35, 0.2 + 0.8 * (2 + 2**0.5) / 4),
        (60, 0.6),
        (110, 0.2),
        (5000, 0.2),
    ],
)
def test_the_schedule_at_the_points_that_matter(step, expected):
    assert warmup_cosine(step, 10, 110, 0.2) == pytest.approx(expected)


def test_a_schedule_may_end_before_the_training_does():
    """DALL·E's tokenizer: a cosine from 1e-4 to 1.25e-6 over 1.2 of 3 million updates."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-4)
    schedule = make_schedule(optimizer, {"warmup_steps": 0, "final": 0.0125, "steps": 1_200_000}, 3_000_000)
    rates = [1e-4 * schedule.lr_lambdas[0](step) for step in (0, 600_000, 1_200_000, 3_000_000)]
    assert rates == pytest.approx([1e-4, (1e-4 + 1.25e-6) / 2, 1.25e-6, 1.25e-6])


def test_a_schedule_without_warm_up_begins_at_its_peak():
    assert warmup_cosine(0, 0, 10, 0.0) == 1
    assert warmup_cosine(10, 0, 10, 0.0) == pytest.approx(0)


@pytest.mark.parametrize("steps", [3, 10])
def test_a_training_shorter_than_its_warm_up_never_divides_by_zero(steps):
    values = [warmup_cosine(step, 10, steps, 0.0) for step in range(steps)]
    assert values == pytest.approx([(step + 1) / 10 for step in range(steps)])


def test_adamw_is_torch_s(tmp_path):
    model, other = nn.Linear(4, 3), nn.Linear(4, 3)
    other.load_state_dict(model.state_dict())
    ours = make_optimizer(model, ADAMW)
    theirs = torch.optim.AdamW(
        [{"params": [other.weight], "weight_decay": 0.1}, {"params": [other.bias], "weight_decay": 0.0}],
        lr=3e-3, betas=(0.9, 0.95), eps=1e-8,
    )  # fmt: skip
    for step in range(5):
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(step))
        for module, optimizer in ((model, ours), (other, theirs)):
            optimizer.zero_grad()
            module(x).square().sum().backward()
            optimizer.step()
    torch.testing.assert_close(model.weight, other.weight, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(model.bias, other.bias, atol=1e-6, rtol=1e-5)


# ---- Muon beside AdamW


def gradients(model: nn.Module, step: int) -> None:
    source = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=source)


def test_muon_takes_the_matrices_of_the_blocks():
    model = transformer()
    names = {id(p): n for n, p in model.named_parameters()}
    taken = {names[id(p)] for p in hidden_matrices(model)}
    assert taken == {f"blocks.{i}.{n}.weight" for i in range(2) for n in ("qkv", "out", "up", "down")}
    optimizer = make_optimizer(model, MUON)
    every = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(every) == sorted(names)
    assert {names[id(p)] for p in optimizer.halves["muon"].param_groups[0]["params"]} == taken


def test_the_orthogonalised_matrix_has_singular_values_near_one():
    """The quintic's five iterations leave them between about 0.7 and 1.2, whatever they were."""
    source = torch.Generator().manual_seed(0)
    for shape in ((8, 8), (6, 20), (20, 6)):
        left, _, right = torch.linalg.svd(torch.randn(shape, generator=source), full_matrices=False)
        values = torch.logspace(0, -1, min(shape))
        result = orthogonalised(7 * left @ values.diag() @ right)
        found = torch.linalg.svdvals(result)
        assert 0.6 < float(found.min()) <= float(found.max()) < 1.3
        # The singular vectors are those it had: it turns into the nearest such matrix, not just any.
        diagonal = left.T @ result @ right.T
        assert float((diagonal - diagonal.diagonal().diag()).abs().max()) < 1e-4


def test_muon_is_torch_s_in_another_precision():
    """torch iterates in bfloat16, which is good to about three digits."""
    ours = nn.Parameter(torch.randn(12, 20, generator=torch.Generator().manual_seed(0)))
    theirs = nn.Parameter(ours.detach().clone())
    start = ours.detach().clone()
    one = Muon([ours], lr=1e-2, weight_decay=0.1)
    other = torch.optim.Muon([theirs], lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(5):
        ours.grad = torch.randn(12, 20, generator=torch.Generator().manual_seed(step))
        theirs.grad = ours.grad.clone()
        one.step()
        other.step()
    moved, expected = (ours - start).detach(), (theirs - start).detach()
    assert float((moved - expected).norm() / expected.norm()) < 0.02


def test_both_halves_are_as_if_run_separately():
    """Muon and torch's AdamW, each by itself on a copy, give the same weights bit for bit."""
    model = transformer()
    copied = copy.deepcopy(model)
    matrices = hidden_matrices(copied)
    taken = {id(p) for p in matrices}
    groups = parameter_groups(copied, 0.1)
    for group in groups:
        group["params"] = [p for p in group["params"] if id(p) not in taken]
    muon = Muon(matrices, lr=3e-3, weight_decay=0.1)
    adamw = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95), eps=1e-8, fused=True)
    ours = make_optimizer(model, MUON)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    for step in range(4):
        gradients(model, step)
        gradients(copied, step)
        ours.step()
        muon.step()
        adamw.step()
    for (name, parameter), (_, other) in zip(model.named_parameters(), copied.named_parameters(), strict=True):
        assert torch.equal(parameter, other), name
        assert not torch.equal(parameter, before[name]), name


@pytest.mark.parametrize("options", [ADAMW, MUON], ids=["adamw", "muon"])
def test_an_optimizer_goes_on_from_its_state(options):
    model = transformer()
    optimizer = make_optimizer(model, options)
    schedule = make_schedule(optimizer, {"warmup_steps": 2, "final": 0.1}, 8)

    def steps(model, optimizer, schedule, first, last):
        for step in range(first, last):
            gradients(model, step)
            optimizer.step()
            schedule.step()

    steps(model, optimizer, schedule, 0, 4)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), schedule.state_dict()))
    steps(model, optimizer, schedule, 4, 8)
    other = transformer()
    resumed = make_optimizer(other, options)
    again = make_schedule(resumed, {"warmup_steps": 2, "final": 0.1}, 8)
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    again.load_state_dict(saved[2])
    steps(other, resumed, again, 4, 8)
    for (name, parameter), (_, expected) in zip(other.named_parameters(), model.named_parameters(), strict=True):
        assert torch.equal(parameter, expected), name
    assert resumed.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_embeddings_have_a_learning_rate_of_their_own(name):
    """And only they: their first step is that much longer, everyone else's the same; the schedule scales both."""

    def trained(embedding_lr):
        torch.manual_seed(0)
        small = {"embed_dim": 32, "num_layers": 1, "num_heads": 2}
        model = Transformer(text_tokenizer=Words(6), grid=(2, 2), codebook_size=8, **small)
        options = {"name": name, "lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.0}
        optimizer = make_optimizer(model, {**options, "embedding_lr": embedding_lr})
        schedule = make_schedule(optimizer, {"warmup_steps": 2, "final": 0.1}, 10)
        before = {key: value.detach().clone() for key, value in model.named_parameters()}
        text, image = torch.randint(6, (4, 6)), torch.randint(8, (4, 4))
        sum(logits.square().sum() for logits in model(text, image)).backward()
        optimizer.step()
        schedule.step()
        return {key: value.detach() - before[key] for key, value in model.named_parameters()}, schedule.get_last_lr()

    plain, _ = trained(None)
    longer, rates = trained(4e-3)
    tables = {"text_embedding.weight", "text_position.weight", "image_embedding.weight", "row.weight", "column.weight"}
    for key, step in plain.items():
        torch.testing.assert_close(longer[key], step * 4 if key in tables else step, rtol=1e-3, atol=1e-7)
    assert sorted(set(rates)) == [1e-3, 4e-3]


def test_the_schedule_reaches_both_halves():
    model = transformer()
    optimizer = make_optimizer(model, MUON)
    schedule = make_schedule(optimizer, {"warmup_steps": 4, "final": 0.0}, 20)
    seen = []
    for step in range(20):
        rates = {group["lr"] for half in optimizer.halves.values() for group in half.param_groups}
        assert rates == {group["lr"] for group in optimizer.param_groups}
        assert len(rates) == 1
        seen.append(rates.pop())
        gradients(model, step)
        optimizer.step()
        schedule.step()
    assert seen == pytest.approx([3e-3 * warmup_cosine(step, 4, 20, 0.0) for step in range(20)])
    assert seen[0] == pytest.approx(3e-3 / 4)
    assert max(seen) == pytest.approx(3e-3)


def test_zero_grad_and_a_closure_reach_both_halves():
    model = transformer()
    optimizer = make_optimizer(model, MUON)
    gradients(model, 0)
    optimizer.zero_grad()
    assert all(p.grad is None for p in model.parameters())

    def closure():
        assert torch.is_grad_enabled()
        gradients(model, 0)
        return torch.tensor(math.pi)

    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    assert float(optimizer.step(closure)) == pytest.approx(math.pi)
    assert all(not torch.equal(p, before[n]) for n, p in model.named_parameters())


@pytest.mark.parametrize(
    ("model", "options", "words"),
    [
        (nn.Linear(2, 2), {**ADAMW, "name": "sgd"}, "unknown optimizer 'sgd'"),
        (nn.Conv2d(1, 1, 1), MUON, "muon needs a component with blocks of matrices"),
    ],
)
def test_an_optimizer_that_cannot_be_is_a_config_error(model, options, words):
    with pytest.raises(ConfigError, match=words) as caught:
        make_optimizer(model, options)
    assert caught.value.exit_code == 2
    assert "task.optimizer.name=adamw" in caught.value.render()


def test_muon_is_one_optimizer_to_the_outside():
    assert isinstance(make_optimizer(transformer(), MUON), MuonAdamW)
    assert isinstance(make_optimizer(transformer(), MUON), torch.optim.Optimizer)
