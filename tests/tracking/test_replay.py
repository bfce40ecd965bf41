"""`mmgen runs replay` of an evaluation that wandb was never told of, read back by wandb's own tool."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mmgen.checkpoint.parts import Part, write_part
from mmgen.files import write_json
from mmgen.runs.config import plain
from mmgen.runs.directory import RunDirectory
from mmgen.tracking.replay import replay_evaluation
from tests.tracking.fake_run import CONFIG, make_run
from tests.tracking.wandb_files import of_type, records

DATA = {"name": "emoji", "fingerprint": "5a5a" * 16, "size": 3655}
NAMES = {"project": "mmgen", "group": "quickstart", "name": "quickstart-evaluation"}


@pytest.fixture
def killed(tmp_path: Path) -> tuple[Path, Part]:
    """A run as a kill leaves it after its lineage was written and before wandb was told; and the part it trained."""
    run = make_run(tmp_path / "quickstart", steps={})
    write_json(run / "lineage.json", {"samples": {"path": "evaluation.json", "requires": {"tokenizer": "3fa9"}}})
    session: dict[str, Any] = {"code": {"mmgen": "0.1"}, "versions": {}, "machine": {}}
    made = {"command": "run", "directory": str(tmp_path), "config": plain(CONFIG), "data": DATA, "sessions": [session]}
    write_json(run / "origin.json", made)
    (run / "tokenizer").mkdir()
    stage = RunDirectory(run / "tokenizer").create({"kind": "tokenizer", "seed": 1})
    stage.update_status(state="finished", stage="tokenizer")
    (stage.path / "wandb").mkdir()
    write_json(stage.path / "wandb" / "settings.json", {"group": "quickstart"})
    weights = {"weight": torch.zeros(3)}
    part = write_part(
        stage.model, kind="tokenizer", config={"name": "vq"}, arguments={}, tensors=weights, info={"data": "5a5a"}
    )
    return run, part


def test_it_is_what_wandb_would_have_been_told(killed: tuple[Path, Part]) -> None:
    run, part = killed
    told = replay_evaluation(run, NAMES, [run / "tokenizer"])
    assert told is not None
    assert told.startswith("the evaluation was written anew: wandb sync ")
    found = records(run)
    (begun,) = of_type(found, "run")
    assert (begun["project"], begun["display_name"]) == ("mmgen", "quickstart-evaluation")
    assert (begun["run_group"], begun["job_type"]) == ("quickstart", "evaluation")
    settings = json.loads((run / "wandb" / "settings.json").read_text())
    assert settings["config"]["kind"] == "evaluation"
    assert settings["config"]["sampler"] == CONFIG["sampler"]
    assert json.loads(settings["config"]["origin"])["data"] == DATA
    data, tokenizer = settings["inputs"]
    assert (data["name"], data["metadata"]) == ("dataset-emoji", DATA)
    assert (tokenizer["name"], tokenizer["metadata"]["fingerprint"]) == ("quickstart-tokenizer", part.fingerprint)
    written = json.dumps(found)
    for name in ("reconstruction/psnr", "samples/drawings", "quickstart-samples", "dataset-emoji"):
        assert name in written, name
    assert "hunter2" not in written
    (table,) = (run / "wandb").glob("offline-run-*/files/media/table/**/*.json")
    assert "firefighter: dark skin tone" in table.read_text(encoding="utf-8")
    assert replay_evaluation(run, NAMES, [run / "tokenizer"]) == "nothing was lost"


def test_what_was_not_judged_to_the_end_is_left_to_the_run(killed: tuple[Path, Part]) -> None:
    """Without a lineage the same command judges again; a training alone has a lineage, and no samples in it."""
    run, _ = killed
    write_json(run / "lineage.json", {"parts": {}})
    assert replay_evaluation(run, NAMES, []) is None
    (run / "lineage.json").unlink()
    assert replay_evaluation(run, NAMES, []) is None
    assert not (run / "wandb").exists()


def test_replaying_loads_neither_torch_nor_lightning() -> None:
    heavy = "{'torch', 'pytorch_lightning', 'wandb', 'hydra'}"
    code = f"import sys, mmgen.commands.replaying; print(sorted({heavy} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
