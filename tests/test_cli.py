"""The command itself: help, arguments, messages, exit codes, sweeps."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmgen import cli
from mmgen.commands import launch
from mmgen.errors import CheckpointError, ConfigError, Interrupted
from tests.pipes import unread

Install = Callable[..., Path]
Command = Callable[..., subprocess.CompletedProcess[str]]
HEAVY = ("torch", "pytorch_lightning", "wandb", "hydra")

PARTS = ("tokenizer", "generator", "encoder", "sampler")
TOYS = """
    class Dataset:
        def __init__(self, path: str): ...
    class Part:
        def __init__(self, width: int = 8): ...
    class Judge:
        def __init__(self, split: str = "val"): ...
"""
CHOICES = ["task=tokenizer", "dataset=toy", "dataset.path=x", *(f"{kind}=toy" for kind in PARTS)]


@pytest.fixture
def toys(install: Install) -> Path:
    """Components that import nothing, so that a command starts in a moment."""
    entries: dict[str, dict[str, str]] = {f"mmgen.{kind}": {"toy": "toys:Part"} for kind in PARTS}
    entries |= {"mmgen.dataset": {"toy": "toys:Dataset"}, "mmgen.evaluator": {"judge": "toys:Judge"}}
    return install("toys", entries, {"toys.py": TOYS})


class Calls(list):
    """Stands for a command's function, and remembers what it was given."""

    def __init__(self, answer: Any = None) -> None:
        super().__init__()
        self.answer = answer

    def __call__(self, config: dict[str, Any], positionals: list[str]) -> int | None:
        self.append((config, positionals))
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer(config) if callable(self.answer) else self.answer


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Calls:
    calls = Calls()
    monkeypatch.setattr(launch, "function", lambda command: calls)
    monkeypatch.chdir(tmp_path)
    return calls


@pytest.fixture(autouse=True)
def _handlers() -> Any:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


# --- help and listings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["plugins", "list"], ["train", "--help"], ["--version"]])
def test_help_and_listings_are_light(arguments: list[str]):
    code = (
        "import sys, mmgen.cli\n"
        f"code = mmgen.cli.main({arguments!r})\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert done.stdout


def test_help_names_every_command_and_an_example(command: Command):
    done = command("--help")
    assert done.returncode == 0
    for name in cli.COMMANDS:
        assert f"\n  {name}" in done.stdout
    assert "example: mmgen" in done.stdout


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_a_page_with_an_example(name: str, capsys: pytest.CaptureFixture[str]):
    assert cli.main([name, "--help"]) == 0
    page = capsys.readouterr().out
    assert f"usage: mmgen {name}" in page
    assert f"example: mmgen {name}" in page


def test_the_help_page_lists_an_installed_plugin(toys: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["train", "generator=toy", "-h"]) == 0
    page = capsys.readouterr().out
    listed = re.search(r"^ *dataset +(.+)$", page, re.MULTILINE)
    assert listed
    assert {"folder", "toy"} <= set(listed[1].split(", "))
    assert "trainer.max_steps=-1" in page
    assert "generator.width=8" in page


def test_no_arguments_are_help(capsys: pytest.CaptureFixture[str]):
    assert cli.main([]) == 0
    assert "usage" in capsys.readouterr().out


# --- which argument is what ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "overrides", "positionals"),
    [
        (["a cat", "num_images=32"], ["num_images=32"], ["a cat"]),
        (["num_images=32", "--", "E=mc2", "--help"], ["num_images=32"], ["E=mc2", "--help"]),
        (["a cat = a dog"], [], ["a cat = a dog"]),
        (["+seed=3", "++a.b=4", "~sampler", "~a.b"], ["+seed=3", "++a.b=4", "~sampler", "~a.b"], []),
        (["+1 for cats", "~ 3 cats", "-"], [], ["+1 for cats", "~ 3 cats", "-"]),
        (["a@b.c=x", "hydra/launcher=joblib", "x="], ["a@b.c=x", "hydra/launcher=joblib", "x="], []),
        (["labels=a\nb"], ["labels=a\nb"], []),
        (["picture.png", "ein Hund"], [], ["picture.png", "ein Hund"]),
    ],
)
def test_sorting(arguments: list[str], overrides: list[str], positionals: list[str]):
    found = cli.sort(arguments)
    assert (found.overrides, found.positionals) == (overrides, positionals)


def test_flags(tmp_path: Path):
    found = cli.sort(["-m", "-cd", str(tmp_path), "--cfg=job", "-p", "trainer", "--resolve"])
    assert (found.multirun, found.config_dir) == (True, tmp_path)
    assert found.flags == ["--cfg=job", "--package=trainer", "--resolve"]


def test_positionals_and_the_config_reach_the_command(calls: Calls):
    assert cli.main(["classify", "a.png", "a cat", "labels=my labels.txt", "--", "x=1"]) == 0
    (((config, positionals),),) = (calls,)
    assert positionals == ["a.png", "a cat", "x=1"]
    assert (config["run"], config["labels"], config["out"]) == (None, "my labels.txt", None)


def test_what_looks_like_a_key_is_never_a_caption(calls: Calls, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["classify", "a.png", "lables=x"]) == 2
    assert "did you mean labels?" in capsys.readouterr().err
    assert calls == []


def test_hydra_leaves_nothing_behind(calls: Calls, tmp_path: Path):
    assert cli.main(["classify", "a.png"]) == 0
    assert list(tmp_path.iterdir()) == []


# --- bad input, through the command ----------------------------------------------------------------------------------


def refused(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """The message of a refusal: at most six lines, no traceback, no advice to prefix with a plus."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    assert 1 <= len(done.stderr.splitlines()) <= 6
    assert "Traceback" not in done.stderr
    assert "use +" not in done.stderr
    assert done.stderr.startswith("error[MMG-")
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], "did you mean train?"),
        (["classify", "--confg-dir=x"], "did you mean --config-dir?"),
        (["classify", "--config-dir", "nowhere"], "no directory"),
        (["classify", "--config-dir"], "wants a value"),
        (["classify", "--cfg=jobb"], "did you mean job?"),
        (["classify", "-m", "run=a,b", "hydra.sweeper.no_such=1"], "no_such"),
        (["train", *CHOICES, "generator"], "takes no 'generator'"),
        (["train", *CHOICES, "tokenizer=toyy"], "fix: tokenizer=toy"),
        (["train", *CHOICES, "tokenizer.widht=3"], "did you mean tokenizer.width?"),
        (["train", *CHOICES, "+trainer.max_stepz=3"], "did you mean trainer.max_steps?"),
        (["train", *CHOICES, "trainer.max_steps=abc"], "trainer.max_steps must be a whole number, got 'abc'"),
        (["train", *CHOICES, "task.batch_size=abc"], "task.batch_size must be a whole number, got 'abc'"),
        (["train", *CHOICES, "~dataset.path"], "dataset.path is required"),
        (["train", "dataset=toy"], "dataset.path is required"),
        (["train", *CHOICES, "seed=1,2"], "add -m"),
        (["plugins", "lst"], "fix: mmgen plugins list"),
        (["plugins", "info", "toyy"], "no option 'toyy'"),
    ],
)
def test_bad_input_is_refused(toys: Path, command: Command, tmp_path: Path, arguments: list[str], words: str):
    assert words in refused(command(*arguments))
    assert list((tmp_path / "work").iterdir()) == [], "nothing is written"


def test_many_errors_are_one_line_each(toys: Path, command: Command):
    wrong = [f"trainer.wrong{i}=1" for i in range(9)]
    message = refused(command("train", *CHOICES, *wrong))
    assert message.splitlines()[-1] == "… and 4 more errors"


def test_a_broken_plugin_ends_with_8_for_those_who_choose_it(toys: Path, install: Install, command: Command):
    install("bad-plugin", {"mmgen.generator": {"bad": "bad:Bad"}}, {"bad.py": "import sys; sys.exit(0)"}, version="0.3")
    message = refused(command("train", *CHOICES[:-3], "generator=bad", "encoder=toy", "sampler=toy"), code=8)
    assert "bad-plugin 0.3" in message
    assert "SystemExit" in message
    refused(command("train", *CHOICES, "seed=x"), code=2)


def test_a_foreign_mmgen_is_named(install: Install, command: Command):
    install("mmgen", {}, {}, version="1.0.0rc8")
    assert "foreign distribution 'mmgen' 1.0.0rc8" in refused(command("plugins", "list"), code=8)
    assert command("--help").returncode == 0


def test_run_alone_without_the_quickstart_says_how_to_get_it(command: Command, tmp_path: Path):
    hide = tmp_path / "hide"
    hide.mkdir()
    (hide / "sitecustomize.py").write_text(
        "import importlib.metadata as m\n"
        "everything = m.entry_points\n"
        "def entry_points(**said):\n"
        "    found = everything(**said)\n"
        "    return m.EntryPoints(e for e in found if e.dist.name != 'mmgen-emoji') if said else found\n"
        "m.entry_points = entry_points\n"
    )
    message = refused(command("run", "seed=x", PYTHONPATH=str(hide)))
    assert "pip install -e plugins/mmgen-emoji" in message
    assert "seed must be a whole number" in message


def test_config_errors_come_before_torch(toys: Path):
    """With mmgen's own components, whose import costs torch; `benchmarks/use.py` measures the seconds."""
    code = (
        "import sys, mmgen.cli\n"
        "arguments = ['train', 'task=generator', 'dataset=folder', 'generator.num_layer=3', 'trainer.max_steps=abc']\n"
        "code = mmgen.cli.main(arguments)\n"
        "heavy = [m for m in ('torch', 'pytorch_lightning', 'wandb', 'torchmetrics') if m in sys.modules]\n"
        "print(code, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2 []"
    assert "did you mean generator.num_layers?" in done.stderr


# --- what a command raises -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        (None, 0, ""),
        (4, 4, ""),
        (ConfigError("no such thing", fix="another"), 2, "error[MMG-C00]: no such thing"),
        (CheckpointError("damaged"), 5, "error[MMG-K00]: damaged"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Interrupted(15), 143, "stopped by signal 15"),
        (SystemExit(7), 7, ""),
    ],
)
def test_exit_codes(calls: Calls, capsys: pytest.CaptureFixture[str], answer: Any, code: int, words: str):
    calls.answer = answer
    if isinstance(answer, SystemExit):
        with pytest.raises(SystemExit) as caught:
            cli.main(["classify"])
        assert caught.value.code == code
    else:
        assert cli.main(["classify"]) == code
    told = capsys.readouterr().err
    assert told.startswith(words)
    assert "Traceback" not in told
    assert "HYDRA" not in told
    assert os.environ.get("HYDRA_FULL_ERROR") is None


def test_an_error_that_a_signal_caused(calls: Calls, capsys: pytest.CaptureFixture[str]):
    calls.answer = RuntimeError("stopped at step 7")
    calls.answer.signal = 15
    assert cli.main(["classify"]) == 143
    assert capsys.readouterr().err == "stopped at step 7\n"


def test_the_unforeseen_is_one_message_and_a_file(
    calls: Calls, toys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    calls.answer = ZeroDivisionError("by nothing")
    assert cli.main(["classify"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error[MMG-E00]: ZeroDivisionError: by nothing")
    assert len(message.splitlines()) <= 6
    log = Path(message.partition("traceback in ")[2].splitlines()[0])
    assert "Traceback" in log.read_text()
    log.unlink()
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    assert cli.main(["train", *CHOICES, "evaluator=[judge]", "run.name=mine"]) == 1
    assert "ZeroDivisionError" in (tmp_path / "runs" / "mine" / "error.log").read_text()
    capsys.readouterr()
    monkeypatch.setenv("MMGEN_DEBUG", "1")
    assert cli.main(["train", *CHOICES, "run.name=mine"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_debug_shows_the_traceback_after_the_message(
    calls: Calls, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MMGEN_DEBUG", "1")
    calls.answer = ConfigError("no such thing")
    assert cli.main(["classify"]) == 2
    told = capsys.readouterr().err
    assert told.index("error[MMG-C00]") < told.index("Traceback")


def test_sigterm_ends_with_143_even_while_a_plugin_is_imported(install: Install, tmp_path: Path):
    source = "import pathlib, time\npathlib.Path('started').touch()\ntime.sleep(30)\nclass Slow: ..."
    install("slow", {"mmgen.sampler": {"slow": "slow_plugin:Slow"}}, {"slow_plugin.py": source})
    script = [sys.executable, "-m", "mmgen.cli", "plugins", "info", "slow"]
    running = subprocess.Popen(script, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "started").exists():
        assert running.poll() is None
        time.sleep(0.02)
    running.terminate()
    _, told = running.communicate(timeout=20)
    assert running.returncode == 143
    assert told == "stopped by signal 15\n"


def test_a_closed_pipe_is_no_error(tmp_path: Path):
    script = f"{sys.executable} -m mmgen.cli train --help | head -1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert done.stderr == ""


def speaks(config: dict[str, Any]) -> None:
    run = Path(config["run"]["dir"], config["run"]["name"])
    run.mkdir(parents=True)
    print("the first line")
    (run / "spoken").touch()


def test_a_command_whose_reader_has_gone_ends_as_others_do(
    calls: Calls, toys: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    calls.answer = speaks
    with unread():
        assert cli.main(["train", *CHOICES, "run.name=mine"]) == 141
    assert list((tmp_path / "runs" / "mine").iterdir()) == [], "no error.log"
    assert capfd.readouterr().err == ""


def test_the_jobs_of_a_sweep_whose_reader_has_gone_all_run(
    calls: Calls, toys: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    calls.answer = speaks
    with unread():
        assert cli.main(["train", "-m", *CHOICES, "seed=1,2,3"]) == 0
    assert len(calls) == 3
    assert len(list(tmp_path.rglob("spoken"))) == 2, "the first one spoke to nobody, the others to no end"
    assert not list(tmp_path.rglob("error.log"))
    assert capfd.readouterr().err == ""


def test_another_pipe_that_broke_is_told(calls: Calls, toys: Path, capsys: pytest.CaptureFixture[str]):
    calls.answer = BrokenPipeError("a worker's")
    assert cli.main(["train", *CHOICES]) == 1
    assert "BrokenPipeError: a worker's" in capsys.readouterr().err


# --- sweeps ----------------------------------------------------------------------------------------------------------


def test_a_sweep_runs_every_combination_in_a_directory_of_its_own(calls: Calls, toys: Path, tmp_path: Path):
    swept = ["trainer.max_steps=5,6", "seed=1,2", "generator.width=4"]
    assert cli.main(["train", "-m", *CHOICES, *swept, "evaluator=[judge]"]) == 0
    configs = [config for config, _ in calls]
    assert [(c["trainer"]["max_steps"], c["seed"]) for c in configs] == [(5, 1), (5, 2), (6, 1), (6, 2)]
    assert {c["generator"]["width"] for c in configs} == {4}
    names = [c["run"]["name"] for c in configs]
    assert len(set(names)) == 4
    assert names[0].endswith("-trainer.max_steps=5,seed=1")
    assert {path.name for path in tmp_path.iterdir()} == {"site", "multirun"}
    assert [path.name for path in (tmp_path / "multirun").rglob("*") if path.is_file()] == ["multirun.yaml"]


def test_a_failed_job_of_a_sweep_lets_the_others_run_and_ends_with_4(
    calls: Calls, toys: Path, capsys: pytest.CaptureFixture[str]
):
    def answer(config: dict[str, Any]) -> int | None:
        if config["seed"] == 1:
            raise CheckpointError("damaged")
        return 7 if config["seed"] == 2 else None

    calls.answer = answer
    assert cli.main(["train", "-m", *CHOICES, "seed=1,2,3"]) == 4
    assert len(calls) == 3
    assert "error[MMG-K00]: damaged" in capsys.readouterr().err


def test_a_bad_value_of_a_sweep_stops_it_before_it_starts(calls: Calls, toys: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["train", "-m", *CHOICES, "seed=1,x,3"]) == 2
    assert calls == []


# --- plugins ---------------------------------------------------------------------------------------------------------


def test_plugins_list_shows_what_is_broken_without_importing(install: Install, capsys: pytest.CaptureFixture[str]):
    entries = {"a": "ok_mod:A", "b": "gone_mod:B", "c": "syntax_mod:C", "d": "needy_mod:D", "e": "ok_mod:E"}
    files = {
        "ok_mod.py": "raise SystemExit('never imported')\nclass A: ...",
        "syntax_mod.py": "def broken(:",
        "needy_mod.py": "import einops_is_not_here\nclass D: ...",
    }
    install("mixed", {"mmgen.sampler": entries}, files)
    install("other", {"mmgen.sampler": {"a": "ok_mod:A"}}, {})
    assert cli.main(["plugins", "list"]) == 0
    rows = {line.split()[1]: line for line in capsys.readouterr().out.splitlines()}
    assert "clash" in rows["a@mixed"]
    assert "clash" in rows["a@other"]
    assert "no module gone_mod" in rows["b"]
    assert "SyntaxError" in rows["c"]
    assert "no module einops_is_not_here" in rows["d"]
    assert "defines no E" in rows["e"]
    assert "broken" not in rows["autoregressive"]


def test_plugins_info_lists_options(toys: Path, capsys: pytest.CaptureFixture[str]):
    assert cli.main(["plugins", "info", "generator/toy", "judge"]) == 0
    page = capsys.readouterr().out
    assert "generator toy, toys:Part, of toys 1.0" in page
    assert "generator.width=8" in page
    assert "a whole number" in page
    assert "  API     not declared" in page
    assert "set by other parts: text_tokenizer, grid, codebook_size" in page
    assert "evaluator.split=val" in page
