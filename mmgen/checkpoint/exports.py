"""An export: the parts of one run with what drawing and classifying need, in a directory to be given to others.

    tokenizer/ generator/ encoder/      parts, each readable by itself
    export.json                         data, sampler, templates and classes
    parity.json                         of an import: what became of the foreign weights; for people, never read
    manifest.json                       size and SHA-256 of every file of all of them

Whoever opens one trusts nobody: see `mmgen.checkpoint.files` and SECURITY.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmgen.checkpoint.compact import Precision, compacted, expanded
from mmgen.checkpoint.files import MANIFEST, foreign, read_manifest, read_verified, seal, write_directory_atomic
from mmgen.checkpoint.parts import (
    FILES,
    KINDS,
    Part,
    check_fields,
    check_names,
    check_requires,
    plain,
    read_part_files,
    with_fingerprint,
    write_part_files,
)
from mmgen.checkpoint.tensors import num_bytes
from mmgen.errors import CheckpointError, quoted
from mmgen.files import parse_json, refused, write_json

EXPORT, PARITY = "export.json", "parity.json"
FORMAT = 1
MAX_EXPORT = 8_000_000

_FIELDS: dict[str, type] = {"format": int, "data": dict, "sampler": dict, "templates": list, "classes": dict}
_ALLOWED = {EXPORT, PARITY} | {f"{kind}/{name}" for kind in KINDS for name in (*FILES, MANIFEST)}


@dataclass(frozen=True)
class Export:
    """What an export holds."""

    parts: dict[str, Part]  # by kind
    data: dict[str, Any] = field(default_factory=dict)  # what it was trained on: name, fingerprint, attribution
    sampler: dict[str, Any] = field(default_factory=dict)  # `name` in the registry, and its options
    templates: list[str] = field(default_factory=list)
    classes: dict[str, list[str]] = field(default_factory=dict)


def is_export(directory: str | Path) -> bool:
    """Whether a directory looks like an export; `read_export` says whether it is one."""
    return (Path(directory) / EXPORT).is_file()


def write_export(
    directory: str | Path,
    *,
    parts: Mapping[str, Part],
    data: Mapping[str, Any],
    sampler: Mapping[str, Any],
    templates: Sequence[str] = (),
    classes: Mapping[str, Sequence[str]] | None = None,
    parity: Mapping[str, Any] | None = None,
    precision: Precision = "full",
) -> None:
    """Writes an export atomically; see `Export` for the fields, and `mmgen.interop.report` for `parity`.

    With another `precision` than full the parts are other parts, with fingerprints of their own; they still require
    each other.

    Raises:
        CheckpointError: the directory is not empty, the disk is full, the parts were not trained with each other, or a
            component has no registry name and so could not be built elsewhere.
    """
    directory = Path(directory)
    refuse_filled(directory)
    check_requires(parts)
    for config in (sampler, *(part.config for part in parts.values())):
        check_names(plain(config), str(directory))
    head = {"format": FORMAT, "data": plain(data), "sampler": plain(sampler)}
    stored = _compacted(parts, precision)

    def fill(temp: Path) -> None:
        for kind, part in stored.items():
            assert kind == part.kind in KINDS
            (temp / kind).mkdir()
            write_part_files(temp / kind, part)
            seal(temp / kind)
        write_json(temp / EXPORT, {**head, "templates": list(templates), "classes": plain(classes or {})})
        if parity is not None:
            write_json(temp / PARITY, plain(parity))

    write_directory_atomic(directory, fill, needed=sum(num_bytes(part.tensors) + 65536 for part in stored.values()))


def _compacted(parts: Mapping[str, Part], precision: Precision) -> dict[str, Part]:
    """The parts as they are stored, each requiring the others as they will be read."""
    if precision == "full":
        return dict(parts)
    made: dict[str, Part] = {}
    fingerprints: dict[str, str] = {}
    for kind, part in parts.items():
        tensors = compacted(part.tensors, precision)
        made[kind] = replace(part, tensors=tensors, info={**part.info, "precision": precision})
        fingerprints[kind] = with_fingerprint(replace(part, tensors=expanded(tensors))).fingerprint
    return {kind: replace(part, requires={**part.requires, **_met(part, fingerprints)}) for kind, part in made.items()}


def _met(part: Part, fingerprints: Mapping[str, str]) -> dict[str, str]:
    return {kind: fingerprints[kind] for kind in part.requires if kind in fingerprints}


def refuse_filled(directory: Path) -> None:
    """Raises CheckpointError MMG-K07 where something lies at a place that an export is to be written to."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise CheckpointError(
            f"{directory} is not empty and is not overwritten", code="MMG-K07", fix="name another directory"
        )


def read_export(directory: str | Path) -> Export:
    """Reads an export: proven whole, its parts made for each other, and nothing in it able to run code.

    Raises:
        CheckpointError: missing, damaged, foreign, or holding what an export may not hold.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    for name in manifest:
        if name not in _ALLOWED:
            raise refused(str(directory / MANIFEST), f"file name {quoted(name)}")
    where = str(directory / EXPORT)
    head = parse_json(read_verified(directory, EXPORT, manifest, MAX_EXPORT), where, limit=MAX_EXPORT)
    check_fields(head, _FIELDS, where)
    if head.pop("format") != FORMAT:
        raise foreign(directory, f"this version reads format {FORMAT}", "pip install -U mmgen-lightning")
    if not _are_strings(head["templates"]) or not all(_are_strings(values) for values in head["classes"].values()):
        raise refused(where, "templates and classes must be lists of strings")
    check_names(head["sampler"], where)
    kinds = [kind for kind in KINDS if any(name.startswith(f"{kind}/") for name in manifest)]
    parts = {kind: read_part_files(directory, manifest, f"{kind}/") for kind in kinds}
    for kind, part in parts.items():
        if part.kind != kind:
            raise refused(f"{directory}/{kind}", f"it holds a {part.kind}")
    check_requires(parts)
    return Export(parts=parts, **head)


def _are_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
