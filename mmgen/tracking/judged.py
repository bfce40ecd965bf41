"""The evaluation of a run as a wandb run of its own: figures, drawings in a table, and the samples as an artifact.

All of it is read from the run's directory (evaluation.json and the pictures that it names), so it can be repeated at
any time: `mmgen runs replay` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmgen.errors import MmgenError
from mmgen.files import read_json
from mmgen.runs.directory import RunDirectory
from mmgen.runs.origin import in_tracker
from mmgen.runs.redaction import redacted
from mmgen.tracking.artifacts import Artifact, artifact_name, dataset_artifact, used_part
from mmgen.tracking.run_files import finite, items, list_of, part_of
from mmgen.tracking.wandb_mirror import WandbMirror, allowed_mode

if TYPE_CHECKING:
    from mmgen.checkpoint.parts import Part

COLUMNS = ("caption", "drawing", "score", "rank", "seed", "number", "split", "id", "true picture")
PICTURES = {
    "sheet": "sheet.png",
    "originals": "samples/originals.png",
    "reconstructions": "samples/reconstructions.png",
}
MOST_ROWS = 1000  # of the table
JOB = "evaluation"
TOLD = ("seed", "sampler", "evaluator", "drawing")  # of the run's config: what its figures depend on
SECONDS = 60.0  # that the end of a run may wait for wandb; it starts, and has all pictures to repeat, only then


def settings_of(
    names: Mapping[str, str], config: Mapping[str, Any], made: Mapping[str, Any] | None, parts: Iterable[Part]
) -> dict[str, Any]:
    """What wandb's run of an evaluation is started with.

    Args:
        names: `project`, `group` and `name`.
        config: the run's. Secrets in it are not passed on.
        made: the run's origin, where it has one.
        parts: what was judged.
    """
    told = {"kind": JOB, **{key: config[key] for key in TOLD if key in config}, **in_tracker(made)}
    inputs = [dataset_artifact(made["data"])] if made else []
    inputs += [used for part in parts if (used := used_part(part))]
    return {**names, "job_type": JOB, "config": redacted(told), "inputs": [one.told() for one in inputs]}


def log_evaluation(
    directory: Path, settings: Mapping[str, Any], mode: str, finish_seconds: float | None = None
) -> None:
    """Shows a judged run in wandb, unless the environment forbids it; whatever goes wrong there is one warning.

    Args:
        directory: the run's; evaluation.json lies in it.
        settings: as `settings_of` gives them.
        mode: offline, online or disabled, which the environment may lower.
        finish_seconds: how long to wait for wandb; see `WandbMirror`.
    """
    mode = allowed_mode(mode)
    if mode != "disabled":
        show_evaluation(directory, settings, mode, finish_seconds)


def show_evaluation(
    directory: Path, settings: Mapping[str, Any], mode: str, finish_seconds: float | None = None
) -> None:
    """The same in this very mode."""
    try:
        found = RunDirectory(directory).read_evaluation()
    except MmgenError:
        return  # nothing was judged
    drawing = part_of(part_of(settings, "config"), "drawing")
    # No file of that name: what was judged has figures, and no steps.
    seconds = finish_seconds or SECONDS
    mirror = WandbMirror(directory, directory / "metrics.jsonl", dict(settings), mode, [], seconds)
    mirror.summary(figures(found))
    if rows := list(islice(drawings(directory, found, drawing.get("seed")), MOST_ROWS)):
        mirror.table("samples/drawings", COLUMNS, rows)
    for name, file in PICTURES.items():
        if (directory / file).is_file():
            mirror.picture(name, directory / file, 0)
    mirror.artifact(samples_artifact(directory, found, str(settings["group"])).told())
    mirror.finish(0)


def figures(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Every figure that is a number, by its name."""
    found = {}
    for finding in part_of(evaluation, "findings").values():
        for number in list_of(finding, "numbers") if isinstance(finding, Mapping) else []:
            if (value := finite(number.get("value"))) is not None:
                found[str(number.get("name"))] = value
    return found


def drawings(directory: Path, evaluation: Mapping[str, Any], seed: object) -> Iterator[list[Any]]:
    """The rows of `COLUMNS`: every drawing that was kept, beside what it was to show."""
    for entry in list_of(evaluation, "drawings"):
        scores, numbers = items(entry.get("scores")), items(entry.get("numbers"))
        for rank, file in enumerate(items(entry.get("pictures"))):
            yield [
                entry.get("caption"),
                _picture(directory, file),
                scores[rank] if rank < len(scores) else None,
                rank + 1,
                seed,
                numbers[rank] if rank < len(numbers) else None,
                entry.get("split"),
                entry.get("id"),
                _picture(directory, entry.get("original")),
            ]


def samples_artifact(directory: Path, evaluation: Mapping[str, Any], group: str) -> Artifact:
    """The drawings with the figures and, as lineage.json has it, what made them."""
    names = ["evaluation.json", "lineage.json", "sheet.png"]
    names += [str(file) for entry in list_of(evaluation, "drawings") for file in items(entry.get("pictures"))]
    files = {name: path for name in names if (path := _file(directory, name)) is not None}
    try:
        lineage = read_json(directory / "lineage.json", trusted=True)
    except MmgenError:
        lineage = {}
    metadata = {"parents": part_of(part_of(lineage, "samples"), "requires")}
    return Artifact(artifact_name(group, "samples"), "samples", metadata, files=files)


def _picture(directory: Path, file: object) -> dict[str, str] | None:
    path = _file(directory, file)
    return None if path is None else {"picture": path}


def _file(directory: Path, name: object) -> str | None:
    """A file of the run, as a path from everywhere; None for what lies elsewhere or is not there."""
    if not isinstance(name, str) or not name:
        return None
    path = (directory / name).resolve()
    return str(path) if path.is_relative_to(directory.resolve()) and path.is_file() else None
