"""`mmgen runs prune [RUN]…`: removes runs or checkpoints, after it has shown what would go; never of one that runs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from mmgen.commands.actions import PruneRuns, only
from mmgen.commands.help import table
from mmgen.commands.runs import age, state_text
from mmgen.errors import ConfigError, RunLockedError, quoted
from mmgen.files import remove, size
from mmgen.runs.directory import RunDirectory
from mmgen.runs.listing import UNREADABLE, Run, list_runs, open_run

_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_STEP = re.compile(r"step-\d+")


@dataclass
class Doomed:
    """What goes of a run: its directory, or some checkpoints."""

    run: Run
    paths: list[Path]
    bytes: int


def prune(options: PruneRuns, words: list[str]) -> int:
    """Shows, and with `yes` removes; gives the exit code."""
    if not words and options.state is None and options.older_than is None and not options.checkpoints:
        raise ConfigError(
            "which runs?",
            code="MMG-C05",
            where="command line",
            fix="mmgen runs prune RUN…, or state=failed, older_than=30d, checkpoints=true",
        )
    only(words, 0, None, "mmgen runs prune [RUN]…")
    every = list_runs(options.dir)
    chosen = [run for run in _chosen(words, every) if _matches(run, options)]
    if not words:
        chosen = [run for run in chosen if run.state != UNREADABLE]  # of which nothing is known: it has to be named
    running = [run for run in chosen if run.state == "running"]
    chosen = [run for run in chosen if run.state != "running"]
    needed = {} if options.checkpoints else _needed(chosen, every)
    spared = [run for run in chosen if needed.get(run.path.resolve()) and not words]
    doomed = [one for run in chosen if run not in spared and (one := _doomed(run, options.checkpoints)).paths]
    for run in running:
        print(f"kept: {run.path} is running")
    for run in spared:
        print(f"kept: {run.path}: {needed[run.path.resolve()]} was trained with its parts; name it to remove it")
    if not doomed:
        print("nothing to remove")
        return 0
    print("\n".join(table([_row(one, needed.get(one.run.path.resolve(), "")) for one in doomed])))
    total = size(sum(one.bytes for one in doomed))
    if not options.yes:
        print(f"{total} would be removed; the same with yes=true removes it")
        return 0
    for one in doomed:
        _remove(one, options.checkpoints)
    print(f"{total} removed")
    return 0


def _chosen(words: Sequence[str], every: list[Run]) -> list[Run]:
    """The named runs; without names all."""
    found = [open_run(word) for word in words] if words else every
    for run in found:
        if run.path.resolve() in (Path.cwd(), *Path.cwd().parents):
            text = f"{quoted(str(run.path))} holds the working directory"
            raise ConfigError(text, code="MMG-C07", where="command line", fix="cd ..")
    return list({run.path.resolve(): run for run in found}.values())


def _matches(run: Run, options: PruneRuns) -> bool:
    if options.state is not None and run.state not in (options.state, "running"):
        return False
    if options.older_than is None:
        return True
    return run.updated is not None and datetime.now(UTC) - run.updated > _span(options.older_than)


def _span(text: str) -> timedelta:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([mhdw])", text)
    if match is None:
        raise ConfigError(
            f"older_than must be a number and one of m, h, d, w, got {quoted(text)}",
            code="MMG-C02",
            where="older_than",
            fix="older_than=30d",
        )
    return timedelta(**{_UNITS[match[2]]: float(match[1])})


def _needed(chosen: Sequence[Run], every: Sequence[Run]) -> dict[Path, str]:
    """Of the runs that are to go, those whose parts another run was trained with, which stays: by path, its name."""
    going = {run.path.resolve() for run in chosen}
    found: dict[Path, str] = {}
    for run in every:
        if run.path.resolve() in going:
            continue
        for key in ("tokenizer_from", "generator_from", "encoder_from", "init_from"):
            source = run.config.get(key)
            if isinstance(source, str):
                place = Path(str(run.origin.get("directory") or "."), source).resolve()
                for path in going & {place, *place.parents}:
                    found.setdefault(path, str(run.path))
    return found


def _doomed(run: Run, checkpoints: bool) -> Doomed:
    paths = list(_older_checkpoints(run)) if checkpoints else [run.path]
    return Doomed(run, paths, sum(_bytes(path) for path in paths))


def _older_checkpoints(run: Run) -> Iterator[Path]:
    """Of each training, the checkpoints but the last that is whole."""
    for folder in dict.fromkeys(stage.path / "checkpoints" for stage in run.stages):
        steps = sorted(path for path in folder.glob("step-*") if _STEP.fullmatch(path.name)) if folder.is_dir() else []
        steps.sort(key=lambda path: int(path.name.removeprefix("step-")))
        whole = [path for path in steps if (path / "manifest.json").is_file()]
        yield from (path for path in steps if path not in whole[-1:])


def _bytes(path: Path) -> int:
    return sum((Path(folder) / name).lstat().st_size for folder, _, names in os.walk(path) for name in names)


def _row(one: Doomed, needed: str) -> tuple[str, ...]:
    what = "" if one.paths == [one.run.path] else f"{len(one.paths)} checkpoints"
    note = f"{needed} was trained with its parts" if needed else ""
    return str(one.run.path), state_text(one.run), age(one.run), size(one.bytes), what, note


def _remove(one: Doomed, checkpoints: bool) -> None:
    """Removes it while holding its lock, so that nobody can begin to go on with it; one that has begun is kept."""
    with ExitStack() as stack:
        try:
            stack.enter_context(RunDirectory(one.run.path).lock())
        except RunLockedError:
            print(f"kept: {one.run.path} is running")
            return
        for path in one.paths:
            if one.run.path.is_symlink() and not checkpoints:
                one.run.path.unlink()
            else:
                remove(path)
