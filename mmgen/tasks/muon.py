"""Muon for matrices, AdamW for everything else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class MuonAdamW(torch.optim.Optimizer):
    """Orthogonalised momentum (Jordan et al. 2024) on the matrices of the blocks, AdamW on all other parameters.

    Both halves are torch's own; this class lets Lightning, the schedule and a checkpoint see one optimizer. The
    learning rate is AdamW's for both: Muon's update is scaled to AdamW's size (Liu et al. 2025, arXiv 2502.16982).

    Args:
        matrices: two-dimensional parameters that Muon takes.
        groups: parameter groups for AdamW.
        lr, betas, eps: AdamW's; betas[1] and eps do not concern Muon.
        weight_decay: of the matrices.
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        groups: list[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
    ) -> None:
        muon = torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        adamw = torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)
        self.halves: dict[str, torch.optim.Optimizer] = {"muon": muon, "adamw": adamw}
        super().__init__([{"params": matrices}, *({"params": group["params"]} for group in groups)], {"lr": lr})
        # The very dictionaries of the halves, so that a schedule that sets `lr` here sets it there.
        self.param_groups = [*muon.param_groups, *adamw.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for half in self.halves.values():
            half.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {name: half.state_dict() for name, half in self.halves.items()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name, half in self.halves.items():
            half.load_state_dict(state_dict[name])
        self.param_groups = [group for half in self.halves.values() for group in half.param_groups]
