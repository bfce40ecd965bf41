"""The real client, online, against a server on this machine (`wandb_server`): what arrives there, and what does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mmgen.checkpoint.parts import Part
from mmgen.runs.metrics import MetricsFile
from mmgen.tracking import wandb_mirror
from mmgen.tracking.artifacts import dataset_artifact, used_part
from mmgen.tracking.judged import COLUMNS, log_evaluation, settings_of
from tests.tracking.conftest import Start, a_part
from tests.tracking.fake_run import make_run
from tests.tracking.wandb_files import offline_runs
from tests.tracking.wandb_server import WandbServer

KEY = "c0ffee" * 6 + "cafe"

pytestmark = pytest.mark.slow  # five to fifteen seconds each: the client starts, and ends only when all is sent


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    found = WandbServer()
    monkeypatch.setenv("WANDB_BASE_URL", found.address)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setattr(wandb_mirror, "INIT_SECONDS", 60.0)  # how fast it is, is not what is asked here
    monkeypatch.setitem(wandb_mirror.FINISH_SECONDS, "online", 120.0)
    yield found
    found.close()


def logged(directory: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl, without the clock."""
    rows = MetricsFile(directory / "metrics.jsonl").rows()
    return [{key: value for key, value in row.items() if key != "time"} for row in rows]


def numbers(server: WandbServer, run: str) -> list[dict[str, Any]]:
    """The rows of a run's history that hold no picture."""
    return [row for row in server.rows(run) if not any(isinstance(value, dict) for value in row.values())]


def test_what_is_logged_arrives(
    tmp_path: Path, start: Start, server: WandbServer, caplog: pytest.LogCaptureFixture
) -> None:
    logger = start(tmp_path, mode="online", config={"seed": 1, "dataset": {"name": "emoji", "token": "hunter2"}})
    for step in range(10):
        logger.log_metrics({"train/loss": 1 / (step + 1), "train/lr": 1e-3}, step)
    logger.log_metrics({"val/loss": 0.7}, 9)
    picture = logger.log_picture("reconstructions", torch.full((3, 4, 4), 0.5), 5)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights" * 1000)
    logger.finalize("success")
    logger.log_part(a_part("tokenizer", "3fa9", data="81c2"), tmp_path / "model")
    logger.finish()

    assert caplog.records == []
    assert server.unknown == []
    ((run, told),) = server.runs.items()
    assert [told[key] for key in ("project", "groupName", "jobType", "displayName")] == [
        "mmgen", "animals", "tokenizer", "fox",
    ]  # fmt: skip
    assert server.config(run) == {"seed": 1, "dataset": {"name": "emoji", "token": "<redacted>"}}
    assert numbers(server, run) == logged(tmp_path)
    (shown,) = [row for row in server.rows(run) if "samples/reconstructions" in row]
    assert shown["step"] == 5
    assert picture is not None
    assert server.files[run][shown["samples/reconstructions"]["path"]] == picture.read_bytes()
    assert any("system.cpu" in event or "system.memory_percent" in event for event in _events(server, run))
    assert server.ended == {run: 0}

    part = server.artifact("animals-tokenizer")
    assert (part.type, part.made_by, sorted(part.aliases)) == ("model", run, ["3fa9", "latest"])
    assert part.metadata == {"kind": "tokenizer", "fingerprint": "3fa9", "parents": {"data": "81c2"}}
    (manifest,) = part.files.values()
    (entry,) = json.loads(manifest)["contents"].values()
    assert entry["ref"] == (tmp_path / "model" / "model.safetensors").as_uri()
    assert b"weights" not in b"".join([*part.files.values(), *server.files[run].values()]), "weights stay here"
    assert not offline_runs(tmp_path)


def _events(server: WandbServer, run: str) -> list[dict[str, Any]]:
    return server.stream(run, "wandb-events.jsonl")


def test_a_resumed_run_goes_on_in_the_same_run(tmp_path: Path, start: Start, server: WandbServer) -> None:
    first = start(tmp_path, mode="online")
    for step in range(20):
        first.log_metrics({"train/loss": 1.0}, step)
    first.log_picture("drawing", torch.zeros(3, 4, 4), 19)
    first.finish()
    ((run, _),) = server.runs.items()
    assert [row["step"] for row in numbers(server, run)] == list(range(20))

    MetricsFile(tmp_path / "metrics.jsonl").drop_after(9)  # the last checkpoint was that of step 10
    second = start(tmp_path, mode="online")
    for step in range(10, 30):
        second.log_metrics({"train/loss": 1.0}, step)
    second.log_picture("drawing", torch.zeros(3, 4, 4), 29)
    second.finish()
    assert list(server.runs) == [run]
    assert [row["step"] for row in numbers(server, run)] == list(range(30))
    assert [row["step"] for row in server.rows(run) if "samples/drawing" in row] == [19, 29]
    assert server.unknown == []


DATA = {"name": "emoji", "fingerprint": "81c2" * 8, "size": 3919}


def train(directory: Path, start: Start, part: Part, mode: str, *parents: Part) -> tuple[str, Part]:
    """A stage that is over at once: the id of its run, and its part as another stage reads it."""
    inputs = [dataset_artifact(DATA), *(used for parent in parents if (used := used_part(parent)))]
    logger = start(directory, mode=mode, job_type=part.kind, name=f"fox-{part.kind}", inputs=inputs)
    logger.log_metrics({"train/loss": 1.0}, 0)
    (directory / "model").mkdir()
    (directory / "model" / "model.safetensors").write_bytes(part.fingerprint.encode() * 1000)
    logger.log_part(part, directory / "model")
    logger.finish()
    return (directory / "wandb" / "run-id").read_text(), replace(part, path=directory / "model")


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_what_made_what_is_linked(
    tmp_path: Path, start: Start, server: WandbServer, caplog: pytest.LogCaptureFixture, mode: str
) -> None:
    """Online at once, offline by `wandb sync`: data and tokenizer go into the generator, and all of it into samples."""
    first, tokenizer = train(tmp_path / "tokenizer", start, a_part("tokenizer", "3fa9"), mode)
    drawer = a_part("generator", "77aa", tokenizer="3fa9")
    second, generator = train(tmp_path / "generator", start, drawer, mode, tokenizer)
    make_run(tmp_path, steps={})
    names = {"project": "mmgen", "group": "animals", "name": "fox-evaluation"}
    made = {"data": DATA, "sessions": [{"code": {}}]}
    settings = settings_of(names, {"drawing": {"seed": 5}}, made, (tokenizer, generator))
    log_evaluation(tmp_path, settings, mode, finish_seconds=120)
    third = (tmp_path / "wandb" / "run-id").read_text()
    if mode == "offline":
        assert not server.runs
        folders = [str(file.parent) for file in tmp_path.rglob("run-*.wandb")]
        own = {f"WANDB_{name}_DIR": str(tmp_path / name) for name in ("CACHE", "CONFIG", "DATA")}
        done = subprocess.run(
            [sys.executable, "-P", "-m", "wandb", "sync", *folders],
            capture_output=True, text=True, timeout=300, env={**os.environ, **own, "WANDB_ERROR_REPORTING": "false"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert caplog.records == []
    assert server.unknown == []

    data, codes = server.artifact("dataset-emoji"), server.artifact("animals-tokenizer")
    drawing, samples = server.artifact("animals-generator"), server.artifact("animals-samples")
    assert (data.type, data.metadata) == ("dataset", DATA)
    assert json.loads(data.files["dataset.json"]) == DATA
    assert set(data.files) == {"dataset.json", "wandb_manifest.json"}, "no picture of the data is sent"
    assert sorted(data.used_by) == sorted([first, second, third])
    assert sorted(codes.used_by) == sorted([second, third])
    assert drawing.used_by == [third]
    assert (samples.type, samples.made_by, samples.used_by) == ("samples", third, [])
    assert {"evaluation.json", "lineage.json", "sheet.png", "samples/drawing-00-1.png"} <= set(samples.files)
    if mode == "online":  # what is synchronised at once may be announced in any order
        assert (codes.made_by, drawing.made_by) == (first, second)
    judged = server.stream(third, "wandb-summary.json")[-1]
    assert judged["reconstruction/psnr"] == 24.312
    _check_table(tmp_path, server, third)


def _check_table(directory: Path, server: WandbServer, run: str) -> None:
    """Caption, picture, score and seed of every drawing of the run that `make_run` writes."""
    (shown,) = [row["samples/drawings"] for row in server.rows(run) if "samples/drawings" in row]
    assert shown["_type"] == "table-file"
    assert json.loads(server.files[run][shown["path"]])["columns"] == list(COLUMNS)
    (kept,) = [one for one in server.artifacts if one.type == "run_table"]
    (name,) = [name for name in kept.files if name.endswith(".table.json")]
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in json.loads(kept.files[name])["data"]]
    entries = json.loads((directory / "evaluation.json").read_text())["drawings"]
    expected = [
        (entry["caption"], entry["scores"][rank], rank + 1, 5, (directory / file).read_bytes())
        for entry in entries
        for rank, file in enumerate(entry["pictures"])
    ]
    found = [
        (row["caption"], row["score"], row["rank"], row["seed"], kept.files[row["drawing"]["path"]]) for row in rows
    ]
    assert len(found) == 32
    assert found == expected


def test_the_key_reaches_no_file(tmp_path: Path, start: Start, server: WandbServer) -> None:
    logger = start(tmp_path, mode="online")
    logger.log_metrics({"train/loss": 1.0}, 0)
    logger.finish()
    assert server.runs
    written = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert len(written) > 5
    assert KEY.encode() not in b"".join(written)
    assert KEY.encode() not in b"".join(server.files[next(iter(server.runs))].values())


def test_without_a_key_one_warning_and_offline(
    tmp_path: Path,
    start: Start,
    server: WandbServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    logger = start(tmp_path, mode="online")
    logger.log_metrics({"train/loss": 1.0}, 0)
    logger.finish()
    assert [record.getMessage()[:16] for record in caplog.records] == ["warning[MMG-W02]"]
    assert len(offline_runs(tmp_path)) == 1
    assert not server.runs
    assert not server.artifacts
