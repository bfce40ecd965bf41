"""The report of an import: what became of every tensor, and how far the result is from the original's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mmgen.errors import CheckpointError
from mmgen.files import size


@dataclass(frozen=True)
class Source:
    """A file that was read."""

    name: str
    size: int  # bytes
    sha256: str  # hex


@dataclass(frozen=True)
class Measure:
    """A number that compares the two on one input; with a limit where it has to stay below one."""

    name: str
    value: float
    limit: float | None = None

    @property
    def kept(self) -> bool:
        return self.limit is None or self.value <= self.limit  # not so for a value that is no number


@dataclass(frozen=True)
class Comparison:
    """The imported component beside the original's code with the file's own tensors.

    Attributes:
        reference: the package and its version.
        on: the input, in words.
    """

    reference: str
    on: str
    measures: tuple[Measure, ...]

    def check(self) -> None:
        """Raises CheckpointError MMG-K30 where a measure is beyond its limit: what would be written is not the same."""
        for measure in self.measures:
            if not measure.kept:
                raise CheckpointError(
                    f"the imported weights do not compute what {self.reference} does with them",
                    code="MMG-K30",
                    why=f"{measure.name}: {measure.value:.3g}, at most {measure.limit:g}, on {self.on}",
                    fix="report it, with the file's address: a fault of mmgen, or a variant that it does not know",
                )


@dataclass(frozen=True)
class Tensors:
    """One tensor of the component, and where it came from."""

    name: str
    source: str
    file: str
    shape: list[int]
    dtype: str  # in the file; parts hold float32


@dataclass(frozen=True)
class Report:
    """What an import did.

    Attributes:
        format: of the files.
        kind: of the part.
        component: its config.
        left: tensors that the format has and no part needs, by why they were left out.
        unused: others of the file that nothing took.
        assumed: options that neither the files nor the user told, taken as they were published.
        comparison: None where the original's package is not installed.
        wanted: which package that would have been.
    """

    format: str
    kind: str
    component: Mapping[str, Any]
    sources: list[Source]
    tensors: list[Tensors]
    left: Mapping[str, list[str]]
    unused: list[str]
    assumed: tuple[str, ...]
    comparison: Comparison | None
    wanted: str

    def as_json(self) -> dict[str, Any]:
        """All of it, for `parity.json`."""
        compared = asdict(self.comparison) if self.comparison else None
        return {**asdict(self), "left": dict(self.left), "component": dict(self.component), "comparison": compared}

    def table(self) -> list[tuple[str, str]]:
        """What a reader wants at first sight, in rows of a name and a value."""
        rows = [(source.name, f"{size(source.size)}, sha256 {source.sha256}") for source in self.sources]
        count = sum(math.prod(tensor.shape) for tensor in self.tensors)
        rows.append(("tensors matched", f"{len(self.tensors)}, names and shapes; none is missing ({count:,} numbers)"))
        rows += [(f"left out, {why}", str(len(names))) for why, names in self.left.items() if names]
        rows.append(("unused", f"{len(self.unused)}{': ' + ', '.join(self.unused[:3]) if self.unused else ''}"))
        if self.assumed:
            rows.append(("assumed, as nothing tells them", ", ".join(self.assumed)))
        if self.comparison is None:
            return [*rows, ("compared", f"with nothing: {self.wanted} is not installed")]
        rows.append(("compared with", f"{self.comparison.reference}, on {self.comparison.on}"))
        for measure in self.comparison.measures:
            limit = f" (at most {measure.limit:g})" if measure.limit is not None else ""
            rows.append((measure.name, f"{measure.value:.3g}{limit}"))
        return rows
