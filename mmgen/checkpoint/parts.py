"""A part: one trained component with all it takes to build it again, in files that cannot run code."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from mmgen.checkpoint.compact import expanded
from mmgen.checkpoint.files import MANIFEST, Entry, read_manifest, read_verified, write_directory_atomic
from mmgen.checkpoint.tensors import as_bytes, num_bytes, parse_tensors, storable, write_tensors
from mmgen.errors import CheckpointError, quoted
from mmgen.files import parse_json, refused, write_json

WEIGHTS, CONFIG, TEXT_TOKENIZER = "model.safetensors", "config.json", "text_tokenizer.json"
FILES = (WEIGHTS, CONFIG, TEXT_TOKENIZER)
FORMAT = 1
KINDS = ("tokenizer", "generator", "encoder")
MAX_WEIGHTS, MAX_CONFIG, MAX_TEXT_TOKENIZER = 32_000_000_000, 1_000_000, 32_000_000

_REGISTRY_NAME = re.compile(r"[a-z0-9_-]{1,80}(@[a-z0-9._-]{1,80})?")
_FIELDS: dict[str, type] = {
    "format": int,
    "kind": str,
    "config": dict,
    "arguments": dict,
    "requires": dict,
    "info": dict,
}


@dataclass(frozen=True)
class Part:
    """A trained component as it lies on disk. Shapes and dtypes are checked by whoever builds it."""

    kind: str  # tokenizer, generator or encoder
    config: dict[str, Any]  # `name` in the registry, and its options
    arguments: dict[str, Any]  # what other parts set: image_size, grid, codebook_size
    tensors: dict[str, Tensor]
    text_tokenizer: str | None = None  # JSON text
    requires: dict[str, str] = field(default_factory=dict)  # kind to the fingerprint of the part it was trained with
    info: dict[str, Any] = field(default_factory=dict)  # step, seed, metrics: what nothing depends on
    fingerprint: str = ""  # SHA-256 over weights, config, arguments and text tokenizer, 64 hex
    path: Path | None = field(default=None, compare=False)  # of its directory, where it was read from one of its own


def write_part(
    directory: str | Path,
    *,
    kind: str,
    config: Mapping[str, Any],
    arguments: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    text_tokenizer: str | None = None,
    requires: Mapping[str, str] | None = None,
    info: Mapping[str, Any] | None = None,
) -> Part:
    """Writes a part atomically, replacing one that lies there; see `Part` for the fields.

    Raises:
        CheckpointError: no space, not writable, or something else lies there. Nothing was overwritten.
    """
    assert kind in KINDS, kind
    part = Part(
        kind=kind,
        config=plain(config),
        arguments=plain(arguments),
        tensors={name: tensor.detach() for name, tensor in tensors.items()},
        text_tokenizer=text_tokenizer,
        requires=dict(requires or {}),
        info=plain(info or {}),
    )
    unstorable = [f"{name} is {storable(tensor)}" for name, tensor in part.tensors.items() if storable(tensor)]
    assert not unstorable, unstorable
    write_directory_atomic(directory, lambda temp: write_part_files(temp, part), needed=num_bytes(part.tensors) + 65536)
    return with_fingerprint(part)


def write_part_files(directory: Path, part: Part) -> None:
    """The files of a part, without manifest."""
    with open(directory / WEIGHTS, "wb") as file:
        write_tensors(file, part.tensors)
    fields = {"kind": part.kind, "config": part.config, "arguments": part.arguments}
    write_json(directory / CONFIG, {"format": FORMAT, **fields, "requires": part.requires, "info": part.info})
    if part.text_tokenizer is not None:
        (directory / TEXT_TOKENIZER).write_text(part.text_tokenizer, encoding="utf-8")


def read_part(directory: str | Path, *, trusted: bool = False) -> Part:
    """Reads a part: proven whole, and nothing in it able to run code.

    Args:
        directory: as written by `write_part`.
        trusted: allows `module:Class` for a name; only for a part that this user's own run has just written.

    Raises:
        CheckpointError: missing, damaged, foreign, or holding what a part may not hold.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    for name in manifest:
        if name not in FILES:
            raise refused(str(directory / MANIFEST), f"file name {quoted(name)}")
    return replace(read_part_files(directory, manifest, trusted=trusted), path=directory)


def read_part_files(directory: Path, manifest: Mapping[str, Entry], prefix: str = "", *, trusted: bool = False) -> Part:
    """A part whose files stand in a manifest of `directory` as prefix + name."""
    place = f"{directory}/{prefix}"
    text = read_verified(directory, prefix + CONFIG, manifest, MAX_CONFIG)
    fields = parse_json(text, place + CONFIG, limit=MAX_CONFIG)
    check_fields(fields, _FIELDS, place + CONFIG)
    if fields.pop("format") != FORMAT or fields["kind"] not in KINDS:
        raise refused(place + CONFIG, f"kind {quoted(fields['kind'])}, or a format other than {FORMAT}")
    if not all(isinstance(value, str) for value in fields["requires"].values()):
        raise refused(place + CONFIG, "requires must hold fingerprints")
    check_names(fields["config"], place + CONFIG, trusted=trusted)
    if "name" not in fields["config"]:
        raise refused(place + CONFIG, "the config has no name")
    text_tokenizer = None
    if prefix + TEXT_TOKENIZER in manifest:
        text_tokenizer = _read_text(directory, manifest, prefix + TEXT_TOKENIZER)
    weights = read_verified(directory, prefix + WEIGHTS, manifest, MAX_WEIGHTS)
    tensors = expanded(parse_tensors(weights, place + WEIGHTS), place + WEIGHTS)
    return with_fingerprint(Part(tensors=tensors, text_tokenizer=text_tokenizer, **fields))


def _read_text(directory: Path, manifest: Mapping[str, Entry], name: str) -> str:
    data = read_verified(directory, name, manifest, MAX_TEXT_TOKENIZER)
    # A vocabulary may well hold `${` and `_`: it is data, never a config.
    if not isinstance(parse_json(data, str(directory / name), limit=MAX_TEXT_TOKENIZER, trusted=True), dict):
        raise refused(str(directory / name), "no text tokenizer")
    return data.decode()


def check_fields(value: Any, fields: Mapping[str, type], where: str) -> None:
    """Raises CheckpointError unless `value` is an object with exactly these fields of these types."""
    if not isinstance(value, dict):
        raise refused(where, "not an object")
    wrong = sorted(value.keys() ^ fields.keys()) or [n for n, kind in fields.items() if type(value[n]) is not kind]
    if wrong:
        raise refused(where, f"field {quoted(wrong[0])} is missing, unknown or of a wrong type")


def check_names(config: Any, where: str, *, trusted: bool = False) -> None:
    """Raises CheckpointError where a component has another than a registry name: no dots, no colons, no paths."""
    if isinstance(config, list):
        for item in config:
            check_names(item, where, trusted=trusted)
    elif isinstance(config, dict):
        for key, value in config.items():
            if key != "name":
                check_names(value, where, trusted=trusted)
            elif not isinstance(value, str) or not (trusted or _REGISTRY_NAME.fullmatch(value)):
                raise refused(where, f"component {quoted(value)} is no registry name")


def with_fingerprint(part: Part) -> Part:
    """The part with its fingerprint, from its content alone: how the files were laid out does not matter."""
    digest = hashlib.sha256()
    recipe = [part.kind, part.config, part.arguments, part.text_tokenizer]
    digest.update(json.dumps(recipe, sort_keys=True, separators=(",", ":")).encode())
    for name in sorted(part.tensors):
        tensor = part.tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(as_bytes(tensor))
    return Part(**{**vars(part), "fingerprint": digest.hexdigest()})


def load_weights(component: Any, part: Part, fix: str) -> None:
    """Puts a part's weights into a component. No part holds a discriminator's: those of the component stay as they are.

    Raises:
        CheckpointError: MMG-K02, they do not fit.
    """
    kept = {name: tensor for name, tensor in component.state_dict().items() if name.startswith("discriminator.")}
    try:
        component.load_state_dict({**kept, **part.tensors})
    except RuntimeError as error:
        why = str(error).splitlines()[-1].strip()[:200]
        raise CheckpointError(
            f"the {part.kind}'s weights do not fit its config", code="MMG-K02", why=why, fix=fix
        ) from error


def check_requires(parts: Mapping[str, Part]) -> None:
    """Raises CheckpointError MMG-K03 where a part was trained with another than the one beside it."""
    for part in parts.values():
        for kind, fingerprint in part.requires.items():
            if kind in parts and parts[kind].fingerprint != fingerprint:
                found = parts[kind].fingerprint
                raise CheckpointError(
                    f"the {part.kind} needs {kind} {quoted(fingerprint, 15)}, but this one is {quoted(found, 15)}",
                    code="MMG-K03",
                    why="image tokens would have another meaning" if kind == "tokenizer" else "",
                    fix=f"take both from one run, or train the {part.kind} again",
                )


def plain(value: Any) -> Any:
    """JSON's own types: tuples become lists, numbers that are not finite None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


__all__ = ["KINDS", "Part", "check_requires", "load_weights", "read_part", "write_part"]
