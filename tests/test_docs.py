"""The pages in docs/ do what they say: their code runs, their commands compose, and no kind is left out."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import mmgen
import mmgen.testing
from mmgen import registry
from mmgen.errors import ConfigError
from tests.environments import environment, variables

PAGE = (Path(__file__).parents[1] / "docs" / "plugins.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```', PAGE, flags=re.MULTILINE | re.DOTALL))
COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]

Install = Callable[..., Path]
Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def squares(install: Install, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tutorial's distribution, installed from the files on the page."""
    project = tomllib.loads(FILES["pyproject.toml"])["project"]
    entries = project["entry-points"]
    modules = {name: text for name, text in FILES.items() if name != "pyproject.toml"}
    yield install(project["name"], entries, modules, version=project["version"])
    sys.modules.pop("mmgen_squares", None)


def test_the_page_has_what_is_tested_here():
    assert sorted(FILES) == ["mmgen_squares.py", "pyproject.toml", "tests/test_squares.py"]
    assert len(COMMANDS) == 6


def test_the_tutorial_has_fifteen_lines_and_one_of_packaging():
    lines = [line for line in FILES["mmgen_squares.py"].splitlines() if line.strip()]
    assert len(lines) <= 15
    project = tomllib.loads(FILES["pyproject.toml"])["project"]
    assert project["entry-points"] == {"mmgen.dataset": {"squares": "mmgen_squares:Squares"}}
    assert project["dependencies"] == ["mmgen-lightning"]


def test_the_tutorials_dataset_is_found_built_and_conforms(squares: Path):
    assert "squares" in registry.choices("dataset")
    dataset = mmgen.build("dataset", {"name": "squares", "image_size": 16})
    assert dataset[0]["image"].shape == (3, 16, 16)
    assert {dataset[i]["caption"] for i in range(len(dataset))} == {f"a {c} square" for c in ("red", "green", "blue")}
    with pytest.raises(ConfigError, match=r"did you mean dataset\.image_size"):
        mmgen.build("dataset", {"name": "squares", "image_sise": 16})
    with pytest.raises(ConfigError, match="'big'"):
        mmgen.build("dataset", {"name": "squares", "image_size": "big"})


def test_the_tutorials_test_passes(squares: Path):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(squares / "tests")],
        capture_output=True,
        text=True,
        cwd=squares,
    )
    assert "23 passed" in done.stdout, done.stdout + done.stderr


def test_a_failing_check_reads_as_on_the_page(squares: Path):
    dataset = mmgen.build("dataset", "squares")
    sys.modules["mmgen_squares"].COLOURS["red"] = (2.0, 0.0, 0.0)
    with pytest.raises(mmgen.testing.Nonconforming) as caught:
        mmgen.testing.check_dataset(dataset)
    assert f"```text\n{caught.value}\n```" in PAGE


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("mmgen ")])
def test_the_commands_on_the_page_are_understood(line: str, squares: Path, command: Command):
    arguments = shlex.split(line)[1:]
    done = command(*arguments) if arguments[0] == "plugins" else command(*arguments, "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert "squares" in done.stdout
    assert "image_size" in done.stdout or "passes all 26 checks" in done.stdout


@pytest.mark.slow
def test_the_tutorial_word_for_word(tmp_path: Path):
    """Its files written, its lines given to a shell, in an environment of its own; pip is told to fetch nothing."""
    binaries = environment(tmp_path / "environment")
    project = tmp_path / "squares"
    for name, text in FILES.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(text)
    for line in COMMANDS:
        done = subprocess.run(
            ["sh", "-c", line], cwd=project, env=variables(binaries), capture_output=True, text=True, timeout=1200
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    assert (project / "runs" / "first" / "model" / "model.safetensors").is_file()
    assert (project / "runs" / "squares" / "report.html").is_file()


def test_other_ways_to_name_it_on_the_page(squares: Path, command: Command, tmp_path: Path):
    """By its distribution, as a class of one's own, and as a preset that a plugin ships."""
    assert "`dataset=squares@mmgen-squares`" in PAGE
    done = command("train", "task=tokenizer", "dataset=squares@mmgen-squares", "run.name=x", "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert "`dataset=my_module:MyClass`" in PAGE
    (tmp_path / "work" / "my_module.py").write_text(FILES["mmgen_squares.py"].replace("Squares", "MyClass"))
    done = command("train", "task=tokenizer", "dataset=my_module:MyClass", "run.name=x", "--cfg", "job")
    assert done.returncode == 0, done.stderr


def test_presets_as_on_the_page(squares: Path, install: Install, command: Command):
    (toml,) = re.findall(r"^```toml\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    (yaml,) = re.findall(r"^```yaml\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    (package,) = tomllib.loads(toml)["project"]["entry-points"]["mmgen.configs"].values()
    (file,) = re.findall(rf"`({package}/[^`]+yaml)`", PAGE)
    entries = tomllib.loads(toml)["project"]["entry-points"]
    install("mmgen-squares-conf", entries, {f"{package}/__init__.py": "", file: yaml})
    preset = Path(file).stem
    assert f"`dataset={preset}`" in PAGE
    done = command("train", "task=tokenizer", f"dataset={preset}", "run.name=x", "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert "dataset:\n  name: squares\n  image_size: 8\n" in done.stdout


def test_every_kind_and_every_check_is_on_the_page():
    rows = {cells[1].strip(): cells for line in PAGE.splitlines() if (cells := line.split("|")) and len(cells) == 7}
    for kind in registry.KINDS:
        assert f"`mmgen.{kind}`" in rows[kind][2]
        assert re.findall(r"`(\w+)`", rows[kind][3]) == list(registry.BUILD_ARGUMENTS[kind])
        assert f"`check_{kind}(" in rows[kind][5]
    checks = [name for name in mmgen.testing.__all__ if name.startswith("check_")]
    assert len(checks) == len(registry.KINDS) + 1
    assert all(f"`{name}(" in PAGE for name in checks)
