"""What lies below a directory of runs, and what each run's state is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmgen.errors import CheckpointError
from mmgen.runs import listing
from mmgen.runs.directory import RunDirectory
from mmgen.runs.listing import find_runs, list_runs, open_run, peculiar
from mmgen.runs.lock import holder_of
from mmgen.runs.metrics import MetricsFile
from mmgen.runs.origin import keep, origin


def make(path: Path, config: dict[str, Any] | None = None, **status: Any) -> RunDirectory:
    """A run of one stage, with a few rows."""
    path.mkdir(parents=True)
    directory = RunDirectory(path).create(config or {"seed": 1})
    directory.update_status(**{"state": "finished", "stage": "tokenizer", "step": 7, "max_steps": 7, **status})
    metrics = MetricsFile(directory.metrics_file)
    for step in range(3):
        metrics.append({"step": step, "train/loss": 1.0 - step / 10})
        metrics.append({"step": step, "val/loss": 2.0 - step / 10})
    metrics.append({"step": 3, "train/loss": 0.5, "train/lr": 0.25})
    metrics.close()
    return directory


def test_runs_are_found_wherever_they_lie_and_nothing_else(tmp_path: Path):
    make(tmp_path / "runs" / "a")
    make(tmp_path / "runs" / "sweep" / "trials" / "b")
    make(tmp_path / "runs" / "a" / "tokenizer")  # a stage is no run of its own
    make(tmp_path / "runs" / ".c.12-0123abcd.tmp")  # what a killed removal left
    (tmp_path / "runs" / "pictures").mkdir()
    found = [str(path.relative_to(tmp_path)) for path in find_runs(tmp_path / "runs")]
    assert found == ["runs/a", "runs/sweep/trials/b"]
    assert list(find_runs(tmp_path / "nowhere")) == []
    with pytest.raises(CheckpointError, match=r"no status\.json"):
        open_run(tmp_path / "runs" / "pictures")


@pytest.mark.parametrize(
    ("written", "held", "state"),
    [
        ("finished", False, "finished"),
        ("failed", False, "failed"),
        ("preempted", False, "interrupted"),
        ("running", False, "interrupted"),  # its process is gone
        ("running", True, "running"),
        ("preempted", True, "running"),  # it goes on, and has not said so yet
    ],
)
def test_the_state_is_that_of_the_lock_too(tmp_path: Path, written: str, held: bool, state: str):
    directory = make(tmp_path / "a", state=written)
    if not held:
        assert open_run(tmp_path / "a").state == state
        return
    with directory.lock():
        run = open_run(tmp_path / "a")
        assert (run.state, run.holder and run.holder["pid"]) == (state, os.getpid())


def test_a_lock_whose_holder_was_killed_is_free(tmp_path: Path):
    code = (
        "import os, sys\nfrom mmgen.runs.directory import RunDirectory\n"
        "with RunDirectory(sys.argv[1]).lock():\n    os.kill(os.getpid(), 9)"
    )
    directory = make(tmp_path / "a", state="running")
    subprocess.run([sys.executable, "-c", code, str(directory.path)], check=False)
    assert directory.lock_file.read_text().startswith("{"), "its name is still there"
    assert holder_of(directory.lock_file) is None
    assert open_run(directory.path).state == "interrupted"
    # The number may be another process's by now, which holds no lock.
    directory.lock_file.write_text(json.dumps({"pid": os.getppid(), "host": os.uname().nodename, "start": ""}))
    assert holder_of(directory.lock_file) is None


def test_a_run_whose_status_cannot_be_read_is_unreadable(tmp_path: Path):
    for name, text in {"a": "{", "b": "[]", "c": '{"state": "odd"}', "d": '{"state": "finished", "more": 1}'}.items():
        make(tmp_path / name).status_file.write_text(text)
    assert [run.state for run in list_runs(tmp_path)] == ["unreadable"] * 4


def test_a_status_json_alone_makes_no_run(tmp_path: Path):
    """Other programs write such files; a run whose process died before it wrote its config has one that knows it."""
    for name, status in {"build": {"state": "ok"}, "job": {"state": "finished"}}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "status.json").write_text(json.dumps(status))
        with pytest.raises(CheckpointError, match=r"no config\.yaml"):
            open_run(tmp_path / name)
    make(tmp_path / "begun").config_file.unlink()
    assert [run.name for run in list_runs(tmp_path)] == ["begun"]


def test_the_last_validation_and_the_last_row_are_told(tmp_path: Path):
    directory = make(tmp_path / "a")
    with directory.metrics_file.open("a") as file:
        file.write('{"step": 4, "train/lo')  # a crash in the middle of a row
    assert open_run(directory.path).stages[0].last == {"train/loss": 0.5, "train/lr": 0.25, "val/loss": 1.8}
    assert listing.last_numbers(tmp_path / "none.jsonl") == {}


def test_pictures_are_counted_and_named(tmp_path: Path):
    directory = make(tmp_path / "a")
    for file in ("sheet.png", "samples/b.png", "samples/a.png", "samples/notes.txt"):
        (directory.path / file).parent.mkdir(exist_ok=True)
        (directory.path / file).touch()
    run = open_run(directory.path)
    assert [path.name for path in run.pictures()] == ["sheet.png", "a.png", "b.png"]
    assert run.count_pictures() == 3


def test_what_is_peculiar_to_a_config():
    usual = {"seed": 1, "run": {"name": "a"}, "generator": {"num_layers": 4, "name": "toy"}, "evaluator": {}}
    deep = {**usual, "run": {"name": "b"}, "generator": {"num_layers": 6, "name": "toy"}}
    other = {**usual, "run": {"name": "c"}, "seed": 2, "evaluator": {"judge": {"split": "val"}}}
    assert peculiar([usual, deep, other]) == [
        {},
        {"generator.num_layers": "6"},
        {"seed": "2", "evaluator.judge.split": "val"},
    ]
    assert peculiar([deep]) == [{}]
    assert peculiar([]) == []


def test_an_origin_keeps_its_first_start_and_adds_those_that_differ(tmp_path: Path):
    machine = {"threads": 1}
    config = {"seed": 1, "dataset": {"name": "folder", "hub_token": "hunter2"}}
    made = origin("run", config, {"fingerprint": "abc"}, machine)
    keep(tmp_path, made)
    keep(tmp_path, origin("run", config, {"fingerprint": "abc"}, machine))
    found = json.loads((tmp_path / "origin.json").read_text())
    assert found == made, "an equal start adds nothing"
    assert "hunter2" not in json.dumps(found)
    keep(tmp_path, origin("run", {"seed": 2}, {"fingerprint": "abc"}, {"threads": 2}))
    found = json.loads((tmp_path / "origin.json").read_text())
    assert found["config"]["seed"] == 1
    assert [one["machine"]["threads"] for one in found["sessions"]] == [1, 2]


@pytest.mark.slow
def test_a_thousand_runs_are_listed_by_what_is_light(tmp_path: Path):
    """Each with three stages, rows, pictures, an evaluation, and a config of the size of the quick start's;
    `benchmarks/use.py` measures the seconds."""
    config = {"seed": 1, **{f"section{i}": {f"key{j}": j for j in range(20)} for i in range(15)}}
    numbers = [{"name": f"psnr/{i}", "value": 1.0, "n": 9, "unit": "dB", "chance": None, "note": "x"} for i in range(9)]
    one = make(tmp_path / "first").path
    for stage in ("tokenizer", "generator", "encoder"):
        make(one / stage)
    (one / "evaluation.json").write_text(json.dumps({"findings": {f"e{i}": {"numbers": numbers} for i in range(4)}}))
    for i in range(1000):
        shutil.copytree(one, tmp_path / "runs" / f"run-{i:04d}", copy_function=os.link)
        made = {**origin_of(config), "config": {**config, "seed": i % 3}}
        (tmp_path / "runs" / f"run-{i:04d}" / "origin.json").write_text(json.dumps(made, indent=1))
    code = (
        "import sys, mmgen.cli\n"
        "assert mmgen.cli.main(['runs', 'list']) == 0\n"
        "print([m for m in ('torch', 'hydra', 'omegaconf', 'wandb', 'rich') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stderr.strip() == "[]"
    assert len(done.stdout.splitlines()) == 1001


def test_configs_without_an_origin_are_parsed_by_sections_each_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    read: list[str] = []
    monkeypatch.setattr(listing, "_load", lambda text: read.append(text) or yaml.safe_load(text))
    listing._section.cache_clear()
    config = {f"section{i}": {"key": i, "list": [1, "a\nb"], "none": None, "none_too": {}} for i in range(5)}
    for i in range(20):
        make(tmp_path / f"run-{i:02d}", {**config, "run": {"name": f"run-{i:02d}"}, "top": ["a", {"b": "c: d"}]})
    for run in list_runs(tmp_path):
        assert run.config == run_config(run.path)
        assert list(run.config) == list(run_config(run.path))
    assert len(read) == 5 + 20 + 1  # the sections that all have, and a name of each


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a: 1\na: 2\nb:\n- 1\n-  c: 2\n",
        "a: {b: 1,\nc: 2}\n",  # each of these goes over what looks like a section's beginning, or leans on another one
        'a: "x\ny: 1"\n',
        "a: &one {b: 1}\nc: *one\n",
        "a: &one {b: 1}\nc:\n  <<: *one\n",
        "? a\n: b\nc: d\n",
        "---\na: 1\n",
        "a: 1\n---\nb: 2\n",
        "a: 1\n...\n",
        "# said\na: 1 # here\n",
        "'a': 1\nb: 2\n",
        "1: 2\nb: 3\n",
        "a: |\n  b\n\n  c: d\nb: >-\n  c\n",
        "a\nb\n",
        "- a\n- b\n",
        "a: [\n",
    ],
)
def test_a_config_of_any_form_is_read_as_yaml_reads_it(tmp_path: Path, text: str):
    run = make(tmp_path / "run")
    run.config_file.write_text(text)
    try:
        wanted = yaml.safe_load(text)
    except yaml.YAMLError:
        wanted = {}
    assert open_run(run.path).config == (wanted if isinstance(wanted, dict) else {})


def run_config(path: Path) -> dict[str, Any]:
    return RunDirectory(path).read_config()


def origin_of(config: dict[str, Any]) -> dict[str, Any]:
    return origin("run", config, {"name": "folder", "size": 60, "fingerprint": "abc"}, {"threads": 1})
