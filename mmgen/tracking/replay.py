"""The rows that wandb lost, written anew: a crash takes the end of its log, and metrics.jsonl has every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmgen.errors import MmgenError
from mmgen.files import read_json
from mmgen.runs.directory import RunDirectory
from mmgen.runs.metrics import MetricsFile
from mmgen.runs.origin import config_of, in_tracker, read_origin
from mmgen.runs.redaction import redacted
from mmgen.tracking.artifacts import part_artifact
from mmgen.tracking.judged import JOB, settings_of, show_evaluation
from mmgen.tracking.wandb_folder import WandbRun, find_log, read_wandb
from mmgen.tracking.wandb_mirror import SETTINGS, WandbMirror, earlier_pictures

if TYPE_CHECKING:
    from mmgen.checkpoint.parts import Part

SECONDS = 600.0  # that the replay of one stage may take


@dataclass
class Replayed:
    """What became of a stage.

    Attributes:
        rows: in metrics.jsonl.
        before, after: rows in wandb's logs; None where there was no log.
        folder: of the offline run that has them now.
    """

    rows: int
    before: int | None
    after: int
    folder: Path | None

    @property
    def whole(self) -> bool:
        return self.after >= self.rows

    def told(self) -> str:
        had = "wandb had no log" if self.before is None else f"wandb had {self.before:,} of {self.rows:,} rows"
        if self.folder is None:
            return f"{had}; nothing was lost" if self.whole else f"{had}; they could not be replayed, see follower.log"
        if not self.whole:
            return f"{had}; now {self.after:,} of {self.rows:,}, in {self.folder}"
        return f"{had}; now all {self.rows:,}: wandb sync {self.folder}"


def replay_stage(directory: Path, names: Mapping[str, str]) -> Replayed:
    """Repeats all rows, pictures and the finished part of a stage in a new offline run with the same id, if its log
    lacks any; logs that were not sent yet and are repeated by it are removed.

    Args:
        directory: the stage's; its lock is held by the caller.
        names: `project`, `group`, `job_type` and `name`, where the stage did not record them.

    Raises:
        CheckpointError: wandb cannot read its log.
    """
    rows = MetricsFile(directory / "metrics.jsonl").rows()
    known = _logs(directory)
    before = max((_there(rows, log) for log in known), default=None)
    if before == len(rows) and any(log.ended for log in known):
        return Replayed(len(rows), before, before, None)
    settings = _settings(directory, names)
    pictures = earlier_pictures(directory / "samples", float("inf"))
    mirror = WandbMirror(directory, directory / "metrics.jsonl", settings, "offline", pictures, finish_seconds=SECONDS)
    _log_part(mirror, directory, settings)
    mirror.finish(0 if RunDirectory(directory).status().state == "finished" else 1)
    fresh = [log for log in _logs(directory) if log.file not in {one.file for one in known}]
    if not fresh:
        return Replayed(len(rows), before, before or 0, None)
    return Replayed(len(rows), before, _there(rows, fresh[-1]), fresh[-1].file.parent)


def replay_evaluation(directory: Path, names: Mapping[str, str], stages: Sequence[Path]) -> str | None:
    """Shows a judged run in wandb again, if its log there was cut off or never begun; what became of it, or None where
    nothing was judged to the end.

    Args:
        directory: the run's; its lock is held by the caller.
        names: `project`, `group` and `name`, where wandb was never told.
        stages: the directories of the parts that were judged.

    Raises:
        CheckpointError: wandb cannot read its log, or a part is damaged.
    """
    settings = _told_of_evaluation(directory, names, stages) if (directory / "evaluation.json").is_file() else None
    if settings is None:
        return None
    known = _logs(directory)
    if any(log.ended for log in known):
        return "nothing was lost"
    show_evaluation(directory, settings, "offline", SECONDS)
    fresh = [log for log in _logs(directory) if log.file not in {one.file for one in known} and log.ended]
    if not fresh:
        raise MmgenError("the evaluation could not be replayed, see follower.log", where=str(directory / "wandb"))
    return f"the evaluation was written anew: wandb sync {fresh[-1].file.parent}"


def _told_of_evaluation(directory: Path, names: Mapping[str, str], stages: Sequence[Path]) -> dict[str, Any] | None:
    """What wandb's run of the evaluation was started with; where a run was killed before that, what it would have
    been. None for a run without one."""
    file = directory / "wandb" / SETTINGS
    if file.is_file():
        found = read_json(file, trusted=True)
        return found if isinstance(found, dict) and found.get("job_type") == JOB else None
    try:
        if "samples" not in read_json(directory / "lineage.json", trusted=True):
            return None  # a training alone
    except MmgenError:
        return None  # it was not judged to the end, and the same command does that
    made = None
    with suppress(MmgenError):  # of a run made before there was one
        made = read_origin(directory)
    parts = [part for stage in stages if (part := _part(stage))]
    return settings_of(names, config_of(directory), made, parts)


def _there(rows: Sequence[Mapping[str, Any]], log: WandbRun) -> int:
    """How many rows of metrics.jsonl a log has, with every number."""
    known = {(row.get("step"), name) for row in log.rows for name in row}
    return sum(all((row["step"], name) in known for name in row if name != "time") for row in rows)


def _logs(directory: Path) -> list[WandbRun]:
    """The logs of a stage's offline runs, oldest first."""
    folders = sorted((directory / "wandb").glob("offline-run-*"))
    return [read_wandb(log) for folder in folders if (log := find_log(folder)) is not None]


def _settings(directory: Path, names: Mapping[str, str]) -> dict[str, Any]:
    """What the stage's wandb run was started with; of one that was not tracked, what is known of it."""
    file = directory / "wandb" / SETTINGS
    if file.is_file():
        found = read_json(file, trusted=True)
        if isinstance(found, dict) and found.keys() >= {*names, "config"}:
            return found
    config = RunDirectory(directory).read_config()
    with suppress(MmgenError):  # of a run made before there was one
        config |= in_tracker(read_origin(directory))
    return {**names, "config": redacted({**config, "directory": directory.name})}


def _log_part(mirror: WandbMirror, directory: Path, settings: Mapping[str, Any]) -> None:
    """The part, if the stage was finished, as its training would have logged it."""
    if part := _part(directory):
        mirror.artifact(part_artifact(part, directory / "model", settings["group"]).told())


def _part(directory: Path) -> Part | None:
    """The part of a stage, if it was finished."""
    if not (directory / "model" / "manifest.json").is_file():
        return None
    from mmgen.checkpoint.parts import read_part  # torch, which nothing else here needs

    return read_part(directory / "model", trusted=True)
