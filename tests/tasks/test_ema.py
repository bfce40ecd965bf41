"""The moving average of the weights, against its formula."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mmgen.tasks.ema import Ema


class Small(nn.Module):
    """Weights, a float buffer, a count and a flag."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("table", torch.randn(4))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("flag", torch.tensor(False))

    @torch.no_grad()
    def move(self, source: torch.Generator) -> None:
        for tensor in (self.layer.weight, self.layer.bias, self.table):
            tensor.copy_(torch.randn(tensor.shape, generator=source))
        self.count += 1
        self.flag.fill_(True)


@pytest.fixture
def small():
    torch.manual_seed(0)
    return Small()


@pytest.mark.parametrize("decay", [0.999, 0.5, 0.0])
def test_it_follows_the_formula(small, decay):
    """average += (1 - d)·(weight - average), with d = min(decay, (1 + n)/(10 + n)) after n updates."""
    ema, source = Ema(small, decay), torch.Generator().manual_seed(0)
    expected = {name: tensor.double() for name, tensor in small.state_dict().items() if tensor.is_floating_point()}
    for n in range(20):
        small.move(source)
        ema.update(small)
        share = 1 - min(decay, (1 + n) / (10 + n))
        for name in expected:
            expected[name] += share * (small.state_dict()[name].double() - expected[name])
    assert len(expected) == 3
    for name, tensor in expected.items():
        torch.testing.assert_close(ema.module.state_dict()[name].double(), tensor, atol=1e-5, rtol=1e-5)
    if decay == 0:
        assert torch.equal(ema.module.layer.weight, small.layer.weight)


def test_counts_and_flags_are_copied(small):
    ema = Ema(small, 0.9)
    for _ in range(3):
        small.move(torch.Generator().manual_seed(1))
    ema.update(small)
    assert int(ema.module.count) == 3
    assert bool(ema.module.flag)
    assert int(ema.updates) == 1


def test_a_resumed_average_goes_on_as_if_it_had_never_stopped(small):
    source = torch.Generator().manual_seed(0)
    ema = Ema(small, 0.99)
    for _ in range(5):
        small.move(source)
        ema.update(small)
    resumed = Ema(Small(), 0.99)
    resumed.load_state_dict(copy.deepcopy(ema.state_dict()))
    for _ in range(5):
        small.move(source)
        ema.update(small)
        resumed.update(small)
    for name, tensor in ema.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_it_is_never_trained_and_never_shares_a_tensor(small):
    ema = Ema(small, 0.9).train()
    assert not ema.training
    assert not any(module.training for module in ema.modules())
    assert not any(p.requires_grad for p in ema.parameters())
    before = ema.module.layer.weight.clone()
    small.move(torch.Generator().manual_seed(1))
    assert torch.equal(ema.module.layer.weight, before)
    assert small.layer.weight.requires_grad


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_a_decay_out_of_range_is_refused(small, decay):
    with pytest.raises(ValueError, match="ema_decay must lie in"):
        Ema(small, decay)
