"""Why a component cannot be imported, as far as its files show it: nothing is imported to find out."""

from __future__ import annotations

import ast
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path


def flaw(value: str) -> str:
    """Why `module:Class` cannot be imported, as far as the files show it; empty when nothing is seen.

    Seen are a missing or unparsable module, a top-level import of what is not installed, a name that nothing defines.
    """
    module, _, name = value.partition(":")
    file = file_of(module)
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


def file_of(module: str) -> Path | None:
    """A module's file, found without importing its packages; None where there is none."""
    spec = _top(module)
    for part in module.split(".")[1:]:
        if spec is None or not spec.submodule_search_locations:
            return None
        spec = PathFinder.find_spec(part, list(spec.submodule_search_locations))
    return Path(spec.origin) if spec and spec.origin and Path(spec.origin).is_file() else None
