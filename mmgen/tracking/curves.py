"""What a stage's training looked like, for the report: charts, a tokenizer's codebook, a generator's attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from mmgen.tracking.charts import Series, line_chart, number
from mmgen.tracking.run_files import RunFiles, Stage, readable

MEASURES_FIRST = (
    "loss", "psnr", "ssim", "accuracy", "codebook_usage", "codebook_perplexity", "epoch_codebook_usage",
    "epoch_codebook_perplexity", "epoch_dead_codes", "tau", "kl", "kl_weight", "logit_scale", "lr", "grad_norm",
)  # fmt: skip


@dataclass(frozen=True)
class Curve:
    """One small chart with its legend: (name, style, last value)."""

    title: str
    chart: Markup
    legend: list[tuple[str, str, str]]


def stage_curves(stage: Stage) -> list[Curve]:
    """A stage's charts: a measure of training and of validation share one; the loss comes first."""
    nouns: dict[str, list[str]] = {}
    for name in stage.metrics():
        if name.startswith("grad_norm/"):
            continue  # one for each module: for whoever looks into them, and too many here
        nouns.setdefault(name.rpartition("/")[2], []).append(name)
    order = {noun: place for place, noun in enumerate(MEASURES_FIRST)}
    last_step = max((float(row["step"]) for row in stage.rows), default=0.0)
    curves = []
    for noun in sorted(nouns, key=lambda noun: (order.get(noun, len(order)), not noun.endswith("loss"))):
        series = []
        for name in nouns[noun]:
            split = name.rpartition("/")[0]
            if points := stage.metric(name):
                series.append(Series(split or noun, "val" if split.startswith("val") else "train", points))
        if chart := line_chart(readable(noun), series, last_step):
            legend = [(one.name, one.style, number(one.last)) for one in series]
            curves.append(Curve(readable(noun), chart, legend))
    return curves


def codebook_of(run: RunFiles, stage: Stage) -> dict[str, Any] | None:
    """The histogram of an image tokenizer's codes, with what its last whole pass over the pictures used."""
    if (picture := stage.picture("codebook")) is None:
        return None
    found: dict[str, Any] = {"picture": str(picture.relative_to(run.directory))}
    for name in ("codebook_usage", "codebook_perplexity", "dead_codes"):
        points = stage.metric(f"train/epoch_{name}")
        found[name] = points[-1][1] if points else None
    return found


def attention_of(run: RunFiles, stage: Stage) -> str | None:
    """The newest picture of a generator's attention, where `tracking.attention` asked for it."""
    picture = stage.picture("attention")
    return None if picture is None else str(picture.relative_to(run.directory))
