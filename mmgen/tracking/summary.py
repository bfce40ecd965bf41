"""The figures of a run in the terminal: each beside its chance and its interval."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmgen.tracking.run_files import Figure, items, read_run


def summary(run_dir: str | Path, width: int = 100) -> str:
    """The figures of a run as a plain table, and which evaluators stood aside or failed, and why. Where a run says what
    some of them should reach, these alone, and whether they do.

    Args:
        run_dir: of `mmgen run`. Without an evaluation the text is empty.
        width: of the terminal, in characters.
    """
    run = read_run(Path(run_dir))
    figures = [figure for evaluation in run.evaluations for figure in evaluation.figures]
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, highlight=False, markup=False, emoji=False)
    wanted = [figure for figure in figures if figure.told_first]
    if figures:
        console.print(_table(wanted or figures))
    if wanted and len(figures) > len(wanted):
        console.print(f"{len(figures) - len(wanted)} more figures are in the report")
    for name in items(run.evidence.get("wanted_and_not_found")):
        console.print(_plain(f"wanted, and found by no evaluator: {name}"))
    for evaluation in run.evaluations:
        if evaluation.stood_aside:
            console.print(_plain(f"{evaluation.name} stood aside: {evaluation.stood_aside}"))
        if evaluation.failed:
            console.print(_plain(f"{evaluation.name} failed: {evaluation.failed}"))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _table(figures: list[Figure]) -> Table:
    goals = any(figure.told_first for figure in figures)
    names = ["what", "value", "95 % interval", "n", "chance", *(["wanted", ""] if goals else []), "note"]
    table = Table(*names, box=None, pad_edge=False)
    for column in table.columns[:-1]:
        column.no_wrap = True
    for column in table.columns[1:-1]:
        column.justify = "right"
    for figure in figures:
        chance = "" if figure.chance is None else figure.shown(figure.chance)
        cells = [figure.name, figure.shown(figure.value), figure.shown_interval, f"{figure.n:,}", chance]
        if goals:
            reached = "" if figure.wanted is None else "reached" if figure.reached else "missed"
            cells += ["" if figure.wanted is None else f"≥ {figure.shown(figure.wanted)}", reached]
        table.add_row(*(_plain(cell) for cell in (*cells, figure.note)))
    return table


def _plain(text: str) -> Text:
    """Text from data: no control characters reach the terminal."""
    return Text("".join(character if character.isprintable() else " " for character in text))
