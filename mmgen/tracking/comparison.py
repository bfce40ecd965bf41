"""comparison.html: the figures of several runs side by side, each a curve where one number tells the runs apart."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from mmgen.files import write_atomic
from mmgen.tracking.charts import Series, line_chart
from mmgen.tracking.run_files import Evaluation, Figure


@dataclass
class Compared:
    """A run, what was found about it, and the value of the option that tells it from the others; None: it has none."""

    run: str
    evaluations: Sequence[Evaluation]
    value: Any = None

    @property
    def label(self) -> str:
        return self.run if self.value is None else str(self.value)

    @property
    def figures(self) -> dict[str, Figure]:
        """By name."""
        return {figure.name: figure for evaluation in self.evaluations for figure in evaluation.figures}

    def plain(self) -> dict[str, Any]:
        """As JSON can hold it."""
        figures = [
            {"name": f.name, "value": f.value, "n": f.n, "interval": f.interval, "chance": f.chance}
            for f in self.figures.values()
        ]
        return {"run": self.run, "value": self.value, "figures": figures}


@dataclass(frozen=True)
class Spread:
    """A figure over trainings that differ in their seed alone."""

    figure: Figure
    mean: float
    deviation: float  # of single trainings, with n - 1
    seeds: int

    @property
    def shown(self) -> str:
        """ "54.0 % ± 5.6 %"."""
        return f"{self.figure.shown(self.mean)} ± {self.figure.shown(self.deviation)}"

    def plain(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"name": self.figure.name, "mean": self.mean, "deviation": self.deviation, "seeds": self.seeds}


def spreads(option: str, compared: Sequence[Compared]) -> dict[str, Spread]:
    """By name, of the figures that every run of another seed has; none where another option tells the runs apart."""
    runs = [one for one in compared if one.value is not None]
    if option != "seed" or len(runs) < 2:
        return {}
    found = {}
    for name, figure in runs[0].figures.items():
        values = [one.figures[name].value for one in runs if name in one.figures]
        known = [value for value in values if value is not None]
        if len(known) == len(runs):
            found[name] = Spread(figure, statistics.fmean(known), statistics.stdev(known), len(runs))
    return found


def write_comparison(directory: Path, option: str, compared: Sequence[Compared]) -> Path:
    """Writes comparison.html.

    Args:
        option: the dotted key that tells the runs apart; "" where there is none, and then no curves are drawn.
        compared: in the order in which they are shown.
    """
    rows, spread = [], spreads(option, compared)
    drawn = option and not spread  # no figure is a function of the seed
    for name, figure in compared[0].figures.items():
        found = [one.figures.get(name) for one in compared]
        curve = _curve(option, name, compared) if drawn else ""
        rows.append({"figure": figure, "found": found, "spread": spread.get(name), "curve": curve})
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    template = environment.get_template("comparison.html")
    page = template.render(option=option, compared=compared, rows=rows, spread=bool(spread), drawn=drawn)
    path = directory / "comparison.html"
    write_atomic(path, page.encode("utf-8", errors="replace"))
    return path


def _curve(option: str, name: str, compared: Sequence[Compared]) -> str:
    points = []
    for one in compared:
        figure = one.figures.get(name)
        if figure is not None and figure.value is not None and one.value is not None:
            points.append((float(one.value), figure.value * (100 if figure.is_share else 1)))
    return line_chart(name, [Series(name, "train", points)], over=option) if len(points) > 1 else ""
