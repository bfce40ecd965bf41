"""The way of every import: read, plan, match, build, compare, and only then write."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from mmgen import registry
from mmgen.checkpoint.exports import refuse_filled, write_export
from mmgen.checkpoint.parts import Part, load_weights
from mmgen.errors import CheckpointError, ConfigError, quoted
from mmgen.interop.archives import Archive, open_archive
from mmgen.interop.formats import Format, Plan
from mmgen.interop.report import Comparison, Report, Source, Tensors
from mmgen.spelling import nearest

FORMATS = ("openai_dvae", "taming_vqgan")
NO_ARCHIVE = (".yaml", ".yml", ".json")  # by these names, files beside those of torch.save


def find_format(name: str) -> Format:
    """The module of a format.

    Raises:
        ConfigError: there is none of that name.
    """
    if name not in FORMATS:
        near = nearest(name, FORMATS)
        raise ConfigError(
            f"no format {quoted(name)}",
            code="MMG-C40",
            where="command line",
            why=f"there are {', '.join(FORMATS)}",
            fix=f"mmgen import {near or FORMATS[0]} FILE… to=DIR",
        )
    return cast(Format, importlib.import_module(f"mmgen.interop.{name}"))


def import_weights(
    name: str,
    files: Sequence[str | Path],
    to: str | Path,
    *,
    image_size: int | None = None,
    allow_unused: bool = False,
) -> Report:
    """Reads foreign weights and writes an export of one part, with `parity.json` in it. Nothing is written unless every
    tensor of the part was found with its shape and, where the original's package is installed, computes the same.

    Args:
        name: of the format.
        files: as the format's `FILES` says, in any order.
        to: a new or empty directory.
        image_size: H = W of the pictures; None takes what the files say, or what it was trained at.
        allow_unused: whether tensors that nothing takes are left out instead of being refused.

    Raises:
        ConfigError: an unknown format, too few or too many files, an image size that does not fit.
        CheckpointError: a file that is damaged, asks to run code, or holds weights of something else; a place that
            cannot be written.
    """
    format = find_format(name)
    refuse_filled(Path(to))
    paths = [Path(file) for file in files]
    with ExitStack() as opened:
        archives = [opened.enter_context(open_archive(p)) for p in paths if p.suffix not in NO_ARCHIVE]
        extra = [path for path in paths if path.suffix in NO_ARCHIVE]
        plan = format.plan(archives, extra, image_size)
        left = _left(archives, format.LEFT)
        unused = _match(plan, archives, left, allow_unused)
        tensors = _load(plan, archives)
    part, component = _build(plan, tensors, {"imported": name, "sha256": [archive.sha256 for archive in archives]})
    compared = _compare(format, component, plan, tensors)
    sources = [Source(archive.path.name, archive.size, archive.sha256) for archive in archives]
    rows = [
        _row(ours, archives[i], theirs) for ours, (i, theirs) in sorted(plan.sources.items()) if ours in part.tensors
    ]
    report = Report(name, plan.kind, part.config, sources, rows, left, unused, compared, format.REFERENCE)
    write_export(to, parts={plan.kind: part}, data={}, sampler={}, parity=report.as_json())
    return report


def _left(archives: Sequence[Archive], reasons: Mapping[str, str]) -> dict[str, list[str]]:
    """The names that a format's training needs and no part does, by the reason."""
    names = [name for archive in archives for name in archive.weights]
    return {reason: [name for name in names if name.startswith(prefix)] for prefix, reason in reasons.items()}


def _match(plan: Plan, archives: Sequence[Archive], left: Mapping[str, list[str]], allow_unused: bool) -> list[str]:
    """Holds names and shapes against the component, of which no weight is made yet; gives the file's unused names.

    Raises:
        CheckpointError: MMG-K02, a tensor is missing, of another shape, or not used by anything.
    """
    with torch.device("meta"):
        wanted = registry.build(plan.kind, plan.config, trusted=False, **plan.arguments).state_dict()
    missing = [name for name in wanted if name not in plan.sources]
    shapes = {ours: archives[i].weights[theirs].shape for ours, (i, theirs) in plan.sources.items() if ours in wanted}
    wrong = [f"{name} is {list(shapes[name])}" for name in shapes if shapes[name] != tuple(wanted[name].shape)]
    taken = {source for ours, source in plan.sources.items() if ours in wanted}
    set_aside = {name for names in left.values() for name in names}
    unused = [
        name
        for i, archive in enumerate(archives)
        for name in archive.weights
        if (i, name) not in taken and name not in set_aside
    ]
    for what, names, fix in (
        ("lack tensors that its architecture has", missing, "name the format that the files are of"),
        ("have tensors of other shapes than its architecture", wrong, "name the format that the files are of"),
        ("hold tensors that nothing takes", [] if allow_unused else unused, "allow_unused=true leaves them out"),
    ):
        if names:
            raise CheckpointError(
                f"the files {what}",
                code="MMG-K02",
                why=f"{len(names)}: {', '.join(names[:3])}{' …' if len(names) > 3 else ''}"[:300],
                fix=fix,
            )
    return unused


def _load(plan: Plan, archives: Sequence[Archive]) -> list[dict[str, Tensor]]:
    """The tensors that are wanted, by file and name there, in float32.

    Raises:
        CheckpointError: MMG-K01 damaged; MMG-K02 a value is no number.
    """
    found = []
    for i, archive in enumerate(archives):
        names = [theirs for number, theirs in plan.sources.values() if number == i]
        tensors = archive.load({name: archive.weights[name] for name in names})
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise CheckpointError(
                    f"{archive.path} holds values that are no numbers", code="MMG-K02", where=name, fix="get it again"
                )
        found.append({n: t.float() if t.is_floating_point() else t for n, t in tensors.items()})
    return found


def _build(plan: Plan, tensors: Sequence[Mapping[str, Tensor]], info: dict[str, Any]) -> tuple[Part, Any]:
    """The part, and the component made of it, in eval mode."""
    config = registry.complete(plan.kind, plan.config, trusted=False)
    component = registry.build(plan.kind, config, trusted=False, **plan.arguments).eval()
    ours = {name: tensors[i][theirs] for name, (i, theirs) in plan.sources.items() if name in component.state_dict()}
    part = Part(plan.kind, config, plan.arguments, ours, info=info)
    load_weights(component, part, "report it: names and shapes had been found equal")
    return part, component


def _compare(format: Format, component: Any, plan: Plan, tensors: Sequence[Mapping[str, Tensor]]) -> Comparison | None:
    """Beside the original's code; None where it is not installed.

    Raises:
        CheckpointError: MMG-K30, they compute different things.
    """
    try:
        comparison = format.compare(component, plan, tensors)
    except ImportError:
        return None
    comparison.check()
    return comparison


def _row(ours: str, archive: Archive, theirs: str) -> Tensors:
    stored = archive.weights[theirs]
    dtype = str(stored.storage.dtype).removeprefix("torch.")
    return Tensors(ours, theirs, archive.path.name, list(stored.shape), dtype)
