"""What is recorded of a run that is to be made again: in its directory, or in the folder of an offline wandb run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmgen.errors import CheckpointError, MmgenError, quoted
from mmgen.files import read_json
from mmgen.runs.directory import RunDirectory
from mmgen.runs.listing import is_stage, stages_of
from mmgen.runs.metrics import MetricsFile
from mmgen.runs.origin import NAME, checked, read_origin
from mmgen.tracking.wandb_folder import find_log, read_wandb


@dataclass
class Recorded:
    """A run as it was.

    Attributes:
        path: of the directory or the log that was read.
        beside: where a new run goes.
        origin: what `mmgen.runs.origin` keeps.
        rows: every logged row, by stage; of a rival by its directory's name.
        evaluation: evaluation.json, empty without one.
        weights: the SHA-256 of each finished part's weights.
        notes: what to tell before it is run.
    """

    path: Path
    beside: Path
    origin: dict[str, Any]
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def command(self) -> str:
        return str(self.origin["command"])

    @property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = self.origin["config"]
        return config

    @property
    def name(self) -> str:
        return str(self.config["run"]["name"])


def find_recorded(path: Path) -> Recorded:
    """What is recorded at a path: a run's directory, one of its stages, or an offline wandb run's folder.

    Raises:
        CheckpointError: nothing that a run could be made again from.
    """
    log = find_log(path)
    if log is not None:
        return _of_log(log)
    if (path.parent / NAME).is_file() and is_stage(path.name):
        path = path.parent  # a stage alone depends on those before it
    if (path / "status.json").is_file():
        return _of_directory(path)
    raise CheckpointError(
        f"{quoted(str(path))} is no run and no folder of an offline wandb run",
        code="MMG-K05",
        why="" if path.exists() else "there is no such directory",
        fix="mmgen runs list, or RUN/STAGE/wandb/offline-run-…",
    )


def _of_directory(path: Path) -> Recorded:
    origin, notes = _origin(path)
    found = Recorded(path, path.parent, origin, notes=notes)
    if len(origin["sessions"]) > 1:
        found.notes.append(f"it was started {len(origin['sessions'])} times under differing code, versions or machines")
    several = found.command == "run"
    stages = {kind: path / kind for kind in stages_of(path)} if several else {found.config["task"]["name"]: path}
    for kind, stage in stages.items():
        if rows := MetricsFile(stage / "metrics.jsonl").rows():
            found.rows[kind] = rows
        if digest := weights_of(stage / "model"):
            found.weights[kind] = digest
    if (path / "evaluation.json").is_file():
        found.evaluation = RunDirectory(path).read_evaluation()
    state = RunDirectory(path).status().state
    if state != "finished":
        found.notes.append(f"{path} is not finished; what it logged is compared")
    return found


def _origin(path: Path) -> tuple[dict[str, Any], list[str]]:
    """origin.json; of a run of all stages that was made before there was one, what its config and lineage tell."""
    if (path / NAME).is_file():
        return read_origin(path), []
    config = RunDirectory(path).read_config()
    if not {"stages", "run", "dataset"} <= config.keys():
        raise CheckpointError(
            f"{path} does not tell what it was trained on",
            code="MMG-K05",
            why=f"it has no {NAME}, and the config of one stage names no dataset",
            fix="the run of all stages, or a run made by this version of mmgen",
        )
    try:
        lineage = read_json(path / "lineage.json", trusted=True)
    except MmgenError:
        lineage = {}
    told = lineage if isinstance(lineage, Mapping) else {}
    session = {"code": {}, "versions": dict(told.get("versions") or {}), "machine": {}}
    session["versions"].pop("mmgen", None)
    made = {
        "command": "run",
        "directory": str(Path.cwd()),
        "config": config,
        "data": dict(told.get("data") or {}),
        "sessions": [session],
    }
    return made, ["it was made before mmgen recorded code and machine: whether they differ is not known"]


def _of_log(log: Path) -> Recorded:
    wandb = read_wandb(log)
    text = wandb.config.get("origin")
    if not isinstance(text, str):
        raise CheckpointError(
            f"{log} does not tell what the run was made by",
            code="MMG-K05",
            why="its config has no origin" if wandb.config else "a crash took all of it",
            fix="the run's directory instead" + ("" if wandb.config else ", or first `mmgen runs replay RUN`"),
        )
    try:
        origin = checked(json.loads(text), str(log))
    except ValueError as error:
        raise CheckpointError(f"the origin in {log} is no JSON", code="MMG-K05", why=str(error)) from error
    inside = log.resolve().parent.parent.parent  # RUN[/STAGE]/wandb/offline-run-…/run-….wandb
    in_place = is_stage(inside.name) and (inside.parent / NAME).is_file()
    run = inside.parent if in_place else inside
    beside = run.parent if (run / NAME).is_file() else Path(str(origin["config"]["run"]["dir"]))
    stage = _stage_of(wandb.config, origin["command"], inside.name if in_place else None)
    found = Recorded(log, beside, origin, rows={stage: wandb.rows} if is_stage(stage) else {})
    if not wandb.ended:
        found.notes.append("wandb's log has no end: the run crashed, and its last rows are not in it")
    if origin["command"] == "run" and is_stage(stage):
        found.notes.append(f"wandb's log is of the {stage} alone: its numbers are compared")
    return found


def _stage_of(config: Mapping[str, Any], command: str, inside: str | None) -> str:
    """What a log is of: the stage or the rival in whose directory it lies or, once it was moved, lay."""
    told = str(config.get("directory"))
    return inside or (told if command == "run" and is_stage(told) else str(config.get("kind")))


def weights_of(model: Path) -> str | None:
    """The SHA-256 of a part's weights, as its manifest says; None where there is no part."""
    try:
        return str(read_json(model / "manifest.json", trusted=True)["files"]["model.safetensors"]["sha256"])
    except (MmgenError, KeyError, TypeError):
        return None
