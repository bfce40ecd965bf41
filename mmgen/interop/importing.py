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
from mmgen.interop.formats import Archives, Asked, Format, Plan, shapes_of
from mmgen.interop.report import Comparison, Report, Source, Tensors
from mmgen.interop.sharded import Sharded, gathered, with_shards
from mmgen.spelling import nearest

FORMATS = ("clip", "openai_dvae", "taming_vqgan")
NO_ARCHIVE = (".yaml", ".yml", ".json", ".txt", ".txt.gz")  # by these names, files beside those of torch.save


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
    activation: str | None = None,
    vocabulary: str | None = None,
    heads: Sequence[int] | None = None,
    pixels: str | None = None,
    allow_unused: bool = False,
) -> Report:
    """Reads foreign weights and writes an export of one part, with `parity.json` in it. Nothing is written unless every
    tensor of the part was found with its shape and, where the original's package is installed, computes the same.

    Args:
        name: of the format.
        files: as the format's `FILES` says, in any order.
        to: a new or empty directory.
        image_size: H = W of the pictures; None takes what the files say, or what it was trained at.
        activation: of the MLPs, for weights that do not tell it.
        vocabulary: the file of the text tokenizer, where it is not among `files`.
        heads: of attention, two numbers, of pictures and of text, for weights that do not tell them.
        pixels: what pictures are normalised by, for weights that do not tell it.
        allow_unused: whether tensors that nothing takes are left out instead of being refused.

    Raises:
        ConfigError: an unknown format, too few or too many files, an image size that does not fit.
        CheckpointError: a file that is damaged, asks to run code, or holds weights of something else; a place that
            cannot be written.
    """
    format = find_format(name)
    refuse_filled(Path(to))
    asked = Asked(image_size, activation, vocabulary, heads, pixels)
    _refuse_options(name, format, asked)
    paths = [path for file in files for path in _files_at(Path(file), format)]
    with ExitStack() as opened:
        opened_files = [opened.enter_context(open_archive(p)) for p in paths if not p.name.endswith(NO_ARCHIVE)]
        archives, extra = gathered(opened_files, [path for path in paths if path.name.endswith(NO_ARCHIVE)])
        plan = format.plan(archives, extra, asked)
        left = _left(archives, format.LEFT)
        unused = _match(plan, archives, left, allow_unused)
        tensors = _load(plan, archives)
    part, component = _build(plan, tensors, {"imported": name, "sha256": [archive.sha256 for archive in opened_files]})
    compared = _compare(format, component, plan, tensors)
    sources = [Source(archive.path.name, archive.size, archive.sha256) for archive in opened_files]
    rows = [
        _row(ours, archives[i], name)
        for ours, (i, *theirs) in sorted(plan.sources.items())
        if ours in part.tensors
        for name in theirs
    ]
    report = Report(name, plan.kind, part.config, sources, rows, left, unused, plan.assumed, compared, format.REFERENCE)
    write_export(to, parts={plan.kind: part}, data={}, sampler={}, parity=report.as_json())
    return report


def _refuse_options(name: str, format: Format, asked: Asked) -> None:
    """Raises ConfigError for an option that the format does not have."""
    for option, value in vars(asked).items():
        if value is not None and option not in format.OPTIONS:
            raise ConfigError(
                f"{name} has no option {option}",
                code="MMG-C40",
                where=option,
                why=f"it has {', '.join(format.OPTIONS)}",
                fix=f"leave {option} out",
            )


def _files_at(path: Path, format: Format) -> list[Path]:
    """The path itself, or what a format takes of a folder; of an index, the files that it names too."""
    files_in = getattr(format, "files_in", None)
    found = files_in(path) if files_in is not None and path.is_dir() else [path]
    return [file for each in found for file in with_shards(each)]


def _left(archives: Archives, reasons: Mapping[str, str]) -> dict[str, list[str]]:
    """The names that a format's training needs and no part does, by the reason."""
    names = [name for archive in archives for name in archive.weights]
    left: dict[str, list[str]] = {reason: [] for reason in reasons.values()}
    for prefix, reason in reasons.items():
        left[reason] += [name for name in names if name.startswith(prefix)]
    return left


def _match(plan: Plan, archives: Archives, left: Mapping[str, list[str]], allow_unused: bool) -> list[str]:
    """Holds names and shapes against the component, of which no weight is made yet; gives the file's unused names.

    Raises:
        CheckpointError: MMG-K02, a tensor is missing, of another shape, or not used by anything.
    """
    with torch.device("meta"):
        wanted = registry.build(plan.kind, plan.config, trusted=False, **plan.built_with).state_dict()
    missing = [name for name in wanted if name not in plan.sources and name not in plan.spare]
    shapes = {name: shape for name, shape in shapes_of(plan, archives).items() if name in wanted}
    wrong = [f"{name} is {list(shapes[name])}" for name in shapes if shapes[name] != tuple(wanted[name].shape)]
    taken = {(i, name) for ours, (i, *theirs) in plan.sources.items() if ours in wanted for name in theirs}
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


def _load(plan: Plan, archives: Archives) -> list[dict[str, Tensor]]:
    """The tensors that are wanted, by file and name there, in float32.

    Raises:
        CheckpointError: MMG-K01 damaged; MMG-K02 a value is no number.
    """
    found = []
    for i, archive in enumerate(archives):
        names = [name for number, *theirs in plan.sources.values() if number == i for name in theirs]
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
    component = registry.build(plan.kind, config, trusted=False, **plan.built_with).eval()
    ours = {name: tensor.clone() for name, tensor in component.state_dict().items() if name in plan.spare}
    for name, (i, *theirs) in plan.sources.items():
        if name in component.state_dict():
            tensor = tensors[i][theirs[0]] if len(theirs) == 1 else torch.cat([tensors[i][part] for part in theirs])
            ours[name] = tensor.T.contiguous() if name in plan.transposed else tensor
    part = Part(plan.kind, config, plan.arguments, ours, plan.text_tokenizer, info=info)
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


def _row(ours: str, archive: Archive | Sharded, theirs: str) -> Tensors:
    stored = archive.weights[theirs]
    dtype = str(stored.storage.dtype).removeprefix("torch.")
    return Tensors(ours, theirs, archive.file_of(theirs), list(stored.shape), dtype)
