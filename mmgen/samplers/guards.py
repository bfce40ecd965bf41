"""What every kind of drawing takes care of: the generator's mode, and logits that are no numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from mmgen.errors import NonFiniteError


def refuse_non_finite(finite: Tensor) -> None:
    """Raises NonFiniteError where `finite` () bool says that some logits were no numbers."""
    if not finite:
        raise NonFiniteError(
            "the generator's logits are not finite numbers",
            code="MMG-N02",
            why="its training diverged, or its weights are damaged",
            fix="train it again from an earlier checkpoint or with a lower learning rate (task.optimizer.lr)",
        )


@contextmanager
def evaluating(generator: object) -> Iterator[None]:
    """Eval mode inside; afterwards every submodule is in the mode it had, a frozen one too."""
    modes = {m: m.training for m in generator.modules()} if isinstance(generator, nn.Module) else {}
    try:
        for module in modes:
            module.training = False
        yield
    finally:
        for module, training in modes.items():
            module.training = training
