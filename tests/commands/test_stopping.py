"""Runs that are stopped and killed through the real command, and go on: the end is that of a run left alone."""

from __future__ import annotations

import json
import math
import random
import shutil
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from mmgen.checkpoint.parts import read_part
from mmgen.images import decode
from mmgen.runs.agreement import NOT_COMPUTED
from mmgen.runs.metrics import MetricsFile
from tests.tiny import QUIET, RUN, STEPS, files, mmgen, write_pictures

pytestmark = pytest.mark.slow

KINDS = ("tokenizer", "generator", "encoder")
STOPPING = [
    "tokenizer=stopping:StoppingVQ",
    "generator=stopping:StoppingTransformer",
    "encoder=stopping:StoppingClip",
    "sampler=stopping:StoppingSampler",
]
Result = subprocess.CompletedProcess[str]


def workplace(directory: Path) -> Path:
    """A directory with the pictures and the components that stop."""
    write_pictures(directory / "pictures")
    shutil.copy(Path(__file__).parent / "stopping.py", directory)
    return directory


def run(work: Path, stop: str = "", **env: str) -> Result:
    return mmgen("run", "run.name=it", *RUN, *STOPPING, QUIET, cwd=work, STOP_AT=stop, **env)


def status(work: Path, stage: str = ".") -> dict:
    return json.loads((work / "runs/it" / stage / "status.json").read_text())


# ---- asked to stop, in every stage and while drawing

ASKED = ["tokenizer:7:TERM", "generator:4:INT", "encoder:11:TERM", "drawing:0:TERM"]
KILLED = ["tokenizer:8:KILL", "generator:0:KILL", "encoder:23:KILL"]


def stopped(work: Path, stops: list[str]) -> list[tuple[Result, dict[str, dict]]]:
    """Each start of the run: what it said, and the statuses it left; the last one is left alone."""
    history = []
    for stop in [*stops, ""]:
        result = run(work, stop)
        stages = [kind for kind in KINDS if (work / "runs/it" / kind / "status.json").is_file()]
        history.append((result, {stage: status(work, stage) for stage in (".", *stages)}))
    return history


@pytest.fixture(scope="module")
def histories(tmp_path_factory):
    """Two runs that are stopped again and again, made side by side: (directory, history) of each."""
    with ThreadPoolExecutor() as pool:
        works = [workplace(tmp_path_factory.mktemp(name)) for name in ("asked", "killed")]
        futures: list[Future] = [pool.submit(stopped, *pair) for pair in zip(works, (ASKED, KILLED), strict=True)]
        return {
            name: (work, future.result())
            for name, work, future in zip(("asked", "killed"), works, futures, strict=True)
        }


@pytest.mark.parametrize("number", range(len(ASKED)))
def test_a_signal_saves_says_how_to_go_on_and_gives_its_exit_code(histories, number):
    kind, step, name = ASKED[number].split(":")
    result, left = histories["asked"][1][number]
    assert result.returncode == {"TERM": 143, "INT": 130}[name], result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert left["."]["state"] == "preempted"
    last = result.stderr.splitlines()[-1]
    assert "the same command with run.name=it" in last
    if kind == "drawing":
        assert "the parts are trained" in last
        return
    done = int(step) + 1  # the step that was running is finished
    assert f"the {kind} is saved at step {done} of {STEPS}" in last
    assert left[kind]["state"] == "preempted"
    assert left[kind]["step"] == done


@pytest.mark.parametrize("number", range(len(KILLED)))
def test_a_kill_leaves_the_last_checkpoint(histories, number):
    kind, step, _ = KILLED[number].split(":")
    result, left = histories["killed"][1][number]
    assert result.returncode == -9
    assert left[kind]["state"] == "running"
    assert left[kind]["step"] == int(step) // 5 * 5


@pytest.mark.parametrize("name", ["asked", "killed"])
def test_it_ends_as_a_run_left_alone(histories, finished, name):
    """The weights of all parts bit for bit, what was drawn, and every number that was found."""
    work, history = histories[name]
    assert history[-1][0].returncode == 0, history[-1][0].stderr
    assert_same_end(work / "runs/it", finished)


def assert_same_end(run: Path, other: Path) -> None:
    for kind in KINDS:
        ours, theirs = read_part(run / kind / "model", trusted=True), read_part(other / kind / "model")
        assert ours.tensors.keys() == theirs.tensors.keys()
        assert [n for n in ours.tensors if not torch.equal(ours.tensors[n], theirs.tensors[n])] == []
        assert ours.text_tokenizer == theirs.text_tokenizer
    ours, theirs = (json.loads((path / "evaluation.json").read_text()) for path in (run, other))
    for key in ("findings", "drawings", "classified", "reconstructions"):
        assert ours[key] == theirs[key]
    ours, theirs = files(run / "samples"), files(other / "samples")
    assert ours.keys() == theirs.keys()
    # Bytes beside the pixels tell the command that draws them again, which names the run.
    for name in ours:
        assert torch.equal(decode(run / "samples" / name), decode(other / "samples" / name)), name
    assert len(ours) >= 10


@pytest.mark.parametrize("name", ["asked", "killed"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_step_is_in_the_metrics_once(histories, finished, name, kind):
    """With the numbers of a run left alone. Only validations may be missing, or be there for a stop's own step."""
    ours = MetricsFile(histories[name][0] / "runs/it" / kind / "metrics.jsonl").rows()
    theirs = MetricsFile(finished / kind / "metrics.jsonl").rows()
    trained = [row for row in ours if "train/loss" in row]
    assert [row["step"] for row in trained] == list(range(STEPS))
    assert_same_rows(trained, [row for row in theirs if "train/loss" in row])
    judged = {row["step"]: row for row in ours if "val/loss" in row}
    assert len(judged) == sum("val/loss" in row for row in ours)
    alone = {row["step"]: row for row in theirs if "val/loss" in row}
    assert set(alone) == {7, 15, 23}
    both = sorted(set(alone) & set(judged))
    assert_same_rows([judged[step] for step in both], [alone[step] for step in both])
    assert 23 in judged


def assert_same_rows(ours: list[dict], theirs: list[dict]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for key in (key for key in one if not NOT_COMPUTED.search(key)):
            assert one[key] == other[key] or (math.isnan(one[key]) and math.isnan(other[key])), (one["step"], key)


def test_kills_at_any_time_change_nothing(tmp_path, finished):
    """Amid writes of checkpoints, validations, the tokenizing of pictures and the evaluation."""
    work = workplace(tmp_path)
    moments = random.Random(1)
    killed = 0
    for _ in range(40):
        result = run(work, KILL_AFTER=f"{moments.uniform(0.0, 0.4):.3f}")
        if result.returncode == 0:
            break
        assert result.returncode == -9, result.stderr
        killed += 1
    else:
        assert run(work).returncode == 0
    assert killed >= 6
    assert_same_end(work / "runs/it", finished)
    for kind in KINDS:
        rows = MetricsFile(work / "runs/it" / kind / "metrics.jsonl").rows()
        assert [row["step"] for row in rows if "train/loss" in row] == list(range(STEPS))


def test_a_training_of_one_part_stops_and_goes_on_under_its_name(tmp_path):
    """Its directory is named by the clock, so the message says which it was."""
    work = workplace(tmp_path)
    train = [
        *("train", "task=tokenizer", "dataset=folder", "dataset.path=pictures", "dataset.image_size=16"),
        *("tokenizer=stopping:StoppingVQ", "tokenizer.width=8", "tokenizer.blocks=1", "tokenizer.codebook_size=32"),
        *("trainer.max_steps=9", "task.batch_size=16", QUIET),
    ]
    result = mmgen(*train, cwd=work, STOP_AT="tokenizer:3:INT")
    assert result.returncode == 130, result.stderr
    (directory,) = (work / "runs").iterdir()
    assert f"run.name={directory.name} goes on from there" in result.stderr.splitlines()[-1]
    again = mmgen(*train, f"run.name={directory.name}", cwd=work)
    assert again.returncode == 0, again.stderr
    assert str(Path("runs", directory.name, "model")) in again.stdout
    assert "tokenizer: 4/9 steps" in again.stderr
    assert read_part(directory / "model", trusted=True).info["step"] == 9
