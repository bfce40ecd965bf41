"""`mmgen plugins list | info NAME | check [NAME]`: what is installed, what it can be told, whether it can be imported.

`list` reads metadata and source text and imports nothing; `info` imports the components it is asked for; `check`
imports each in a process of its own, so that one that crashes or hangs is only reported.
"""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from mmgen import registry
from mmgen.commands.help import key_line, page, table
from mmgen.errors import ConfigError, MmgenError, PluginError
from mmgen.registry import Component
from mmgen.spelling import nearest

ACTIONS = ("list", "info", "check")
PATIENCE = 20  # seconds that a component may take to be imported


def main(arguments: list[str]) -> int:
    """Gives the exit code: 8 where `check` finds something broken."""
    action, *names = arguments or ["list"]
    if "--help" in arguments or "-h" in arguments:
        print(page("plugins", []))
        return 0
    if action not in ACTIONS:
        near = nearest(action, ACTIONS)
        raise ConfigError(
            f"no action {action!r}",
            code="MMG-C07",
            where="command line",
            why=f"there are {', '.join(ACTIONS)}",
            fix=f"mmgen plugins {near}" if near else "mmgen plugins --help",
        )
    if action == "list":
        print("\n".join(listing()))
        return 0
    if action == "info" and not names:
        raise ConfigError("plugins info wants a name", code="MMG-C07", where="command line", fix="mmgen plugins list")
    if action == "info":
        print("\n\n".join(info(component) for name in names for component in named(name)))
        return 0
    return check([c for name in names for c in named(name)] if names else everything())


def everything() -> list[Component]:
    """Every installed component, by kind and name; of a clash, each with its distribution."""
    return [registry.find(kind, name) for kind in registry.KINDS for name in registry.choices(kind)]


def named(name: str) -> list[Component]:
    """The components of a name, or of "kind/name"; one name may be used in several kinds.

    Raises:
        ConfigError: there is none.
        PluginError: two distributions claim it.
    """
    kind, slash, short = name.rpartition("/")
    kinds = [kind] if slash else list(registry.KINDS)
    if slash and kind not in registry.KINDS:
        raise registry.unknown_option("kind", kind, list(registry.KINDS))
    known = {k: registry.choices(k) for k in kinds}
    found = [registry.find(k, short) for k in kinds if short.partition("@")[0] in registry.components(k)]
    if not found:
        raise registry.unknown_option(
            kind or "component", short, sorted({n for names in known.values() for n in names})
        )
    return found


def listing() -> list[str]:
    """A table of all components; nothing is imported, so only what the source text shows is known to be broken."""
    registry.refuse_foreign()
    rows: list[tuple[str, ...]] = [("kind", "name", "distribution", "")]
    for component in everything():
        clash = "@" in component.name
        cause = flaw(component.value)
        note = f"broken: {cause}" if cause else "clash: choose it by this name" if clash else ""
        rows.append((component.kind, component.name, component.owner, note))
    packages = sorted(
        {
            (what, e.value, e.dist.name if e.dist else "")
            for what, group in (("presets", "mmgen.configs"), ("prompts", "mmgen.prompts"))
            for e in entry_points(group=group)
        }
    )
    return [*table(rows), *(f"{what}  {package} of {owner}" for what, package, owner in packages)]


def flaw(value: str) -> str:
    """Why `module:Class` cannot be imported, as far as the files show it; empty when nothing is seen.

    Seen are a missing or unparsable module, a top-level import of what is not installed, a name that nothing defines.
    """
    module, _, name = value.partition(":")
    file = source_file(module)
    if file is None:
        return f"no module {module}"
    if file.suffix != ".py":
        return ""
    try:
        tree = ast.parse(file.read_bytes(), str(file))
    except (SyntaxError, ValueError) as error:
        return f"SyntaxError: {error}"
    for target in _imported(tree):
        if _top(target) is None:
            return f"no module {target}"
    if any(getattr(node, "name", None) == name for node in tree.body):
        return ""  # its own class or function, as nearly always: the rest of the file need not be walked
    words = {getattr(node, field, None) for node in ast.walk(tree) for field in ("name", "asname", "id")}
    unknowable = words & {"*", "__getattr__"}
    return "" if unknowable or name.partition(".")[0] in words else f"{module} defines no {name}"


def _imported(tree: ast.Module) -> list[str]:
    """The modules that are imported unconditionally when the file is."""
    found = []
    for node in tree.body:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.append(node.module)
    return found


def _top(module: str) -> ModuleSpec | None:
    """The spec of a module's top-level package, which is not imported for that."""
    try:
        return find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        return None


def source_file(module: str) -> Path | None:
    """A module's file, found without importing its packages; None where there is none."""
    spec = _top(module)
    for part in module.split(".")[1:]:
        if spec is None or not spec.submodule_search_locations:
            return None
        spec = PathFinder.find_spec(part, list(spec.submodule_search_locations))
    return Path(spec.origin) if spec and spec.origin and Path(spec.origin).is_file() else None


def info(component: Component) -> str:
    """A component's page: where it comes from, what it does, its options. Imports it.

    Raises:
        PluginError: it is broken.
    """
    options = component.options()
    target = component.load()
    text = inspect.getdoc(target) or "no docstring"
    build = ", ".join(registry.BUILD_ARGUMENTS[component.kind])
    lines = [f"{component.kind} {component.name}, {component.value}, of {component.owner}", "", text, "", "options:"]
    lines += [key_line(f"{component.kind}.{name}", option) for name, option in options.items()] or ["  none"]
    return "\n".join([*lines, *([f"set by other parts: {build}"] if build else [])])


def check(components: list[Component]) -> int:
    """Imports each and reads its options, each in a process of its own; 8 if one is broken."""
    rows: list[tuple[str, ...]] = []
    failed = False
    for component in components:
        cause = _trial(component)
        failed = failed or bool(cause)
        rows.append((component.kind, component.name, component.owner, f"broken: {cause}" if cause else "ok"))
    print("\n".join(table(rows)))
    return PluginError.exit_code if failed else 0


def _trial(component: Component) -> str:
    code = "import sys; from mmgen.commands.plugins import trial; sys.exit(trial(*sys.argv[1:]))"
    command = [sys.executable, "-c", code, component.kind, component.name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        return f"its import takes longer than {PATIENCE} s"
    if done.returncode == 0:
        return ""
    last = done.stderr.strip().splitlines()
    return last[-1] if last else f"ended with {done.returncode}"


def trial(kind: str, name: str) -> int:
    """Imports one component and reads its options, in this process."""
    try:
        registry.find(kind, name).options()
    except MmgenError as error:
        print(error.why or error.what, file=sys.stderr)
        return error.exit_code
    return 0
