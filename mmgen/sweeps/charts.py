"""A sweep's pictures as inline SVG: parallel coordinates and slices. No script; colours from the page's stylesheet."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup, escape

from mmgen.sweeps.results import Result
from mmgen.sweeps.space import Parameter, Value
from mmgen.tracking.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, number

WIDE, TALL = 1080, 320
MAX_LINES = 400  # trials in one picture


class Scale:
    """Where the values of a parameter stand on an axis: choices at equal distances, numbers by their size."""

    def __init__(self, parameter: Parameter, start: float, end: float) -> None:
        self.parameter, self._start, self._end = parameter, start, end

    def place(self, value: Value) -> float:
        """The pixel of a value."""
        p = self.parameter
        if p.choices:
            share = (p.choices.index(value) + 0.5) / len(p.choices)
        elif p.high == p.low:
            share = 0.5
        else:
            x, low, high = float(value or 0), float(p.low), float(p.high)
            share = math.log(x / low) / math.log(high / low) if p.log else (x - low) / (high - low)
        return round(self._start + share * (self._end - self._start), 1)

    def marks(self) -> list[tuple[float, str]]:
        """What is written at the axis: the choices, or a few numbers."""
        p = self.parameter
        if p.choices:
            return [(self.place(choice), short(choice)) for choice in p.choices]
        if p.log:
            powers = range(math.ceil(math.log10(p.low) - 1e-9), math.floor(math.log10(p.high) + 1e-9) + 1)
            values: list[float] = [10.0**power for power in powers]
            if len(values) < 2:
                values = [p.low, p.high]
        else:
            values = list(dict.fromkeys((p.low, (p.low + p.high) / 2, p.high)))
            if p.whole:
                values = list(dict.fromkeys((p.low, round(values[len(values) // 2]), p.high)))
        return [(self.place(value), _brief(value)) for value in values]


def _brief(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}".replace("e-0", "e-")


def short(value: Value) -> str:
    """A value in a few characters."""
    text = {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else (
        value if isinstance(value, str) else number(float(value), 4)
    )  # fmt: skip
    return text if len(text) <= 14 else text[:13] + "…"


def style_of(result: Result, top: int) -> str:
    """The class that colours a trial."""
    return "best" if result.number == top else "front" if result.on_front else result.state


def parallel(parameters: Sequence[Parameter], ranked: Sequence[Result], goal: str, top: int) -> Markup:
    """One line a trial, through its value on every parameter's axis to what it reached; below the axis of a parameter
    that does not exist in it."""
    trials = [r for r in ranked if r.values and math.isfinite(r.values[0])][:MAX_LINES]
    if len(trials) < 2 or not parameters:
        return Markup("")
    left, right, top_edge, bottom = 60, 70, 34, 40
    below = TALL - 14
    step = (WIDE - left - right) / len(parameters)
    scales = [Scale(p, TALL - bottom, top_edge) for p in parameters]
    end = Axis([r.values[0] for r in trials], TALL - bottom, top_edge)
    parts = []
    for i, scale in enumerate(scales):
        x = round(left + i * step, 1)
        parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="{top_edge}" y2="{TALL - bottom}"/>')
        name, y = escape(_last(scale.parameter.key)), 14 if i % 2 == 0 else 26
        parts.append(f'<text class="name" x="{x}" y="{y}" text-anchor="middle">{name}</text>')
        for at, mark in [*scale.marks(), *([(below, "–")] if scale.parameter.when else [])]:
            parts.append(f'<text x="{x - 5}" y="{at + 4}" text-anchor="end">{escape(mark)}</text>')
    x = round(left + len(scales) * step, 1)
    parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="{top_edge}" y2="{TALL - bottom}"/>')
    parts.append(f'<text class="name" x="{x}" y="14" text-anchor="middle">{escape(goal)}</text>')
    parts += [f'<text x="{x + 6}" y="{end.place(v) + 4}">{escape(number(v))}</text>' for v in end.ticks()]
    for result in sorted(trials, key=lambda r: (style_of(r, top) == "best", r.on_front, r.state == "complete")):
        points = []
        for i, scale in enumerate(scales):
            exists = scale.parameter.key in result.params
            at = scale.place(result.params[scale.parameter.key]) if exists else below
            points.append(f"{left + i * step:.1f},{at}")
        points.append(f"{x},{end.place(result.values[0])}")
        title = f"<title>{escape(_title(result, goal))}</title>"
        line = f'<polyline class="trial {style_of(result, top)}" points="{" ".join(points)}">{title}</polyline>'
        parts.append(line)
    about = f"parallel coordinates: {len(trials)} trials through {len(scales)} parameters to {goal}"
    return _svg("parallel", WIDE, TALL, about, parts)


def slice_of(parameter: Parameter, ranked: Sequence[Result], goal: str, top: int) -> Markup:
    """What was reached at each value of one parameter: a dot a trial."""
    trials = [r for r in ranked if r.values and math.isfinite(r.values[0]) and parameter.key in r.params]
    if len(trials) < 2:
        return Markup("")
    scale = Scale(parameter, LEFT + 6, WIDTH - RIGHT - 6)
    y = Axis([r.values[0] for r in trials], HEIGHT - BOTTOM, TOP, may_be_log=True)
    parts = []
    for value in y.ticks():
        at = y.place(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4}" text-anchor="end">{escape(number(value))}</text>')
    for at, mark in scale.marks():
        parts.append(f'<text x="{at}" y="{HEIGHT - 8}" text-anchor="middle">{escape(mark)}</text>')
    for result in sorted(trials, key=lambda r: (style_of(r, top) == "best", r.state == "complete")):
        x, size = scale.place(result.params[parameter.key]), 4.5 if result.number == top else 3
        title = f"<title>{escape(_title(result, goal))}</title>"
        dot = f'cx="{x}" cy="{y.place(result.values[0])}" r="{size}"'
        parts.append(f'<circle class="mark {style_of(result, top)}" {dot}>{title}</circle>')
    return _svg("chart", WIDTH, HEIGHT, f"{goal} at each value of {parameter.key}", parts)


def _title(result: Result, goal: str) -> str:
    return f"trial {result.number} ({result.state}): {goal} {number(result.values[0], 4)}"


def _last(key: str) -> str:
    """The end of a dotted key that tells it from others."""
    parts = key.split(".")
    return ".".join(parts[-2:]) if len(parts) > 2 else key


def _svg(kind: str, width: int, height: int, about: str, parts: Sequence[str]) -> Markup:
    head = f'<svg class="chart {kind}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(about)}">'
    return Markup(head + "".join(parts) + "</svg>")  # noqa: S704 - every text inside went through escape
