"""`mmgen run`: trains the three parts, draws captions it has never seen, ranks, classifies, judges, reports."""

from __future__ import annotations

import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

import mmgen
from mmgen import registry
from mmgen.checkpoint.parts import Part
from mmgen.commands.evaluation import Evaluation
from mmgen.commands.stages import Stage, train_stage
from mmgen.data.pictures import Pictures
from mmgen.files import write_json
from mmgen.runs.directory import RunDirectory
from mmgen.text_to_image import PARTS, open_trio
from mmgen.tracking.report import summary, write_report


def main(config: dict[str, Any], positionals: list[str]) -> int:
    """Every stage that is not finished, then the evaluation, then the report; prints where to look."""
    path = Path(config["run"]["dir"]) / config["run"]["name"]
    console = Console(stderr=True)
    began = time.monotonic()
    pictures = Pictures(registry.build("dataset", config["dataset"]))
    with RunDirectory(path).lock():
        directory = RunDirectory(path).create(config)
        directory.update_status(state="running", stage="tokenizer", step=0, max_steps=0, seconds=0.0)
        parts: dict[str, Part] = {}
        for kind in PARTS:
            parts[kind] = train_stage(_stage(kind, config), path / kind, pictures, parts.get("tokenizer"), None)
        _write_lineage(directory, parts, pictures, config)
        if not (path / "evaluation.json").is_file() or directory.status().state != "finished":
            directory.update_status(stage="evaluation")
            sampler = registry.build("sampler", config["sampler"])
            evaluation = Evaluation(open_trio(path, sampler, trusted=True), pictures, directory, config)
            evaluation.run()
        report = write_report(path)
        seconds = {kind: directory.stage(kind).status().seconds for kind in PARTS}
        directory.update_status(state="finished", stage=None, seconds=sum(seconds.values()))
    console.print(f"training {sum(seconds.values()) / 60:.1f} min, this call {(time.monotonic() - began) / 60:.1f} min")
    print(summary(path))
    print(f"pictures: {path / 'sheet.png'}\nreport: {report}")
    return 0


def _stage(kind: str, config: dict[str, Any]) -> Stage:
    stage = config["stages"][kind]
    return Stage(
        kind=kind,
        component=config[kind],
        task=stage["task"],
        trainer=stage["trainer"],
        tracking=config["tracking"],
        seed=config["seed"],
        experiment=config["run"]["name"],
        resume=config["resume"],
    )


def _write_lineage(
    directory: RunDirectory, parts: dict[str, Part], pictures: Pictures, config: dict[str, Any]
) -> None:
    """What made these pictures: the three checkpoints, the data, the config, the versions."""
    lineage = {
        "parts": {
            kind: {
                "fingerprint": part.fingerprint,
                "path": f"{kind}/model",
                "step": part.info.get("step"),
                "requires": part.requires,
            }
            for kind, part in parts.items()
        },
        "data": {"name": config["dataset"]["name"], "fingerprint": pictures.fingerprint, "size": len(pictures)},
        "config_fingerprint": directory.status().config_fingerprint,
        "versions": {
            "mmgen": mmgen.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "pytorch-lightning", "hydra-core", "wandb", "tokenizers")},
        },
        "attribution": getattr(pictures.dataset, "attribution", ""),
    }
    write_json(directory.path / "lineage.json", lineage)
