"""From a directory to trained parts: what a run, one stage of it, or an export holds, built and ready to be used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mmgen import registry
from mmgen.checkpoint.exports import is_export, read_export
from mmgen.checkpoint.parts import Part, check_requires, load_weights, read_part, with_fingerprint
from mmgen.checkpoint.steps import averaged, is_checkpoint
from mmgen.data import text_tokenizers
from mmgen.errors import CheckpointError, ConfigError, PluginError, quoted
from mmgen.packages import models
from mmgen.runs.directory import RunDirectory

PARTS = ("tokenizer", "generator", "encoder")
AUTOREGRESSIVE: dict[str, Any] = {"name": "autoregressive"}


def load_part(part: Part, *, trusted: bool = False) -> Any:
    """A part read from disk as the component it is, in eval mode; registry names only, unless it is `trusted`.

    Raises:
        CheckpointError: its tensors do not fit the component.
        PluginError: the component's plugin is not installed.
    """
    arguments = dict(part.arguments)
    if "grid" in arguments:
        arguments["grid"] = tuple(arguments["grid"])
    if part.text_tokenizer is not None:
        arguments["text_tokenizer"] = text_tokenizers.from_json(part.text_tokenizer)
    try:
        component = registry.build(part.kind, part.config, trusted=trusted, **arguments)
    except ConfigError as error:
        raise PluginError(
            f"the {part.kind} is a {quoted(part.config['name'])}, which cannot be built here",
            code="MMG-P05",
            why=error.what,
            fix="install the plugin that has it, in the version that wrote it",
        ) from error
    load_weights(component, part, "install the version that wrote it")
    if getattr(component, "discriminator", None) is not None:
        component.discriminator = None  # it learns beside the part, and is in none
    return component.eval()


def read_parts(
    path: str | Path,
    *,
    tokenizer_from: str | Path | None = None,
    generator_from: str | Path | None = None,
    encoder_from: str | Path | None = None,
    trusted: bool = False,
) -> dict[str, Part]:
    """The finished parts, by kind, of an export, a run of all stages, or a run of one; checked to belong together.

    Args:
        path: such as `runs/quickstart`; or a checkpoint of a finished training, `…/checkpoints/step-000200`, which
            holds the part as it would have been published then.
        tokenizer_from, generator_from, encoder_from: others of these, whose part of that kind stands in.
        trusted: allows `module:Class`; only for a run that this user's own command has just made.

    Raises:
        CheckpointError: nothing finished lies there, a file is damaged, or the parts were not made for each other.
    """
    found = _parts_at(path, trusted=trusted)
    elsewhere = {"tokenizer": tokenizer_from, "generator": generator_from, "encoder": encoder_from}
    for kind, source in elsewhere.items():
        if source is not None:
            found[kind] = part_of(source, kind, f"{kind}_from", trusted=trusted)
    check_requires(found)
    return found


def part_of(source: str | Path, kind: str, key: str, *, trusted: bool = False) -> Part:
    """The part of a kind that a run or an export holds; `key` is what named it, for the message."""
    parts = _parts_at(source, trusted=trusted)
    if kind in parts:
        return parts[kind]
    raise CheckpointError(
        f"{quoted(str(source))} holds no {kind}, only {', '.join(parts)}",
        code="MMG-K05",
        where=key,
        fix=f"{key}=RUN, a run or export with a trained {kind}",
    )


def located(path: str | Path) -> Path:
    """Where a run or an export lies: a path, or the name of a model that an installed plugin brings. What lies there
    goes first."""
    root, name = Path(path), str(path)
    if not root.exists() and (model := models().get(name)):
        return model.path
    return root


def _parts_at(path: str | Path, *, trusted: bool) -> dict[str, Part]:
    root = located(path)
    if is_export(root):
        return read_export(root).parts
    if is_checkpoint(root):
        return _part_at_step(root, trusted)
    models = [root / kind / "model" for kind in PARTS] + [root / "model", root]
    parts = [read_part(model, trusted=trusted) for model in models if (model / "manifest.json").is_file()]
    if not parts:
        raise CheckpointError(
            f"{quoted(str(path))} holds no finished run and no export",
            code="MMG-K05",
            why="" if root.exists() else "there is no such directory",
            fix="mmgen run, and then its directory, such as runs/quickstart",
        )
    return {part.kind: part for part in parts}


def _part_at_step(checkpoint: Path, trusted: bool) -> dict[str, Part]:
    """The part that a training would have published at a checkpoint: built as the one that it did publish."""
    model = checkpoint.absolute().parent.parent / "model"
    if not (model / "manifest.json").is_file():
        raise CheckpointError(
            f"{quoted(str(checkpoint))} is a checkpoint of a training that has not ended",
            code="MMG-K05",
            why="how its part is built is written at the end",
            fix="the command that began it goes on with it",
        )
    part = read_part(model, trusted=trusted)
    tensors = averaged(checkpoint, part.tensors.keys())
    info = {**part.info, "step": int(checkpoint.name.removeprefix("step-"))}
    return {part.kind: with_fingerprint(replace(part, tensors=tensors, info=info, path=checkpoint))}


def recorded_sampler(path: str | Path) -> dict[str, Any]:
    """The sampler that a run or an export was judged with; autoregressive's defaults where it says nothing."""
    path = located(path)
    if is_export(path):
        return read_export(path).sampler or AUTOREGRESSIVE
    if RunDirectory(path).config_file.is_file():
        return RunDirectory(path).read_config().get("sampler") or AUTOREGRESSIVE
    return AUTOREGRESSIVE
