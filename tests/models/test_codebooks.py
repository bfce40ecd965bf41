"""Codebooks that learn by gradient, against VQGAN's published code. The moving averages are in test_vq.py."""

from __future__ import annotations

import copy

import pytest
import torch

from mmgen.models.codebooks import Codebook, GumbelCodebook, StraightThroughCodebook
from tests.models import taming_modules as taming


def features() -> torch.Tensor:
    return torch.randn(3, 5, 4, 4, generator=torch.Generator().manual_seed(1)).requires_grad_(True)


@pytest.fixture
def straight_through():
    """Theirs, with the weight on the commitment as the paper has it, and ours with the same codes."""
    torch.manual_seed(0)
    theirs = taming.module("modules.vqvae.quantize").VectorQuantizer2(12, 5, beta=0.4, legacy=False)
    torch.nn.init.normal_(theirs.embedding.weight)
    ours = StraightThroughCodebook(12, 5, commitment_weight=0.4)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def test_straight_through_is_the_published_code_s(straight_through):
    theirs, ours = straight_through
    results = []
    for model in (theirs, ours):
        given = features()
        if model is theirs:
            passed, loss, (_, _, indices) = theirs(given)
        else:
            passed, found, loss, _ = ours(given, 0)
            indices = found.flatten()
        (passed.square().sum() + loss).backward()
        results.append((passed, loss, indices, given.grad, model.embedding.weight.grad))
    assert len(results[0][2].unique()) > 5
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(other, one, atol=1e-6, rtol=1e-5)


def test_each_of_the_two_losses_moves_its_own_side(straight_through):
    """The codebook's draws codes only, the commitment's features only, with its weight."""
    _, ours = straight_through
    given = features()
    _, indices, loss, logs = ours(given, 0)
    on_features, on_codes = torch.autograd.grad(loss, [given, ours.embedding.weight])
    with torch.no_grad():
        codes = ours.codes[indices].permute(0, 3, 1, 2)
        difference = 2 * (given - codes) / given.numel()
        expected = torch.zeros_like(ours.codes).index_add_(
            0, indices.flatten(), -difference.permute(0, 2, 3, 1).flatten(0, 2)
        )
    torch.testing.assert_close(on_features, 0.4 * difference, atol=1e-7, rtol=1e-5)
    torch.testing.assert_close(on_codes, expected, atol=1e-7, rtol=1e-5)
    assert float(logs["codebook_loss"]) == pytest.approx(float(logs["commitment_loss"]))


def test_straight_through_codes_start_as_the_published_code_s():
    codes = StraightThroughCodebook(50, 8).codes.detach()
    assert 0.9 / 50 < float(codes.abs().max()) <= 1 / 50


@pytest.mark.parametrize("training", [True, False])
def test_gumbel_is_the_published_code_s(training):
    torch.manual_seed(0)
    theirs = taming.module("modules.vqvae.quantize").GumbelQuantize(5, 5, 12, kl_weight=0.3, temp_init=0.7)
    ours = GumbelCodebook(12, 5, tau=0.7, kl_weight=0.3)
    ours.load_state_dict({name.replace("embed.", "embedding."): tensor for name, tensor in theirs.state_dict().items()})
    theirs.train(training), ours.train(training)
    if not training:  # theirs draws even then; where one logit stands out the draw is the arg max
        for model in (theirs, ours):
            model.proj.weight.data *= 300
    given = [features(), features()]
    torch.manual_seed(3)
    passed, loss, (_, _, indices) = theirs(given[0])
    torch.manual_seed(3)
    our_passed, our_indices, our_loss, _ = ours(given[1], 0)
    assert torch.equal(our_indices, indices)
    torch.testing.assert_close(our_passed, passed, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(our_loss, loss, atol=1e-5, rtol=1e-4)
    for output, cost in ((passed, loss), (our_passed, our_loss)):
        (output.square().sum() + cost).backward()
    torch.testing.assert_close(ours.embedding.weight.grad, theirs.embed.weight.grad, atol=1e-5, rtol=1e-4)
    if training:
        torch.testing.assert_close(given[1].grad, given[0].grad, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(
    "codebook", [Codebook(12, 5, 0.9, 0.1), StraightThroughCodebook(12, 5), GumbelCodebook(12, 5, 1.0, 0.1)]
)
def test_outside_training_the_choice_is_the_assigned_one(codebook):
    codebook.eval()
    before = torch.get_rng_state()
    passed, indices, _, _ = codebook(features(), 0)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(indices, codebook.assign(features()))
    torch.testing.assert_close(passed, codebook.codes[indices].permute(0, 3, 1, 2))


def test_the_averages_follow_the_features_of_all_processes(monkeypatch):
    """Two processes with half a batch each end with the codes of one with all of it; no process is started for it, the
    other half's counts and sums are added where they would arrive."""
    features = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    whole = Codebook(5, 3, 0.9, 0.0)
    whole.codes.copy_(features[:5])
    whole.started.fill_(True)
    half = copy.deepcopy(whole)
    whole.follow(features, whole.nearest(features))
    theirs = half.nearest(features[20:])
    arriving = [
        torch.bincount(theirs, minlength=5).float(),
        torch.zeros(5, 3).index_add_(0, theirs, features[20:]),
    ]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.add_(arriving.pop(0)))
    half.follow(features[:20], half.nearest(features[:20]))
    assert torch.allclose(half.codes, whole.codes, atol=1e-6)
    assert torch.equal(half.counts, whole.counts)


def test_codes_are_put_back_to_work_by_one_process_for_all(monkeypatch):
    """What the first process drew arrives at the others, and nothing else."""
    book = Codebook(4, 2, 0.9, 0.0)
    drawn = [torch.full((4, 2), 7.0), torch.full((4, 2), 8.0), torch.full((4,), 9.0)]
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "broadcast", lambda tensor, src: tensor.copy_(drawn.pop(0)))
    book._restart(torch.tensor([True, False, False, True]), torch.randn(6, 2))
    assert [float(table.mean()) for table in (book.codes, book.sums, book.counts)] == [7.0, 8.0, 9.0]
