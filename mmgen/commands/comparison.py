"""Several runs judged alike, and perhaps an encoder that comes with its weights: their figures side by side, and as
curves over the one option in which the runs differ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mmgen.commands.attempts import FAILED_PARTS
from mmgen.commands.source import fresh_directory
from mmgen.errors import ConfigError, MmgenError, quoted
from mmgen.files import write_json
from mmgen.runs.directory import RunDirectory
from mmgen.tracking.comparison import Compared, write_comparison
from mmgen.tracking.run_files import read_run

SHOWN = 12  # figures in the terminal; the page has them all
# What changes nothing in what was trained, or, as the data's fingerprint does, only follows from what does.
BESIDE = ("run.", "tracking.", "resume", "evaluator.", "drawing.", "data")


def several(config: Mapping[str, Any], judge: Callable[[str], Path], rival: Callable[[str], Path]) -> int:
    """Judges each of `runs` and writes comparison.json and comparison.html; a run's own evaluation lies with the run.

    Args:
        judge: a run.
        rival: the config's `encoder`, where it names one, as a run would be; it stands last, beside the runs.

    Raises:
        ConfigError: MMG-C39, fewer than two runs, or one where there is no encoder, or one twice, or `run` too.
    """
    runs, encoder = list(config["runs"]), config.get("encoder")
    if len(runs) + bool(encoder) < 2 or len(set(runs)) < len(runs) or config.get("run"):
        raise ConfigError(
            "runs= takes two runs or more, each once, in place of run=; or one and encoder=",
            code="MMG-C39",
            where="runs",
            why="run= is given too" if config.get("run") else f"runs has {quoted(runs)}",
            fix="runs=[runs/one,runs/other]",
        )
    last = [Compared(encoder["name"], read_run(rival(runs[0])).evaluations)] if encoder else []
    compared = [Compared(run, read_run(judge(run)).evaluations) for run in runs]
    option, values = varied([_options(run) for run in runs])
    for one, value in zip(compared, values, strict=True):
        one.value = value
    compared.sort(key=lambda one: one.value if isinstance(one.value, int | float) else 0.0)
    compared += last
    out = fresh_directory(config["out"], "comparisons", option or "runs")
    write_json(out / "comparison.json", {"option": option, "runs": [one.plain() for one in compared]})
    page = write_comparison(out, option, compared)
    _print(option, compared)
    print(f"comparison: {page}")
    return FAILED_PARTS if any(e.failed for one in compared for e in one.evaluations) else 0


def _options(run: str) -> dict[str, Any]:
    """Of a run's config, by dotted keys; of an export, which has none, nothing."""
    try:
        found = RunDirectory(run).read_config()
    except (MmgenError, OSError):
        return {}
    return {key: value for key, value in _flat(found) if not key.startswith(BESIDE) or key.startswith("dataset.")}


def _flat(section: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found = []
    for key, value in section.items():
        inside = isinstance(value, Mapping) and value
        found += _flat(value, f"{prefix}{key}.") if inside else [(f"{prefix}{key}", value)]
    return found


def varied(options: Sequence[Mapping[str, Any]]) -> tuple[str, list[Any]]:
    """The one option that the runs differ in, a number, and its values; "" and Nones where that is not so."""
    keys = dict.fromkeys(key for one in options for key in one)
    different = [key for key in keys if len({repr(one.get(key)) for one in options}) > 1]
    values = [one.get(different[0]) for one in options] if len(different) == 1 else []
    if values and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return different[0], values
    return "", [None] * len(options)


def _print(option: str, compared: Sequence[Compared]) -> None:
    names = [figure.name for evaluation in compared[0].evaluations for figure in evaluation.figures][:SHOWN]
    table = Table(option or "run", *names, box=None, pad_edge=False)
    for one in compared:
        figures = {figure.name: figure for evaluation in one.evaluations for figure in evaluation.figures}
        cells = [figures[name].shown(figures[name].value) if name in figures else "–" for name in names]
        table.add_row(one.label, *cells)
    Console(width=120, highlight=False).print(table)
