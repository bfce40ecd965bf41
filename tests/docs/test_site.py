"""The site tells everything there is: components, options, commands, presets and pages, and its links lead somewhere.

`nox -s docs` builds it; nothing here needs mkdocs. What is generated is held against packaging, schema and files.
"""

from __future__ import annotations

import importlib.util
import posixpath
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from mmgen import cli, registry
from mmgen.commands import help
from mmgen.commands.actions import ACTIONS
from mmgen.commands.schema import COMMANDS
from mmgen.options import options_of, written
from tests.test_docs_pages import FENCE, anchors, keys, rows

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs" / "site"


def _generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mmgen_docs_generate", SITE / "generate.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


generate = _generate()


class Settings(yaml.SafeLoader):
    """Reads mkdocs.yml without the functions that it names."""


Settings.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, tag, node: tag)
SETTINGS = yaml.load((SITE / "mkdocs.yml").read_text(encoding="utf-8"), Settings)  # noqa: S506 - a SafeLoader


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    """Every page of the site, by its place, as mkdocs gets it."""
    own = {file: (ROOT / file).read_text(encoding="utf-8") for file in written_pages()}
    moved = {file.removeprefix("docs/"): generate.relink(text, file) for file, text in own.items()}
    return {**generate.generated(), **generate.borrowed(), **moved}


def written_pages() -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))]


def installed(name: str) -> bool:
    try:
        return bool(distribution(name))
    except PackageNotFoundError:
        return False


def projects() -> Iterator[dict[str, Any]]:
    """The packaging of mmgen and of the repository's plugins, where they are installed."""
    for file in (ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))):
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        if installed(project["name"]):
            yield project


NAMED = sorted(
    (group.removeprefix("mmgen."), name)
    for project in projects()
    for group, names in project.get("entry-points", {}).items()
    if group.removeprefix("mmgen.") in registry.KINDS
    for name in names
)


def section(page: str, title: str) -> str:
    """What stands under a heading of the second level."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, f"no section {title}"
    return found[1]


# --- what there is ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), NAMED)
def test_every_component_has_a_section_with_every_option(kind: str, name: str, pages: dict[str, str]):
    told = section(pages[f"reference/components/{kind}.md"], f"`{name}`")
    component = registry.find(kind, name)
    lines = {cells[0]: cells for cells in rows(told)}
    for option in component.options().values():
        _, type, default, meaning = lines[f"`{option.name}`"]
        assert type
        assert default in ("*required*", f"`{written(option.default)}`")
        assert meaning, f"the docstring says nothing of {option.name}"
    assert len(told.split("|")[0].split()) >= 10  # whose it is, and what its docstring says
    assert all(f"`{argument}`" in told for argument in registry.BUILD_ARGUMENTS[kind])


def test_the_components_that_are_looked_at():
    assert len(NAMED) >= 18
    assert {kind for kind, _ in NAMED} == set(registry.KINDS)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_a_page_with_every_key(command: str, pages: dict[str, str]):
    page = pages[f"reference/commands/{command}.md"]
    told = {cells[0].strip("`") for cells in rows(page)}
    assert all(f"\n{example}\n" in page for example in help.PAGES[command].examples)
    configs = [*ACTIONS.get(command, {}).values(), *([COMMANDS[command]] if command in COMMANDS else [])]
    for config in configs:
        for key in keys(options_of(config)):
            if key.split(".")[0] in registry.KINDS:
                assert f"[`{key}`](../components/{key}.md)" in told
            elif stage := re.match(r"stages\.\w+\.(task|trainer)(?=\.|$)", key):
                assert f"{stage[0]}.*" in told
            else:
                assert key in told or any(name.startswith(f"{key}.") for name in told)


def test_every_preset_is_told_with_its_text(pages: dict[str, str]):
    page = pages["reference/presets.md"]
    lines = {cells[0]: cells[2] for cells in rows(page)}
    files = [*ROOT.glob("conf/*/*.yaml")]
    files += [f for f in ROOT.glob("plugins/*/*/conf/*/*.yaml") if installed(f.relative_to(ROOT).parts[1])]
    assert len(files) >= 40
    for file in files:
        assert lines[f"`{file.parent.name}={file.stem}`"], f"{file} does not begin with a comment"
        assert all(line in page for line in file.read_text(encoding="utf-8").splitlines())


def test_every_public_module_has_a_page(pages: dict[str, str]):
    promised = {cells[0].strip("`") for cells in rows(pages["plugins/promise.md"]) if cells[0].startswith("`mmgen")}
    assert generate.API.keys() == promised
    for module in promised:
        for name in re.findall(r"^::: ([\w.]+)$", pages[f"reference/api/{module}.md"], re.MULTILINE):
            assert name == module or importlib.util.find_spec(name.rpartition(".")[0])
    assert {f"mmgen.{name}" for name in ("load", "build")} <= set(generate.API["mmgen"])


# --- navigation and links --------------------------------------------------------------------------------------------


def entries(nav: Any) -> Iterator[str]:
    for value in nav.values() if isinstance(nav, dict) else nav:
        if isinstance(value, str):
            yield value
        else:
            yield from entries(value)


def test_the_navigation_names_every_page_once(pages: dict[str, str]):
    named = list(entries(SETTINGS["nav"]))
    assert len(named) == len(set(named)) >= 60
    assert set(named) == {place for place in pages if not place.startswith("reference/source/")}


def test_warnings_are_errors():
    kinds = [kind for part in SETTINGS["validation"].values() for kind in part.values()]
    assert len(kinds) >= 7
    assert set(kinds) == {"warn"}
    assert '"build", "--strict"' in (ROOT / "noxfile.py").read_text(encoding="utf-8")


def test_links_lead_to_pages_and_headings(pages: dict[str, str]):
    names = {place: anchors(page) | set(re.findall(r'<a id="([^"]+)">', page)) for place, page in pages.items()}
    files = set(generate.places_on_site().values())
    looked_at, broken = 0, []
    for place, page in pages.items():
        for _, _, target in generate.LINK.findall(FENCE.sub("", page) if "/source/" not in place else ""):
            if "://" in target:
                continue
            looked_at += 1
            path, _, fragment = target.partition("#")
            wanted = posixpath.normpath(posixpath.join(posixpath.dirname(place), path)) if path else place
            there = wanted in pages or wanted in files
            if not there or (fragment and fragment not in names[wanted]):
                broken.append((place, target))
    assert not broken
    assert looked_at >= 200


def test_links_of_the_repository_are_those_of_the_site():
    relink = generate.relink
    assert relink("[a](../README.md#licence)", "docs/drawing.md") == "[a](readme.md#licence)"
    assert relink("![a](docs/images/sheet.png)", "README.md") == "![a](images/sheet.png)"
    assert relink("[a](../../docs/runs.md)", "plugins/mmgen-emoji/README.md") == "[a](../../runs.md)"
    assert relink("[a](https://b.c), [d](#e)", "README.md") == "[a](https://b.c), [d](#e)"
    assert relink("[`LICENSE`](LICENSE)", "README.md") == "`LICENSE`"
    assert relink("[a](nowhere.md)", "README.md") == "[a](nowhere.md)"
    assert relink("```md\n[a](README.md)\n```", "README.md") == "```md\n[a](README.md)\n```"


def test_nothing_comes_from_a_network():
    assert SETTINGS["theme"]["font"] is False
    for harmless in ('<a href="https://b.c">', '<link rel="canonical" href="https://b.c">', '<img src="a.png">'):
        assert not generate.elsewhere(harmless)
    for tag in ('<img src="https://b.c/a.png">', "<script src=//b.c/a.js>", '<link href="https://b.c/a.css">'):
        assert generate.elsewhere(f"<p>{tag}</p>") == [tag]
    assert "http" not in (SITE / "extra.css").read_text(encoding="utf-8")


def test_text_is_shown_as_it_is():
    assert generate.inline("a | <b> *c* `d*|`") == r"a \| \<b\> \*c\* `d*|`"
    assert generate.prose("One.\n\nRaises:\n    ValueError: a_b,\n        c.") == (
        "One.\n\n*Raises*\n\n- `ValueError`: a\\_b,\n  c."
    )
    assert generate.breakable("<td><code>a.b</code></td>") == "<td><code>a.<wbr>b</code></td>"


def test_the_picture_of_the_way_stands_in_the_text():
    page = (ROOT / "docs" / "concepts.md").read_text(encoding="utf-8")
    shown = generate.inlined(page)
    assert "](images/way.svg)" in page
    assert "](images/way.svg)" not in shown
    assert '<svg class="way"' in shown
