"""The rows that wandb lost, written anew: a crash takes the end of its log, and metrics.jsonl has every row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmgen.checkpoint.parts import read_part
from mmgen.errors import MmgenError
from mmgen.files import read_json
from mmgen.runs.directory import RunDirectory
from mmgen.runs.metrics import MetricsFile
from mmgen.runs.origin import in_tracker, read_origin
from mmgen.tracking.artifacts import part_artifact
from mmgen.tracking.judged import JOB, show_evaluation
from mmgen.tracking.logger import earlier_pictures
from mmgen.tracking.redaction import redacted
from mmgen.tracking.wandb_folder import WandbRun, find_log, read_wandb
from mmgen.tracking.wandb_mirror import SETTINGS, WandbMirror

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


def replay_evaluation(directory: Path) -> str | None:
    """Shows a judged run in wandb again, if its log there was cut off; what became of it, or None where it was not
    tracked.

    Raises:
        CheckpointError: wandb cannot read its log.
    """
    if not (directory / "wandb" / SETTINGS).is_file() or not (directory / "evaluation.json").is_file():
        return None
    settings = read_json(directory / "wandb" / SETTINGS, trusted=True)
    if not isinstance(settings, dict) or settings.get("job_type") != JOB:
        return None
    known = _logs(directory)
    if any(log.ended for log in known):
        return "nothing was lost"
    show_evaluation(directory, settings, "offline", SECONDS)
    fresh = [log for log in _logs(directory) if log.file not in {one.file for one in known} and log.ended]
    if not fresh:
        raise MmgenError("the evaluation could not be replayed, see follower.log", where=str(directory / "wandb"))
    return f"the evaluation was written anew: wandb sync {fresh[-1].file.parent}"


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
    return {**names, "config": redacted(config)}


def _log_part(mirror: WandbMirror, directory: Path, settings: Mapping[str, Any]) -> None:
    """The part, if the stage was finished, as its training would have logged it."""
    if (directory / "model" / "manifest.json").is_file():
        part = read_part(directory / "model", trusted=True)
        mirror.artifact(part_artifact(part, directory / "model", settings["group"]).told())
