"""README and docs/ say what is so: links resolve, commands compose, nothing that exists is left out."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmgen import cli, errors, registry
from mmgen.commands import composition, help, places, plugins, searching
from mmgen.commands.actions import ACTIONS, action_of, read_options
from mmgen.commands.schema import COMMANDS
from mmgen.errors import MmgenError
from mmgen.options import Option, options_of
from mmgen.runs.directory import RunDirectory

ROOT = Path(__file__).parents[1]
ABOUT = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY")]
OURS = [*ABOUT, *ROOT.glob("docs/*.md"), *ROOT.glob("docs/plugins/*.md")]
PAGES = {
    page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8")
    for page in sorted([*OURS, *ROOT.glob("plugins/*/README.md")])
}
FENCE = re.compile(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```', re.MULTILINE | re.DOTALL)
CONFIGURATION, RUNS, README, CONTRIBUTING = (
    PAGES[name] for name in ("docs/configuration.md", "docs/runs.md", "README.md", "CONTRIBUTING.md")
)


def blocks(page: str, language: str) -> list[str]:
    return [text for found, _, text in FENCE.findall(page) if found == language]


def prose(page: str) -> str:
    return FENCE.sub("", page)


def spans(page: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`\n]+)`", prose(page))


def rows(page: str) -> list[list[str]]:
    """The cells of every table."""
    lines = [line for line in prose(page).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


# --- links -----------------------------------------------------------------------------------------------------------

LINKS = [
    (name, target)
    for name, page in PAGES.items()
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page))
    if "://" not in target
]


def anchors(page: str) -> set[str]:
    """The fragments of a page's headings, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(("name", "target"), sorted(set(LINKS)))
def test_links_resolve(name: str, target: str):
    file, _, fragment = target.partition("#")
    path = (ROOT / name).parent / file if file else ROOT / name
    assert path.exists()
    assert path.resolve().is_relative_to(ROOT)
    assert not fragment or fragment in anchors(path.read_text(encoding="utf-8"))


def test_every_page_is_reached_from_the_readme():
    reached, new = set(), {"README.md"}
    while new:
        reached |= new
        found = {((ROOT / name).parent / target.partition("#")[0]).resolve() for name, target in LINKS if name in new}
        new = {path.relative_to(ROOT).as_posix() for path in found if path.suffix == ".md"} - reached
    assert {name for name in PAGES if not name.startswith("plugins/")} <= reached | {"docs/index.md"}
    assert len(PAGES) >= 12
    assert len(LINKS) >= 30


# --- commands --------------------------------------------------------------------------------------------------------

LINES = [
    part.strip()
    for name, page in PAGES.items()
    if name != "docs/plugins.md"  # its commands are of the plugin it makes, and test_docs.py runs them
    for block in blocks(page, "sh")
    for line in block.splitlines()
    for part in line.split("&&")
]
EXAMPLES = sorted({line for line in LINES if line.startswith("mmgen ")})
ON_HELP_PAGES = [example for page in help.PAGES.values() for example in page.examples]


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with the files that the pages tell the reader to make."""
    for page in PAGES.values():
        for _, title, text in FENCE.findall(page):
            if title.endswith(".yaml"):
                (tmp_path / title).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / title).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("line", sorted({*EXAMPLES, *ON_HELP_PAGES}))
def test_commands_compose(line: str, beside: Path):
    """No config error, as the command itself looks for them; nothing is run."""
    _, command, *rest = shlex.split(line)
    assert command in cli.COMMANDS
    if command == "plugins":
        action, *names = rest
        assert action in plugins.ACTIONS
        if action == "new":
            assert names[0] in registry.KINDS
            return
        assert all(plugins.named(name) for name in names if "=" not in name)
        return
    arguments = cli.sort(rest)
    if arguments.help:
        assert help.page(command, arguments.overrides, arguments.config_dir)
        return
    if command in cli.PLAIN:
        action, words = ("", rest) if "" in ACTIONS[command] else action_of(command, arguments.positionals)
        if command != "config":
            read_options(ACTIONS[command][action], arguments.overrides)
            return
        command = next((word for word in words if word in COMMANDS), "run")
        arguments.positionals.clear()
    assert command in cli.TAKE_POSITIONALS or not arguments.positionals
    where = places.places(arguments.config_dir)
    if command == "sweep":
        own, theirs = searching.divide(arguments.overrides, arguments.config_dir)
        assert searching.asked(composition.checked("sweep", own, where).config, theirs, None)
        return
    checked = composition.prepare(command, arguments.overrides, where, arguments.multirun)
    if not arguments.multirun:
        assert composition.finish(command, composition.compose(command, checked))


def test_a_wrong_command_is_found(beside: Path):
    with pytest.raises(MmgenError, match="num_layres"):
        test_commands_compose("mmgen run generator.num_layres=6", beside)
    with pytest.raises(MmgenError, match="transformr"):
        test_commands_compose("mmgen plugins info transformr", beside)


def test_the_commands_that_are_checked():
    assert len(EXAMPLES) >= 25
    for command in cli.COMMANDS:
        assert any(line.split()[1] == command for line in EXAMPLES)
        assert f"| `mmgen {command}` |" in README
        assert f"### `mmgen {command}`" in CONFIGURATION
    wanted = ('mmgen sample "a firefighter with dark skin tone" num_images=32 keep=8', "mmgen run --help")
    assert {*wanted, "mmgen run"} <= set(EXAMPLES)


def test_the_readme_begins_with_two_commands_that_install_and_test():
    first, second = blocks(README, "sh")[:2]
    assert first.strip() == "pip install -e . -e plugins/mmgen-emoji && mmgen run"
    assert second.strip() == "pip install nox && nox -s tests"
    assert (ROOT / "plugins/mmgen-emoji/pyproject.toml").is_file()


def test_nox_sessions_are_those_of_the_noxfile():
    body = ast.parse((ROOT / "noxfile.py").read_text()).body
    functions = [node for node in body if isinstance(node, ast.FunctionDef)]
    sessions = {f.name for f in functions if any(ast.unparse(d).startswith("nox.session") for d in f.decorator_list)}
    assert len(sessions) >= 7
    told = set(re.findall(r"nox -s (\w+)", "\n".join(PAGES.values())))
    assert told <= sessions
    assert {cells[0] for cells in rows(CONTRIBUTING) if cells[0].startswith("`nox")} == {
        f"`nox -s {name}`" for name in sessions
    }


def test_python_on_the_pages_calls_what_there_is():
    import mmgen
    from mmgen.text_to_image import TextToImage

    functions = {
        "mmgen.load": inspect.signature(mmgen.load),
        "model.generate": inspect.signature(TextToImage.generate),
        "model.redraw": inspect.signature(TextToImage.redraw),
        "model.classify": inspect.signature(TextToImage.classify),
    }
    told = blocks(README, "python") + blocks(PAGES["docs/drawing.md"], "python")
    nodes = [node for block in told for node in ast.walk(ast.parse(block))]
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    for call in calls:
        itself = [None] if ast.unparse(call.func).startswith("model.") else []
        named = {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
        functions[ast.unparse(call.func)].bind(*itself, *call.args, **named)
    assert {ast.unparse(call.func) for call in calls} == functions.keys()


# --- configuration ---------------------------------------------------------------------------------------------------


def keys(options: dict[str, Option], prefix: str = "") -> Iterator[str]:
    """Every key of a command's sections, dotted."""
    for name, option in options.items():
        held = [t for t in (option.type, *getattr(option.type, "__args__", ())) if dataclasses.is_dataclass(t)]
        if held:
            yield f"{prefix}{name}"
            yield from keys(options_of(held[0]), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


CONFIGS = [*COMMANDS.values(), *(kind for actions in ACTIONS.values() for kind in actions.values())]
KEYS = {key for command in CONFIGS for key in keys(options_of(command))}


def test_every_key_has_its_line():
    told = {span for cells in rows(CONFIGURATION) for span in re.findall(r"`([\w.]+)`", cells[0])}
    sections = {key.rpartition(".")[0] for key in KEYS}
    elsewhere = re.compile(rf"trainer\.|stages\.\w+\.|task\.name$|({'|'.join(registry.KINDS)})$")
    wanted = {key for key in KEYS - sections if not elsewhere.match(key)}
    assert len(wanted) >= 30
    assert not wanted - told


# Pages about plugins are read without them: docs/plugins.md makes its own, and these need not be installed.
@pytest.mark.parametrize("name", sorted(name for name in PAGES if "plugins" not in name))
def test_keys_on_the_pages_exist(name: str):
    heads = {key.split(".")[0] for key in KEYS if "." in key} | set(registry.KINDS)
    for span in spans(PAGES[name]):
        key = span.partition("=")[0]
        if re.fullmatch(r"[a-z_]+(\.[a-z_0-9]+)+", key) and key.split(".")[0] in heads and not key.endswith(".yaml"):
            kind, *rest = key.split(".")
            if kind in registry.KINDS:
                parts = [c for c in plugins.everything() if c.kind == kind]
                options = [f"{c.name}.{o}" if kind in registry.SEVERAL else o for c in parts for o in c.options()]
                assert ".".join(rest) in options, span
            else:
                assert key in KEYS, span


def test_every_kind_component_and_preset_is_told():
    listed = [(cells[0].strip("`"), cells[1].strip("`")) for cells in rows(CONFIGURATION) if len(cells) == 3]
    own = {(c.kind, c.name) for c in plugins.everything() if c.distribution == registry.OURS}
    assert len(own) >= 10
    assert own <= set(listed)
    index = [cells for cells in rows(PAGES["docs/index.md"]) if len(cells) == 3]
    assert {cells[0].strip("`") for cells in index} >= set(registry.KINDS)
    assert all(any(cells[0] == f"`{kind}`" and f"`{name}`" in cells[1] for cells in index) for kind, name in own)
    presets = [
        f"{group}={name}"
        for group in places.yaml_groups([places.ours()])
        for name, _ in places.presets(group, [places.ours()])
    ]
    assert len(presets) >= 12
    assert set(presets) <= set(spans(CONFIGURATION))


# --- messages and exit codes -----------------------------------------------------------------------------------------


def test_exit_codes_are_told():
    table = {cells[0]: cells[1] for cells in rows(RUNS) if re.fullmatch(r"[\d, ]+", cells[0])}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MmgenError)]
    assert len(kinds) >= 8
    for kind in kinds:
        assert f"`MMG-{kind.area[0]}" in table[str(kind.exit_code)]
    assert {"0", "4", "130, 143"} <= table.keys()


def test_messages_are_as_on_the_pages(beside: Path):
    (two,) = blocks(CONFIGURATION, "text")
    overrides = re.findall(r"command line: (\S+)\)", two)
    with pytest.raises(MmgenError) as several:
        composition.prepare("run", overrides, places.places())
    changed, missing = blocks(RUNS, "text")
    with pytest.raises(MmgenError) as folder:
        registry.build("dataset", {"name": "folder", "path": "pictures"})
    RunDirectory("runs/mine").create({"seed": 1})
    with pytest.raises(MmgenError) as other:
        RunDirectory("runs/mine").create({"seed": 2})
    assert [several.value.render(), other.value.render(), folder.value.render()] == [
        two.strip(),
        changed.strip(),
        missing.strip(),
    ]


# --- what is where ---------------------------------------------------------------------------------------------------


def folders(path: Path) -> set[str]:
    """The folders that a clone has: those with files, without what is made there."""
    made = {
        "__pycache__",
        *({"build", "dist", "runs", "samples", "outputs", "multirun", "wandb"} if path == ROOT else ()),
    }
    found = {p.name for p in path.iterdir() if p.is_dir() and any(f.is_file() for f in p.rglob("*"))}
    return {name for name in found - made if not name.startswith(".") and not name.endswith(".egg-info")}


def test_the_readmes_tree_names_every_folder():
    (tree,) = [block for block in blocks(README, "") if "mmgen/" in block]
    named: dict[str, set[str]] = {"": set()}
    top = ""
    for indent, name in re.findall(r"^( *)([\w.-]+)/ ", tree, re.MULTILINE):
        top = top if indent else name
        named[top if indent else ""].add(name)
        named.setdefault(top, set())
    assert sum(map(len, named.values())) == len(tree.splitlines())
    assert named[""] == folders(ROOT) | {".ci"}
    assert named["mmgen"] == folders(ROOT / "mmgen")
    assert named["plugins"] == folders(ROOT / "plugins")
    assert len(named["mmgen"]) >= 10


def test_the_layers_in_contributing_are_those_that_are_checked():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    assert [layer.replace("mmgen.", "") for layer in layers] == blocks(CONTRIBUTING, "")[0].splitlines()


def test_the_glossarys_names_are_in_the_code():
    code = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("mmgen/**/*.py"))
    first = [cells[0] for cells in rows(PAGES["docs/glossary.md"])]
    names = {name for cell in first for name in re.findall(r"`(\w+)`", cell)}
    assert len(names) >= 30
    assert not [name for name in names if not re.search(rf"\b{name}\b", code)]
