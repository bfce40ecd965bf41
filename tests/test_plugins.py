"""The proof that the doors are wide enough: the plugins of the repository use what is public and nothing else."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmgen import registry

ROOT = Path(__file__).parents[1]
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
PUBLIC = {
    "mmgen", "mmgen.protocols", "mmgen.stream", "mmgen.images", "mmgen.models.blocks", "mmgen.models.stream_loss",
    "mmgen.samplers.guards", "mmgen.testing",
}  # fmt: skip
# Tests also give the command, catch what it says, and look at what mmgen makes of a dataset and of a pack of labels.
IN_TESTS = {*PUBLIC, "mmgen.cli", "mmgen.errors", "mmgen.data.pictures", "mmgen.data.prompts"}
OF_MMGEN = {"load", "build", "__version__", "cli"}  # names of the package itself
PAGES = {name: (ROOT / name).read_text() for name in ("CONTRIBUTING.md", "docs/plugins/promise.md")}


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Each import of mmgen, as (module, name), wherever it stands; and modules that are named for import_module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.split(".")[0] == "mmgen")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mmgen" and not node.level:
            yield from ((str(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.Constant) and is_module(node.value):
            yield node.value, ""


def is_module(text: object) -> bool:
    if not isinstance(text, str) or not re.fullmatch(r"mmgen(\.[a-z_]+)+", text):
        return False
    return ROOT.joinpath(*text.split(".")).with_suffix(".py").is_file()


def private(source: str, allowed: set[str]) -> list[str]:
    """What a source imports that is not public."""
    found = []
    for module, name in imports(ast.parse(source)):
        if module == "mmgen" and name:
            hidden = name not in OF_MMGEN and f"mmgen.{name}" not in allowed
        else:
            hidden = module not in allowed
        if hidden or (name.startswith("_") and name != "__version__"):
            found.append(f"{module}.{name}".rstrip("."))
    return found


SOURCES = [(path, PUBLIC) for plugin in PLUGINS for path in plugin.rglob("*.py") if "tests" not in path.parts]
TESTS = [(path, IN_TESTS) for plugin in PLUGINS for path in (plugin / "tests").rglob("*.py")]
TEMPLATES = [(path, PUBLIC) for path in (ROOT / "mmgen/commands/plugin_templates").rglob("*.py")]


@pytest.mark.parametrize(
    ("path", "allowed"),
    [pytest.param(*one, id=one[0].relative_to(ROOT).as_posix()) for one in [*SOURCES, *TESTS, *TEMPLATES]],
)
def test_only_what_is_public_is_imported(path: Path, allowed: set[str]):
    assert not private(path.read_text(encoding="utf-8"), allowed)


def test_how_many_files_are_looked_at():
    assert len(PLUGINS) >= 10
    assert {path.parents[1] for path, _ in TESTS} == set(PLUGINS)
    assert len(SOURCES) >= 20
    assert len(TESTS) >= 14
    assert len(TEMPLATES) == 2 * len(registry.KINDS)
    used = {module for path, _ in SOURCES for module, _ in imports(ast.parse(path.read_text(encoding="utf-8")))}
    assert len(used) >= 5, "an import that nobody sees guards nothing"


@pytest.mark.parametrize(
    "source",
    [
        "import mmgen.data.folder",
        "from mmgen.data import folder",
        "from mmgen import registry",
        "def f():\n    from mmgen.errors import DataError",
        "import importlib\nimportlib.import_module('mmgen.registry')",
        "from mmgen.protocols import _hidden",
    ],
)
def test_what_is_not_public_is_found(source: str):
    assert private(source, PUBLIC)


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_each_has_what_a_distribution_has(plugin: Path):
    project = tomllib.loads((plugin / "pyproject.toml").read_text())["project"]
    assert project["name"] == plugin.name
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["description"]
    assert project["license"]
    assert any(wanted.startswith("mmgen-lightning>=") for wanted in project["dependencies"])
    readme = (plugin / "README.md").read_text()
    assert readme.startswith(f"# {plugin.name}\n")
    assert len(readme) > 400
    assert list((plugin / "tests").glob("test_*.py"))
    assert "mmgen.api" in project["entry-points"]


def test_the_public_modules_are_those_of_the_pages():
    (row,) = [line for line in PAGES["CONTRIBUTING.md"].splitlines() if line.startswith("| plugins |")]
    assert set(re.findall(r"`(mmgen[\w.]*)`", row)) == PUBLIC
    table = re.findall(r"^\| `(mmgen[\w.]*)` \|", PAGES["docs/plugins/promise.md"], re.MULTILINE)
    assert set(table) == PUBLIC
