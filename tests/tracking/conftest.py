from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mmgen.checkpoint.parts import Part
from mmgen.tracking.logger import RunLogger


def a_part(kind: str, fingerprint: str, data: str = "", **requires: str) -> Part:
    """A part without weights, as far as tracking is concerned."""
    return Part(kind, {"name": "some"}, {}, {}, requires=requires, info={"data": data}, fingerprint=fingerprint)


Start = Callable[..., RunLogger]


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home that wandb must leave alone, and none of the wandb settings of whoever runs the tests."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    yield home
    assert not [path for path in home.rglob("*") if "wandb" in path.name]


@pytest.fixture
def start() -> Iterator[Start]:
    """Makes loggers, and ends them after the test."""
    made: list[RunLogger] = []

    def make(directory: Path, **options: Any) -> RunLogger:
        defaults = {"name": "fox", "job_type": "tokenizer", "group": "animals", "config": {"seed": 1}}
        made.append(RunLogger(directory, **{**defaults, **options}))
        return made[-1]

    yield make
    for logger in made:
        logger.finish()
