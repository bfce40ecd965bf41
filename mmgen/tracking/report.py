"""report.html: one file that tells what a run made and how well, opened from disk, with nothing from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader

from mmgen.files import write_atomic
from mmgen.tracking.album import Album
from mmgen.tracking.charts import Series, line_chart, number, share_bar
from mmgen.tracking.curves import Curve, attention_of, codebook_of, stage_curves
from mmgen.tracking.run_files import (
    PART_NAMES,
    PARTS,
    Evaluation,
    RunFiles,
    duration,
    finite,
    items,
    list_of,
    part_of,
    read_run,
    readable,
)
from mmgen.tracking.summary import summary

__all__ = ["summary", "write_report"]

MAX_DRAWN, MAX_CLASSIFIED, MAX_TABLE_ROWS = 60, 48, 200


@dataclass(frozen=True)
class Column:
    """Of an evaluator's table. One whose name ends in % holds shares of a hundred, and gets bars."""

    name: str
    is_number: bool

    @property
    def is_percent(self) -> bool:
        return self.is_number and self.name.endswith("%")


@dataclass(frozen=True)
class Table:
    """Rows of an evaluator; `more` counts those that are left out."""

    title: str
    columns: list[Column]
    rows: list[dict[str, Any]]
    more: int

    @property
    def curve(self) -> Curve | None:
        """A chart of a table over N, such as the best of N drawings: a line for each column of shares, two at most."""
        shares = [column.name for column in self.columns if column.is_percent][:2]
        if self.columns[0] != Column("N", is_number=True) or len(self.rows) < 3:
            return None
        series = [
            Series(name, style, [(row["N"], row[name]) for row in self.rows if finite(row.get(name)) is not None])
            for name, style in zip(shares, ("train", "val"), strict=False)
        ]
        series = [one for one in series if one.points]
        legend = [(one.name, one.style, number(one.last)) for one in series]
        return Curve(self.title, line_chart(self.title, series, over="N"), legend)


def write_report(run_dir: str | Path) -> Path:
    """Writes report.html into a run's directory, from the files in it; what is missing makes the report smaller.

    Args:
        run_dir: of `mmgen run` or `mmgen train`.

    Returns:
        The path of the report.

    Raises:
        OSError: it cannot be written.
    """
    directory = Path(run_dir)
    run = read_run(directory)
    album = Album(directory)
    page = _environment().get_template("report.html").render(**_contents(run, album))
    path = directory / "report.html"
    write_atomic(path, page.encode("utf-8", errors="replace"))
    return path


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"readable": readable, "number": number, "duration": duration, "date": _date}
    environment.globals |= {"share_bar": share_bar, "cell": _cell, "part_names": PART_NAMES}
    return environment


def _contents(run: RunFiles, album: Album) -> dict[str, Any]:
    """All that the template reads."""
    drawings = [_drawing(entry) for entry in list_of(run.evidence, "drawings")]
    classified = [_classified(entry) for entry in list_of(run.evidence, "classified")]
    return {
        "run": run,
        "picture": album.picture,
        "state": _state(run),
        "facts": _facts(run),
        "evaluations": [one for one in run.evaluations if not (one.stood_aside or one.failed)],
        "goals": [
            (f"{evaluation.label}: {figure.label}", figure)
            for evaluation in run.evaluations
            for figure in evaluation.figures
            if figure.told_first
        ],
        "not_found": items(run.evidence.get("wanted_and_not_found")),
        "failed": part_of(run.evidence, "failed"),
        "details": _details(run),
        "aside": [evaluation for evaluation in run.evaluations if evaluation.stood_aside],
        "drawings": drawings[:MAX_DRAWN],
        "more_drawings": len(drawings[MAX_DRAWN:]),
        "has_sheet": (run.directory / "sheet.png").is_file(),
        "reconstructions": part_of(run.evidence, "reconstructions"),
        "classified": classified[:MAX_CLASSIFIED],
        "curves": [(stage, curves) for stage in run.stages if (curves := stage_curves(stage))],
        "codebook": {stage.name: codebook_of(run, stage) for stage in run.stages},
        "attention": {stage.name: attention_of(run, stage) for stage in run.stages},
        "timings": _timings(run),
        "parts": _parts(run),
        "data": part_of(run.lineage, "data"),
        "versions": part_of(run.lineage, "versions"),
        "attribution": str(run.lineage.get("attribution") or ""),
        "config": yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True) if run.config else "",
        "left_out": album.left_out,  # filled while the page is rendered, read at its end
    }


def _state(run: RunFiles) -> dict[str, Any]:
    """How far the run came. The report of a run is written in its last moment, before it calls itself finished."""
    states = {stage.status.get("state") for stage in run.stages}
    if run.evidence and states == {"finished"}:
        return {"name": "finished"}
    status = run.status
    if status.get("state") in (None, "finished") and states <= {"finished", None}:
        return {"name": "finished"}
    behind = next((stage for stage in run.stages if stage.status.get("state") != "finished"), None)
    current = behind.status if behind else status
    return {
        "name": str(current.get("state") or status.get("state") or "running"),
        "stage": behind.name if behind else "",
        "step": behind.step if behind else None,
        "max_steps": behind.max_steps if behind else None,
    }


def _facts(run: RunFiles) -> list[tuple[str, str]]:
    """What the head of the page says, as (label, text); the unknown is left out."""
    dataset, data = part_of(run.config, "dataset"), part_of(run.lineage, "data")
    components = {kind: part_of(run.config, kind).get("name") for kind in _trained(run)}
    trained = [f"{PART_NAMES[kind]} {name}" for kind, name in components.items() if name]
    sampler = part_of(run.config, "sampler").get("name")
    size = data.get("size")
    pixels = dataset.get("image_size")
    about_data = [
        str(dataset.get("name") or data.get("name") or ""),
        f"{size:,} pictures" if isinstance(size, int) else "",
        f"{pixels} × {pixels} pixels" if pixels else "",
    ]
    seconds = sum(stage.seconds for stage in run.stages)
    started = run.status.get("started") or next((stage.status.get("started") for stage in run.stages), None)
    facts = [
        ("Trained", ", ".join(trained)),
        ("Drawn with", str(sampler or "") if run.evidence else ""),
        ("Data", ", ".join(text for text in about_data if text)),
        ("Seed", str(run.config.get("seed", ""))),
        ("Training", duration(seconds) if seconds else ""),
        ("Started", _date(started)),
        ("mmgen", str(part_of(run.lineage, "versions").get("mmgen") or "")),
    ]
    return [(label, text) for label, text in facts if text]


def _trained(run: RunFiles) -> list[str]:
    return [kind for kind in PARTS if any(stage.name == kind for stage in run.stages)]


def _details(run: RunFiles) -> list[tuple[Evaluation, list[Table]]]:
    """The evaluators that have more to show than their figures, with their tables."""
    found = []
    for evaluation in run.evaluations:
        tables = [_table(title, rows) for title, rows in evaluation.tables.items() if rows]
        if tables or evaluation.pictures:
            found.append((evaluation, tables))
    return found


def _table(title: str, rows: list[dict[str, Any]]) -> Table:
    columns = []
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row[name] for row in rows if row.get(name) is not None]
        columns.append(Column(name, bool(values) and all(finite(value) is not None for value in values)))
    return Table(title, columns, rows[:MAX_TABLE_ROWS], len(rows[MAX_TABLE_ROWS:]))


def _drawing(entry: dict[str, Any]) -> dict[str, Any]:
    """A caption with its drawings, best first, each with the score it has."""
    paths = items(entry.get("pictures"))
    scores = [finite(score) for score in items(entry.get("scores"))] + [None] * len(paths)
    return {
        "caption": str(entry.get("caption") or ""),
        "split": str(entry.get("split") or ""),
        "drawn": list(zip(paths, scores, strict=False)),
        "original": entry.get("original"),
    }


def _classified(entry: dict[str, Any]) -> dict[str, Any]:
    """A classified picture with its most likely labels, the true one always among them."""
    labels = [(str(label.get("label")), finite(label.get("share")) or 0.0) for label in list_of(entry, "labels")]
    labels.sort(key=lambda label: -label[1])
    truth = str(entry.get("truth"))
    shown = labels[:4]
    if truth not in [label for label, _ in shown]:
        shown = labels[:3] + [(label, share) for label, share in labels if label == truth]
    right = bool(labels) and labels[0][0] == truth
    return {"picture": entry.get("picture"), "truth": truth, "labels": shown, "right": right}


def _timings(run: RunFiles) -> list[tuple[str, float, float]]:
    """(what, seconds, share of the longest) of every stage and every part of the evaluation."""
    found = [(f"Training the {PART_NAMES.get(stage.name, stage.name)}", stage.seconds) for stage in run.stages]
    for name, seconds in part_of(run.evidence, "seconds").items():
        if finite(seconds) is not None:
            judged = name in part_of(run.evidence, "findings")
            found.append((f"Measuring: {readable(name)}" if judged else readable(name), float(seconds)))
    longest = max((seconds for _, seconds in found), default=0.0)
    return [(what, seconds, seconds / longest) for what, seconds in found if seconds > 0]


def _parts(run: RunFiles) -> list[dict[str, Any]]:
    """The trained parts with what each was made with."""
    parts = []
    for kind, part in part_of(run.lineage, "parts").items():
        if not isinstance(part, dict):
            continue
        made_with = {name: str(print_) for name, print_ in part_of(part, "requires").items()}
        path = str(part.get("path") or "")
        parts.append(
            {
                "kind": kind,
                "component": part_of(run.config, kind).get("name", ""),
                "fingerprint": str(part.get("fingerprint") or ""),
                "step": finite(part.get("step")),
                "made_with": made_with,
                "path": path if (run.directory / path).exists() and ".." not in Path(path).parts else "",
            }
        )
    return parts


def _cell(value: object) -> str:
    """A table's cell as text."""
    if isinstance(value, bool) or value is None:
        return {None: "–", True: "yes", False: "no"}[value]
    return number(float(value)) if isinstance(value, (int, float)) else str(value)


def _date(text: object) -> str:
    """An ISO time as "22 November 2026, 20:40 UTC"; what is none, as it stands."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return str(text or "")
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    return f"{moment.day} {moment:%B %Y, %H:%M}" + (" UTC" if moment.tzinfo else "")
