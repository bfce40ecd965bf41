"""Why a component cannot be imported, as far as its files show it: nothing is imported to find out."""

from __future__ import annotations

import ast

from mmgen.packages import file_of, top_spec


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
        if top_spec(target) is None:
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
