"""`mmgen evaluate run=RUN evaluator=[NAME,…]`: judges a finished run again, beside its first evaluation.

Or several runs, side by side (`runs=`), or an encoder that comes with its weights (`encoder=`), or these together; or
one run as it was at each checkpoint that it kept (`over=`).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmgen import registry
from mmgen.checkpoint.exports import is_export, read_export
from mmgen.commands.attempts import FAILED_PARTS
from mmgen.commands.comparison import over_time, several
from mmgen.commands.evaluation import Evaluation
from mmgen.commands.source import fresh_directory, open_model, pretrained, refuse_in_use, source_of
from mmgen.data.pictures import Pictures
from mmgen.data.prompts import read_prompts
from mmgen.errors import CheckpointError, ConfigError, DataError
from mmgen.files import read_json
from mmgen.loading import PARTS
from mmgen.progress import Bar
from mmgen.protocols import Needs, TokenDataset
from mmgen.runs.directory import RunDirectory
from mmgen.runs.origin import config_of
from mmgen.text_to_image import TextToImage
from mmgen.tracking.summary import summary

NO_SHEET = {"captions": [], "num_captions": 0, "num_images": 1, "keep": 1, "classified": 0}


def main(config: dict[str, Any], positionals: list[str]) -> int:
    """Opens what is to be judged, reads the dataset, judges, and prints the figures and where they lie."""
    refuse_in_use(config["out"])
    alone = {**config, "runs": [], "over": None, "out": None}
    known: dict[str, Pictures] = {}
    if config["over"]:
        source = source_of(config["run"], *_needed(config))
        then = {**alone, "run": str(source)}
        return over_time(config, source, lambda at: _judge({**then, f"{config['over']}_from": str(at)}, known=known))
    if config["runs"]:
        return several(
            config,
            lambda run: _judge({**alone, "run": run, "encoder": None}, known=known),
            lambda run: _judge(alone, beside=Path(run), known=known),
        )
    out = _judge(config)
    print(summary(out))
    print(f"evaluation: {out / 'evaluation.json'}")
    return failures(out)


def _judge(config: dict[str, Any], beside: Path | None = None, known: dict[str, Pictures] | None = None) -> Path:
    """Judges one model; the directory of what was found. An encoder without a run is judged on the pictures that the
    run `beside` it would be. Pictures that are `known`, by their config, are not read again."""
    if config["encoder"] is not None:
        model, source = pretrained(config), None
    else:
        model, source = open_model(config, *_needed(config))
    like = source or beside
    recorded = _recorded(like)
    chosen = _chosen(config, recorded)
    needs_of(chosen["evaluator"])  # a mistake is told before anything is read
    known, of = {} if known is None else known, json.dumps(chosen["dataset"])
    if of not in known:
        known[of] = _pictures(chosen["dataset"], trusted=config["dataset"] is not None)
    pictures = known[of]
    _check_size(model, pictures)
    about = {
        "run": str(source or config["encoder"]["name"]),
        **{f"{kind}_from": config[f"{kind}_from"] for kind in PARTS if config[f"{kind}_from"]},
        "parts": model.fingerprints,
        "sampler": model.sampler_config,
        "dataset": {**chosen["dataset"], "fingerprint": pictures.fingerprint},
        "evaluator": chosen["evaluator"],
        "seed": chosen["seed"],
        "drawing_seed": chosen["drawing"]["seed"],
    }
    foreign = _foreign(like, recorded, pictures)
    with _fresh(config["out"], source, "-".join(chosen["evaluator"])) as out:
        judging = Evaluation(model, pictures, RunDirectory(out), chosen, shows=False, about=about, foreign=foreign)
        _refuse_nothing(judging.run())
    return out


def needs_of(evaluators: dict[str, Any]) -> list[Needs]:
    """What each evaluator needs, as it says when it is built.

    Raises:
        ConfigError, PluginError: it cannot be built, or says nothing of the kind; there is no such pack of prompts.
    """
    found = []
    for name, options in evaluators.items():
        needs = getattr(registry.build("evaluator", options), "needs", None)
        if not isinstance(needs, Needs):
            raise registry.find("evaluator", options["name"]).unfit("says not what it needs", f"needs is {needs!r:.80}")
        if needs.prompts is not None:
            read_prompts(needs.prompts)
        if needs.max_pictures is not None and needs.max_pictures < 1:
            raise ConfigError(
                f"max_pictures is {needs.max_pictures}; it must be ≥ 1, or null for all",
                code="MMG-C02",
                where=f"evaluator.{name}.max_pictures",
                fix=f"evaluator.{name}.max_pictures=500",
            )
        found.append(needs)
    return found


def failures(out: Path) -> int:
    """The exit code of an evaluation: 4 where an evaluator, or drawing, failed."""
    found = RunDirectory(out).read_evaluation()
    failed = found.get("failed") or {}
    for name in failed.keys() - found["findings"].keys():
        print(f"{name} failed: {failed[name]}")
    if failed:
        print(f"tracebacks: {out / 'error.log'}")
    return FAILED_PARTS if failed else 0


def _needed(config: dict[str, Any]) -> tuple[str, ...]:
    """The parts that the newest run must have, where none is named: all, unless the evaluators say less."""
    if not config["evaluator"]:
        return PARTS
    needs = needs_of(config["evaluator"])
    draws = any(need.drawings or need.redrawings for need in needs)
    if draws:
        return PARTS
    codes = any(need.reconstructions for need in needs)
    features = any(need.features or need.probe_features for need in needs)
    return tuple(kind for kind, needed in (("tokenizer", codes), ("encoder", features)) if needed)


def _refuse_nothing(findings: dict[str, Any]) -> None:
    """An evaluation in which every evaluator stood aside is an error, and leaves nothing."""
    reasons = [f"{name}: {found['stood_aside']}" for name, found in findings.items() if found["stood_aside"]]
    if reasons and len(reasons) == len(findings):
        raise DataError(
            "there is nothing to judge",
            code="MMG-D27",
            where="evaluator",
            why="; ".join(reasons),
            fix="choose a dataset, split or attribute that can be judged; mmgen plugins info NAME lists the options",
        )


def _recorded(source: Path | None) -> dict[str, Any]:
    """The config of the run; of one of `mmgen train`, that of its stage, and the dataset that the command named."""
    if source is None:
        return {}
    directory = RunDirectory(source)
    if is_export(source) or not directory.config_file.is_file():
        return {}
    recorded = directory.read_config()
    return {"dataset": config_of(source).get("dataset"), **recorded}


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
    """Pictures of another size are refused by an image tokenizer, and resized for an encoder."""
    if not model.has("tokenizer"):
        size = getattr(model.part("encoder"), "image_size", None) if model.has("encoder") else None
        if size is not None and tuple(pictures.shape) != (size, size):
            print(
                f"warning: the encoder reads {size}-pixel pictures, these have {pictures.shape[0]} and are resized; "
                f"better: dataset.image_size={size}"
            )
        return
    size = model.part("tokenizer").image_size
    if tuple(pictures.shape) != (size, size):
        raise CheckpointError(
            f"the image tokenizer reads {size}-pixel pictures, these have {pictures.shape[0]}",
            code="MMG-K09",
            fix=f"dataset.image_size={size}",
        )


def _foreign(source: Path | None, recorded: dict[str, Any], pictures: Pictures) -> bool:
    """Whether nothing was trained on these pictures, as far as the run or the export says; of a run it is told."""
    if source is None:
        return True
    if is_export(source):
        return read_export(source).data.get("fingerprint") != pictures.fingerprint  # an import was trained elsewhere
    lineage = source / "lineage.json"
    trained = recorded.get("data")  # of a run of one stage
    if lineage.is_file():
        trained = read_json(lineage, trusted=True)["data"]["fingerprint"]
    if trained in (None, pictures.fingerprint):
        return False
    print("warning: these are not the pictures that the run was trained on; a split may hold some of them")
    return True


@contextmanager
def _fresh(asked: str | None, source: Path | None, title: str) -> Iterator[Path]:
    """A directory for what is found; taken away again where nothing was."""
    parent = Path("evaluations") if source is None or is_export(source) else source / "evaluations"
    out = fresh_directory(asked, str(parent), title)
    try:
        yield out
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
