"""comparison.html: the figures of several runs side by side, each a curve where one number tells the runs apart."""

from __future__ import annotations

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


def write_comparison(directory: Path, option: str, compared: Sequence[Compared]) -> Path:
    """Writes comparison.html.

    Args:
        option: the dotted key that tells the runs apart; "" where there is none, and then no curves are drawn.
        compared: in the order in which they are shown.
    """
    rows = []
    for name, figure in compared[0].figures.items():
        found = [one.figures.get(name) for one in compared]
        rows.append({"figure": figure, "found": found, "curve": _curve(option, name, compared) if option else ""})
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    page = environment.get_template("comparison.html").render(option=option, compared=compared, rows=rows)
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
