"""`mmgen evaluate run=RUN evaluator=[NAME,…]`: judges a finished run again, beside its first evaluation."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmgen import registry
from mmgen.checkpoint.exports import is_export
from mmgen.commands.evaluation import Evaluation
from mmgen.commands.source import fresh_directory, open_model, refuse_in_use
from mmgen.data.pictures import Pictures
from mmgen.errors import CheckpointError, ConfigError
from mmgen.files import read_json
from mmgen.loading import PARTS
from mmgen.protocols import TokenDataset
from mmgen.runs.directory import RunDirectory
from mmgen.runs.progress import Bar
from mmgen.text_to_image import TextToImage
from mmgen.tracking.summary import summary

NO_SHEET = {"captions": [], "num_captions": 0, "num_images": 1, "keep": 1, "classified": 0}


def main(config: dict[str, Any], positionals: list[str]) -> int:
    """Opens the run, reads the dataset, judges, and prints the figures and where they lie."""
    refuse_in_use(config["out"])
    model, source = open_model(config, *PARTS)
    recorded = _recorded(source)
    chosen = _chosen(config, recorded)
    for options in chosen["evaluator"].values():
        registry.build("evaluator", options)  # a mistake is told before anything is read
    pictures = _pictures(chosen["dataset"], trusted=config["dataset"] is not None)
    _check_size(model, pictures)
    about = {
        "run": str(source),
        "parts": model.fingerprints,
        "sampler": model.sampler_config,
        "dataset": {**chosen["dataset"], "fingerprint": pictures.fingerprint},
        "evaluator": chosen["evaluator"],
        "seed": chosen["seed"],
        "drawing_seed": chosen["drawing"]["seed"],
    }
    with _fresh(config["out"], source, "-".join(chosen["evaluator"])) as out:
        Evaluation(model, pictures, RunDirectory(out), chosen, shows=False, about=about).run()
    _warn_of_other_data(source, pictures)
    print(summary(out))
    print(f"evaluation: {out / 'evaluation.json'}")
    return 0


def _recorded(source: Path) -> dict[str, Any]:
    """The config of the run, as far as it is one of `mmgen run`."""
    directory = RunDirectory(source)
    return {} if is_export(source) or not directory.config_file.is_file() else directory.read_config()


def _chosen(config: dict[str, Any], recorded: dict[str, Any]) -> dict[str, Any]:
    """What is judged by what: as asked, and otherwise as the run was."""
    drawing = recorded.get("drawing") or {}
    chosen = {key: config[key] or recorded.get(key) for key in ("dataset", "evaluator")}
    for key, example in (("dataset", "dataset=emoji"), ("evaluator", "evaluator=[reconstruction]")):
        if not chosen[key]:
            raise ConfigError(
                f"no {key} is chosen, and the run names none",
                code="MMG-C05",
                where=key,
                fix=f"mmgen evaluate {example}",
            )
    seeds = {"seed": (config["seed"], recorded), "drawing_seed": (config["drawing_seed"], drawing)}
    seed, drawing_seed = (own if own is not None else said.get("seed", 1) for own, said in seeds.values())
    return {**chosen, "seed": seed, "drawing": {**NO_SHEET, "seed": drawing_seed}}


def _pictures(dataset: dict[str, Any], *, trusted: bool) -> Pictures:
    """The dataset, read behind a bar; one that the run's config names may hold registry names only."""
    built = registry.build("dataset", dataset, trusted=trusted)
    if isinstance(built, TokenDataset):
        raise ConfigError(
            "image tokens cannot be judged, only pictures", code="MMG-C05", where="dataset", fix="dataset=emoji"
        )
    with Bar("reading", total=len(built), unit="pictures") as bar:
        return Pictures(built, progress=lambda done, total: bar.advance(1))


def _check_size(model: TextToImage, pictures: Pictures) -> None:
    if not model.has("tokenizer"):
        return
    size = model.part("tokenizer").image_size
    if tuple(pictures.shape) != (size, size):
        raise CheckpointError(
            f"the image tokenizer reads {size}-pixel pictures, these have {pictures.shape[0]}",
            code="MMG-K09",
            fix=f"dataset.image_size={size}",
        )


def _warn_of_other_data(source: Path, pictures: Pictures) -> None:
    lineage = source / "lineage.json"
    trained = read_json(lineage, trusted=True)["data"]["fingerprint"] if lineage.is_file() else pictures.fingerprint
    if trained != pictures.fingerprint:
        print("warning: these are not the pictures that the run was trained on; a split may hold some of them")


@contextmanager
def _fresh(asked: str | None, source: Path, title: str) -> Iterator[Path]:
    """A directory for what is found; taken away again where nothing was."""
    parent = Path("evaluations") if is_export(source) else source / "evaluations"
    out = fresh_directory(asked, str(parent), title)
    try:
        yield out
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
