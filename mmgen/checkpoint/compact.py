"""Weights in fewer bits, for an export that is to be small: in half precision, or matrices in eight bits a weight.

Eight bits are whole numbers from -127 to 127 with one factor a row, the row's largest weight over 127, stored beside
the matrix as `NAME:scale`. Whoever reads a part gets numbers of single precision again, and knows of none of this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from mmgen.errors import CheckpointError
from mmgen.files import refused

Precision = Literal["full", "half", "eight"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
SCALE = ":scale"
SMALLEST = 4096  # weights that a matrix must have for eight bits: small ones would save nothing


def compacted(tensors: Mapping[str, Tensor], precision: Precision) -> dict[str, Tensor]:
    """The tensors as they are stored. What is not of single or double precision stays as it is.

    Raises:
        CheckpointError: MMG-K02, a weight that half precision has no room for.
    """
    stored: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if precision == "full" or tensor.dtype not in (torch.float32, torch.float64):
            stored[name] = tensor
        elif precision == "eight" and tensor.ndim > 1 and tensor.numel() >= SMALLEST and tensor.isfinite().all():
            rows = tensor.float().flatten(1)
            scale = rows.abs().amax(1) / 127
            stored[name] = (rows / scale.clamp_min(1e-30)[:, None]).round().to(torch.int8).view(tensor.shape)
            stored[name + SCALE] = scale
        else:
            stored[name] = tensor.half()
            if not torch.equal(stored[name].isfinite(), tensor.isfinite()):
                raise CheckpointError(
                    f"{name} has weights up to {float(tensor.abs().max()):.3g}, half precision ends at 65,504",
                    code="MMG-K02",
                    fix="precision=full",
                )
    return stored


def expanded(tensors: Mapping[str, Tensor], where: str = "") -> dict[str, Tensor]:
    """What `compacted` made, in the numbers that a component takes; other tensors as they are.

    Raises:
        CheckpointError: factors without a matrix of as many rows.
    """
    found = {name: tensor for name, tensor in tensors.items() if not name.endswith(SCALE)}
    for name in tensors.keys() - found.keys():
        scale, matrix = tensors[name], tensors.get(name.removesuffix(SCALE))
        if matrix is None or matrix.dtype != torch.int8 or scale.shape != matrix.shape[:1]:
            raise refused(where, f"{name} has no matrix of eight bits beside it")
        factors = scale.float().view(-1, *[1] * (matrix.ndim - 1))
        found[name.removesuffix(SCALE)] = matrix.float() * factors
    return found
