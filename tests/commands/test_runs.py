"""`mmgen runs`: lists, pages, what is removed and what is not, and what wandb gets back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mmgen import cli
from mmgen.files import write_json
from mmgen.images import save_png
from mmgen.runs.directory import RunDirectory
from mmgen.runs.metrics import MetricsFile

Told = Callable[..., str]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """Runs `mmgen runs …` to its end, and gives what it printed."""

    def run(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        assert cli.main(["runs", *arguments]) == code
        found = capsys.readouterr()
        return found.err if code else found.out

    return run


def make(name: str, seed: int = 1, state: str = "finished", days: float = 0, **config: Any) -> RunDirectory:
    """A run of all stages with rows, checkpoints, drawings and figures; as a training would have left it."""
    import torch

    run = RunDirectory(Path("runs", name)).path
    run.mkdir(parents=True)
    directory = RunDirectory(run).create({"run": {"name": name, "dir": "runs"}, "seed": seed, "stages": {}, **config})
    for stage in ("tokenizer", "generator"):
        (run / stage).mkdir()
        one = RunDirectory(run / stage).create({"kind": stage, "seed": seed})
        metrics = MetricsFile(one.metrics_file)
        for step in range(6):
            metrics.append({"step": step, "train/loss": 1 / (step + seed)})
        metrics.append({"step": 5, "val/loss": 0.25 * seed})
        metrics.close()
        for step in (2, 4, 6):
            (one.checkpoints / f"step-{step:06d}").mkdir(parents=True)
            (one.checkpoints / f"step-{step:06d}" / "state.safetensors").write_bytes(bytes(1000))
            if step < 6:
                (one.checkpoints / f"step-{step:06d}" / "manifest.json").write_text("{}")  # the last is torn
        (one.samples).mkdir()
        save_png(torch.full((3, 4, 4), 0.1 * seed), one.samples / "reconstructions-000005.png")
        one.update_status(state="finished", stage=stage, step=6, max_steps=6, seconds=2.0)
    (run / "samples").mkdir()
    save_png(torch.full((3, 4, 4), 0.1 * seed), run / "samples" / "drawing-00-1.png")
    numbers = [{"name": "reconstruction/psnr", "value": 20.0 + seed, "n": 9, "unit": "dB"}]
    drawing = {"caption": "a <red> fox", "pictures": ["samples/drawing-00-1.png"], "scores": [0.5]}
    findings = {"reconstruction": {"numbers": numbers}}
    write_json(run / "evaluation.json", {"findings": findings, "drawings": [drawing]})
    directory.update_status(state=state, stage=None)
    then = (datetime.now(UTC) - timedelta(days=days)).isoformat(timespec="milliseconds")
    for file in (run / "status.json", *run.glob("*/status.json")):
        write_json(file, {**json.loads(file.read_text()), "updated": then, "started": then})
    return RunDirectory(run)


# --- list and show ---------------------------------------------------------------------------------------------------


def test_a_list_has_state_age_figures_pictures_and_what_is_peculiar(told: Told):
    for name, seed, days in (("one", 1, 0.0), ("two", 1, 3.0), ("three", 2, 30.0)):
        make(name, seed=seed, days=days)
    head, *rows = told("list").splitlines()
    assert head.split() == ["run", "state", "age", "training", "pictures", "figures", "config"]
    assert [row.split()[0] for row in rows] == ["one", "two", "three"], "the newest first"
    assert "  3 d  " in rows[1]
    assert "  4.0 s  " in rows[1]
    assert "reconstruction/psnr 22.00 dB" in rows[2]
    assert rows[2].endswith("seed=2")
    assert not rows[0].endswith("seed=1")
    assert [row.split()[0] for row in told("list", "limit=2").splitlines()[1:]] == ["one", "two"]
    assert told("list", "state=failed") == "no failed runs under runs/\n"
    assert told("list", "dir=nowhere") == "no runs under nowhere/\n"


def test_a_list_as_a_page(told: Told):
    make("one")
    make("two", seed=2)
    told("list", "html=pages/runs.html")
    page = Path("pages/runs.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "seed=2" in page
    assert "http://" not in page
    assert "https://" not in page


def test_show_tells_stages_and_differences(told: Told):
    make("one")
    make("two", seed=2, state="preempted")
    out = told("show", "runs/two", "against=runs/one")
    assert out.startswith("runs/two: interrupted")
    assert "seed: 1 → 2" in out
    assert "tokenizer  finished  6/6" in out
    assert "the same command with run.name=two goes on with it" in out
    assert "is no run" in told("show", "runs", code=5)


# --- compare ---------------------------------------------------------------------------------------------------------


def test_a_comparison_prints_a_table_and_writes_one_file(told: Told):
    import torch

    make("one")
    attention = make("two", seed=2, generator={"num_layers": 6}).path / "generator/samples/attention-000005.png"
    save_png(torch.rand(3, 700, 600), attention)
    out = told("compare", "runs/one", "runs/two", "out=pages/both.html")
    rows = {line.split("  ")[0]: line.split() for line in out.splitlines()}
    assert rows["seed"][-2:] == ["1", "2"]
    assert rows["generator.num_layers"][-2:] == ["–", "6"]
    assert rows["reconstruction/psnr"][-4:] == ["21.00", "dB", "22.00", "dB"]
    page = Path("pages/both.html").read_text()
    assert page.count('class="line r0"') == page.count('class="line r1"') == 2, "a line a run in each stage's chart"
    assert "<code>generator.num_layers</code>" in page
    assert "a &lt;red&gt; fox" in page
    assert "<red>" not in page
    assert page.count("data:image/png;base64,") >= 2 + 2 * 2, "drawings and reconstructions of both"
    assert "Generator: attention" in page
    assert 'width="600" height="700" alt="Generator: attention"' in page, "small letters are not made smaller"
    assert "http://" not in page
    assert "https://" not in page
    assert "in use" in told("compare", "runs/one", "runs/two", "out=pages/both.html", code=2)
    assert "named twice" in told("compare", "runs/one", "runs/../runs/one", code=2)


# --- open ------------------------------------------------------------------------------------------------------------


def test_open_writes_the_report_and_prints_its_path_where_there_is_no_browser(told: Told, here: Path):
    run = make("one")
    report = here / "runs" / "one" / "report.html"
    assert told("open", "runs/one") == f"{report}\n"
    assert "reconstruction" in report.read_text().lower()
    report.write_text("mine")
    assert told("open", "runs/one") == f"{report}\n"
    assert report.read_text() == "mine", "not older than the rows, so it stays"
    os.utime(report, (1, 1))
    told("open", "runs/one")
    assert report.read_text() != "mine"
    assert run.path.is_dir()


def test_open_shows_it_in_a_browser(told: Told, here: Path, monkeypatch: pytest.MonkeyPatch):
    make("one")
    browser = here / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {here}/shown\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(browser))
    code = "import sys, mmgen.cli; sys.exit(mmgen.cli.main(['runs', 'open', 'runs/one']))"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
    assert (here / "shown").read_text() == f"{(here / 'runs/one/report.html').as_uri()}\n"
    (here / "shown").unlink()
    told("open", "runs/one", "browser=false")
    assert not (here / "shown").exists()


# --- prune -----------------------------------------------------------------------------------------------------------


def test_prune_shows_first_and_removes_only_with_yes(told: Told):
    make("one", state="failed")
    make("two")
    out = told("prune", "state=failed")
    assert "runs/one  failed" in out
    assert "yes=true removes it" in out
    assert Path("runs/one").is_dir()
    assert "removed" in told("prune", "state=failed", "yes=true")
    assert sorted(os.listdir("runs")) == ["two"]
    assert told("prune", "state=failed", "yes=true") == "nothing to remove\n"
    assert "which runs?" in told("prune", code=2)


def test_what_is_no_run_and_what_cannot_be_read_is_not_pruned_by_state(told: Told):
    other = Path("runs/other/build")
    other.mkdir(parents=True)
    (other / "status.json").write_text('{"state": "ok"}')
    (other / "data.txt").write_text("x")
    make("torn", days=99).status_file.write_text("{")
    for chosen in ("state=failed", "older_than=1d", "checkpoints=true"):
        assert told("prune", chosen, "yes=true") == "nothing to remove\n"
    assert (other / "data.txt").is_file()
    assert "torn  unreadable" in told("list", "state=unreadable")
    assert "is no run" in told("prune", "runs/other/build", "yes=true", code=5)
    assert "removed" in told("prune", "runs/torn", "yes=true"), "it was named"
    assert os.listdir("runs") == ["other"]


def test_prune_by_age(told: Told):
    make("old", days=31)
    make("new", days=29)
    told("prune", "older_than=30d", "yes=true")
    assert os.listdir("runs") == ["new"]
    assert "older_than must be a number" in told("prune", "older_than=soon", code=2)


def test_a_running_one_is_never_removed(told: Told):
    held = make("one", state="running", days=99)
    with held.lock():
        for words in (["runs/one"], ["older_than=1d"], ["state=failed"], ["runs/one", "checkpoints=true"]):
            assert "kept: runs/one is running" in told("prune", *words, "yes=true")
    assert len(list(held.path.rglob("step-*"))) == 6


def test_checkpoints_but_the_last_whole_one(told: Told):
    make("one")
    out = told("prune", "runs/one", "checkpoints=true", "yes=true")
    assert "4 checkpoints" in out
    left = sorted(str(path.relative_to("runs/one")) for path in Path("runs/one").rglob("step-*"))
    assert left == [f"{stage}/checkpoints/step-000004" for stage in ("generator", "tokenizer")]
    assert "nothing to remove" in told("prune", "checkpoints=true", "yes=true")


@pytest.mark.parametrize("key", ["tokenizer_from", "generator_from", "encoder_from", "init_from"])
def test_a_run_whose_parts_another_was_trained_with_is_kept_unless_it_is_named(told: Told, here: Path, key: str):
    make("base", days=40)
    user = make("user")
    made = {"command": "train", "directory": str(here), "config": {key: "runs/base"}, "data": {}}
    write_json(user.path / "origin.json", {**made, "sessions": [{"code": {}, "versions": {}, "machine": {}}]})
    assert "kept: runs/base: runs/user was trained with its parts" in told("prune", "older_than=30d", "yes=true")
    assert Path("runs/base").is_dir()
    assert "runs/user was trained with its parts" in told("prune", "runs/base", "yes=true")
    assert not Path("runs/base").exists()


def test_a_run_that_begins_where_one_was_removed_is_left_alone(told: Told, monkeypatch: pytest.MonkeyPatch):
    make("one", state="failed")

    def remove_and_begin(path: Path) -> None:
        shutil.rmtree(path)
        make("one")

    monkeypatch.setattr("mmgen.commands.pruning.remove", remove_and_begin)
    told("prune", "state=failed", "yes=true")
    assert Path("runs/one/config.yaml").is_file()


def test_the_directory_one_stands_in_is_not_removed(told: Told, monkeypatch: pytest.MonkeyPatch):
    make("one", state="failed")
    monkeypatch.chdir("runs/one/tokenizer")
    assert "holds the working directory" in told("prune", "..", "yes=true", code=2)


# --- replay ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_a_crash_took_from_wandb_is_replayed(told: Told, here: Path):
    """A log cut in its middle, as SIGKILL leaves it, beside the metrics file that has every row."""
    from mmgen.tracking.wandb_folder import find_log, read_wandb

    directory = RunDirectory("runs/one").create({"kind": "tokenizer", "seed": 7})
    directory.update_status(state="finished", stage="tokenizer")
    metrics = MetricsFile(directory.metrics_file)
    for step in range(400):
        metrics.append({"step": step, **{f"train/metric{i}": step + i / 7 for i in range(12)}})
    metrics.close()
    assert "wandb had no log; now all 400: wandb sync " in told("replay", "runs/one"), "it was not tracked at all"
    (folder,) = (directory.path / "wandb").glob("offline-run-*")
    log = find_log(folder)
    assert log is not None
    assert "nothing was lost" in told("replay", "runs/one")
    log.write_bytes(log.read_bytes()[: log.stat().st_size // 2])
    lost = read_wandb(log)
    assert 0 < len(lost.rows) < 400
    assert not lost.ended
    out = told("replay", "runs/one")
    assert f"wandb had {len(lost.rows)} of 400 rows; now all 400: wandb sync " in out
    (again,) = (directory.path / "wandb").glob("offline-run-*")
    assert again != folder, "what the new log repeats is removed"
    found = read_wandb(find_log(again))
    assert found.id == lost.id
    assert found.config["seed"] == 7
    assert found.ended
    assert [row["step"] for row in found.rows] == list(range(400))
    assert found.rows[399]["train/metric3"] == 399 + 3 / 7
    assert "nothing was lost" in told("replay", "runs/one")


@pytest.mark.slow
def test_an_evaluation_that_wandb_lost_is_replayed(told: Told):
    """A run that was killed while wandb was told what had been judged."""
    from mmgen.tracking.wandb_folder import find_log, read_wandb

    run = make("one")
    shutil.rmtree(run.path / "generator")
    assert "evaluation" not in told("replay", "runs/one"), "without a lineage it was not judged to the end"
    write_json(run.path / "lineage.json", {"samples": {"path": "evaluation.json", "requires": {}}})
    assert "runs/one: the evaluation was written anew: wandb sync " in told("replay", "runs/one"), "killed before wandb"
    settings = json.loads((run.path / "wandb" / "settings.json").read_text())
    names = {"project": "mmgen", "group": "one", "name": "one-evaluation", "job_type": "evaluation"}
    assert settings.items() >= names.items()
    shutil.rmtree(run.path / "wandb")
    (run.path / "wandb").mkdir()
    write_json(run.path / "wandb" / "settings.json", {**names, "config": {"kind": "evaluation"}, "inputs": []})
    assert "runs/one: the evaluation was written anew: wandb sync " in told("replay", "runs/one"), "killed meanwhile"
    (folder,) = (run.path / "wandb").glob("offline-run-*")
    log = find_log(folder)
    assert log is not None
    assert read_wandb(log).ended
    assert "runs/one: nothing was lost" in told("replay", "runs/one")


@pytest.mark.slow
def test_a_running_run_is_not_replayed(told: Told):
    with make("one").lock():
        code = "import sys, mmgen.cli; sys.exit(mmgen.cli.main(['runs', 'replay', 'runs/one']))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 7
    assert "is in use by pid" in done.stderr


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lst"], "fix: mmgen runs list"),
        ([], "is to do what?"),
        (["list", "stat=failed"], "did you mean state?"),
        (["list", "limit=many"], "limit must be a whole number"),
        (["prune", "state=running"], "state must be one of finished, interrupted, failed"),
        (["compare", "runs/one"], "a name is missing"),
        (["list", "a", "b"], "'b' is one too many"),
        (["list", "-m"], "takes no '--multirun'"),
    ],
)
def test_bad_input_is_refused(told: Told, arguments: list[str], words: str):
    assert words in told(*arguments, code=2)


def test_nothing_is_left_of_what_was_removed(told: Told):
    shutil.copytree(make("one").path, "runs/two")
    told("prune", "runs/one", "runs/two", "yes=true")
    assert os.listdir("runs") == []
