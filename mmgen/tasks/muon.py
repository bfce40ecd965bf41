"""Muon for matrices, AdamW for everything else, as one optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mmgen.tasks.parallel import local, piece_of, whole

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic that brings singular values near 1 fastest (Jordan et al.)
_ITERATIONS = 5


def orthogonalised(matrix: Tensor) -> Tensor:
    """The nearest matrix with singular values near 1, by five Newton-Schulz iterations, in the dtype of `matrix`.

    torch's own Muon does this in bfloat16 always, which is ten times slower on a CPU without bf16 arithmetic.
    """
    first, second, third = _COEFFICIENTS
    x = matrix.mT if matrix.shape[-2] > matrix.shape[-1] else matrix
    x = x / x.norm().clamp_min(1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=second, alpha=third), x, beta=first)
    return x.mT if matrix.shape[-2] > matrix.shape[-1] else x


class Muon(torch.optim.Optimizer):
    """Orthogonalised Nesterov momentum for matrices (Jordan et al. 2024, kellerjordan.github.io/posts/muon).

    An update is scaled to the root mean square of an AdamW update, 0.2 · sqrt(max(rows, columns)) (Liu et al. 2025,
    arXiv 2502.16982, section 2.2), so that both can share a learning rate.

    A sharded matrix is put together on every process for its update, and each keeps its piece of the result.

    Args:
        matrices: two-dimensional parameters.
        lr: learning rate.
        weight_decay: decoupled, times the learning rate.
        momentum: of the gradient's moving average.
    """

    def __init__(self, matrices: list[nn.Parameter], *, lr: float, weight_decay: float, momentum: float = 0.95) -> None:
        assert all(matrix.ndim == 2 for matrix in matrices)
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        assert closure is None
        for group in self.param_groups:
            for matrix in group["params"]:
                if matrix.grad is None:
                    continue
                average = self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                average.lerp_(matrix.grad, 1 - group["momentum"])
                update = orthogonalised(whole(matrix.grad.lerp(average, group["momentum"])))
                mine = local(matrix)
                mine.mul_(1 - group["lr"] * group["weight_decay"])
                mine.add_(piece_of(update, matrix), alpha=-group["lr"] * 0.2 * max(matrix.shape) ** 0.5)


class MuonAdamW(torch.optim.Optimizer):
    """Muon on the matrices of the blocks, AdamW on all other parameters.

    This class lets Lightning, the schedule and a checkpoint see one optimizer, with one learning rate for both halves.

    Args:
        matrices: two-dimensional parameters that Muon takes.
        groups: parameter groups for AdamW.
        lr, betas, eps: AdamW's.
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
        muon = Muon(matrices, lr=lr, weight_decay=weight_decay)
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
