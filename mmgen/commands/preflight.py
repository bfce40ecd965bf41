"""What can fail before anything is trained or written: a fault of the last stage must not cost the first one's time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, cast

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from mmgen import registry
from mmgen.checkpoint.parts import Part
from mmgen.commands.fitting import quieten_lightning, trainer_options
from mmgen.commands.stages import Stage
from mmgen.commands.starting import devices
from mmgen.data import text_tokenizers
from mmgen.data.module import Samples
from mmgen.data.pictures import Pictures
from mmgen.data.text import BpeTextTokenizer
from mmgen.data.tokens import with_dropout
from mmgen.errors import CheckpointError, ConfigError, ConfigErrors, MmgenError, quoted
from mmgen.progress import Bar
from mmgen.protocols import TokenDataset
from mmgen.ranks import current
from mmgen.runs.directory import RunDirectory
from mmgen.tasks.attention import check_attention
from mmgen.tasks.optimizers import check_optimizer
from mmgen.tasks.parallel import check_parallel
from mmgen.tracking.lightning_loggers import check_loggers

SCALED = "its loss scale is found by overflows, and the first gradient that is not finite ends a training here"
ROUNDED = "weights of 16 bits round small updates away, and all that the moving average follows, which is published"


def read_pictures(dataset: Mapping[str, Any]) -> Samples:
    """The dataset of a config, read behind a bar; token shards are not read, only looked at.

    Raises:
        ConfigError: it cannot be built.
        DataError: a picture or a caption cannot be used.
    """
    built = registry.build("dataset", dataset)
    if isinstance(built, TokenDataset):
        return built
    with Bar("reading", total=len(built), unit="pictures") as bar:
        return Pictures(built, progress=lambda done, total: bar.advance(1))


def check_stages(stages: Sequence[Stage], pictures: Samples, grid: tuple[int, int] | None = None) -> None:
    """Builds every component without memory (on the meta device), and each stage's Trainer.

    Args:
        stages: of `mmgen run` all three, of `mmgen train` the one.
        grid: of the image tokenizer, where none of the stages trains one.

    Raises:
        ConfigErrors: whatever the components, their optimizers and the Trainer refuse, of all stages.
    """
    errors: list[ConfigError] = []
    try:
        check_loggers(stages[0].tracking["loggers"])  # all stages have the same
    except ConfigError as error:
        errors.append(error)
    for stage in stages:
        place = f"{stage.section or f'stages.{stage.kind}'}." if len(stages) > 1 else ""
        data = partial(_check_data, pictures=pictures)
        for check in (_check_numbers, check_precision, check_ranks, _check_trainer, data):
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
                if stage.trainer["strategy"] == "fsdp":
                    check_parallel(component, stage.trainer["tensor_parallel_size"], place)
                if stage.kind == "generator" and stage.tracking["attention"]:
                    check_attention(component, stage.trainer["tensor_parallel_size"])
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
    if stage.kind == "generator" and stage.task["text_tokenizer"].get("vocabulary"):
        raise ConfigError(
            "a generator learns a pad for each text position, which CLIP's vocabulary does not have",
            code="MMG-C05",
            where=f"{place}task.text_tokenizer.vocabulary",
            fix=f"{place}task.text_tokenizer.vocabulary=null",
        )


def _check_data(stage: Stage, place: str, pictures: Samples) -> None:
    tokens = isinstance(pictures, TokenDataset)
    if tokens and stage.kind != "generator":
        raise ConfigError(
            f"the dataset holds no pictures to train the {stage.kind} on, only image tokens",
            code="MMG-C27",
            where="dataset",
            fix="mmgen train task=generator dataset=tokens …; for the others the dataset that the tokens were made of",
        )
    if stage.kind == "generator" and stage.task["augment"] != "none":
        augment = stage.task["augment"]
        made = "the shards hold the variants they were made with" if tokens else "they are made once, before training"
        raise ConfigError(
            f"a generator trains on image tokens, which cannot be augmented by {augment}",
            code="MMG-C26",
            where=f"{place}task.augment",
            why=made,
            fix=f"mmgen data tokenize dataset=… tokenizer_from=RUN to=DIR variants=8 task.augment={augment}, "
            "then mmgen train task=generator dataset=tokens dataset.path=DIR tokenizer_from=RUN",
        )
    if stage.kind != "generator" and stage.task["text_only"]:
        raise ConfigError(
            f"only a generator trains on captions alone, not the {stage.kind}",
            code="MMG-C04",
            where=f"{place}task.text_only",
            fix=f"{place}task.text_only=0",
        )


def check_tokens(pictures: Samples, tokenizer: Part | None, init_from: Part | None) -> None:
    """Raises CheckpointError MMG-K03 where token shards were made by another image or text tokenizer."""
    if not isinstance(pictures, TokenDataset):
        return
    assert tokenizer is not None, "only generators train on tokens"
    if pictures.image_tokenizer != tokenizer.fingerprint:
        raise CheckpointError(
            f"the tokens were made by the image tokenizer {quoted(pictures.image_tokenizer, 15)}, but this one is "
            f"{quoted(tokenizer.fingerprint, 15)}",
            code="MMG-K03",
            where="tokenizer_from",
            why="image tokens would have another meaning",
            fix="tokenizer_from=RUN that they were made with, or mmgen data tokenize once more",
        )
    if init_from is None or init_from.text_tokenizer is None:
        return
    theirs = with_dropout(text_tokenizers.from_json(init_from.text_tokenizer), 0.0)  # dropout changes no id
    ours = cast(text_tokenizers.AnyTextTokenizer, pictures.text_tokenizer())
    if theirs.fingerprint != ours.fingerprint:
        raise CheckpointError(
            f"the tokens were made with the text tokenizer {quoted(ours.fingerprint)}, but the generator to start from "
            f"reads with {quoted(theirs.fingerprint)}",
            code="MMG-K03",
            where="init_from",
            why="its text tokens would have another meaning",
            fix="train without init_from, or on the dataset itself",
        )


def check_precision(stage: Stage, place: str) -> None:
    """Raises ConfigError where a training would lose what it learns, or end, by its precision."""
    precision = stage.trainer["precision"]
    whys = {
        **dict.fromkeys(("16", "16-mixed"), SCALED),
        **dict.fromkeys(("bf16-true", "16-true", "transformer-engine", "transformer-engine-float16"), ROUNDED),
    }
    if precision in whys:
        raise ConfigError(
            f"the {stage.kind} cannot be trained with trainer.precision={precision}",
            code="MMG-C04",
            where=f"{place}trainer.precision",
            why=whys[precision],
            fix=f"{place}trainer.precision=bf16-mixed",
        )


def check_ranks(stage: Stage, place: str) -> None:
    """Raises ConfigError where the processes that run, and how a stage divides its work among them, do not agree."""
    trainer, size = stage.trainer, current().size
    here, nodes, parallel = devices(trainer), trainer["num_nodes"], trainer["tensor_parallel_size"]
    if here * nodes != size:
        raise ConfigError(
            f"{size} processes run, and the {stage.kind}'s training asks for {here * nodes}",
            code="MMG-C32",
            where=f"{place}trainer.devices={trainer['devices']}, {place}trainer.num_nodes={nodes}",
            fix=f"{place}trainer.devices={size // nodes}, or start as many as are asked for",
        )
    if parallel > 1 and trainer["strategy"] != "fsdp":
        raise ConfigError(
            f"tensor_parallel_size={parallel} needs strategy=fsdp, not {trainer['strategy']}",
            code="MMG-C30",
            where=f"{place}trainer.tensor_parallel_size",
            fix=f"{place}trainer.strategy=fsdp",
        )
    if size % parallel:
        raise ConfigError(
            f"{size} processes cannot be divided into groups of tensor_parallel_size={parallel}",
            code="MMG-C30",
            where=f"{place}trainer.tensor_parallel_size",
            fix=f"{place}trainer.tensor_parallel_size={math.gcd(size, parallel)}",
        )
    batch, replicas = stage.task["batch_size"], size // parallel
    if batch % replicas:
        near = [n for n in (batch // replicas * replicas, -(-batch // replicas) * replicas) if n]
        raise ConfigError(
            f"a batch of {batch} samples cannot be divided among {replicas} processes",
            code="MMG-C33",
            where=f"{place}task.batch_size",
            why="each takes an equal slice, so that the mean over them is the mean over the batch",
            fix=" or ".join(f"{place}task.batch_size={n}" for n in near),
        )


def _check_trainer(stage: Stage, place: str) -> None:
    quieten_lightning()
    if stage.trainer["max_steps"] < 1:
        return  # told already
    try:
        pl.Trainer(**trainer_options(stage.trainer), logger=False)
    except (MisconfigurationException, ValueError, TypeError, ImportError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(
            f"Lightning's Trainer refuses the options of the {stage.kind}'s training",
            code="MMG-C04",
            where=f"{place}trainer",
            why=reason[0][:300],
            fix="trainer=cpu, or options that fit this machine",
        ) from error


def _component(stage: Stage, pictures: Samples, grid: tuple[int, int] | None) -> Any:
    """The component without memory; None where it cannot be built so, which says nothing about it."""
    arguments: dict[str, Any] = {}
    if stage.kind != "generator":
        if isinstance(pictures, TokenDataset):
            return None  # told already
        arguments["image_size"] = pictures.shape[0]
    else:
        arguments |= {"grid": grid or (1, 1), "codebook_size": 2}
    if stage.kind != "tokenizer":
        options = stage.task["text_tokenizer"] or {"context_length": 1}
        own = options.get("vocabulary")
        arguments["text_tokenizer"] = (
            text_tokenizers.make((), **options) if own else BpeTextTokenizer([], options["context_length"])
        )
    try:
        with torch.device("meta"):
            return registry.build(stage.kind, stage.component, **arguments)
    except MmgenError:
        raise
    except Exception:
        return None


def check_fixed(kind: str, component: Mapping[str, Any], init_from: Part | None) -> None:
    """Raises CheckpointError MMG-K11 where weights would be gone on with under another value of an option that no
    weight shows, such as the activation: they would fit, and be wrong."""
    if init_from is None or component["name"] != init_from.config["name"]:
        return
    fixed = getattr(registry.find(kind, component["name"]).load(), "fixed_options", ())
    ours, theirs = (registry.complete(kind, config) for config in (component, init_from.config))
    for option in fixed:
        wanted, trained = (_value(config, option) for config in (ours, theirs))
        if wanted != trained:
            raise CheckpointError(
                f"{kind}.{option}={quoted(wanted, 40)}, but the weights of init_from were trained with "
                f"{quoted(trained, 40)}",
                code="MMG-K11",
                where=f"{kind}.{option}",
                why="they would fit and compute something else: nothing in them shows this option",
                fix=f"{kind}.{option}={str(trained).lower() if isinstance(trained, bool) else trained}, "
                "or train without init_from",
            )


def _value(config: Mapping[str, Any], option: str) -> Any:
    """An option's value, or that of the option which null stands for."""
    return config["num_heads"] if option == "text_heads" and config[option] is None else config[option]
