"""open_clip's models without torchvision, whose wheels do not fit every build of torch; only its transforms need it."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from contextlib import suppress
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
    if "open_clip" in sys.modules:
        return sys.modules["open_clip"]
    stands = []
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        with suppress(ImportError):  # it remembers the answer, and open_clip imports it beside the stand-in
            from transformers.utils import is_torchvision_available

            is_torchvision_available()
        for name in ("", ".transforms", ".transforms.functional", ".ops", ".ops.misc"):
            module = _Absent("torchvision" + name)
            module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
            module.__path__ = []  # type: ignore[attr-defined]
            sys.modules[module.__name__] = module
            stands.append(module.__name__)
            parent, _, child = module.__name__.rpartition(".")
            if parent:
                setattr(sys.modules[parent], child, module)
    import open_clip as package

    for name in stands:  # others ask whether there is a torchvision, and would take this one for it
        del sys.modules[name]
    return package
