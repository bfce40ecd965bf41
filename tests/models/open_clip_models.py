"""open_clip's models without torchvision, whose wheels do not fit every build of torch; only its transforms need it."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from typing import Any


class _Nothing(type):
    """A class whose every attribute is its own name, as an enumeration's might be."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Absent(types.ModuleType):
    """A module whose every name is a class that nothing here calls."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Nothing(name, (), {})


def open_clip() -> Any:
    """The package `open_clip`; with a torchvision of its own where there is one."""
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        for name in ("", ".transforms", ".transforms.functional", ".ops", ".ops.misc"):
            module = _Absent("torchvision" + name)
            module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
            module.__path__ = []  # type: ignore[attr-defined]
            sys.modules[module.__name__] = module
            parent, _, child = module.__name__.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, module)
    import open_clip as package

    return package
