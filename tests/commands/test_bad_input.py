"""Bad input, and what else ends a command at once, through the real command; nothing is overwritten."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from mmgen.images import save_png
from mmgen.runs.directory import RunDirectory
from tests.tiny import QUIET, RUN, files, mmgen

Result = subprocess.CompletedProcess[str]

BAD = ["run", *RUN, QUIET, "run.name=bad"]
TINY = ["run", *RUN, QUIET, "run.name=tiny"]
# What is asked, the exit code, words of the answer.
Case = tuple[list[str], int, list[str]]
PROCESSES: dict[str, Case] = {
    "unknown option": ([*BAD, "tokenizer=vqgan"], 2, ["no option 'vqgan'", "vq"]),
    "misspelt key": ([*BAD, "generator.numlayers=3"], 2, ["generator.numlayers", "generator.num_layers"]),
    "wrong type": ([*BAD, "stages.encoder.trainer.max_steps=abc"], 2, ["max_steps", "'abc'"]),
    "missing value": (["run", "dataset=folder", "run.name=bad"], 2, ["dataset.path"]),
    "missing folder": ([*BAD, "dataset.path=gone"], 3, ["'gone' does not exist", "dataset.path"]),
    "no captions": ([*BAD, "dataset.path=bare"], 3, ["have no captions", ".txt"]),
    "unreadable picture": ([*BAD, "dataset.path=broken"], 3, ["zz.png"]),
    "empty caption": ([*BAD, "dataset.path=blank"], 3, ["zz.txt"]),
    "no utf-8": ([*BAD, "dataset.path=latin"], 3, ["zz.txt", "UTF-8"]),
    "output in use": (["sample", "a red bar", "out=pictures"], 2, ["'pictures' is in use", "out=pictures-2"]),
    "another config": (
        [*TINY, "seed=2", "generator.num_layers=2"],
        2,
        ["seed 1 → 2", "generator.num_layers 1 → 2", "run.name=tiny-2"],
    ),
    "two at once": (["run", *RUN, QUIET, "run.name=locked"], 7, ["runs/locked is in use by pid", "run.name=locked-2"]),
    "damaged run": (["sample", "a red bar", "run=runs/damaged"], 5, ["model.safetensors"]),
}
CALLS: dict[str, Case] = {
    "heads": ([*BAD, "generator.num_heads=5"], 2, ["num_heads=5", "embed_dim=32"]),
    "no steps": ([*BAD, "stages.encoder.trainer.max_steps=0"], 2, ["0 steps", "stages.encoder.trainer.max_steps=1000"]),
    "no text tokenizer": ([*BAD, "stages.encoder.task.text_tokenizer=null"], 2, ["has no text tokenizer"]),
    "several": (
        [*BAD, "encoder.patch_size=5", "stages.tokenizer.task.optimizer.name=muon"],
        2,
        ["patch_size=5", "stages.tokenizer.task.optimizer.name=adamw"],
    ),
    "no such device": (
        [*BAD, "stages.encoder.trainer.accelerator=tpu"],
        2,
        ["Trainer refuses", "stages.encoder"],
    ),
    "empty folder": ([*BAD, "dataset.path=empty"], 3, ["'empty' holds no pictures"]),
    "foreign directory": (["run", *RUN, QUIET, "run.name=mine"], 2, ["runs/mine is in use", "run.name=mine-2"]),
    "never again": ([*TINY, "resume=never"], 2, ["holds a run already", "run.name=tiny-2"]),
    "no tokenizer": (["train", "task=generator", *RUN[:3], "run.dir=none"], 2, ["trained image tokenizer"]),
    "no run": (["sample", "a red bar", "run=pictures"], 5, ["'pictures' holds no finished run"]),
    "broken picture": (["classify", "broken/zz.png", "a cat", "a dog"], 3, ["zz.png"]),
    "export in use": (["export", "runs/tiny", "pictures"], 5, ["pictures", "not overwritten"]),
}


@pytest.fixture(scope="module")
def prepared(work) -> Path:
    """With all that the bad inputs name."""
    for name in ("empty", "bare", "broken", "blank", "latin", "runs/mine"):
        (work / name).mkdir(parents=True)
    for name in ("bare", "broken", "blank", "latin"):
        save_png(torch.rand(3, 16, 16), work / name / "a.png")
        save_png(torch.rand(3, 16, 16), work / name / "zz.png")
    for name in ("broken", "blank", "latin"):
        (work / name / "a.txt").write_text("a picture")
        (work / name / "zz.txt").write_text("another")
    (work / "broken/zz.png").write_bytes((work / "broken/zz.png").read_bytes()[:100])
    (work / "blank/zz.txt").write_text(" \n")
    (work / "latin/zz.txt").write_bytes("ein Bär".encode("latin-1"))
    (work / "runs/mine/notes.txt").write_text("mine")
    shutil.copytree(work / "runs/tiny", work / "runs/damaged")
    weights = work / "runs/damaged/generator/model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-7])
    return work


def assert_told(code: int, out: str, err: str, case: Case) -> None:
    told = [line for line in err.splitlines() if not line.startswith("reading: ")]  # the bar of the pictures
    assert code == case[1], err
    assert told[0].startswith("error[MMG-")
    assert 2 <= len(told) <= 6, err
    assert "Traceback" not in err + out
    assert "fix: " in err
    assert [word for word in case[2] if word not in err] == [], err


def changed(work: Path, before: dict[str, Any]) -> set[str]:
    after = files(work)
    return {name for name in {*before, *after} if before.get(name) != after.get(name) and not name.endswith(".lock")}


@pytest.fixture(scope="module")
def answers(prepared) -> tuple[dict[str, Result], set[str]]:
    """What each bad input is answered, all asked side by side, as a process takes seconds; what they changed."""
    before = files(prepared)
    with RunDirectory(prepared / "runs/locked").lock(), ThreadPoolExecutor(3) as pool:
        futures = {name: pool.submit(mmgen, *case[0], cwd=prepared) for name, case in PROCESSES.items()}
        found = {name: future.result() for name, future in futures.items()}
    return found, changed(prepared, before)


@pytest.mark.parametrize("name", PROCESSES)
def test_bad_input_is_told_in_six_lines(answers, name):
    answer = answers[0][name]
    assert_told(answer.returncode, answer.stdout, answer.stderr, PROCESSES[name])


def test_another_config_is_told_before_anything_is_read(answers):
    assert "reading" not in answers[0]["another config"].stderr


def test_bad_input_overwrites_and_leaves_nothing(answers, prepared):
    assert answers[1] == set()
    assert not (prepared / "runs/bad").exists()


@pytest.mark.parametrize("name", CALLS)
def test_more_of_it_in_one_process(prepared, call, name):
    before = files(prepared)
    assert_told(*call(*CALLS[name][0]), CALLS[name])
    assert changed(prepared, before) == set()
    assert not (prepared / "runs/bad").exists()
    assert not (prepared / "none").exists()
