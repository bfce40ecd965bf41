"""`mmgen train task=tokenizer|generator|encoder dataset=NAME`: trains one part into a run of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from mmgen.checkpoint.parts import Part, check_requires
from mmgen.commands.preflight import check_fixed, check_new, check_stages, check_tokens, read_pictures
from mmgen.commands.stages import Stage, train_stage
from mmgen.commands.starting import locked, meet
from mmgen.data.module import Samples
from mmgen.errors import ConfigError
from mmgen.loading import part_of, read_parts
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
    if tokenizer is not None and ranks.first:
        Console(stderr=True).print(f"image tokenizer: {tokenizer.fingerprint[:12]}")
    with locked(path) as directory:
        ranks.agree(lambda: check_new(directory, config["resume"]))
        part = train_stage(stage, path, pictures, tokenizer, init_from)
        if not ranks.first:
            return 0
        report = write_report(path)
    print(f"{kind} {part.fingerprint[:12]}: {path / 'model'}\nreport: {report}")
    return 0


def _read(config: dict[str, Any], stage: Stage) -> tuple[Part | None, Part | None, Samples]:
    """The image tokenizer, the part to start from and the data, checked against each other and the config."""
    kind = stage.kind
    tokenizer = _image_tokenizer(config["tokenizer_from"], Path(config["run"]["dir"])) if kind == "generator" else None
    init_from = part_of(config["init_from"], kind, "init_from") if config["init_from"] else None
    if init_from is not None:
        stage.init_from = init_from.fingerprint
        check_fixed(kind, config[kind], init_from)
        check_requires({kind: init_from, **({"tokenizer": tokenizer} if tokenizer else {})})
    pictures = read_pictures(config["dataset"])
    check_stages([stage], pictures)
    check_tokens(pictures, tokenizer, init_from)
    return tokenizer, init_from, pictures


def _image_tokenizer(source: str | None, runs: Path) -> Part:
    """The one asked for, or that of the newest finished run that has one."""
    if source is not None:
        return part_of(source, "tokenizer", "tokenizer_from")
    for run in finished_runs(runs):
        parts = read_parts(run.path, trusted=True)
        if "tokenizer" in parts:
            return parts["tokenizer"]
    raise ConfigError(
        f"a generator needs a trained image tokenizer, and {runs}/ holds none",
        code="MMG-C20",
        where="tokenizer_from",
        fix="mmgen train task=tokenizer dataset=…, then tokenizer_from=RUN",
    )
