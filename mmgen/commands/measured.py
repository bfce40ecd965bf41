"""Measurements of memory for `mmgen plan`, kept: one of 12 billion parameters takes a minute or two."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from mmgen.errors import CheckpointError
from mmgen.files import cache_directory, write_atomic
from mmgen.progress import Bar
from mmgen.tasks.costs import Memory, Setting
from mmgen.tasks.memory import measure

WATCHED = ("mmgen.tasks.parallel", "mmgen.tasks.memory")  # whose code decides what is measured, beside the generator's


class Plan(Protocol):
    """What is planned."""

    config: dict[str, Any]
    generator: nn.Module

    def build(self, **changes: Any) -> Any: ...


def measured(plan: Plan, setting: Setting) -> Memory:
    """The measure of a setting, from where it was kept, or taken now.

    Sparse attention is measured as full attention: on a GPU both keep queries, keys, values and results, and nothing
    else, where a CPU's way to compute it keeps a table of probabilities. A cache that cannot be written is no error.
    """
    config = {**plan.config["generator"]}
    changes = {"layout": "full", "executor": "auto"} if "layout" in config else {}
    asked = {
        "generator": {**config, **changes},
        "text": plan.config["task"]["text_tokenizer"],
        "grid": plan.config["grid"],
        "codebook_size": plan.config["codebook_size"],
        "setting": asdict(setting),
        "torch": torch.__version__,
        "code": _code(plan.generator),
    }
    name = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]
    file = cache() / f"{name}.json"
    kept = _read(file)
    if kept is not None:
        return kept
    generator = plan.build(**changes)
    steps = len(generator.blocks) * (2 if generator.gradient_checkpointing else 1)
    with Bar(f"memory on {setting.ranks:,} GPUs", total=steps, unit="blocks") as bar:
        memory = measure(generator, setting, lambda blocks: bar.advance(blocks, ""))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps({"memory": asdict(memory), **asked}, indent=1).encode())
    except (CheckpointError, OSError) as error:
        why = error.why if isinstance(error, CheckpointError) else error
        print(f"the measurement cannot be kept in {file.parent}: {why}", file=sys.stderr)
    return memory


def cache() -> Path:
    """Where measurements are kept: `plan` in the directory of caches."""
    return cache_directory() / "plan"


def _read(file: Path) -> Memory | None:
    try:
        return Memory(**json.loads(file.read_text(encoding="utf-8"))["memory"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not there, or damaged: measured again


def _code(generator: nn.Module) -> str:
    """The digest of the code that is measured: of the modules that the generator's parts come from."""
    digest = hashlib.sha256()
    names = {type(part).__module__ for part in generator.modules()}
    for name in sorted({*WATCHED, *(name for name in names if not name.startswith("torch."))}):
        file = getattr(sys.modules[name], "__file__", None)
        digest.update(Path(file).read_bytes() if file else b"")
    return digest.hexdigest()[:16]
