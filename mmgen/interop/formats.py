"""What a foreign format is: a page that says which of its tensors becomes which of ours, and how to check it.

A format is a module with `FILES` (how its files are named on a command line), `REFERENCE` (the package to compare
with), `LEFT` (prefixes of names that no part needs, with the reason), and the functions `plan` and `compare`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mmgen.errors import CheckpointError
from mmgen.interop.archives import Archive
from mmgen.interop.report import Comparison
from mmgen.interop.stored import StoredTensor


@dataclass(frozen=True)
class Plan:
    """What a file's tensors will be.

    Attributes:
        kind: of the part.
        config: `name` in the registry, and options: the architecture, as inferred from names and shapes.
        arguments: what is given at build time, such as `image_size`.
        sources: our names to the file's number and the name there.
    """

    kind: str
    config: dict[str, Any]
    arguments: dict[str, Any]
    sources: dict[str, tuple[int, str]]


class Format(Protocol):
    """What a format's module has."""

    FILES: str
    REFERENCE: str
    LEFT: Mapping[str, str]

    def plan(self, archives: Sequence[Archive], extra: Sequence[Path], image_size: int | None) -> Plan:
        """Infers the architecture and maps the names.

        Args:
            archives: the files of torch.save, in the order given.
            extra: the other files (YAML, JSON), not yet read.
            image_size: H = W, where the user gave it.

        Raises:
            CheckpointError: weights of something else.
            ConfigError: files missing or too many.
        """

    def compare(self, component: Any, plan: Plan, tensors: Sequence[Mapping[str, Tensor]]) -> Comparison:
        """Runs the original's code with the file's tensors, by the file's names, beside the component.

        Raises:
            ImportError: its package is not installed.
        """


def shape_of(archive: Archive, name: str, dimensions: int) -> tuple[int, ...]:
    """The shape of a tensor that the format always has.

    Raises:
        CheckpointError: it is not there, or has another number of dimensions.
    """
    stored: StoredTensor | None = archive.weights.get(name)
    if stored is None or len(stored.shape) != dimensions:
        found = "not there" if stored is None else f"of shape {list(stored.shape)}"
        raise another(archive, f"{name} is {found}")
    return stored.shape


def another(archive: Archive, why: str) -> CheckpointError:
    """The error of weights of another architecture."""
    return CheckpointError(
        f"{archive.path} holds weights of something else",
        code="MMG-K02",
        why=f"{why}; its names begin with {', '.join(list(archive.weights)[:2])}"[:300],
        fix="name the format it is of: mmgen import --help lists them",
    )


def pictures(size: int, count: int = 2) -> Tensor:
    """Fixed pictures (count,3,size,size) in [0,1]: smooth colours with some noise, so that codes vary."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bilinear")
    return (smooth + 0.1 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1)


def released(distribution: str) -> str:
    """A distribution's name and version."""
    try:
        return f"{distribution} {version(distribution)}"
    except PackageNotFoundError:
        return distribution


def relative(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-6))
