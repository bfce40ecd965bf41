"""A run's directory: made once, gone on with by the same config only, listed newest first."""

import json
import os
import subprocess
import sys

import pytest
import yaml

from mmgen.errors import CheckpointError, ConfigError
from mmgen.runs.directory import RunDirectory, Status, finished_runs

CONFIG = {
    "run": {"name": "bird", "dir": "runs"},
    "seed": 1,
    "generator": {"name": "transformer", "num_layers": 8, "bias": False},
    "task": {"lr": 1e-8, "betas": (0.9, 0.95), "warm": None},
}


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path / "runs" / "bird").create(CONFIG)


def changed(**sections):
    return {**CONFIG, **sections}


def failure(call, *arguments):
    with pytest.raises(ConfigError) as caught:
        call(*arguments)
    assert caught.value.exit_code == 2
    assert len(caught.value.render().splitlines()) <= 6
    return caught.value


def test_making_the_object_touches_nothing(tmp_path):
    run = RunDirectory(tmp_path / "runs" / "bird")
    assert run.status() == Status(state="new")
    assert os.listdir(tmp_path) == []
    with pytest.raises(CheckpointError, match=r"is no run") as caught:
        RunDirectory.open(run.path)
    assert caught.value.exit_code == 5


def test_a_new_run_has_config_and_status(run):
    assert RunDirectory.open(run.path).read_config() == changed(task={"lr": 1e-8, "betas": [0.9, 0.95], "warm": None})
    status = run.status()
    assert (status.state, status.step, status.pid) == ("running", 0, os.getpid())
    assert len(status.config_fingerprint) == 16
    assert status.started
    assert run.stage("tokenizer").path == run.path / "tokenizer"


def test_the_kept_config_has_no_secret_and_still_compares(tmp_path):
    run = RunDirectory(tmp_path / "bird")
    config = {**CONFIG, "tracking": {"api_key": "canary-1"}, "hub_token": "canary-2"}
    run.create(config)
    for path in run.path.iterdir():
        assert "canary" not in path.read_text()
    run.create(config)
    error = failure(run.check_config, {**config, "seed": 2, "hub_token": ""})
    assert "canary" not in error.render()
    assert "hub_token=" not in error.fix


def test_the_same_config_goes_on_and_changes_nothing(run):
    run.update_status(state="preempted", step=200, seconds=12.5)
    before = run.config_file.read_bytes(), run.status_file.read_bytes()
    # Where it lies, whether it goes on and who is told may differ.
    run.create(changed(run={"name": "bird", "dir": "./runs"}, resume="never", tracking={"mode": "online"}))
    assert (run.config_file.read_bytes(), run.status_file.read_bytes()) == before


def test_another_config_is_refused_with_the_keys_and_both_ways_out(run):
    before = run.config_file.read_bytes()
    other = changed(seed=2, generator={"name": "transformer", "num_layers": 6, "bias": True, "new": 1})
    error = failure(run.create, other)
    assert error.code == "MMG-R02"
    assert (
        "seed 1 → 2, generator.num_layers 8 → 6, generator.bias False → True, generator.new (absent) → 1" in error.what
    )
    assert "run.name=bird-2" in error.fix
    assert "`seed=1 generator.num_layers=8 generator.bias=false`" in error.fix
    assert run.config_file.read_bytes() == before
    assert failure(run.create, other, ("run",)).what == error.what
    run.create(other, ignore=("seed", "generator"))


def test_an_option_that_is_newer_than_the_run_and_null_changes_nothing(run):
    older = run.config_file.read_bytes()
    run.create(changed(generator={"name": "transformer", "num_layers": 8, "bias": False, "rivals": None}))
    assert run.config_file.read_bytes() == older
    without = changed(generator={"name": "transformer", "num_layers": 8})  # taken back, it may have counted
    assert "generator.bias False → (absent)" in failure(run.create, without).what


def test_many_differences_are_cut(run):
    error = failure(run.check_config, changed(**{f"key{i}": i for i in range(8)}))
    assert "and 3 more" in error.what
    assert "key7" not in error.what


def test_the_way_back_names_every_key(tmp_path):
    run = RunDirectory(tmp_path / "many").create({f"key{i}": 0 for i in range(8)})
    error = failure(run.check_config, {f"key{i}": 1 for i in range(8)})
    assert "and 3 more" in error.what
    assert f"`{' '.join(f'key{i}=0' for i in range(8))}`" in error.fix


def test_a_name_that_is_free_is_proposed(run):
    (run.path.parent / "bird-2").mkdir()
    assert run.free_name() == "bird-3"


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.png").write_text("x")
    run = RunDirectory(photos)
    assert failure(run.create, CONFIG).code == "MMG-R03"
    with pytest.raises(ConfigError, match=r"'cat\.png' and is no run"), run.lock():
        pass
    assert os.listdir(photos) == ["cat.png"]


@pytest.mark.parametrize("content", [[".lock"], ["status.json"], [], [".status.json.7-0123abcd.tmp"]])
def test_a_start_that_was_killed_early_can_be_started_again(tmp_path, content):
    complete = RunDirectory(tmp_path / "complete").create(CONFIG)
    run = RunDirectory(tmp_path / "bird")
    run.path.mkdir()
    for name in content:
        (run.path / name).write_text("" if name != "status.json" else complete.status_file.read_text())
    with run.lock():
        run.create(CONFIG)
    assert run.read_config()["seed"] == 1
    assert sorted(os.listdir(run.path)) == [".lock", "config.yaml", "status.json"]


def test_a_place_that_is_a_file_is_told(tmp_path):
    (tmp_path / "bird").write_text("x")
    for path in (tmp_path / "bird", tmp_path / "bird" / "inside"):
        assert failure(RunDirectory(path).create, CONFIG).code == "MMG-R04"


@pytest.mark.parametrize("text", ["a: [", "just text", "!!python/object/apply:os.system ['touch x']", "a: \x00"])
def test_a_damaged_config_is_told(run, text):
    run.config_file.write_text(text)
    error = failure(run.check_config, CONFIG)
    assert error.code == "MMG-R05"
    assert str(run.config_file) in error.what


def test_the_status_is_updated_field_by_field(run):
    started = run.status().started
    run.update_status(stage="generator", step=3, max_steps=10)
    run.update_status(state="finished", step=10)
    status = run.status()
    assert (status.state, status.stage, status.step, status.max_steps) == ("finished", "generator", 10, 10)
    assert status.started == started <= status.updated
    with pytest.raises(TypeError):
        run.update_status(stpe=3)
    assert run.status() == status


@pytest.mark.parametrize("text", ["", "[]", '{"state": "asleep"}', '{"state": "running", "more": 1}'])
def test_a_status_of_another_form_is_told(run, text):
    run.status_file.write_text(text)
    with pytest.raises(CheckpointError) as caught:
        run.status()
    assert str(run.status_file) in caught.value.render()


def test_finished_runs_are_listed_newest_first(tmp_path):
    assert finished_runs(tmp_path / "nowhere") == []
    for name, state in (("a", "finished"), ("b", "running"), ("c", "finished"), ("d", "failed")):
        RunDirectory(tmp_path / name).create(CONFIG).update_status(state=state)
    RunDirectory(tmp_path / "a").update_status(seconds=1.0)
    (tmp_path / "photos").mkdir()
    (tmp_path / "a-file").write_text("x")
    damaged = RunDirectory(tmp_path / "e").create(CONFIG)
    damaged.status_file.write_text("{")
    assert [run.path.name for run in finished_runs(tmp_path)] == ["a", "c"]


def test_missing_space_is_told_before_anything_starts(run):
    run.require_space(1)
    with pytest.raises(CheckpointError, match="MMG-K04"):
        run.require_space(10**18)


def test_the_kept_config_is_plain_yaml(run):
    assert yaml.safe_load(run.config_file.read_text())["task"]["lr"] == 1e-8
    assert "!!" not in run.config_file.read_text()


def test_runs_need_no_torch():
    imports = "from mmgen import progress; from mmgen.runs import directory, metrics, config, lock; import sys"
    code = f"{imports}; assert not {{'torch', 'rich', 'wandb'}} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_evaluation_of_several_megabytes_is_read(tmp_path):
    """As of a run that draws thousands of captions; by every command alike."""
    from mmgen.commands.evaluate import failures  # torch

    told = {"findings": {}, "drawings": [{"caption": "a red fox", "number": i} for i in range(50_000)]}
    (tmp_path / "evaluation.json").write_text(json.dumps(told))
    assert (tmp_path / "evaluation.json").stat().st_size > 2_000_000
    assert RunDirectory(tmp_path).read_evaluation() == told
    assert failures(tmp_path) == 0
