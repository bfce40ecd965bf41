"""A moving average of a component's weights, which is what gets evaluated and published."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from mmgen.tasks.parallel import local


class Ema(nn.Module):
    """Follows a component; part of the checkpoint, so that a resumed run's average is the same.

    Early on the average follows faster, (1 + n) / (10 + n) after n updates, so that a short run is not held back by its
    start (as in TensorFlow's ExponentialMovingAverage). A component's discriminator is left out: what is averaged is
    what is used after training.

    Args:
        module: what is followed.
        decay: in [0,1); 0 makes the average a plain copy.
    """

    updates: torch.Tensor

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"ema_decay must lie in [0,1), got {decay}")
        self.decay = decay
        copied: Any = copy.deepcopy(module).eval().requires_grad_(False)
        if getattr(copied, "discriminator", None) is not None:
            copied.discriminator = None
        self.module = copied
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """One step towards the module's weights; whole numbers and flags are copied. Of weights that are sharded, each
        process follows with its own pieces."""
        n = int(self.updates)
        weight = 1 - min(self.decay, (1 + n) / (10 + n))
        mine = {name: local(tensor) for name, tensor in self.module.state_dict().items()}
        theirs = {name: local(tensor) for name, tensor in module.state_dict().items()}
        floats = [name for name, tensor in mine.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([mine[name] for name in floats], [theirs[name] for name in floats], weight)
        for name in mine.keys() - set(floats):
            mine[name].copy_(theirs[name])
        self.updates += 1

    def train(self, mode: bool = True) -> Ema:
        """The average is never trained: it stays in eval mode."""
        return super().train(False)
