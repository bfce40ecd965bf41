"""Does a component that is moved to another device compute there? Found out with or without such a device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
    UnsupportedOperatorException,
)

from mmgen.testing.checks import Unmet, require

# What cannot be followed without numbers: a component that looks at values is not told from one that stays behind.
UNKNOWABLE = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException)
Outputs = Callable[[Any, Callable[[Tensor], Tensor]], list[Tensor]]


def require_moved(component: Any, outputs: Outputs) -> None:
    """All that a component computes with must move with it: tensors in plain attributes stay behind.

    On an accelerator, where there is one; otherwise with tensors that have a device and no numbers.

    Args:
        component: a copy, in eval mode.
        outputs: what it gives, of inputs that are put somewhere by the function.
    """
    if torch.cuda.is_available():
        place = torch.device("cuda")
        with torch.no_grad():
            made = outputs(component.to(place), lambda tensor: tensor.to(place))
    else:
        place = torch.device("meta")
        mode = FakeTensorMode(allow_non_fake_inputs=True)

        def put(tensor: Tensor) -> Tensor:
            with mode:
                return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=place)

        _move(component, put)
        try:
            with torch.no_grad(), mode:
                made = outputs(component, put)
        except UNKNOWABLE:
            return
        except RuntimeError as error:
            if "device" in str(error):
                raise Unmet(f"moved to another device: {str(error).splitlines()[0]}") from error
            raise
    stayed = [str(tensor.device) for tensor in made if tensor.device.type != place.type]
    require(not stayed, f"moved to another device, it gives a result on {stayed[0] if stayed else ''}")


def _move(component: nn.Module, put: Callable[[Tensor], Tensor]) -> None:
    """As `component.to` moves: parameters and buffers, and nothing else."""
    for module in component.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(put(parameter), requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = put(buffer)
