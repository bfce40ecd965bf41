"""The pages of the site that no one writes: made from signatures, docstrings, help texts and YAML when it is built.

`generated()` gives those under reference/, `borrowed()` those that lie in the repository outside docs/, both as
Markdown by their place on the site. Nothing here needs mkdocs. Only what is installed is told; the components of
foreign distributions are left out.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path

from mmgen import registry
from mmgen.commands import help, places, plugins
from mmgen.commands.actions import ACTIONS
from mmgen.commands.schema import COMMANDS
from mmgen.commands.words import ENTRY, SECTION, summary, words_of
from mmgen.options import REQUIRED, Option, describe, options_of, written
from mmgen.registry import Component

ROOT = Path(__file__).resolve().parents[2]
HERE = [registry.OURS, *sorted(path.parent.name for path in ROOT.glob("plugins/*/pyproject.toml"))]
TITLES = {
    "dataset": "Datasets",
    "tokenizer": "Image tokenizers",
    "generator": "Generators",
    "encoder": "Encoders",
    "sampler": "Samplers",
    "evaluator": "Evaluators",
}
API = {  # the public modules, and what is told of each: all of it, where nothing is named
    "mmgen": ("mmgen.load", "mmgen.build", "mmgen.text_to_image.TextToImage"),
    "mmgen.protocols": (),
    "mmgen.stream": (),
    "mmgen.images": (),
    "mmgen.models.blocks": (),
    "mmgen.models.stream_loss": (),
    "mmgen.samplers.guards": (),
    "mmgen.testing": (),
}
FENCE = re.compile(r"^(```.*?^```)$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def generated() -> dict[str, str]:
    """The pages under reference/."""
    pages = {"reference/index.md": index(), "reference/presets.md": presets_page()}
    pages |= {f"reference/components/{kind}.md": kind_page(kind) for kind in registry.KINDS}
    pages |= {f"reference/commands/{command}.md": command_page(command) for command in help.PAGES}
    pages |= {f"reference/api/{module}.md": api_page(module) for module in API}
    pages |= {source_place(file): source_page(file) for file in sorted({source(c)[0] for c in components()})}
    return pages


# --- components ------------------------------------------------------------------------------------------------------


@functools.cache
def components() -> list[Component]:
    """Those of mmgen and of the repository's plugins, as far as they are installed."""
    return [component for component in plugins.everything() if component.distribution in HERE]


def kind_page(kind: str) -> str:
    """Every component of a kind, with its options."""
    several = kind in registry.SEVERAL
    chosen = f"`{kind}=[NAME,NAME]`" if several else f"`{kind}=NAME`"
    option = f"`{kind}.NAME.OPTION=VALUE`" if several else f"`{kind}.OPTION=VALUE`"
    has_presets = kind in {group for group, *_ in presets()}
    parts = [
        f"# {TITLES[kind]}",
        f"Chosen by {chosen}, their options set by {option}. [The contract, and how to write one"
        f"](../../plugins/{kind}.md).",
        f"[Presets](../presets.md#{kind}) start from these and are chosen like them." if has_presets else "",
        *(component_section(component) for component in components() if component.kind == kind),
    ]
    return "\n\n".join(filter(None, parts))


def component_section(component: Component) -> str:
    """A component: whose it is, where its source lies, what its docstring says, its options."""
    target = component.load()
    file, line = source(component)
    link = posixpath.relpath(source_place(file), "reference/components")
    set_by_others = ", ".join(f"`{name}`" for name in registry.BUILD_ARGUMENTS[component.kind])
    parts = [
        f"## `{component.name}`",
        f"Of `{component.distribution}`; source: [{inline(file)}, line {line}]({link}#line-{line}).",
        prose(summary(target)),
        option_table([(name, option) for name, option in component.options().items()], words_of(target)),
        f"Set by other parts: {set_by_others}." if set_by_others else "",
    ]
    return "\n\n".join(filter(None, parts))


def option_table(options: Iterable[tuple[str, Option | None]], words: dict[str, str] | None = None) -> str:
    """A line for each option: name, type, default, and what it means."""
    rows = []
    for name, option in options:
        if option is None:
            rows.append((f"`{name}`", "a section", "", "the keys of `mmgen train` that begin so"))
            continue
        default = "*required*" if option.default is REQUIRED else f"`{written(option.default)}`"
        meaning = (words or {}).get(name) or option.help
        rows.append((f"`{name}`", inline(describe(option.type)), default, inline(meaning)))
    return table(("Option", "Type", "Default", "Meaning"), rows) if rows else "It has no options."


def source(component: Component) -> tuple[str, int]:
    """The repository's file that a component is written in, and the line where it begins."""
    target = component.load()
    file = inspect.getsourcefile(target)
    assert file is not None, component
    return Path(file).resolve().relative_to(ROOT).as_posix(), inspect.getsourcelines(target)[1]


def source_place(file: str) -> str:
    return f"reference/source/{file.removesuffix('.py')}.md"


def source_page(file: str) -> str:
    """A file with numbered lines, in pieces that begin where a component does; the search leaves it out."""
    lines = (ROOT / file).read_text(encoding="utf-8").rstrip().split("\n")
    begins = sorted({1, *(line for found, line in map(source, components()) if found == file), len(lines) + 1})
    pieces = [
        f'<a id="line-{begin}"></a>\n\n````python linenums="{begin}"\n'
        + "\n".join(lines[begin - 1 : end - 1])
        + "\n````"
        for begin, end in itertools.pairwise(begins)
    ]
    return "\n\n".join(["---\nsearch:\n  exclude: true\n---", f"# {inline(file)}", *pieces])


# --- commands --------------------------------------------------------------------------------------------------------


def command_page(command: str) -> str:
    """What `mmgen COMMAND --help` tells."""
    about = help.PAGES[command]
    parts = [
        f"# mmgen {command}",
        inline(f"{about.summary[0].upper()}{about.summary[1:]}."),
        f"```text\nmmgen {command} {about.usage}\n```",
        "\n".join(f"- {inline(note)}" for note in about.notes),
        "```sh\n" + "\n".join(about.examples) + "\n```",
    ]
    for action, taken in ACTIONS.get(command, {}).items():
        if own := options_of(taken):
            parts += [f"## Keys of `{action}`" if action else "## Keys", option_table(help.leaves(own))]
    if command in COMMANDS:
        groups = help.groups_of(command, places_here()).items()
        rows = [(group_link(group), ", ".join(f"`{name}`" for name in names) or "none") for group, names in groups]
        parts += ["## Groups", table(("Group", "What can be chosen"), rows)]
        parts += ["## Keys", option_table(help.leaves(help.own_keys(command)))]
    return "\n\n".join(filter(None, parts))


def group_link(group: str) -> str:
    page = f"../components/{group}.md" if group in registry.KINDS else f"../presets.md#{group}"
    return f"[`{group}`]({page})"


# --- presets ---------------------------------------------------------------------------------------------------------


def places_here() -> list[places.Place]:
    """The directories of YAML of mmgen and of the repository's plugins."""
    return [place for place in places.places() if place.owner in HERE]


def presets() -> list[tuple[str, str, str, Path]]:
    """Group, name, owner and file of every preset."""
    where = places_here()
    return [
        (group, name, place.owner, file)
        for group in places.yaml_groups(where)
        for place in where
        for name, file in places.presets(group, [place])
    ]


def presets_page() -> str:
    """Every preset of every group, experiments included, with its YAML."""
    parts = [
        "# Presets",
        "YAML that chooses and sets values, in the folder of its group: `GROUP=NAME` takes it. An `experiment` fixes a "
        "whole run. [How to write one](../configuration.md#presets-of-your-own).",
    ]
    for group in dict.fromkeys(group for group, *_ in presets()):
        mine = [(name, owner, file) for found, name, owner, file in presets() if found == group]
        rows = [(f"`{group}={name}`", f"`{owner}`", inline(comment(file))) for name, owner, file in mine]
        parts += [f"## `{group}`", table(("Preset", "Of", "What it is"), rows)]
        parts += [folded(f"{group}/{file.name}", file.read_text(encoding="utf-8").rstrip()) for _, _, file in mine]
    return "\n\n".join(parts)


def comment(file: Path) -> str:
    """What a YAML file says of itself: the comment that it begins with."""
    lines = file.read_text(encoding="utf-8").splitlines()
    said = []
    for line in lines:
        if not line.startswith("#"):
            break
        said += [line.lstrip("# ")] if "@package" not in line else []
    return " ".join(said)


def folded(title: str, text: str) -> str:
    body = "\n".join(f"    {line}".rstrip() for line in ("```yaml", *text.splitlines(), "```"))
    return f'??? quote "{title}"\n\n{body}'


# --- the rest --------------------------------------------------------------------------------------------------------


def index() -> str:
    """Every component and every command, a line each."""
    rows = []
    for kind in registry.KINDS:
        mine = [c.name for c in components() if c.kind == kind]
        names = ", ".join(f"[`{name}`](components/{kind}.md#{name})" for name in mine)
        rows.append((f"[{TITLES[kind]}](components/{kind}.md)", names))
    commands = [(f"[`mmgen {name}`](commands/{name}.md)", inline(page.summary)) for name, page in help.PAGES.items()]
    modules = [(f"[`{module}`](api/{module}.md)",) for module in API]
    return "\n\n".join(
        [
            "# Reference",
            "Made from the code when this site is built: from signatures, docstrings and help texts.",
            "## Components",
            table(("Kind", "Of mmgen and of the plugins in its repository"), rows),
            "## Commands",
            table(("Command", "What it does"), commands),
            "## Python",
            table(("Module",), modules),
        ]
    )


def api_page(module: str) -> str:
    """What mkdocstrings makes of a public module, read without importing it."""
    if members := API[module]:
        return f"# {module}\n\n" + "\n\n".join(f"::: {member}" for member in members)
    return f"::: {module}\n    options: {{heading_level: 1, show_root_full_path: true}}"


def places_on_site() -> dict[str, str]:
    """Where a file of the repository stands on the site."""
    own = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*") if path.is_file()]
    found = {f"docs/{place}": place for place in own}
    found |= {f"{name}.md": f"{name.lower()}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY")}
    return found | {f"plugins/{name}/README.md": f"reference/plugins/{name}.md" for name in HERE[1:]}


def borrowed() -> dict[str, str]:
    """The pages that lie outside docs/, by their place on the site."""
    found = {place: file for file, place in places_on_site().items() if not file.startswith("docs/")}
    return {place: relink((ROOT / file).read_text(encoding="utf-8"), file) for place, file in found.items()}


def relink(text: str, file: str) -> str:
    """A page of the repository with its links as the site has them; one to what the site has not is only its words."""
    known = places_on_site()
    below = posixpath.dirname(known[file])

    def moved(link: re.Match[str]) -> str:
        mark, words, target = link.groups()
        path, hash, fragment = target.partition("#")
        if "://" in target or not path:
            return link[0]
        wanted = posixpath.normpath(posixpath.join(posixpath.dirname(file), path))
        if wanted in known:
            return f"{mark}[{words}]({posixpath.relpath(known[wanted], below or '.')}{hash}{fragment})"
        return words if (ROOT / wanted).exists() else link[0]  # of what is nowhere mkdocs warns

    parts = FENCE.split(text)  # prose, fence, prose …
    parts[::2] = [LINK.sub(moved, part) for part in parts[::2]]
    return "".join(parts)


# --- Markdown --------------------------------------------------------------------------------------------------------


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, tuple("---" for _ in head), *rows))


def inline(text: str) -> str:
    """Text as Markdown shows it; what stands in backticks is code."""
    parts = re.split(r"(`[^`]+`)", text)
    parts[::2] = [re.sub(r"([\\*_\[\]<>|#])", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


def prose(docstring: str) -> str:
    """A docstring as Markdown; the entries of its sections are a list."""
    lines: list[str] = []
    inside = False
    for line in docstring.splitlines():
        if section := SECTION.match(line):
            inside = True
            lines += [f"*{section[1]}*", ""]
        elif inside and (entry := ENTRY.match(line[4:])) and line[4:5].strip():
            names = ", ".join(f"`{name}`" for name in entry[1].split(", "))
            lines.append(f"- {names}: {inline(entry[2])}")
        else:
            inside = inside and (not line or line.startswith(" "))
            lines.append(f"  {inline(line.strip())}" if inside and line else inline(line))
    return "\n".join(lines)


def breakable(html: str) -> str:
    """A page in which the names of tables may go on in the next line: after a dot, and long ones after a _."""

    def broken(name: re.Match[str]) -> str:
        return re.sub(r"[._]" if len(name[0]) > 24 else r"[.]", r"\g<0><wbr>", name[0])

    return re.sub(r"(?<=<td><code>)[\w.]+(?=</code>)", broken, html)


def elsewhere(html: str) -> list[str]:
    """What a page would load from a network when it is opened."""
    tags: list[str] = re.findall(r"<(?:script|img|iframe|link|source)\b[^>]*>", html)
    loaded = [tag for tag in tags if not re.search(r'rel="?(?:canonical|prev|next)', tag)]
    return [tag for tag in loaded if re.search(r'\b(?:src|href|srcset)="?(?:https?:)?//', tag)]


def inlined(markdown: str) -> str:
    """A page whose SVG pictures stand in the text itself, so that they follow the site's colours."""
    return re.sub(
        r"^!\[([^\]]*)\]\((images/[\w-]+\.svg)\)$",
        lambda found: f'<div class="wide">{(ROOT / "docs" / found[2]).read_text(encoding="utf-8").strip()}</div>',
        markdown,
        flags=re.MULTILINE,
    )
