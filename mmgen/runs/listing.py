"""Every run below a directory, read cheaply: no torch, and of a thousand runs only small files and the ends of large
ones."""

from __future__ import annotations

import functools
import json
import math
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from mmgen.errors import CheckpointError, quoted
from mmgen.runs.directory import MAY_DIFFER, STATES, Status
from mmgen.runs.lock import holder_of
from mmgen.runs.origin import NAME as ORIGIN

STAGES = ("tokenizer", "generator", "encoder")
RIVALS = "encoder-*"  # what directories of a run's further encoders are called
UNREADABLE = "unreadable"  # the state of a run, or a stage, whose status.json cannot be read
DEPTH = 4  # folders that a run may lie below the directory that is listed
TAIL = 32 * 1024  # bytes of the end of metrics.jsonl, enough for its last validation
_CLOSED = {"wandb", "samples", "checkpoints", "model", "evaluations"}  # folders that hold no run
_ABSENT = object()
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where libyaml is there
_SECTION = re.compile(r"^(?=[A-Za-z_])", re.MULTILINE)  # where a key of the top level stands
_STRANGE = re.compile(r"^[^A-Za-z_ \n-]|^-(?! )", re.MULTILINE)  # what no line that mmgen writes begins with


@dataclass
class Stage:
    """A training, of a run or the only one of it."""

    name: str
    path: Path
    status: Status

    @cached_property
    def last(self) -> dict[str, float]:
        """The last validation's numbers; of a training without one, the last row's."""
        return last_numbers(self.path / "metrics.jsonl")


@dataclass
class Run:
    """A run as a listing shows it. `state` is running, finished, interrupted, failed, new or unreadable."""

    path: Path
    status: Status
    state: str
    holder: dict[str, Any] | None
    stages: list[Stage] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def started(self) -> datetime | None:
        return _moment(self.status.started)

    @property
    def updated(self) -> datetime | None:
        moments = [_moment(status.updated) for status in (self.status, *(stage.status for stage in self.stages))]
        return max((moment for moment in moments if moment is not None), default=None)

    @property
    def current(self) -> Stage | None:
        """The stage that is not finished, or None."""
        return next((stage for stage in self.stages if stage.status.state != "finished"), None)

    @property
    def seconds(self) -> float:
        """Of training, over all stages and resumes."""
        return sum(stage.status.seconds for stage in self.stages)

    @cached_property
    def origin(self) -> dict[str, Any]:
        """What origin.json holds, unchecked; empty where there is none."""
        return _json(self.path / ORIGIN)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The composed config; of a run without an origin, what its config.yaml holds. Empty if neither can be read.
        Not to be changed: runs share the sections that are alike."""
        found = self.origin.get("config")
        if not isinstance(found, dict):
            try:
                found = _parsed((self.path / "config.yaml").read_text(encoding="utf-8"))
            except (OSError, ValueError, yaml.YAMLError):
                found = {}
        return found if isinstance(found, dict) else {}

    @cached_property
    def figures(self) -> dict[str, dict[str, Any]]:
        """The first number that each evaluator found, by its name, as evaluation.json holds it."""
        found = {}
        findings = _json(self.path / "evaluation.json").get("findings")
        for one in findings.values() if isinstance(findings, dict) else []:
            numbers = one.get("numbers") if isinstance(one, dict) else None
            if isinstance(numbers, list) and numbers and isinstance(numbers[0], dict):
                found[str(numbers[0].get("name", ""))] = numbers[0]
        return found

    @property
    def command(self) -> str:
        return str(self.origin.get("command") or ("run" if "stages" in self.config else "train"))

    def pictures(self) -> list[Path]:
        """Every picture of the run: the sheet, then samples, in the order of their names."""
        found = [self.path / "sheet.png"] if (self.path / "sheet.png").is_file() else []
        for folder in dict.fromkeys([self.path, *(stage.path for stage in self.stages)]):
            with suppress(OSError):
                found += sorted(Path(one.path) for one in os.scandir(folder / "samples") if one.name.endswith(".png"))
        return found


    def count_pictures(self) -> int:
        """How many `pictures` there are."""
        count = int((self.path / "sheet.png").is_file())
        for folder in {str(self.path), *(str(stage.path) for stage in self.stages)}:
            with suppress(OSError):
                count += sum(name.endswith(".png") for name in os.listdir(f"{folder}/samples"))
        return count


def stages_of(directory: Path) -> list[str]:
    """The stages that a run of several may have: the three, and the further encoders that are there."""
    return [*STAGES, *sorted(path.name for path in directory.glob(RIVALS))]


def is_stage(name: str) -> bool:
    """Whether a directory of a run, called so, is that of a stage or of a rival."""
    return name in STAGES or fnmatch(name, RIVALS)


def find_runs(directory: str | Path, depth: int = DEPTH) -> Iterator[Path]:
    """The directories of runs below a directory, itself included; what is hidden is not looked into."""
    try:
        entries = list(os.scandir(directory))
    except OSError:
        return
    if _is_run(Path(directory), {entry.name for entry in entries}):
        yield Path(directory)
        return
    for entry in sorted(entries, key=lambda entry: entry.name) if depth > 0 else []:
        if entry.name[:1] != "." and entry.name not in _CLOSED and entry.is_dir(follow_symlinks=False):
            yield from find_runs(entry.path, depth - 1)


def list_runs(directory: str | Path) -> list[Run]:
    """The runs below a directory, the newest first."""
    runs = [read_run(path) for path in find_runs(directory)]
    return sorted(runs, key=lambda run: (run.status.started, run.name), reverse=True)


def open_run(path: str | Path) -> Run:
    """A run that exists.

    Raises:
        CheckpointError: no run lies there.
    """
    path = Path(path)
    names = {name for name in ("status.json", "config.yaml") if (path / name).is_file()}
    if not _is_run(path, names):
        lacking = "config.yaml" if "status.json" in names else "status.json"
        raise CheckpointError(
            f"{quoted(str(path))} is no run",
            code="MMG-K05",
            why=f"it has no {lacking}" if path.is_dir() else "there is no such directory",
            fix="mmgen runs list",
        )
    return read_run(path)


def _is_run(path: Path, names: Collection[str]) -> bool:
    """Whether a directory that holds these names is a run: other programs write a status.json, too. A run whose process
    died before it wrote the config has a status that knows it."""
    return "status.json" in names and ("config.yaml" in names or _status(path).config_fingerprint != "")


def read_run(path: Path) -> Run:
    """A run's status and that of its stages; one that cannot be read is "unreadable"."""
    status = _status(path)
    begun = {name: found for name in stages_of(path) if (found := _status(path / name)).state != "new"}
    stages = [Stage(name, path / name, found) for name, found in begun.items()]
    if not stages and status.state != "new":
        stages = [Stage(status.stage or "training", path, status)]
    holder = holder_of(path / ".lock")
    return Run(path, status, _state(status, holder), holder, stages)


def _state(status: Status, holder: Mapping[str, Any] | None) -> str:
    if holder is not None:
        return "running"
    return {"running": "interrupted", "preempted": "interrupted"}.get(status.state, status.state)


def _status(path: Path) -> Status:
    """As `RunDirectory.status`, but one that cannot be read is "unreadable"."""
    try:
        found = json.loads((path / "status.json").read_bytes())
        status = Status(**found)
    except FileNotFoundError:
        return Status()
    except (OSError, ValueError, TypeError, RecursionError):
        return Status(state=UNREADABLE)
    return status if status.state in STATES else Status(state=UNREADABLE)


def last_numbers(file: Path) -> dict[str, float]:
    """The numbers of the last validation in metrics.jsonl, and of the last row, which tells the training's."""
    try:
        with open(file, "rb") as opened:
            opened.seek(max(0, os.fstat(opened.fileno()).st_size - TAIL))
            lines = opened.read().splitlines()
    except OSError:
        return {}
    found: dict[str, float] = {}
    for line in reversed(lines):
        with suppress(ValueError):
            row = json.loads(line)
            known = {*_splits(found), "step", "time"}
            fresh = {name: value for name, value in row.items() if name.split("/")[0] not in known}
            found |= {k: v for k, v in fresh.items() if isinstance(v, int | float) and math.isfinite(v)}
        if {"train", "val"} <= _splits(found):
            break
    return found


def _splits(numbers: Mapping[str, float]) -> set[str]:
    return {name.split("/")[0] for name in numbers}


def peculiar(configs: Sequence[Mapping[str, Any]], ignore: Collection[str] = MAY_DIFFER) -> list[dict[str, str]]:
    """Of each config, the keys whose value is not what most of the configs have, or of equally many the last (in a list
    of runs the oldest); dotted, values as text.

    Args:
        ignore: sections that are left out.
    """
    found: list[dict[str, str]] = [{} for _ in configs]
    for key in dict.fromkeys(key for config in configs for key in config if key not in ignore):
        _collect(key, [config.get(key, _ABSENT) for config in configs], found)
    return found


def _collect(key: str, values: list[Any], found: list[dict[str, str]]) -> None:
    """Sections that are alike are compared as wholes, which is what makes a thousand configs quick to compare."""
    first = values[0]
    if all(value == first for value in values):
        return
    if any(isinstance(value, dict) and value for value in values):
        sections = [value if isinstance(value, dict) else {} for value in values]
        for name in dict.fromkeys(name for section in sections for name in section):
            _collect(f"{key}.{name}", [section.get(name, _ABSENT) for section in sections], found)
        return
    objects = {id(value): value for value in values}  # of a thousand runs few: equal sections are one
    once = {number: _text(value) for number, value in objects.items()}
    texts = [once[id(value)] for value in values]
    usual = Counter(reversed(texts)).most_common(1)[0][0]  # of equally many, that of the last
    for one, text, value in zip(found, texts, values, strict=True):
        if text != usual and value is not _ABSENT:
            one[key] = text


def flat_texts(config: Mapping[str, Any], ignore: Collection[str] = MAY_DIFFER) -> dict[str, str]:
    """A config by dotted keys, its values as text, without the sections of `ignore`."""
    return dict(_flat({key: value for key, value in config.items() if key not in ignore}))


def _flat(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Values as text, which JSON and YAML write alike."""
    for key, value in section.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is _ABSENT else json.dumps(value)


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _parsed(text: str) -> Any:
    """What a config.yaml holds. It is parsed a section of the top level at a time, and a section that another run has
    too, as most are, once; a file that mmgen has not written may need to be parsed as a whole."""
    begin, *sections = _SECTION.split(text)
    if begin or _STRANGE.search(text):
        return _load(text)
    found: dict[str, Any] = {}
    try:
        for section in map(_section, sections):
            found |= section
    except (ValueError, yaml.YAMLError):  # a text over several lines, or an alias of what stands in another section
        return _load(text)
    return found


@functools.lru_cache(maxsize=10_000)
def _section(text: str) -> dict[str, Any]:
    section = _load(text)
    if not isinstance(section, dict) or len(section) != 1:
        raise ValueError(f"not one section: {quoted(text)}")
    return section


def _load(text: str) -> Any:
    return yaml.load(text, Loader=_YAML)  # noqa: S506 - a safe one


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
