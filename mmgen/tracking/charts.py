"""Training curves and bars as inline SVG: no script, no font, colours from the page's stylesheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 48, 10, 12, 26
BINS = 120  # points a line is drawn with, however many were logged
LOG_RATIO = 50  # a positive measure that spans more than this is drawn on a logarithmic axis

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """One line: its name, the class that colours it, and (step, value) in the order of the steps."""

    name: str
    style: str
    points: Points

    @property
    def last(self) -> float:
        return self.points[-1][1]


def number(value: float | None, digits: int = 3) -> str:
    """A number as people write it: three digits that matter, thousands separated, nothing for what is no number."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if size >= 10 ** (digits - 1) or (value == int(value) and size < 1e15):
        return f"{value:,.0f}"
    if 0 < size < 1e-3:
        return f"{value:.1e}".replace("e-0", "e-").replace(".0e", "e")
    return f"{value:.{max(digits - 1 - math.floor(math.log10(size)), 0)}f}"


def binned(points: Points, bins: int = BINS) -> list[tuple[float, float, float, float]]:
    """(step, mean, least, greatest) of at most `bins` stretches of a line; what is not finite is left out."""
    points = [(x, y) for x, y in points if math.isfinite(y)]
    if len(points) <= bins:
        return [(x, y, y, y) for x, y in points]
    first, last = points[0][0], points[-1][0]
    width = (last - first) / bins or 1.0
    stretches: dict[int, Points] = {}
    for x, y in points:
        stretches.setdefault(min(int((x - first) / width), bins - 1), []).append((x, y))
    found = []
    for stretch in stretches.values():
        ys = [y for _, y in stretch]
        found.append((sum(x for x, _ in stretch) / len(stretch), sum(ys) / len(ys), min(ys), max(ys)))
    return found


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers inside [low, high], about `count`."""
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next((factor * power for factor in (1, 2, 2.5, 5) if factor * power >= rough * 0.999), 10 * power)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


class Axis:
    """One axis: from values to pixels, linear or logarithmic."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, may_be_log: bool = False) -> None:
        low, high = min(values), max(values)
        self.log = may_be_log and low > 0 and high / low > LOG_RATIO
        if not high > low:
            low, high = low - (abs(low) * 0.1 or 1.0), high + (abs(high) * 0.1 or 1.0)
        self.low, self.high, self._start, self._end = low, high, start, end

    def place(self, value: float) -> float:
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self._start + share * (self._end - self._start), 1)

    def ticks(self) -> list[float]:
        if not self.log:
            return ticks(self.low, self.high)
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        factors = (1, 3) if len(powers) <= 3 else (1,)
        inside = [factor * 10.0**power for power in powers for factor in factors]
        return [value for value in inside if self.low <= value <= self.high]


def line_chart(
    title: str, series: Sequence[Series], last_step: float | None = None, over: str = "training steps"
) -> Markup:
    """A chart of one or more lines over training steps, or another number; a faint band shows what was averaged away.

    Args:
        title: what is drawn, for who cannot see it.
        series: those with no finite point are left out; with none left the chart is empty markup.
        last_step: where the axis ends, so that charts of one stage can be compared.
        over: what the axis counts.
    """
    lines = [(one, binned(one.points)) for one in series]
    lines = [(one, points) for one, points in lines if points]
    if not lines:
        return Markup("")
    steps = [x for _, points in lines for x, *_ in points]
    values = [value for _, points in lines for _, _, low, high in points for value in (low, high)]
    x = Axis([0.0, max([*steps, last_step or 0])], LEFT, WIDTH - RIGHT)
    y = Axis(values, HEIGHT - BOTTOM, TOP, may_be_log=True)
    parts = [_grid(x, y)]
    for one, points in lines:
        parts.append(_line(one, points, x, y))
    ends = "; ".join(f"{one.name} ends at {number(one.last)}" for one, _ in lines)
    scale = ", logarithmic scale" if y.log else ""
    head = (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(f"{title} over {over}{scale}: {ends}")}">'
    )
    return Markup(head + "".join(parts) + "</svg>")  # noqa: S704 - every text inside went through escape


def _grid(x: Axis, y: Axis) -> str:
    parts = []
    for value in y.ticks():
        at = y.place(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4}" text-anchor="end">{_tick(value)}</text>')
    for value in x.ticks():
        at = x.place(value)
        anchor = "end" if at > WIDTH - RIGHT - 8 else "middle"
        parts.append(f'<text x="{at}" y="{HEIGHT - 8}" text-anchor="{anchor}">{_tick(value)}</text>')
    return "".join(parts)


def _tick(value: float) -> str:
    """A round number as shortly as it goes."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}".replace("e-0", "e-")


def _line(one: Series, points: list[tuple[float, float, float, float]], x: Axis, y: Axis) -> str:
    style = escape(one.style)
    parts = []
    if any(high > low for _, _, low, high in points):
        upper = [f"{x.place(at)},{y.place(high)}" for at, _, _, high in points]
        lower = [f"{x.place(at)},{y.place(low)}" for at, _, low, _ in reversed(points)]
        parts.append(f'<polygon class="band {style}" points="{" ".join(upper + lower)}"/>')
    path = " ".join(f"{x.place(at)},{y.place(mean)}" for at, mean, _, _ in points)
    if len(points) > 1:
        parts.append(f'<polyline class="line {style}" points="{path}"/>')
    if len(points) <= 25:  # few enough to be single measurements
        parts += [
            f'<circle class="dot {style}" cx="{x.place(at)}" cy="{y.place(mean)}" r="2.5"/>'
            for at, mean, _, _ in points
        ]
    return "".join(parts)


def share_bar(share: float, chance: float | None = None, interval: tuple[float, float] | None = None) -> Markup:
    """A bar of a share in [0,1] with a tick at chance and a whisker; decoration, the numbers stand beside it."""

    def at(value: float) -> float:
        return round(min(max(value, 0.0), 1.0) * 100, 2)

    parts = [
        '<rect class="track" x="0" y="3" width="100" height="8" rx="1"/>',
        f'<rect class="fill" x="0" y="3" width="{at(share)}" height="8" rx="1"/>',
    ]
    if interval:
        low, high = at(interval[0]), at(interval[1])
        parts.append(f'<line class="whisker" x1="{low}" x2="{high}" y1="7" y2="7"/>')
    if chance is not None:
        parts.append(f'<line class="chance" x1="{at(chance)}" x2="{at(chance)}" y1="0" y2="14"/>')
    head = '<svg class="bar" viewBox="0 0 100 14" preserveAspectRatio="none" aria-hidden="true">'
    return Markup(head + "".join(parts) + "</svg>")  # noqa: S704 - numbers only
