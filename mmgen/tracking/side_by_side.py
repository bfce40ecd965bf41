"""Pages of several runs: curves over each other, the config keys that differ, samples side by side; and a list of runs
with their pictures. Each is one file that opens from disk, with nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from mmgen.files import write_atomic
from mmgen.runs.listing import Run
from mmgen.tracking.album import BUDGET, Album
from mmgen.tracking.charts import Series, line_chart, number
from mmgen.tracking.curves import MEASURES_FIRST, Curve
from mmgen.tracking.run_files import PARTS, RunFiles, Stage, items, list_of, part_of, read_run, readable

STYLES = 8  # colours; the lines of further runs are dashed
MAX_CAPTIONS, MAX_SHOWN = 24, 4  # captions on the page, and drawings of one from each run


@dataclass
class Compared:
    """A run on the page: how it is called, its state in words, the class that colours it, what lies in it."""

    label: str
    state: str
    style: str
    files: RunFiles
    album: Album


def write_side_by_side(path: Path, runs: Sequence[tuple[str, str, Run]], keys: Mapping[str, Sequence[str]]) -> Path:
    """Writes the page that compares runs.

    Args:
        path: of the page.
        runs: label, state in words, run.
        keys: the config keys that differ, each with every run's value.
    """
    share = BUDGET // len(runs)
    compared = [
        Compared(label, state, _style(place), read_run(run.path), Album(run.path, share))
        for place, (label, state, run) in enumerate(runs)
    ]
    page = _environment().get_template("side_by_side.html").render(
        runs=compared,
        keys=keys,
        figures=_figures(compared),
        curves=[(kind, curves) for kind in PARTS if (curves := _curves(kind, compared))],
        drawings=_drawings(compared),
        pictures=_pictures(compared),
    )
    write_atomic(path, page.encode("utf-8", errors="replace"))
    return path


def write_listing(path: Path, listed: Sequence[tuple[Run, str, str, Mapping[str, str], Mapping[str, str]]]) -> Path:
    """Writes a page of runs, each with its state in words, age, figures, peculiar config keys, and one picture."""
    share = BUDGET // max(1, len(listed))
    rows = []
    for run, state, age, figures, keys in listed:
        pictures = run.pictures()
        shown = Album(run.path, share).picture(str(pictures[0].relative_to(run.path)), 512) if pictures else None
        rows.append({"run": run, "state": state, "age": age, "figures": figures, "keys": keys, "picture": shown})
    page = _environment().get_template("runs.html").render(rows=rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, page.encode("utf-8", errors="replace"))
    return path


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"readable": readable}
    return environment


def _style(place: int) -> str:
    return f"r{place % STYLES}" + (" dashed" if place >= STYLES else "")


def _figures(compared: Sequence[Compared]) -> list[tuple[str, list[str]]]:
    """Every evaluator's figures, by name, with each run's value as text."""
    found = [{f.name: f for e in one.files.evaluations for f in e.figures} for one in compared]
    names = dict.fromkeys(name for one in found for name in one)
    return [(name, [one[name].shown(one[name].value) if name in one else "–" for one in found]) for name in names]


def _curves(kind: str, compared: Sequence[Compared]) -> list[Curve]:
    """A stage's charts, a line a run; the loss comes first, and validation before training."""
    stages = [_stage(one.files, kind) for one in compared]
    names = dict.fromkeys(name for stage in stages if stage for name in stage.metrics())
    order = {noun: place for place, noun in enumerate(MEASURES_FIRST)}
    last = max((float(row["step"]) for stage in stages if stage for row in stage.rows), default=0.0)
    curves = []
    for name in sorted(names, key=lambda name: (order.get(name.rpartition("/")[2], len(order)), "val" not in name)):
        series = [
            Series(one.label, one.style, points)
            for one, stage in zip(compared, stages, strict=True)
            if stage and (points := stage.metric(name))
        ]
        if chart := line_chart(name, series, last):
            curves.append(Curve(name, chart, [(one.name, one.style, number(one.last)) for one in series]))
    return curves


def _stage(files: RunFiles, kind: str) -> Stage | None:
    return next((stage for stage in files.stages if stage.name == kind), None)


def _drawings(compared: Sequence[Compared]) -> list[dict[str, Any]]:
    """The captions of the sheets, those that most runs drew first, each with every run's best drawings."""
    drawn: dict[str, list[list[Any]]] = {}
    originals: dict[str, Any] = {}
    for place, one in enumerate(compared):
        for entry in list_of(one.files.evidence, "drawings"):
            caption = str(entry.get("caption") or "")
            row = drawn.setdefault(caption, [[] for _ in compared])
            row[place] = [one.album.picture(path, 128) for path in items(entry.get("pictures"))[:MAX_SHOWN]]
            if entry.get("original") and originals.get(caption) is None:
                originals[caption] = one.album.picture(entry["original"], 128)
    common = sorted(drawn, key=lambda caption: -sum(map(bool, drawn[caption])))
    return [
        {"caption": caption, "runs": drawn[caption], "original": originals.get(caption)}
        for caption in common[:MAX_CAPTIONS]
    ]


def _pictures(compared: Sequence[Compared]) -> list[tuple[str, list[Any]]]:
    """The newest picture of each name that a stage logged, and reconstructions, of every run beside each other."""
    found: dict[str, list[Any]] = {}
    for place, one in enumerate(compared):
        for name, path in _named(one.files).items():
            longest = 2048 if name.endswith(": attention") else 512  # what has words on it is not made smaller
            found.setdefault(name, [None] * len(compared))[place] = one.album.picture(path, longest)
    return list(found.items())


def _named(files: RunFiles) -> dict[str, str]:
    named = {}
    for title, path in part_of(files.evidence, "reconstructions").items():
        named[readable(title)] = str(path)
    for stage in files.stages:
        for picture in sorted((stage.directory / "samples").glob("*-*.png")):
            title = f"{readable(stage.name)}: {picture.stem.rpartition('-')[0]}"
            named[title] = str(picture.resolve().relative_to(files.directory.resolve()))  # the newest comes last
    return named
