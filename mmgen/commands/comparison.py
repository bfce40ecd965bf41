"""Several runs judged alike, and perhaps an encoder that comes with its weights: their figures side by side, and as
curves over the one option in which the runs differ; or one run as it was at several times of a training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mmgen.checkpoint.steps import kept_checkpoints
from mmgen.commands.attempts import FAILED_PARTS
from mmgen.commands.source import fresh_directory
from mmgen.errors import ConfigError, MmgenError, quoted
from mmgen.files import write_json
from mmgen.runs.directory import RunDirectory
from mmgen.tracking.comparison import Compared, spreads, write_comparison
from mmgen.tracking.run_files import read_run

SHOWN, RUNS = 20, 9  # figures and runs in the terminal; the page has them all
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
    return _write(config["out"], option or "runs", option, compared)


def over_time(config: Mapping[str, Any], source: Path, judge: Callable[[Path], Path]) -> int:
    """Judges a run as it was at each checkpoint kept of one part's training, and writes comparison.json and
    comparison.html, of curves over the minutes of that training.

    Args:
        source: the run; or the directory of that training.
        judge: the run with this checkpoint in place of the part.

    Raises:
        ConfigError: MMG-C69, it kept fewer than two; MMG-C39, several runs or an encoder are named too.
    """
    kind = config["over"]
    for key in ("runs", "encoder", f"{kind}_from"):
        if config.get(key):
            raise ConfigError(
                f"over={kind} judges one run at several times, and {key}= is given too",
                code="MMG-C39",
                where=key,
                fix=f"leave out one of over= and {key}=",
            )
    stage = RunDirectory(source / kind if (source / kind / "checkpoints").is_dir() else source)
    kept, status = kept_checkpoints(stage.checkpoints), stage.status()
    if len(kept) < 2 or status.stage != kind:
        what = "no training" if status.stage != kind else f"{len(kept)} checkpoints of the training"
        raise ConfigError(
            f"{quoted(str(source))} holds {what} of its {kind}",
            code="MMG-C69",
            where="over",
            fix=f"train with stages.{kind}.task.keep_every=1000",
        )
    compared = []
    for step, path in kept.items():
        minutes = round(status.seconds * step / max(1, status.max_steps) / 60, 2)
        print(f"{kind} at step {step} of {status.max_steps}, after {minutes:.1f} minutes", flush=True)
        compared.append(Compared(f"step {step}", read_run(judge(path)).evaluations, minutes))
    return _write(config["out"], f"over {kind}", f"minutes of the {kind}'s training", compared, run=str(source))


def _write(asked: str | None, title: str, option: str, compared: Sequence[Compared], **about: str) -> int:
    """comparison.json, with what else it is about, and comparison.html, in the directory that was asked for or one of
    that title; the exit code."""
    out = fresh_directory(asked, "comparisons", title)
    content = {**about, "option": option, "runs": [one.plain() for one in compared]}
    if spread := spreads(option, compared):
        content["over_seeds"] = [one.plain() for one in spread.values()]
    write_json(out / "comparison.json", content)
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
    """A row for each figure and a column for each run, as the page has it; of the first figures, and of as many runs as
    stand beside each other."""
    spread = spreads(option, compared)
    shown = [one.figures for one in compared]
    columns = [one.label for one in compared]
    table = Table("", *columns[:RUNS], *(["mean ± deviation"] if spread else []), box=None, pad_edge=False)
    for name in list(shown[0])[:SHOWN]:
        cells = [found[name].shown(found[name].value) if name in found else "–" for found in shown[:RUNS]]
        if spread:
            cells.append(spread[name].shown if name in spread else "–")
        table.add_row(name, *cells)
    if option:
        print(f"over {option}:")
    Console(width=140, highlight=False).print(table)
    for left, what in ((len(shown[0]) - SHOWN, "figures"), (len(shown) - RUNS, "runs")):
        if left > 0:
            print(f"and {left} more {what}, on the page")
