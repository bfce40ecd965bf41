"""`mmgen runs list | show | compare | open | prune | replay`: the runs on this machine."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mmgen.commands.actions import (
    ACTIONS,
    CompareRuns,
    ListRuns,
    NoOptions,
    OpenRun,
    PruneRuns,
    ShowRun,
    action_of,
    only,
    read_options,
)
from mmgen.commands.help import table
from mmgen.errors import ConfigError
from mmgen.runs.config import differences
from mmgen.runs.directory import MAY_DIFFER
from mmgen.runs.listing import Run, Stage, flat_texts, list_runs, open_run, peculiar
from mmgen.tracking.charts import number
from mmgen.tracking.run_files import Figure, duration, finite, part_of

SHOWN = 3  # config keys of a run in the list
FIGURES = ("val/loss", "val/psnr", "val/accuracy")  # of a training, in this order, where there is no evaluation


def main(words: list[str], overrides: list[str], config_dir: Path | None = None) -> int:
    """Does what the first word says; gives the exit code."""
    action, rest = action_of("runs", words)
    options: Any = read_options(ACTIONS["runs"][action], overrides)
    actions: dict[str, Callable[[Any, list[str]], int]] = {
        "list": _list,
        "show": _show,
        "compare": _compare,
        "open": _open,
        "prune": _prune,
        "replay": _replay,
    }
    return actions[action](options, rest)


def _list(options: ListRuns, words: list[str]) -> int:
    only(words, 0, 1, "mmgen runs list [DIRECTORY]")
    directory = words[0] if words else options.dir
    runs = [run for run in list_runs(directory) if options.state in (None, run.state)]
    runs = runs[: options.limit]
    if not runs:
        print(f"no {options.state or ''} runs under {directory}/".replace("  ", " "))
        return 0
    kinds = {command: [run for run in runs if run.command == command] for command in ("run", "train")}
    own = {
        id(run): keys
        for same in kinds.values()
        for run, keys in zip(same, peculiar([run.config for run in same]), strict=True)
    }
    rows: list[tuple[Any, ...]] = [("run", "state", "age", "training", "pictures", "figures", "config")]
    for run in runs:
        figures = "  ".join(f"{name} {value}" for name, value in headline(run).items())
        count = run.count_pictures()
        cells = (_below(run.path, directory), state_text(run), age(run), _seconds(run), count or "–", figures or "–")
        rows.append((*cells, _keys(own[id(run)])))
    print("\n".join(table(rows)))
    if options.html:
        page = importlib.import_module("mmgen.tracking.side_by_side")  # torch, for the pictures
        listed = [(run, state_text(run), age(run), headline(run), own[id(run)]) for run in runs]
        print(f"page: {page.write_listing(Path(options.html), listed)}", file=sys.stderr)
    return 0


def _below(path: Path, directory: str) -> str:
    return str(path.relative_to(directory)) if path != Path(directory) else str(path)


def _keys(keys: Mapping[str, str]) -> str:
    shown = [f"{key}={value}" for key, value in list(keys.items())[:SHOWN]]
    return " ".join(shown) + (f" … {len(keys) - SHOWN} more" if len(keys) > SHOWN else "")


def _seconds(run: Run) -> str:
    return duration(run.seconds) if run.seconds else "–"


def age(run: Run) -> str:
    """How long ago the run was last heard of: 5 min, 3 h, 12 d."""
    if run.updated is None:
        return "–"
    seconds = max(0.0, (datetime.now(UTC) - run.updated).total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def state_text(run: Run) -> str:
    """The state, and where it is or was left."""
    stage = run.current
    if run.state == "finished" or stage is None:
        evaluates = run.state in ("running", "interrupted") and run.status.stage == "evaluation"
        return f"{run.state}, evaluation" if evaluates else run.state
    return f"{run.state}, {stage.name} {stage.status.step}/{stage.status.max_steps}"


def headline(run: Run, validation: bool = False) -> dict[str, str]:
    """The figures that tell most: each evaluator's first; before an evaluation, or if that is asked for, each stage's
    last validation too."""
    figures = [
        Figure(name, finite(found.get("value")), int(finite(found.get("n")) or 0), str(found.get("unit") or ""))
        for name, found in run.figures.items()
    ]
    found = {figure.name: figure.shown(figure.value) for figure in figures}
    for stage in run.stages if validation or not figures else []:
        numbers = stage.last
        names = [name for name in FIGURES if name in numbers] or [name for name in numbers if name.endswith("/loss")]
        prefix = f"{stage.name} " if len(run.stages) > 1 else ""
        found |= {f"{prefix}{name}": number(numbers[name], 4) for name in names[: 1 if prefix else 2]}
    return found


def _show(options: ShowRun, words: list[str]) -> int:
    only(words, 1, 1, "mmgen runs show RUN")
    run = open_run(words[0])
    lines = [f"{run.path}: {state_text(run)}"]
    if run.holder:
        lines.append(f"  in use by pid {run.holder.get('pid', '?')} on {run.holder.get('host', '?')}")
    facts = [("made by", f"mmgen {run.command}"), ("started", run.status.started), ("last heard of", f"{age(run)} ago")]
    facts += _origin_facts(run.origin)
    lines += ["", *table([(f"  {label}", text) for label, text in facts if text])]
    rows = [(f"  {one.name}", one.status.state, _steps(one), duration(one.status.seconds)) for one in run.stages]
    lines += ["", *table([("  stage", "state", "steps", "training"), *rows])]
    if figures := headline(run):
        lines += ["", *table([(f"  {name}", value) for name, value in figures.items()])]
    pictures = run.pictures()
    if pictures:
        lines += ["", f"  pictures: {pictures[0]}" + (f" and {len(pictures) - 1} more" if len(pictures) > 1 else "")]
    if (run.path / "report.html").is_file():
        lines.append(f"  report: {run.path / 'report.html'}")
    if options.against is not None:
        other = open_run(options.against)
        lines += ["", f"  config, {other.path} → {run.path}:"]
        changed = differences(other.config, run.config, MAY_DIFFER)
        lines += [f"    {key}: {old} → {new}" for key, old, new in changed] or ["    the same"]
    if run.state in ("interrupted", "failed") and run.command == "run":
        lines += ["", f"  the same command with run.name={run.name} goes on with it"]
    print("\n".join(lines))
    return 0


def _steps(stage: Stage) -> str:
    status = stage.status
    text = f"{status.step}/{status.max_steps}"
    if status.state == "running" and 0 < status.step < status.max_steps and status.seconds:
        text += f", {duration(status.seconds / status.step * (status.max_steps - status.step))} left"
    return text


def _origin_facts(origin: Mapping[str, Any]) -> list[tuple[str, str]]:
    sessions = origin.get("sessions")
    if not isinstance(sessions, list) or not sessions or not isinstance(sessions[-1], dict):
        return []
    last = sessions[-1]
    code, machine, data = (part_of(*where) for where in ((last, "code"), (last, "machine"), (origin, "data")))
    commit = f", commit {str(code['commit'])[:12]}" if code.get("commit") else ""
    changed = " with changes" if code.get("changes") else ""
    more = f" (of {len(sessions)} starts that differ)" if len(sessions) > 1 else ""
    return [
        ("code", f"mmgen {code.get('mmgen', '?')}{commit}{changed}{more}"),
        ("data", f"{data.get('name', '?')}, {data.get('size', '?')} samples, {data.get('fingerprint', '?')}"),
        ("machine", f"{machine.get('processor', '?')}, {machine.get('threads', '?')} threads"),
    ]


def _compare(options: CompareRuns, words: list[str]) -> int:
    only(words, 2, None, "mmgen runs compare RUN RUN…")
    runs = [open_run(word) for word in words]
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise ConfigError("a run is named twice", code="MMG-C39", where="command line", fix="name each run once")
    keys = peculiar_keys(runs)
    figures = [headline(run, validation=True) for run in runs]
    names = list(dict.fromkeys(name for one in figures for name in one))
    rows: list[tuple[Any, ...]] = [("", *(_short(run, runs) for run in runs))]
    rows += [("state", *(state_text(run) for run in runs)), ("training", *(_seconds(run) for run in runs))]
    rows += [(name, *(one.get(name, "–") for one in figures)) for name in names]
    rows += [(key, *values) for key, values in keys.items()]
    print("\n".join(table(rows)))
    page = importlib.import_module("mmgen.tracking.side_by_side")  # torch, for the pictures
    source = importlib.import_module("mmgen.commands.source")
    if options.out is not None:
        source.refuse_in_use(options.out)
        out = Path(options.out)
        out.parent.mkdir(parents=True, exist_ok=True)
    else:
        out = source.fresh_directory(None, "comparisons", "runs") / "comparison.html"
    shown = [(_short(run, runs), state_text(run), run) for run in runs]
    print(f"page: {page.write_side_by_side(out, shown, keys)}")
    return 0


def _short(run: Run, runs: Sequence[Run]) -> str:
    """A run's name, or its path where two have one name."""
    return run.name if [one.name for one in runs].count(run.name) == 1 else str(run.path)


def peculiar_keys(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The config keys that differ between runs, each with every run's value as text."""
    flats = [flat_texts(run.config, MAY_DIFFER) for run in runs]
    keys = dict.fromkeys(key for one in flats for key in one)
    return {key: values for key in keys if len(set(values := [one.get(key, "–") for one in flats])) > 1}


def _open(options: OpenRun, words: list[str]) -> int:
    return int(importlib.import_module("mmgen.commands.opening").open_report(options, words))


def _prune(options: PruneRuns, words: list[str]) -> int:
    return int(importlib.import_module("mmgen.commands.pruning").prune(options, words))


def _replay(options: NoOptions, words: list[str]) -> int:
    return int(importlib.import_module("mmgen.commands.replaying").replay(words))
