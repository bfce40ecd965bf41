"""What a run's directory holds, read for people: the report and the summary. Nothing here raises for a missing file."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmgen.errors import MmgenError
from mmgen.runs.directory import RunDirectory
from mmgen.runs.listing import stages_of
from mmgen.runs.metrics import MetricsFile
from mmgen.runs.redaction import redacted

PARTS = ("tokenizer", "generator", "encoder")
PART_NAMES = {"tokenizer": "image tokenizer", "generator": "generator", "encoder": "encoder"}
IN_WORDS = {"lr": "learning rate", "grad_norm": "gradient norm", "heldout": "held-out", "kmeans": "k-means"}
IN_WORDS |= {f"r{cut}": f"R@{cut}" for cut in (1, 5, 10)}
# Shares of codes, and means over shares, not of pictures: they have no such interval.
NOT_OF_CASES = ("codebook_usage", "stable_codes", "mean_per_class", "mean_corrupted")
UPPER_CASE = {"psnr", "ssim", "fid", "ema", "kl", "bpe", "id", "clip", "vq"}


@dataclass
class Stage:
    """One training: of a run of several, or the only one."""

    name: str
    directory: Path
    status: dict[str, Any]
    rows: list[dict[str, Any]]

    @property
    def seconds(self) -> float:
        return finite(self.status.get("seconds")) or 0.0

    @property
    def step(self) -> float | None:
        return finite(self.status.get("step"))

    @property
    def max_steps(self) -> float | None:
        return finite(self.status.get("max_steps"))

    def metric(self, name: str) -> list[tuple[float, float]]:
        """(step, value) of a metric; the last value of a step counts."""
        found = {row["step"]: row[name] for row in self.rows if finite(row.get(name)) is not None}
        return sorted((float(step), float(value)) for step, value in found.items())

    def picture(self, name: str) -> Path | None:
        """The newest of the pictures logged under a name, as `RunLogger.log_picture` writes them."""
        return max((self.directory / "samples").glob(f"{name}-*.png"), key=lambda path: path.stem, default=None)

    def metrics(self) -> list[str]:
        """The names logged, in the order of their first row."""
        return list(dict.fromkeys(name for row in self.rows for name in row if name not in ("step", "time")))


@dataclass
class Figure:
    """One number of an evaluator, as `mmgen.protocols.Finding` describes it."""

    name: str
    value: float | None
    n: int
    unit: str = ""
    chance: float | None = None
    note: str = ""
    wanted: float | None = None
    told_first: bool = False

    @property
    def reached(self) -> bool:
        """Whether it is as large as it should be."""
        return self.wanted is not None and self.value is not None and self.value >= self.wanted

    @property
    def is_share(self) -> bool:
        return self.unit == "%"

    @property
    def label(self) -> str:
        return readable(self.name.rpartition("/")[2])

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of a share of n cases."""
        if not self.is_share or self.value is None or self.n < 1 or self.name.endswith(NOT_OF_CASES):
            return None
        return wilson(self.value, self.n)

    def shown(self, value: float | None) -> str:
        """A value of this figure's unit, as text."""
        if value is None or not math.isfinite(value):
            return "–"
        if self.is_share:
            return f"{value * 100:.{2 if 0 < value < 0.001 else 1}f} %"
        digits = 3 if abs(value) < 10 else 2 if abs(value) < 100 else 0
        return f"{value:,.{digits}f} {self.unit}".strip()

    @property
    def shown_interval(self) -> str:
        if self.interval is None:
            return ""
        low, high = (round(bound * 100, 1 if bound < 0.1 or bound > 0.99 else 0) for bound in self.interval)
        return f"{low:g}–{high:g} %"


@dataclass
class Evaluation:
    """What one evaluator found."""

    name: str
    figures: list[Figure]
    tables: dict[str, list[dict[str, Any]]]
    pictures: dict[str, str]
    depends_on: list[str]
    stood_aside: str | None
    failed: str | None = None  # what it raised

    @property
    def label(self) -> str:
        return readable(self.name)


@dataclass
class RunFiles:
    """All that is known of a run. `problems` names the files that were there and could not be read."""

    directory: Path
    config: dict[str, Any]
    status: dict[str, Any]
    stages: list[Stage]
    evaluations: list[Evaluation]
    evidence: dict[str, Any]  # evaluation.json, for its drawings and reconstructions
    lineage: dict[str, Any]
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return str(part_of(self.config, "run").get("name") or self.directory.resolve().name)


def read_run(directory: Path) -> RunFiles:
    """Reads a run of several stages, or of one (`mmgen train`)."""
    problems: list[str] = []
    config = _read_config(directory, problems)
    status = _read_json(directory / "status.json", problems)
    stages = [
        _read_stage(name, directory / name, problems)
        for name in stages_of(directory)
        if (directory / name / "status.json").exists() or (directory / name / "metrics.jsonl").exists()
    ]
    if (directory / "metrics.jsonl").exists():
        name = part_of(config, "task").get("name") or status.get("stage") or "training"
        stages.append(_read_stage(str(name), directory, problems))
    evidence = _read_json(directory / "evaluation.json", problems)
    lineage = _read_json(directory / "lineage.json", problems)
    evaluations = [_evaluation(name, found) for name, found in part_of(evidence, "findings").items()]
    return RunFiles(directory, config, status, stages, evaluations, evidence, lineage, problems)


def part_of(mapping: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A section of a mapping; empty when it is missing or something else."""
    value = mapping.get(key)
    return dict(value) if isinstance(value, Mapping) else {}


def list_of(mapping: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """A list of mappings under a key; whatever else is in it is left out."""
    return [dict(one) for one in items(mapping.get(key)) if isinstance(one, Mapping)]


def items(value: object) -> list[Any]:
    """A list; empty when it is something else."""
    return list(value) if isinstance(value, list) else []


def finite(value: object) -> float | None:
    """A number that is one, or None."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def readable(name: str) -> str:
    """A metric's or component's name for people: `codebook_usage` is "Codebook usage", `psnr` is "PSNR"."""
    words = [word.upper() if word.lower() in UPPER_CASE else word for word in name.replace("_", " ").split()]
    text = IN_WORDS.get(name) or " ".join(IN_WORDS.get(word, word) for word in words)
    return text[:1].upper() + text[1:] if len(text) > 1 else text


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % score interval of a share of n (Wilson, 1927); it never leaves [0,1]."""
    z = 1.959964
    middle = share + z * z / (2 * n)
    spread = z * math.sqrt(max(share * (1 - share), 0.0) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max((middle - spread) / scale, 0.0), min((middle + spread) / scale, 1.0)


def duration(seconds: float) -> str:
    """Seconds as "41 s", "11 min 20 s" or "2 h 5 min"."""
    whole = round(seconds)
    if seconds < 10:
        return f"{seconds:.1f} s"
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _read_json(path: Path, problems: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("not a JSON object")
        return found
    except (OSError, ValueError) as error:
        problems.append(f"{path.name} could not be read: {error}")
        return {}


def _read_config(directory: Path, problems: list[str]) -> dict[str, Any]:
    if not (directory / "config.yaml").exists():
        return {}
    try:
        config = RunDirectory(directory).read_config()
        return redacted(config) if isinstance(config, Mapping) else {}
    except (MmgenError, OSError, ValueError) as error:
        what = error.what if isinstance(error, MmgenError) else error
        problems.append(f"config.yaml could not be read: {what}")
        return {}


def _read_stage(name: str, directory: Path, problems: list[str]) -> Stage:
    rows: list[dict[str, Any]] = []
    try:
        rows = [row for row in MetricsFile(directory / "metrics.jsonl").rows() if isinstance(row.get("step"), int)]
    except (MmgenError, OSError, ValueError) as error:
        problems.append(f"{name}: metrics.jsonl could not be read: {error}")
    return Stage(name, directory, _read_json(directory / "status.json", problems), rows)


def _evaluation(name: str, found: object) -> Evaluation:
    values: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    tables = {title: list_of({title: rows}, title) for title, rows in part_of(values, "tables").items()}
    figures = [_figure(number) for number in list_of(values, "numbers")]
    return Evaluation(
        name=name,
        figures=figures,
        tables=tables,
        pictures={title: str(path) for title, path in part_of(values, "pictures").items()},
        depends_on=[str(part) for part in items(values.get("depends_on"))],
        stood_aside=str(values["stood_aside"]) if values.get("stood_aside") else None,
        failed=str(values["failed"]) if values.get("failed") else None,
    )


def _figure(number: Mapping[str, Any]) -> Figure:
    n = finite(number.get("n"))
    return Figure(
        name=str(number.get("name", "")),
        value=finite(number.get("value")),
        n=int(n) if n is not None else 0,
        unit=str(number.get("unit") or ""),
        chance=finite(number.get("chance")),
        note=str(number.get("note") or ""),
        wanted=finite(number.get("wanted")),
        told_first="wanted" in number,
    )
