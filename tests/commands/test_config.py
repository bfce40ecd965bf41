"""`mmgen config`: the resolved config, differences, and where each value comes from."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest
import yaml

from mmgen import cli
from mmgen.commands import composition, places
from mmgen.commands.sources import Sources, flat
from mmgen.runs.directory import RunDirectory

Install = Callable[..., Path]
KINDS = ("tokenizer", "generator", "encoder", "sampler")
TOYS = """
    class Dataset:
        def __init__(self, path: str = "pictures", image_size: int = 32, hub_token: str = ""): ...
    class Part:
        def __init__(self, width: int = 8, rate: float = 0.5): ...
    class Judge:
        def __init__(self, split: str = "val", pictures: int | None = None): ...
"""
PRESETS = {
    "toy_conf/__init__.py": "",
    "toy_conf/generator/wide.yaml": "# wide\ndefaults: [toy, _self_]\nwidth: 64\n",
    "toy_conf/experiment/try.yaml": dedent("""
        # @package _global_
        defaults:
          - override /dataset: toy
          - override /tokenizer: toy
          - override /generator: wide
          - override /encoder: toy
          - override /sampler: toy
          - override /evaluator: [judge]
        run: {name: tried}
        generator: {rate: 0.25}
        trainer: {log_every_n_steps: 3}
        evaluator: {judge: {pictures: 7}}
        stages:
          generator: {task: {batch_size: 17}, trainer: {max_steps: 18}}
    """).lstrip(),
}


@pytest.fixture(autouse=True)
def toys(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Components that import nothing, a preset and an experiment; the working directory is empty."""
    entries: dict[str, dict[str, str]] = {f"mmgen.{kind}": {"toy": "toys:Part"} for kind in KINDS}
    entries |= {"mmgen.dataset": {"toy": "toys:Dataset"}, "mmgen.evaluator": {"judge": "toys:Judge"}}
    entries["mmgen.configs"] = {"toys": "toy_conf"}
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return install("toys", entries, {"toys.py": TOYS, **PRESETS})


def sources(command: str, *overrides: str) -> Sources:
    return Sources(command, list(overrides), places.places())


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["config", *arguments]) == 0
    return capsys.readouterr().out


# --- show ------------------------------------------------------------------------------------------------------------


def test_show_is_what_the_command_gets(capsys: pytest.CaptureFixture[str]):
    out = told(capsys, "show", "run", "experiment=try", "seed=3")
    config = composition.checked("run", ["experiment=try", "seed=3"], places.places()).config
    assert yaml.safe_load(out) == yaml.safe_load(yaml.safe_dump(config))
    assert yaml.safe_load(out)["stages"]["generator"]["trainer"]["max_steps"] == 18


def test_show_some_keys_and_no_secrets(capsys: pytest.CaptureFixture[str]):
    out = told(capsys, "show", "run", "generator", "run.name", "dataset", "experiment=try", "dataset.hub_token=hunter2")
    assert yaml.safe_load(out) == {
        "generator": {"name": "toy", "width": 64, "rate": 0.25},
        "run": {"name": "tried"},
        "dataset": {"name": "toy", "path": "pictures", "image_size": 32, "hub_token": "<redacted>"},
    }


# --- why -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "overrides"),
    [
        ("run", ["experiment=try"]),
        ("run", ["experiment=try", "trainer.max_steps=4", "stages.encoder.trainer.max_steps=5", "generator.width=2"]),
        ("run", ["experiment=try", "debug=one_batch", "task@stages.tokenizer.task=tokenizer_dalle", "trainer=gpu"]),
        ("run", ["experiment=try", "~trainer.logger", "run={name: x, dir: y}", "evaluator.judge.split=test"]),
        ("train", ["experiment=try", "task=generator", "task.batch_size=5", "run.name=x"]),
        ("train", ["experiment=try", "task=encoder", "trainer.max_steps=5", "run.name=x"]),
        ("sample", ["sampler=toy", "num_images=3"]),
        ("plan", ["generator=toy", "nodes=[1,2]"]),
    ],
)
def test_the_last_word_on_every_key_is_its_value(command: str, overrides: list[str]):
    found = sources(command, *overrides)
    assert len(found.flat) >= 8
    assert found.config == composition.checked(command, overrides, places.places()).config
    for key, value in found.flat.items():
        said = found.of(key)[0].value
        if isinstance(said, str) and "${" in said:
            continue  # resolved from another key
        assert said == value or float(said) == float(value), (key, found.of(key))


def test_why_names_file_line_component_and_override(capsys: pytest.CaptureFixture[str], toys: Path):
    found = sources("run", "experiment=try", "generator.width=2", "trainer.log_every_n_steps=9")
    conf = places.ours().directory
    assert [(one.value, one.place) for one in found.of("generator.width")] == [
        (2, "command line: generator.width=2"),
        (64, f"{toys}/toy_conf/generator/wide.yaml:3"),
        (8, f"default of generator toy, toys 1.0 ({toys}/toys.py:4)"),
    ]
    assert [one.place for one in found.of("stages.encoder.trainer.log_every_n_steps")] == [
        "command line: trainer.log_every_n_steps=9",
        f"{toys}/toy_conf/experiment/try.yaml:11",
        f"{conf}/trainer/cpu.yaml:9",
    ]
    assert found.of("trainer.max_time")[0].place == "default of mmgen run"
    assert [(one.value, one.place) for one in found.chosen("generator")] == [
        ("wide", f"{toys}/toy_conf/experiment/try.yaml:5"),
        ("transformer", f"{conf}/run.yaml:{_line(conf / 'run.yaml', 'generator')}"),
    ]
    out = told(capsys, "why", "run", "generator.width", "experiment", "experiment=try")
    assert out.splitlines() == [
        "generator.width = 64",
        f"  set by     {toys}/toy_conf/generator/wide.yaml:3",
        f"  over       8    default of generator toy, toys 1.0 ({toys}/toys.py:4)",
        "experiment: try",
        "  chosen by  command line: experiment=try",
        f"  over       null    {conf}/run.yaml:{_line(conf / 'run.yaml', 'experiment')}",
    ]


def _line(file: Path, word: str) -> int:
    lines = file.read_text().splitlines()
    return next(i for i, line in enumerate(lines, 1) if line.strip().startswith(f"- {word}:"))


def test_train_takes_what_an_experiment_says_of_its_stage():
    found = sources("train", "experiment=try", "task=generator", "run.name=x")
    assert [one.value for one in found.of("task.batch_size")] == [17, 64]
    assert [one.value for one in found.of("trainer.max_steps")] == [18, 1500]
    assert found.chosen("task")[0].place == "command line: task=generator"


def test_why_without_a_key_tells_of_every_key(capsys: pytest.CaptureFixture[str]):
    lines = told(capsys, "why", "run", "experiment=try").splitlines()
    assert len(lines) == len(list(flat(sources("run", "experiment=try").config)))
    assert all(" = " in line for line in lines)


# --- diff ------------------------------------------------------------------------------------------------------------


def test_diff_of_runs_and_of_a_run_and_a_composition(capsys: pytest.CaptureFixture[str]):
    for name, width in (("one", 64), ("two", 5)):
        overrides = ["experiment=try", f"generator.width={width}", f"run.name={name}"]
        config = composition.checked("run", overrides, places.places()).config
        RunDirectory(f"runs/{name}").create(config)
    assert told(capsys, "diff", "runs/one", "runs/two") == "run.name: one → two\ngenerator.width: 64 → 5\n"
    out = told(capsys, "diff", "runs/two", "run", "experiment=try", "seed=2")
    assert out == "run.name: two → tried\nseed: 1 → 2\ngenerator.width: 5 → 64\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["shwo", "run"], "fix: mmgen config show"),
        (["show", "rnu"], "did you mean run?"),
        (["show", "run", "generator.widht", "experiment=try"], "did you mean generator.width?"),
        (["show", "run", "experiment=try", "generator.widht=3"], "did you mean generator.width?"),
        (["diff", "run"], "a name is missing"),
        (["why"], "a name is missing"),
        (["show", "run", "--cfg", "job"], "takes no '--cfg=job'"),
    ],
)
def test_bad_input_is_refused(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["config", *arguments]) == 2
    told = capsys.readouterr()
    assert words in told.err
    assert told.out == ""


@pytest.mark.parametrize(
    ("action", "heavy"),
    [
        ("show", ("torch", "PIL", "pytorch_lightning", "wandb")),  # options are read from source text
        ("why", ("pytorch_lightning", "wandb")),  # which shows the line of a default in its class
    ],
)
def test_what_is_heavy_is_not_imported(action: str, heavy: tuple[str, ...]):
    code = (
        "import sys, mmgen.cli\n"
        f"assert mmgen.cli.main(['config', {action!r}, 'run', 'experiment=try']) == 0\n"
        f"print([m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
