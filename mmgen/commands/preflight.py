"""What can fail before anything is trained or written: a fault of the last stage must not cost the first one's time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from mmgen import registry
from mmgen.commands.stages import Stage, quieten_lightning, trainer_options
from mmgen.data.pictures import Pictures
from mmgen.data.text import BpeTextTokenizer
from mmgen.errors import ConfigError, ConfigErrors, MmgenError
from mmgen.runs.directory import RunDirectory
from mmgen.runs.progress import Bar
from mmgen.tasks.optimizers import check_optimizer


def read_pictures(dataset: Mapping[str, Any]) -> Pictures:
    """The dataset of a config, read behind a bar.

    Raises:
        ConfigError: it cannot be built.
        DataError: a picture or a caption cannot be used.
    """
    built = registry.build("dataset", dataset)
    with Bar("reading", total=len(built), unit="pictures") as bar:
        return Pictures(built, progress=lambda done, total: bar.advance(1))


def check_stages(stages: Sequence[Stage], pictures: Pictures, grid: tuple[int, int] | None = None) -> None:
    """Builds every component without memory (on the meta device), and each stage's Trainer.

    Args:
        stages: of `mmgen run` all three, of `mmgen train` the one.
        grid: of the image tokenizer, where none of the stages trains one.

    Raises:
        ConfigErrors: whatever the components, their optimizers and the Trainer refuse, of all stages.
    """
    errors: list[ConfigError] = []
    for stage in stages:
        place = f"stages.{stage.kind}." if len(stages) > 1 else ""
        for check in (_check_numbers, _check_trainer):
            try:
                check(stage, place)
            except ConfigError as error:
                errors.append(error)
        try:
            component = _component(stage, pictures, grid)
            if stage.kind == "tokenizer":
                grid = tuple(component.grid) if component is not None else (1, 1)
            if component is not None:
                check_optimizer(component, stage.task["optimizer"], f"{place}task.optimizer.name")
        except ConfigError as error:
            errors.append(error)
    if errors:
        raise ConfigErrors(errors)


def check_new(directory: RunDirectory, resume: str) -> None:
    """Raises ConfigError where `resume` is "never" and the directory holds a run."""
    if resume == "never" and directory.status().state != "new":
        raise ConfigError(
            f"{directory.path} holds a run already",
            code="MMG-R03",
            where="resume=never",
            fix=f"run.name={directory.free_name()}, or resume=auto to go on with it",
        )


def _check_numbers(stage: Stage, place: str) -> None:
    if stage.trainer["max_steps"] < 1:
        raise ConfigError(
            f"the {stage.kind} is to be trained for {stage.trainer['max_steps']} steps",
            code="MMG-C04",
            where=f"{place}trainer.max_steps",
            fix=f"{place}trainer.max_steps=1000",
        )
    if stage.kind != "tokenizer" and not stage.task["text_tokenizer"]:
        raise ConfigError(
            f"the {stage.kind} reads captions, and has no text tokenizer",
            code="MMG-C05",
            where=f"{place}task.text_tokenizer",
            fix=f"{place}task.text_tokenizer.context_length=24",
        )


def _check_trainer(stage: Stage, place: str) -> None:
    quieten_lightning()
    if stage.trainer["max_steps"] < 1:
        return  # told already
    try:
        pl.Trainer(**trainer_options(stage), logger=False)
    except (MisconfigurationException, ValueError, TypeError, ImportError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(
            f"Lightning's Trainer refuses the options of the {stage.kind}'s training",
            code="MMG-C04",
            where=f"{place}trainer",
            why=reason[0][:300],
            fix="trainer=cpu, or options that fit this machine",
        ) from error


def _component(stage: Stage, pictures: Pictures, grid: tuple[int, int] | None) -> Any:
    """The component without memory; None where it cannot be built so, which says nothing about it."""
    arguments: dict[str, Any] = {}
    if stage.kind != "generator":
        arguments["image_size"] = pictures.shape[0]
    else:
        arguments |= {"grid": grid or (1, 1), "codebook_size": 2}
    if stage.kind != "tokenizer":
        options = stage.task["text_tokenizer"] or {"context_length": 1}
        arguments["text_tokenizer"] = BpeTextTokenizer([], options["context_length"])
    try:
        with torch.device("meta"):
            return registry.build(stage.kind, stage.component, **arguments)
    except MmgenError:
        raise
    except Exception:
        return None
