"""`mmgen train task=tokenizer|generator|encoder dataset=NAME`: trains one part into a run of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmgen.checkpoint.parts import Part, check_requires
from mmgen.commands.lineage import write_lineage
from mmgen.commands.made_by import made_by
from mmgen.commands.preflight import check_fixed, check_new, check_stages, check_tokens, read_pictures
from mmgen.commands.stages import Stage, train_stage
from mmgen.commands.starting import locked, meet
from mmgen.data.module import Samples
from mmgen.errors import ConfigError
from mmgen.loading import part_of, read_parts
from mmgen.progress import printed
from mmgen.runs.directory import finished_runs
from mmgen.tracking.report import write_report


def main(config: dict[str, Any], positionals: list[str]) -> int:
    """Trains, publishes the part, writes the report, and prints where both lie."""
    ranks = meet(config)
    kind = config["task"]["name"]
    path = Path(config["run"]["dir"]) / config["run"]["name"]
    stage = Stage(
        kind=kind,
        component=config[kind],
        task=config["task"],
        trainer=config["trainer"],
        tracking=config["tracking"],
        seed=config["seed"],
        experiment=config["run"]["name"],
    )
    tokenizer, init_from, pictures = ranks.alike(lambda: _read(config, stage))
    requires = {"tokenizer_from": tokenizer.fingerprint} if tokenizer else {}
    requires |= {"init_from": init_from.fingerprint} if init_from else {}
    stage.origin = made_by("train", config, pictures, requires)
    if tokenizer is not None and ranks.first:
        printed(f"image tokenizer: {tokenizer.fingerprint[:12]}")
    with locked(path) as directory:
        ranks.agree(lambda: check_new(directory, config["resume"]))
        part = train_stage(stage, path, pictures, tokenizer, init_from)
        if not ranks.first:
            return 0
        write_lineage(directory, {kind: part}, pictures, config["dataset"]["name"])
        report = write_report(path)
    print(f"{kind} {part.fingerprint[:12]}: {path / 'model'}\nreport: {report}")
    return 0


def _read(config: dict[str, Any], stage: Stage) -> tuple[Part | None, Part | None, Samples]:
    """The image tokenizer, the part to start from and the data, checked against each other and the config, which is
    told where an image tokenizer that it does not name was found."""
    kind, tokenizer = stage.kind, None
    if kind == "generator":
        tokenizer, config["tokenizer_from"] = _image_tokenizer(config["tokenizer_from"], Path(config["run"]["dir"]))
    init_from = part_of(config["init_from"], kind, "init_from") if config["init_from"] else None
    if init_from is not None:
        stage.init_from = init_from.fingerprint
        check_fixed(kind, config[kind], init_from)
        check_requires({kind: init_from, **({"tokenizer": tokenizer} if tokenizer else {})})
    pictures = read_pictures(config["dataset"])
    check_stages([stage], pictures)
    check_tokens(pictures, tokenizer, init_from)
    return tokenizer, init_from, pictures


def _image_tokenizer(source: str | None, runs: Path) -> tuple[Part, str]:
    """The one asked for, or that of the newest finished run that has one, and where it lies."""
    if source is not None:
        return part_of(source, "tokenizer", "tokenizer_from"), source
    for run in finished_runs(runs):
        parts = read_parts(run.path, trusted=True)
        if "tokenizer" in parts:
            return parts["tokenizer"], str(run.path)
    raise ConfigError(
        f"a generator needs a trained image tokenizer, and {runs}/ holds none",
        code="MMG-C20",
        where="tokenizer_from",
        fix="mmgen train task=tokenizer dataset=…, then tokenizer_from=RUN",
    )
