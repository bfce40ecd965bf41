"""The report of a sweep, one file that is opened from disk, and its short form for the terminal."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmgen.files import write_atomic
from mmgen.runs.metrics import MetricsFile
from mmgen.sweeps import charts
from mmgen.sweeps.definition import Sweep
from mmgen.sweeps.results import Result, best, shown
from mmgen.tracking import charts as tracked
from mmgen.tracking.album import Album
from mmgen.tracking.charts import Series, line_chart, number
from mmgen.tracking.run_files import duration, readable

if TYPE_CHECKING:
    from optuna.study import Study

MAX_ROWS, MAX_CURVES, MAX_FAILURES = 200, 60, 30
OF_ALL_TRIALS = "the recipe as it was"
TOP = 6  # trials that importance compares with all


def write_report(
    sweep: Sweep,
    ranked: Sequence[Result],
    study: Study,
    *,
    advice: str = "",
    recipe: Path | None = None,
    command: str = "",
    known: Mapping[int, str] | None = None,
) -> Path:
    """Writes report.html into the sweep's directory.

    Args:
        ranked: all trials (`results`).
        study: Optuna's, for what matters most.
        advice: why the sweep gave up.
        recipe: the best trial as an experiment, and the command that runs it.
        known: names of trials, such as the recipe as it was.
    """
    top = best(ranked)
    album = Album(sweep.directory)
    page = _environment().get_template("report.html").render(
        sweep=sweep,
        best=top,
        rows=ranked[:MAX_ROWS],
        more=len(ranked[MAX_ROWS:]),
        keys=[p.key for p in sweep.space.parameters],
        facts=_facts(sweep, ranked),
        unfinished=sum(r.state in ("running", "waiting") for r in ranked),
        advice=advice,
        ranking_note=_note(sweep),
        history=_history(sweep, ranked),
        recipe=recipe.read_text(encoding="utf-8") if recipe else "",
        recipe_file=str(recipe.relative_to(sweep.directory)) if recipe else "",
        command=command,
        importance=importance(sweep, study),
        parallel=charts.parallel(sweep.space.parameters, ranked, sweep.goals[0].name, top.number if top else -1),
        slices=_slices(sweep, ranked, top),
        curves=_curves(sweep, ranked, top),
        pictures=_pictures(sweep, ranked),
        failures=[(r, str(sweep.log(r.number).relative_to(sweep.directory))) for r in _failed(ranked)],
        links={r.number: _link(sweep, r) for r in ranked},
        known=known or {},
        album=album.picture,
        short=charts.short,
        shown=lambda r: shown(sweep, r.values),
    )
    path = sweep.directory / "report.html"
    write_atomic(path, page.encode("utf-8", errors="replace"))
    return path


@cache
def _environment() -> Environment:
    places = [Path(__file__).parent, Path(tracked.__file__).parent]
    environment = Environment(loader=FileSystemLoader(places), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"number": number, "duration": duration}
    environment.globals |= {"share_bar": tracked.share_bar}
    return environment


def _facts(sweep: Sweep, ranked: Sequence[Result]) -> list[tuple[str, str]]:
    counts = {state: sum(r.state == state for r in ranked) for state in ("complete", "pruned", "failed", "running")}
    said = [f"{count} {state}" for state, count in counts.items() if count]
    facts = [
        ("Trials", f"{len(ranked)}: {', '.join(said)}" if said else "none"),
        ("Goal", ", ".join(f"{goal.direction} {goal.name} ({goal.value})" for goal in sweep.goals)),
        ("Sampler", str(sweep.sampler.get("name"))),
        ("Pruner", str(sweep.pruner.get("name"))),
        ("Training", duration(sum(r.seconds for r in ranked))),
        ("Steps", number(sum(r.steps for r in ranked), 9)),
    ]
    return [(label, text) for label, text in facts if text]


def _note(sweep: Sweep) -> str:
    if not sweep.watches_its_goal:
        return f"Best first. A pruned trial was stopped by {sweep.watches.name}, and has no value."
    if len(sweep.goals) == 1:
        return "Best first. A pruned trial shows what it had reached when it was stopped."
    return "Trials that no other beats in every goal come first; among them by the first goal."


def importance(sweep: Sweep, study: Study) -> list[tuple[str, list[tuple[str, float]]]]:
    """For each goal, every parameter's share; empty where there are too few trials to tell.

    PED-ANOVA compares the best trials with all. Its tenth of them would be one or two of a sweep of a night, and what
    these happen to share would seem to matter; so at least `TOP` are taken, and never more than half.
    """
    import optuna

    found = []
    complete = len(study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,)))
    share = min(0.5, max(0.1, TOP / max(complete, 1)))
    for i, goal in enumerate(sweep.goals):
        sign = 1 if goal.direction == "minimize" else -1  # of a target of one's own, it explains the low values
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                shares = optuna.importance.get_param_importances(
                    study,
                    evaluator=optuna.importance.PedAnovaImportanceEvaluator(target_quantile=share),
                    target=lambda t, i=i, sign=sign: sign * t.values[i],  # type: ignore[misc]
                )
        except (ValueError, RuntimeError, ZeroDivisionError):
            continue
        finite = [(key, float(share)) for key, share in shares.items() if math.isfinite(share)]
        if len(study.get_trials(deepcopy=False)) >= 4 and finite:
            found.append((goal.name, finite))
    return found


def _history(sweep: Sweep, ranked: Sequence[Result]) -> Markup:
    """What each trial reached, in the order of their numbers, and the best so far."""
    goal = sweep.goals[0]
    trials = sorted((r for r in ranked if r.state == "complete"), key=lambda r: r.number)
    reached = [(float(r.number), r.values[0]) for r in trials]
    so_far: list[tuple[float, float]] = []
    for at, value in reached:
        so_far.append((at, value if not so_far or goal.better(value, so_far[-1][1]) else so_far[-1][1]))
    if len(trials) < 2:
        return Markup("")
    return line_chart(goal.name, [Series("each", "reached", reached), Series("best", "so_far", so_far)], over="trials")


def _slices(sweep: Sweep, ranked: Sequence[Result], top: Result | None) -> list[tuple[str, Markup]]:
    found = [
        (p.key, charts.slice_of(p, ranked, sweep.goals[0].name, top.number if top else -1))
        for p in sweep.space.parameters
    ]
    return [(key, chart) for key, chart in found if chart]


def _curves(sweep: Sweep, ranked: Sequence[Result], top: Result | None) -> list[tuple[str, Markup]]:
    """The goals over the steps of all trials, the best one's on top."""
    found = []
    for goal in dict.fromkeys([*sweep.goals, sweep.watches]):
        if goal.is_evaluated:
            continue
        series = []
        for result in reversed(ranked[:MAX_CURVES]):
            rows = MetricsFile(goal.file(result.run)).rows()
            logged = [(row["step"], row[goal.metric]) for row in rows if goal.metric in row]
            points = [(float(step), float(value)) for step, value in logged if math.isfinite(value)]
            if points:
                style = charts.style_of(result, top.number if top else -1)
                series.append(Series(f"trial {result.number}", style, points))
        if series and (chart := line_chart(goal.name, series)):
            found.append((goal.name, chart))
    return found


def _pictures(sweep: Sweep, ranked: Sequence[Result]) -> list[tuple[Result, list[tuple[str, str]]]]:
    """Of the best three trials, what they drew, or how they reconstruct."""
    found = []
    for result in [r for r in ranked if r.state == "complete"][:3]:
        files = [("drawings", result.run / "sheet.png")] if (result.run / "sheet.png").is_file() else []
        newest: dict[str, Path] = {}
        for stage in (result.run, *(result.run / name for name in ("tokenizer", "generator", "encoder"))):
            for file in sorted((stage / "samples").glob("*.png")):
                newest[file.stem.rpartition("-")[0] or file.stem] = file
        files += [(readable(name), file) for name, file in newest.items() if name != "codebook"]
        paths = [(name, str(file.relative_to(sweep.directory))) for name, file in files]
        if paths:
            found.append((result, paths))
    return found


def _failed(ranked: Sequence[Result]) -> list[Result]:
    return [r for r in ranked if r.state == "failed"][:MAX_FAILURES]


def _link(sweep: Sweep, result: Result) -> str:
    report = result.run / "report.html"
    return str(report.relative_to(sweep.directory)) if report.is_file() else ""


def summary(sweep: Sweep, ranked: Sequence[Result], known: Mapping[int, str], count: int = 5, width: int = 110) -> str:
    """The best trials as a plain table."""
    table = Table(box=None, pad_edge=False)
    for name in ("trial", *(goal.name for goal in sweep.goals), "time", "settings"):
        table.add_column(Text(name), justify="left" if name in ("trial", "settings") else "right")
    complete = [r for r in ranked if r.state == "complete"]
    rows = complete[:count] + [r for r in complete[count:] if r.number in known]
    for r in rows:
        settings = " ".join(sweep.settings(r.params)[len(sweep.overrides) :])
        name = f"{r.number} ({known[r.number]})" if r.number in known else str(r.number)
        cells = (name, *(number(value, 5) for value in r.values), duration(r.seconds), settings)
        table.add_row(*(Text(cell) for cell in cells))
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())
