"""Options read from source text are those of the imported signature, and where the text is unclear there are none."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mmgen import registry
from mmgen.errors import PluginError
from mmgen.options import options_of
from mmgen.signatures import written_options

Install = Callable[..., Path]

EVERYTHING = """
    import importlib.metadata, json
    from mmgen import registry
    from mmgen.signatures import written_options
    installed = [c for kind in registry.KINDS for cs in registry.components(kind).values() for c in cs]
    written = [written_options(c.value, registry.BUILD_ARGUMENTS[c.kind]) for c in installed]
    import sys
    assert "torch" not in sys.modules
    from mmgen.options import options_of
    for component, options in zip(installed, written, strict=True):
        said = options_of(component.load(), registry.BUILD_ARGUMENTS[component.kind])
        if options is not None:
            assert repr(list(options.items())) == repr(list(said.items())), component
    ours = [options for one, options in zip(installed, written, strict=True) if one.owner.startswith("mmgen-")]
    print(sum(options is not None for options in ours), len(ours))
"""


def test_every_installed_component_says_the_same_in_its_text():
    code = "\n".join(line[4:] for line in EVERYTHING.splitlines())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    read, installed = map(int, done.stdout.split())
    assert read >= 18
    assert read >= installed - 1  # mmgen-transformers' hf_causal names a type by its module


PLAIN = '''
    """A plugin."""
    from __future__ import annotations
    import math, os as system
    from collections.abc import Sequence
    from pathlib import Path
    from typing import TYPE_CHECKING, Any, Literal
    from words import Way
    if TYPE_CHECKING:
        from torch import Tensor

    SIZE = 3
    Mode = Literal["fast", "exact"]

    class Base:
        def __init__(self, other: int): ...

    class Toy(Base):
        def __init__(self, grid, width: int = SIZE, *more: str, mode: Mode = "fast", path: Path | None = None,
                     sizes: tuple[int, ...] = (1, -2), share: float = 1 / 8, names: list[str] = [], way: Way = "up",
                     words: Sequence[str] = (), many: dict[str, Any] | None = None, bare=None, last: bool, **rest): ...

    def made(width: int, *, height: "int" = 2): ...
'''


def test_a_plain_text_is_read(install: Install):
    files = {"words.py": "from typing import Literal\nWay = Literal['up', 'down']\n", "plain.py": PLAIN}
    install("plain", {}, files)
    found = written_options("plain:Toy", skip=["grid"])
    assert found is not None
    assert "plain" not in sys.modules
    assert written_options("plain:made") is None  # a type that is text
    import plain  # type: ignore[import-not-found]

    assert repr(found) == repr(options_of(plain.Toy, skip=["grid"]))
    assert len(found) == 11
    assert written_options("plain:Toy", skip=["grid"]) is None, "imported, the class itself is asked"


@pytest.mark.parametrize(
    "text",
    [
        "class Toy(dict): ...",  # an inherited constructor
        "class Toy:\n    def __new__(cls, a: int = 1): ...\n    def __init__(self, b: int = 1): ...",
        "import dataclasses\n@dataclasses.dataclass\nclass Toy:\n    a: int = 1",
        "class Toy(metaclass=type):\n    def __init__(self, a: int = 1): ...",
        "class Toy:\n    def __init__(self, a: int = 1): ...\nToy.__init__ = print",
        "class Toy:\n    def __init__(self, a: int = 1): ...\nclass Toy:\n    def __init__(self, a: int = 2): ...",
        "class Toy:\n    def __init__(self, a: int = 1): ...\nprint('hello')",
        "raise RuntimeError\nclass Toy:\n    def __init__(self, a: int = 1): ...",
        "import not_installed_anywhere\nclass Toy:\n    def __init__(self, a: int = 1): ...",
        "try:\n    import json\nexcept ImportError:\n    pass\nclass Toy:\n    def __init__(self, a: int = 1): ...",
        "def wrap(f): return f\nclass Toy:\n    @wrap\n    def __init__(self, a: int = 1): ...",
        "class Toy:\n    def __init__(self, a: Unknown = 1): ...",
        "class Toy:\n    def __init__(self, a: int = max(1, 2)): ...",
        "class Toy:\n    def __init__(self, a: int = 1 / 0): ...",
        "int = str\nint = float\nclass Toy:\n    def __init__(self, a: int = 1): ...",
        "class Toy:\n    def __init__(self, a: int = 1, /): ...",
        "from other import Toy",
        "class Toy(",
    ],
)
def test_what_is_not_plain_is_left_to_the_import(install: Install, text: str):
    install("unclear", {}, {"unclear.py": text + "\n"})
    assert written_options("unclear:Toy") is None
    assert written_options("nowhere_at_all:Toy") is None
    assert "unclear" not in sys.modules


def test_a_plugin_that_cannot_be_imported_is_told(install: Install):
    entry = {"mmgen.sampler": {"broken": "broken_plugin:Toy"}}
    install("broken", entry, {"broken_plugin.py": "import not_installed\nclass Toy:\n    def __init__(self): ..."})
    with pytest.raises(PluginError, match="cannot be imported"):
        registry.find("sampler", "broken").options()
