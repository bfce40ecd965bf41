"""`mmgen data tokenize`: one process's share of the shards, and the index, by whoever finds nothing missing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmgen import registry
from mmgen.checkpoint.parts import Part
from mmgen.commands.token_directory import agree, clean, goes_on, lock, prepare
from mmgen.data.shards import (
    FORMAT,
    INDEX,
    Index,
    Shard,
    check_content,
    damaged,
    entries,
    read_index,
    read_shard,
)
from mmgen.data.tokenizing import Augmenting, Planned, Reader, finish, ids_digest, make_shard, plan, positions_of
from mmgen.devices import device_of
from mmgen.errors import CheckpointError, ConfigError, DataError, RunLockedError, quoted
from mmgen.files import size
from mmgen.loading import load_part, part_of
from mmgen.progress import Bar, printed
from mmgen.protocols import Dataset, TokenDataset


class Tokenizing:
    """One process's share of the work: every shard whose number is its rank, modulo the number of processes."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config, self.task = config, config["task"]
        for key, example in (("dataset", "emoji"), ("tokenizer_from", "runs/quickstart"), ("to", "tokens/emoji")):
            if config[key] is None:
                raise ConfigError(f"{key} is required", code="MMG-C05", where=key, fix=f"{key}={example}")
        self.rank, self.world_size = _rank()
        self.augmenting = Augmenting(self.task["augment"], config["variants"], config["seed"])
        if self.augmenting.variants > 1 and self.augmenting.name == "none":
            raise ConfigError(
                f"{self.augmenting.variants} variants of a picture would all be the same",
                code="MMG-C28",
                where="variants",
                fix="task.augment=dalle_generator, or variants=1",
            )
        self.directory = Path(config["to"])
        self.device = device_of(config["device"])

    def run(self) -> int:
        """Writes what is missing; whoever finds nothing missing finishes the directory."""
        part = part_of(self.config["tokenizer_from"], "tokenizer", "tokenizer_from")
        dataset = _built(self.config["dataset"])
        tokenizer = load_part(part).to(self.device)
        _check_size(dataset, tokenizer.image_size)
        positions = positions_of(dataset)
        recipe = self._recipe(dataset, part, tokenizer, {split: len(p) for split, p in positions.items()})
        planned = plan(recipe["splits"], self.config["shard_size"])
        prepare(self.directory, recipe)
        with lock(self.directory, f".lock-{self.rank}"):
            agree(self.directory, recipe)  # before cleaning, which may take the file that another one writes it by
            clean(self.directory, [shard.number for shard in self._mine(planned)], self.rank == 0)
            varied = {"train": self.augmenting, "val": Augmenting()}
            readers = {
                split: Reader(dataset, positions[split], tokenizer.image_size, how) for split, how in varied.items()
            }
            self._shards(planned, readers, tokenizer)
            return self._finish(planned, recipe)

    def _recipe(self, dataset: Dataset, part: Part, tokenizer: Any, sizes: Mapping[str, int]) -> dict[str, Any]:
        """What decides the content of the shards: a directory made with another is not gone on with."""
        options = {k: v for k, v in self.task["text_tokenizer"].items() if k != "bpe_dropout"}
        return {
            "format": FORMAT,
            "dataset": self.config["dataset"],
            "data": ids_digest(dataset),
            "splits": dict(sizes),
            "image_tokenizer": part.fingerprint,
            "image_size": tokenizer.image_size,
            "grid": list(tokenizer.grid),
            "codebook_size": tokenizer.codebook_size,
            "augment": self.augmenting.name,
            "variants": self.augmenting.variants,
            "seed": self.augmenting.seed if self.augmenting.name != "none" else None,
            "shard_size": self.config["shard_size"],
            "text_tokenizer": options,
            "alternative_captions": self.task["alternative_captions"] > 0,
            "attribution": getattr(dataset, "attribution", ""),
        }

    def _mine(self, planned: list[Planned]) -> list[Planned]:
        return [shard for shard in planned if shard.number % self.world_size == self.rank]

    def _shards(self, planned: list[Planned], readers: Mapping[str, Reader], tokenizer: Any) -> None:
        mine = self._mine(planned)
        kept = [shard for shard in mine if self._is_whole(shard)]
        done = sum(shard.size for shard in kept)
        total = sum(shard.size for shard in mine)
        name = f"rank {self.rank}" if self.world_size > 1 else "image tokens"
        with Bar(name, total=total, unit="pictures", done=done) as bar, goes_on(self.directory, len(planned)):
            for shard in mine:
                if shard not in kept:
                    (self.directory / INDEX).unlink(missing_ok=True)  # it would tell of a shard that is made anew
                    make_shard(
                        self.directory,
                        shard,
                        readers[shard.split],
                        lambda images: tokenizer.encode(images.to(self.device)),
                        tokenizer.codebook_size,
                        num_workers=self.config["num_workers"],
                        progress=lambda count: bar.advance(count),
                    )

    def _is_whole(self, planned: Planned) -> bool:
        """Whether a shard was written before, byte for byte; a damaged one is told of, and made anew."""
        try:
            shard = read_shard(self.directory, planned.number)
            if shard is None:
                return False
            path = self.directory / f"{shard.name}.tokens"
            if (shard.split, shard.first, shard.last) != (planned.split, planned.first, planned.last):
                raise damaged(path, "it is another part of the dataset")
            check_content(path, shard.tokens)
        except DataError as error:
            printed(f"warning: {error.what}; it is made anew")
            return False
        return True

    def _finish(self, planned: list[Planned], recipe: dict[str, Any]) -> int:
        written = [read_shard(self.directory, shard.number) for shard in planned]
        shards = [shard for shard in written if shard is not None]
        if len(shards) < len(planned):
            missing = len(planned) - len(shards)
            print(f"{len(self._mine(planned))} shards are done, {missing} of other processes are not: the last of them")
            print("makes the index. Should one have been stopped, the same command goes on.")
            return 0
        try:
            with lock(self.directory, ".lock-index"):
                index = self._indexed(shards, recipe)
        except RunLockedError:
            print("another process makes the index")
            return 0
        _tell(self.directory, index, self.config["tokenizer_from"])
        return 0

    def _indexed(self, shards: list[Shard], recipe: dict[str, Any]) -> Index:
        """The index that is there, if it is of these shards, or a new one."""
        with suppress(DataError):
            index = read_index(self.directory)
            if index.shards == shards:
                for file, entry in entries(index).items():
                    if not file.endswith(".tokens"):
                        check_content(self.directory / file, entry)
                return index
        (self.directory / INDEX).unlink(missing_ok=True)
        total = sum(shard.count for shard in shards)
        with Bar("text tokens", total=total, unit="captions") as bar, goes_on(self.directory, 0):
            return finish(
                self.directory,
                recipe,
                shards,
                self.task["text_tokenizer"],
                every_caption=self.task["alternative_captions"] > 0,
                progress=lambda count: bar.advance(count),
            )


def _built(config: Mapping[str, Any]) -> Dataset:
    dataset = registry.build("dataset", config)
    if isinstance(dataset, TokenDataset):
        raise ConfigError(
            "the dataset holds image tokens already", code="MMG-C27", where="dataset", fix="dataset=NAME with pictures"
        )
    if len(dataset) == 0:
        raise DataError("the dataset holds no samples", code="MMG-D02", fix="choose another dataset, or fill this one")
    found: Dataset = dataset
    return found


def _check_size(dataset: Dataset, wanted: int) -> None:
    shape = tuple(dataset[0]["image"].shape[1:])
    if shape != (wanted, wanted):
        raise CheckpointError(
            f"the image tokenizer reads {wanted}-pixel pictures, these have {shape[-1]}",
            code="MMG-K09",
            fix=f"dataset.image_size={wanted}",
        )


def _rank() -> tuple[int, int]:
    """Which of how many processes this is, as torchrun says it: RANK and WORLD_SIZE."""
    said = [os.environ.get(name, default) for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"))]
    if all(text.isdecimal() for text in said) and int(said[0]) < int(said[1]):
        return int(said[0]), int(said[1])
    raise ConfigError(
        f"RANK={quoted(said[0])} of WORLD_SIZE={quoted(said[1])} is no process",
        code="MMG-C28",
        where="environment",
        fix="torchrun --no-python --nproc-per-node=4 mmgen data tokenize …, or unset both",
    )


def _tell(directory: Path, index: Index, tokenizer_from: str) -> None:
    counts = {split: sum(s.count for s in index.shards if s.split == split) for split in index.recipe["splits"]}
    written = sum(entry.size for entry in entries(index).values())
    samples = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    left_out = sum(index.recipe["splits"].values()) - sum(counts.values())
    if left_out:
        printed(f"{left_out} training pictures left out: more than twice as long as wide")
    variants = f", {index.recipe['variants']} variants of each" if index.recipe["variants"] > 1 else ""
    print(f"tokens: {directory} ({samples}{variants}; {len(index.shards)} shards, {size(written)})")
    train = f"mmgen train task=generator dataset=tokens dataset.path={directory} tokenizer_from={tokenizer_from}"
    print(f"train on them: {train}")
