"""Completion: what could stand next, asked for by a shell at every press of the tab key."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mmgen import cli, registry
from mmgen.commands.completing import complete, component_keys
from mmgen.commands.completion import SCRIPTS
from mmgen.commands.places import places

Install = Callable[..., Path]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for run in ("one", "deep/two"):
        (tmp_path / "runs" / run).mkdir(parents=True)
        (tmp_path / "runs" / run / "status.json").write_text("{}")
        (tmp_path / "runs" / run / "config.yaml").write_text("seed: 1")
    return tmp_path


@pytest.mark.parametrize(
    ("line", "candidates"),
    [
        ("mmgen cl", {"classify"}),
        ("mmgen runs ", {"list", "show", "compare", "open", "prune", "replay"}),
        ("mmgen runs show ", {"runs/one", "runs/deep/two", "against=", "--help"}),
        ("mmgen runs list state=f", {"state=finished", "state=failed"}),
        ("mmgen reproduce na", {"name="}),
        ("mmgen completion ", {"bash", "zsh", "fish"}),
        ("mmgen plugins ch", {"check"}),
        ("mmgen plugins info autor", {"autoregressive"}),
        ("mmgen train task=gen", {"task=generator", "task=generator_dalle"}),
        ("mmgen run trainer.max_s", {"trainer.max_steps="}),
        ("mmgen run stages.enc", {"stages.encoder."}),
        ("mmgen run stages.encoder.", {"stages.encoder.task.", "stages.encoder.trainer."}),
        ("mmgen run generator.num_h", {"generator.num_heads="}),
        ("mmgen run generator=dalle_small generator.num_l", {"generator.num_layers="}),
        ("mmgen run evaluator=[zero_shot,retr", {"evaluator=[zero_shot,retrieval"}),
        ("mmgen run evaluator.zero_shot.ch", {"evaluator.zero_shot.choices="}),
        ("mmgen train task.shuffle=", {"task.shuffle=full", "task.shuffle=blocks"}),
        ("mmgen sample run=runs/o", {"run=runs/one"}),
        ("mmgen config show tr", {"train"}),
        ("mmgen config why run generator.num_h", {"generator.num_heads", "generator.num_heads="}),
        ('mmgen sample "a cat', set()),
        ("mmgen nothing ", set()),
        ("mmgen run nothing=", set()),
    ],
)
def test_candidates(line: str, candidates: set[str]):
    assert set(complete(line)) == candidates


def test_every_component_and_preset_has_its_options():
    """Read from source, they are those that the class says itself."""
    seen = 0
    for kind in registry.KINDS:
        for name, (component, *_) in registry.components(kind).items():
            if component.distribution != registry.OURS:
                continue
            prefix = f"{kind}.{name}." if kind in registry.SEVERAL else f"{kind}."
            found = component_keys(kind, "run", [f"{kind}={name}"], places())
            assert found == [f"{prefix}{option}" for option in component.options()], name
            seen += 1
    assert seen >= 16


def test_a_plugins_options_need_no_import(install: Install):
    source = "raise SystemExit('never imported')\nclass Base:\n    def __init__(self, width: int = 1): ...\n"
    install("toys", {"mmgen.sampler": {"toy": "toys:Toy"}}, {"toys.py": source + "class Toy(Base): ..."})
    assert complete("mmgen sample sampler=t") == ["sampler=toy"]
    assert complete("mmgen sample sampler=toy sampler.") == ["sampler.width="]


def test_it_is_light():
    code = (
        "import sys, time, mmgen.cli\n"
        "assert mmgen.cli.main(['--complete', 'mmgen run generator.n']) == 0\n"
        "heavy = [m for m in ('torch', 'hydra', 'omegaconf', 'wandb', 'rich', 'jinja2') if m in sys.modules]\n"
        "print(heavy, time.process_time(), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy, seconds = done.stderr.rsplit(" ", 1)
    assert heavy == "[]"
    assert "generator.num_layers=\n" in done.stdout
    assert float(seconds) < 0.5, "of the processor, so that a busy machine does not matter"


def test_bash_takes_the_candidates_up_to_the_equals_sign(here: Path):
    """As bash hands over a line: what stands after = is a word of its own to it."""
    (here / "bin").mkdir()
    (here / "bin" / "mmgen").symlink_to(Path(sys.executable).parent / "mmgen")
    script = SCRIPTS["bash"] + (
        'compopt() { echo "compopt $*"; }\n'
        'for line in "mmgen run trainer=cpu" "mmgen run trainer.max_s" "mmgen xyz "; do\n'
        '    COMP_LINE="$line" COMP_POINT=${#line}; _mmgen; echo "$line: ${COMPREPLY[*]}"\n'
        "done\n"
    )
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, env={"PATH": f"{here}/bin:/usr/bin:/bin"}
    )
    assert done.stdout.splitlines() == [
        "mmgen run trainer=cpu: cpu_bf16",
        "compopt -o nospace",
        "mmgen run trainer.max_s: trainer.max_steps=",
        "mmgen xyz : ",
    ]


def test_the_scripts_are_printed(capsys: pytest.CaptureFixture[str]):
    for shell, script in SCRIPTS.items():
        assert cli.main(["completion", shell]) == 0
        assert capsys.readouterr().out == script
    assert cli.main(["completion", "tcsh"]) == 2
    assert "there are bash, zsh, fish" in capsys.readouterr().err
