"""What every kind of drawing takes care of: its arguments, the generator's mode, and logits that are no numbers.

Public: a plugin's sampler takes care of the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mmgen.errors import NonFiniteError
from mmgen.protocols import Generator


def checked(
    generator: Generator, text_tokens: Tensor, num_images: int, kept_tokens: Tensor | None, kept: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The arguments of `Sampler.draw` made sound: kept tokens (C,N), zero where none is kept, and kept (N,).

    Raises:
        ValueError: they do not fit the generator or each other.
    """
    text_length, positions = generator.stream.text_length, generator.stream.image_length
    if text_tokens.ndim != 2 or text_tokens.shape[1] != text_length:
        raise ValueError(f"text_tokens is {tuple(text_tokens.shape)}; the generator reads (captions, {text_length})")
    if num_images < 1:
        raise ValueError(f"num_images is {num_images}; it must be ≥ 1")
    shape = (len(text_tokens), positions)
    if kept is None and kept_tokens is None:
        return text_tokens.new_zeros(shape, dtype=torch.long), torch.zeros(positions, dtype=torch.bool)
    if kept is None or kept_tokens is None:
        raise ValueError("kept and kept_tokens go together: which positions are kept, and the tokens to keep there")
    if kept.shape != (positions,) or kept.dtype != torch.bool:
        raise ValueError(f"kept is {tuple(kept.shape)} of {kept.dtype}; it must be ({positions},) of torch.bool")
    if kept_tokens.shape != shape:
        raise ValueError(f"kept_tokens is {tuple(kept_tokens.shape)}; it must be {shape}")
    kept_tokens = torch.where(kept, kept_tokens, 0).to(text_tokens.device, torch.long)
    if kept_tokens.numel() and kept_tokens.min() < 0:
        raise ValueError(f"kept_tokens holds {int(kept_tokens.min())}; image tokens are ≥ 0")
    return kept_tokens, kept


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
