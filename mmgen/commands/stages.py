"""One stage of training, from its config to the finished part: what `mmgen train` does once and `mmgen run` thrice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor

from mmgen import registry
from mmgen.checkpoint.parts import Part, load_weights, read_part, write_part
from mmgen.commands.fitting import Fit
from mmgen.commands.schema import PLACEMENT
from mmgen.commands.starting import computes_on
from mmgen.data import text_tokenizers
from mmgen.data.module import PictureData, Samples
from mmgen.data.noise import CaptionNoise
from mmgen.data.pictures import Pictures
from mmgen.data.text import BpeTextTokenizer
from mmgen.data.text_tokenizers import AnyTextTokenizer
from mmgen.devices import device_of
from mmgen.errors import CheckpointError
from mmgen.loading import load_part
from mmgen.progress import Bar, printed
from mmgen.protocols import TokenDataset
from mmgen.ranks import current
from mmgen.runs.directory import MAY_DIFFER, RunDirectory
from mmgen.runs.origin import in_tracker, keep
from mmgen.tasks.attention import ShowAttention, check_attention
from mmgen.tasks.callbacks import ShowReconstructions
from mmgen.tasks.codebook import WatchCodebook
from mmgen.tasks.parallel import holds_plain_tensors, whole_state
from mmgen.tasks.task import TASKS
from mmgen.tracking.artifacts import dataset_artifact, used_part
from mmgen.tracking.logger import RunLogger
from mmgen.trio import BATCH

SHOWN = 12  # pictures whose reconstruction is watched during training
LOOKED_AT = 4  # pictures whose attention is


@dataclass
class Stage:
    """One stage's config (see `conf/`): `component` is the tokenizer's, generator's or encoder's, with its name."""

    kind: str
    component: dict[str, Any]
    task: dict[str, Any]
    trainer: dict[str, Any]
    tracking: dict[str, Any]
    seed: int
    experiment: str
    init_from: str | None = None  # the fingerprint of the part whose weights to start from
    section: str | None = None  # of the config that it is in; null: stages.KIND
    origin: dict[str, Any] | None = None  # what the run is made by (`mmgen.runs.origin`); of rank 0

    def config(self, requires: Mapping[str, str], data: str) -> dict[str, Any]:
        """What decides the outcome: a directory made with another is not gone on with."""
        return {
            "kind": self.kind,
            "component": self.component,
            "task": self.task,
            "trainer": self.trainer,
            "seed": self.seed,
            "data": data,
            "requires": dict(requires),
            **({"init_from": self.init_from} if self.init_from else {}),
        }


def train_stage(stage: Stage, path: Path, pictures: Samples, tokenizer: Part | None, init_from: Part | None) -> Part:
    """Trains one part, or goes on with it, or returns it when it is finished.

    Args:
        stage: what to train, and how.
        path: the stage's directory.
        pictures: the data, read once for all stages.
        tokenizer: the image tokenizer's part; the generator needs it.
        init_from: a part of the same kind whose weights to start from.

    Raises:
        ConfigError: the directory holds a run of another config.
        CheckpointError: a file is damaged, or the disk is full.
        NonFiniteError: the loss or a gradient is not a number.
        Interrupted: a signal came.
    """
    requires = {"tokenizer": tokenizer.fingerprint} if stage.kind == "generator" and tokenizer else {}
    config = stage.config(requires, pictures.fingerprint)
    directory = RunDirectory(path)

    def is_finished() -> bool:
        directory.create(config, (*MAY_DIFFER, *(f"trainer.{key}" for key in PLACEMENT)))
        if stage.origin is not None:
            keep(path, stage.origin)
        return directory.status().state == "finished" and (directory.model / "manifest.json").is_file()

    if not current().agree(is_finished):
        _Training(stage, directory, pictures, tokenizer, config).run(requires, init_from)
    return read_part(directory.model, trusted=True)


def take_part(part: Part, path: Path) -> Part:
    """A part that another run trained, copied into the stage's directory, so that the run is whole by itself.

    Raises:
        ConfigError: the directory holds another part, or a training.
        CheckpointError: the disk is full.
    """
    directory = RunDirectory(path)

    def copy() -> None:
        directory.create({"kind": part.kind, "taken": part.fingerprint, "component": part.config})
        if not (directory.model / "manifest.json").is_file():
            write_part(
                directory.model,
                kind=part.kind,
                config=part.config,
                arguments=part.arguments,
                tensors=part.tensors,
                text_tokenizer=part.text_tokenizer,
                requires=part.requires,
                info=part.info,
            )
        step = int(part.info.get("step") or 0)
        directory.update_status(state="finished", step=step, max_steps=step)

    current().agree(copy)
    return read_part(directory.model, trusted=True)


class _Training:
    def __init__(
        self, stage: Stage, directory: RunDirectory, pictures: Samples, tokenizer: Part | None, config: dict[str, Any]
    ) -> None:
        self.stage, self.directory, self.pictures, self.config = stage, directory, pictures, config
        self.tokenizer = tokenizer
        self.max_steps = int(stage.trainer["max_steps"])

    def run(self, requires: Mapping[str, str], init_from: Part | None) -> None:
        stage = self.stage
        torch.manual_seed(stage.seed)
        component, arguments, text_tokenizer = self._component(init_from)
        options = checkpoint_config(stage.kind, stage.component, component)
        if self._shows_attention:
            check_attention(component, stage.trainer["tensor_parallel_size"])
        if init_from is not None and not any(parameter.is_meta for parameter in component.parameters()):
            load_weights(component, init_from, f"the {stage.kind}'s options as they were, or another init_from")
        task = TASKS[stage.kind](
            component,
            optimizer=stage.task["optimizer"],
            discriminator_optimizer=stage.task["discriminator_optimizer"],
            schedule=stage.task["schedule"],
            ema_decay=stage.task["ema_decay"],
            ema_every=stage.task["ema_every"],
            max_steps=self.max_steps,
            seed=stage.seed,
        )
        logger = self._logger([part for part in (self.tokenizer if requires else None, init_from) if part])
        try:
            data = self._data()
            self._fit().run(task, data, logger, self._callbacks(data))
            tensors = whole_state(task.averaged, keep=current().first)

            def publish() -> None:
                part = write_part(
                    self.directory.model,
                    kind=stage.kind,
                    config=options,
                    arguments=arguments,
                    tensors=tensors,
                    text_tokenizer=text_tokenizer.to_json() if text_tokenizer else None,
                    requires=dict(requires),
                    info={
                        "step": self.max_steps,
                        "seed": stage.seed,
                        "data": self.config["data"],
                        **({"init_from": stage.init_from} if stage.init_from else {}),
                    },
                )
                logger.log_part(part, self.directory.model)

            current().agree(publish)
        finally:
            logger.finish()
        current().agree(lambda: self.directory.update_status(state="finished"))

    def _fit(self) -> Fit:
        stage = self.stage
        every, kept = stage.task["checkpoint_every"], stage.task["keep_every"]
        loggers = stage.tracking["loggers"]
        return Fit(stage.kind, stage.trainer, every, kept, stage.experiment, self.directory, loggers)

    def _component(self, init_from: Part | None) -> tuple[Any, dict[str, Any], AnyTextTokenizer | None]:
        """The untrained component, the build arguments that a file can hold, and its text tokenizer."""
        kind = self.stage.kind
        arguments: dict[str, Any] = {}
        text_tokenizer: AnyTextTokenizer | None = None
        if kind in ("tokenizer", "encoder"):
            assert isinstance(self.pictures, Pictures), "refused before anything is trained"
            height, width = self.pictures.shape
            assert height == width, "datasets give square pictures"
            arguments["image_size"] = height
        if kind == "generator":
            assert self.tokenizer is not None
            image_tokenizer = load_part(self.tokenizer, trusted=True)
            arguments |= {"grid": list(image_tokenizer.grid), "codebook_size": image_tokenizer.codebook_size}
        built = dict(arguments)
        if "grid" in built:
            built["grid"] = tuple(built["grid"])
        if kind in ("generator", "encoder"):
            if init_from is not None and init_from.text_tokenizer is not None:
                text_tokenizer = text_tokenizers.from_json(init_from.text_tokenizer)  # what its ids mean
            elif isinstance(self.pictures, TokenDataset):
                dropout = self.stage.task["text_tokenizer"]["bpe_dropout"]
                text_tokenizer = cast(BpeTextTokenizer, self.pictures.text_tokenizer(dropout))
            else:
                text_tokenizer = text_tokenizers.make(self._training_captions(), **self.stage.task["text_tokenizer"])
            built["text_tokenizer"] = text_tokenizer
        return self._build(built), arguments, text_tokenizer

    def _build(self, arguments: dict[str, Any]) -> Any:
        """The component; without memory where its weights will come from rank 0 in pieces, if it can be built so."""
        if self.stage.trainer["strategy"] == "fsdp" and not current().first:
            with suppress(Exception), torch.device("meta"):
                component = registry.build(self.stage.kind, self.stage.component, **arguments)
                if not holds_plain_tensors(component):
                    return component
        return registry.build(self.stage.kind, self.stage.component, **arguments)

    def _training_captions(self) -> list[str]:
        assert isinstance(self.pictures, Pictures)
        every = self.stage.task["alternative_captions"] > 0
        positions = self.pictures.positions("train")
        if every:
            return [caption for p in positions for caption in self.pictures.alternatives[p]]
        return [self.pictures.captions[p] for p in positions]

    def _data(self) -> PictureData:
        codes = None
        if self.stage.kind == "generator" and not isinstance(self.pictures, TokenDataset):
            assert self.tokenizer is not None
            codes = tokenize(self.pictures, self.tokenizer, computes_on(self.stage.trainer))
        data = PictureData(
            self.pictures,
            batch_size=self.stage.task["batch_size"],
            seed=self.stage.seed,
            max_steps=self.max_steps,
            alternative_captions=self.stage.task["alternative_captions"],
            codes=codes,
            grouped_by=self.stage.task["grouped_by"],
            group_size=self.stage.task["group_size"],
            shuffle=self.stage.task["shuffle"],
            augment=self.stage.task["augment"],
            text_only=self.stage.task["text_only"],
            num_workers=self.stage.task["num_workers"],
            bpe_dropout=(self.stage.task["text_tokenizer"] or {"bpe_dropout": 0.1})["bpe_dropout"],
            noise=self._noise(),
        )
        if data.left_out and current().first:
            printed(f"{data.left_out} training pictures left out: more than twice as long as wide")
        return data

    def _noise(self) -> CaptionNoise | None:
        share, kind = self.stage.task["caption_noise"], self.stage.task["caption_noise_kind"]
        return CaptionNoise(share, kind, self.stage.seed) if share else None

    def _logger(self, parents: Sequence[Part]) -> RunLogger:
        data = [dataset_artifact(self.stage.origin["data"])] if self.stage.origin else []
        return RunLogger(
            self.directory.path,
            name=f"{self.stage.experiment}-{self.stage.kind}",
            job_type=self.stage.kind,
            config={**self.config, **in_tracker(self.stage.origin), "directory": self.directory.path.name},
            group=self.stage.tracking["group"] or self.stage.experiment,
            project=self.stage.tracking["project"],
            mode=self.stage.tracking["mode"],
            inputs=[*data, *(used for part in parents if (used := used_part(part)))],
        )

    def _callbacks(self, data: PictureData) -> list[pl.Callback]:
        """What only an image tokenizer's training shows, or a generator's."""
        if self._shows_attention:
            return [self._attention(data)]
        if not isinstance(self.pictures, Pictures) or self.stage.kind != "tokenizer":
            return []
        return [
            ShowReconstructions(self.pictures.batch(data.val_positions[:SHOWN])),
            WatchCodebook(lambda text: printed(f"warning: {text}") if current().first else None),
        ]

    @property
    def _shows_attention(self) -> bool:
        return self.stage.kind == "generator" and bool(self.stage.tracking["attention"])

    def _attention(self, data: PictureData) -> ShowAttention:
        assert self.tokenizer is not None
        positions = data.val_positions[:: max(1, len(data.val_positions) // LOOKED_AT)][:LOOKED_AT]
        if isinstance(self.pictures, TokenDataset):
            captions = [record["captions"][0] for record in self.pictures.records(positions)]
            image_tokens = self.pictures.image_tokens(positions, [0] * len(positions))
        else:
            assert data.codes is not None
            captions = [self.pictures.captions[position] for position in positions]
            image_tokens = data.codes[positions]
        image_tokenizer = load_part(self.tokenizer, trusted=True)
        with torch.no_grad():
            images = image_tokenizer.decode(image_tokens.long().unflatten(1, tuple(image_tokenizer.grid)))
        return ShowAttention(images, image_tokens.long(), captions)


def checkpoint_config(kind: str, config: Mapping[str, Any], component: Any) -> dict[str, Any]:
    """What a checkpoint says of how to build the component: its config, with the component's `checkpoint_options`.

    Raises:
        ConfigError: they are no options of it; told before anything is trained.
    """
    replaced = getattr(component, "checkpoint_options", None)
    return registry.complete(kind, {**config, **replaced}) if replaced else dict(config)


def check_size(image_tokenizer: Any, pictures: Pictures) -> None:
    """Raises CheckpointError MMG-K09 where the pictures are of another size than the image tokenizer reads."""
    if tuple(pictures.shape) != (image_tokenizer.image_size,) * 2:
        raise CheckpointError(
            f"the image tokenizer reads {image_tokenizer.image_size}-pixel pictures, these have {pictures.shape[0]}",
            code="MMG-K09",
            fix=f"dataset.image_size={image_tokenizer.image_size}",
        )


def tokenize(pictures: Pictures, tokenizer: Part, device: str = "auto") -> Tensor:
    """Every picture's image tokens (M,N), by position in the dataset."""
    image_tokenizer = load_part(tokenizer, trusted=True)
    place = device_of(device)
    image_tokenizer.to(place)
    check_size(image_tokenizer, pictures)
    codes = []
    with torch.no_grad(), Bar("image tokens", total=len(pictures), unit="pictures") as bar:
        for first in range(0, len(pictures), BATCH):
            positions = range(first, min(first + BATCH, len(pictures)))
            codes.append(image_tokenizer.encode(pictures.batch(positions).to(place)).flatten(1).cpu())
            bar.advance(len(positions), "")
    return torch.cat(codes)
