"""What a foreign format is: a page that says which of its tensors becomes which of ours, and how to check it.

A format is a module with `FILES` (how its files are named on a command line), `REFERENCE` (the package to compare
with), `OPTIONS` (the fields of `Asked` that it heeds), `LEFT` (prefixes of names that no part needs, with the reason),
and the functions `plan` and `compare`. One whose files come in a folder has `files_in`, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from mmgen.data import text_tokenizers
from mmgen.errors import CheckpointError
from mmgen.interop.archives import Archive
from mmgen.interop.report import Comparison
from mmgen.interop.sharded import Sharded
from mmgen.interop.stored import StoredTensor

Archives = Sequence[Archive | Sharded]


@dataclass(frozen=True)
class Plan:
    """What a file's tensors will be.

    Attributes:
        kind: of the part.
        config: `name` in the registry, and options: the architecture, as inferred from names and shapes.
        arguments: what is given at build time, such as `image_size`.
        sources: our names to the file's number and the names there; several are stacked, row below row.
        transposed: our names of the matrices that the file holds the other way round.
        spare: our names of what a file may lack, as nothing is computed with it.
        text_tokenizer: JSON text, for a part that reads captions.
        about: what `compare` wants to know of the files beside this.
        assumed: what nothing tells and was taken as it was published, in words.
    """

    kind: str
    config: dict[str, Any]
    arguments: dict[str, Any]
    sources: Mapping[str, tuple[int, *tuple[str, ...]]]
    transposed: frozenset[str] = frozenset()
    spare: frozenset[str] = frozenset()
    text_tokenizer: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()

    @property
    def built_with(self) -> dict[str, Any]:
        """What the component is built with beside its config."""
        if self.text_tokenizer is None:
            return self.arguments
        return {**self.arguments, "text_tokenizer": text_tokenizers.from_json(self.text_tokenizer)}


@dataclass(frozen=True)
class Asked:
    """What the user said beside the files; None where nothing.

    Attributes:
        image_size: H = W of the pictures.
        activation: of the MLPs, where no file tells it.
        vocabulary: the file of a text tokenizer.
        heads: of attention, of the side of pictures and of the side of text, where no file tells them.
        pixels: what they are normalised by, where no file tells it.
    """

    image_size: int | None = None
    activation: str | None = None
    vocabulary: str | None = None
    heads: Sequence[int] | None = None
    pixels: str | None = None


class Format(Protocol):
    """What a format's module has."""

    FILES: str
    OPTIONS: Sequence[str]
    REFERENCE: str
    LEFT: Mapping[str, str]

    def plan(self, archives: Archives, extra: Sequence[Path], asked: Asked) -> Plan:
        """Infers the architecture and maps the names.

        Args:
            archives: the files of torch.save, in the order given.
            extra: the other files (YAML, JSON, text), not yet read.
            asked: the user's options; only those that the format has in `OPTIONS`.

        Raises:
            CheckpointError: weights of something else.
            ConfigError: files missing or too many.
        """

    def compare(self, component: Any, plan: Plan, tensors: Sequence[Mapping[str, Tensor]]) -> Comparison:
        """Runs the original's code with the file's tensors, by the file's names, beside the component.

        Raises:
            ImportError: its package is not installed.
        """


def shape_of(archive: Archive | Sharded, name: str, dimensions: int) -> tuple[int, ...]:
    """The shape of a tensor that the format always has.

    Raises:
        CheckpointError: it is not there, or has another number of dimensions.
    """
    stored: StoredTensor | None = archive.weights.get(name)
    if stored is None or len(stored.shape) != dimensions:
        found = "not there" if stored is None else f"of shape {list(stored.shape)}"
        raise another(archive, f"{name} is {found}")
    return stored.shape


def shapes_of(plan: Plan, archives: Archives) -> dict[str, tuple[int, ...]]:
    """What the component's tensors would have as shapes; () for those that cannot be stacked."""
    found: dict[str, tuple[int, ...]] = {}
    for ours, (i, *theirs) in plan.sources.items():
        first, *rest = [archives[i].weights[name].shape for name in theirs]
        if rest:
            alike = first and all(shape[1:] == first[1:] and shape for shape in rest)
            first = (first[0] + sum(shape[0] for shape in rest), *first[1:]) if alike else ()
        found[ours] = first[::-1] if ours in plan.transposed else first
    return found


def another(archive: Archive | Sharded, why: str) -> CheckpointError:
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
