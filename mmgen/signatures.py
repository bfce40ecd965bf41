"""A component's options as its source text says them: those of its signature, without importing it and so torch.

Nothing is guessed. What is not plainly written there (a decorator, an inherited constructor, a type that is neither
Python's nor made of such, code that runs when the module is imported) makes the reader give up, and the component is
imported instead. Part of the registry (`mmgen.registry`).
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import operator
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal

from mmgen.options import Option, options_of
from mmgen.packages import file_of, top_spec

TYPES = {kind.__name__: kind for kind in (int, float, str, bool, list, tuple, dict, set, frozenset)}
LIGHT = ("typing", "collections.abc", "pathlib")  # modules whose names stand for what they are
OPERATORS: dict[type[ast.AST], Any] = {
    ast.Div: operator.truediv,
    ast.Mult: operator.mul,
    ast.Pow: operator.pow,
    ast.BitOr: operator.or_,
    ast.USub: operator.neg,
}
DEFINES = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef, ast.Assign, ast.AnnAssign)


class _Unclear(Exception):
    """The text does not plainly say it."""


def written_options(value: str, skip: Collection[str] = ()) -> dict[str, Option] | None:
    """What `options_of` would find in `module:Class`; None where only importing it can tell.

    Args:
        skip: parameters that are no options.
    """
    module, _, name = value.partition(":")
    if module in sys.modules:
        return None  # what is imported may differ from its text, and costs nothing more
    try:
        source = _source(module)
        source.refuse_what_is_missing()
        parameters = [
            inspect.Parameter(
                argument.arg,
                inspect.Parameter.KEYWORD_ONLY,
                default=source.value(default) if default else inspect.Parameter.empty,
                annotation=source.hint(argument.annotation) if argument.annotation else inspect.Parameter.empty,
            )
            for argument, default in source.parameters(name)
            if argument.arg not in skip
        ]
        return options_of(_StandIn(inspect.Signature(parameters)))
    except (_Unclear, ArithmeticError, LookupError, TypeError, ValueError):
        return None


class _StandIn:
    """Has a signature, and is not to be called."""

    def __init__(self, signature: inspect.Signature) -> None:
        self.__signature__ = signature

    def __call__(self) -> None: ...


class _Source:
    """A module's text, of which nothing is run."""

    def __init__(self, file: Path) -> None:
        try:
            self.body = ast.parse(file.read_bytes()).body
        except (SyntaxError, OSError) as error:
            raise _Unclear from error
        if not all(isinstance(node, DEFINES) or _does_nothing(node) for node in self.body):
            raise _Unclear

    def refuse_what_is_missing(self) -> None:
        """A module that imports what is not installed cannot be used, which is for the import to tell."""
        for node in self.body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            if any(top_spec(name) is None for name in names):
                raise _Unclear

    def parameters(self, name: str) -> Iterator[tuple[ast.arg, ast.expr | None]]:
        """Of the function of this name, or of the class's own `__init__`, with their defaults; without `self`, `*args`
        and `**kwargs`."""
        node = self._only(name)
        bound = isinstance(node, ast.ClassDef)
        if isinstance(node, ast.ClassDef) and not node.keywords and not node.decorator_list:
            own = [one for one in node.body if getattr(one, "name", "") in ("__init__", "__new__")]
            node = own[0] if len(own) == 1 and getattr(own[0], "name", "") == "__init__" else None
        if not isinstance(node, ast.FunctionDef) or node.decorator_list or node.args.posonlyargs:
            raise _Unclear
        taken = node.args
        without: list[ast.expr | None] = [None] * (len(taken.args) - len(taken.defaults))
        yield from list(zip(taken.args, [*without, *taken.defaults], strict=True))[bound:]
        yield from zip(taken.kwonlyargs, taken.kw_defaults, strict=True)

    def _only(self, name: str) -> ast.AST | None:
        """The one statement that gives a name its meaning; None where there is none."""
        found = [node for node in self.body if name in _names(node)]
        if len(found) > 1:
            raise _Unclear
        return found[0] if found else None

    def hint(self, node: ast.expr) -> Any:
        """What an annotation means."""
        return self._evaluated(node, text=False)

    def value(self, node: ast.expr) -> Any:
        """What a default is."""
        return self._evaluated(node, text=True)

    def _evaluated(self, node: ast.expr, text: bool) -> Any:
        """`text`: whether text stands for itself. In an annotation it is code, save in `Literal[...]`."""
        if isinstance(node, ast.Constant) and (text or not isinstance(node.value, str)):
            return node.value
        if isinstance(node, ast.Name):
            return self._meaning(node.id, text)
        if isinstance(node, ast.Tuple | ast.List):
            items = [self._evaluated(item, text) for item in node.elts]
            return items if isinstance(node, ast.List) else tuple(items)
        if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](self._evaluated(node.operand, text))
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
            return OPERATORS[type(node.op)](self._evaluated(node.left, text), self._evaluated(node.right, text))
        if isinstance(node, ast.Subscript):
            held = self._evaluated(node.value, text)
            return held[self._evaluated(node.slice, text=held is Literal)]
        raise _Unclear

    def _meaning(self, name: str, text: bool) -> Any:
        """What a name stands for in this module, or in the one that it is imported from."""
        node = self._only(name)
        if node is None and name in TYPES:
            return TYPES[name]
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            known = next(alias.name for alias in node.names if name == (alias.asname or alias.name))
            if node.module in LIGHT:
                return getattr(importlib.import_module(node.module), known)
            return _source(node.module)._meaning(known, text)
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            return self._evaluated(node.value, text)
        raise _Unclear


def _source(module: str) -> _Source:
    file = file_of(module)
    if file is None or file.suffix != ".py":
        raise _Unclear
    return _parsed(file, file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _parsed(file: Path, written: int) -> _Source:
    return _Source(file)


def _does_nothing(node: ast.stmt) -> bool:
    """A docstring, or what only a type checker reads."""
    if isinstance(node, ast.If) and not node.orelse:
        return ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _names(node: ast.stmt) -> Iterator[str]:
    """What a statement at the top of a module defines; of an assignment to something else than names, everything that
    it mentions."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)
    elif isinstance(node, ast.ClassDef | ast.FunctionDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        yield from (one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name))
