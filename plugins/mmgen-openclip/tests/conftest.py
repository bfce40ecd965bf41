"""open_clip without torchvision, whose wheels do not fit every build of torch, and tiny models of it."""

import importlib.machinery
import json
import sys
import types
from contextlib import suppress

import pytest

TEXT = {"width": 32, "heads": 2, "layers": 1}
TINY = {
    "vit": {"layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "resnet": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 64, "patch_size": None},
}


class Nothing(type):
    """A class whose every attribute is its own name, as an enumeration's might be."""

    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class Absent(types.ModuleType):
    """A module whose every name is a class that nothing here calls: only open_clip's transforms do."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Nothing(name, (), {})


def stand_in():
    """Puts a torchvision into sys.modules that serves for importing open_clip; gives its modules' names."""
    names = ["torchvision" + name for name in ("", ".transforms", ".transforms.functional", ".ops", ".ops.misc")]
    for name in names:
        module = Absent(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.__path__ = []
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    return names


def imported():
    """open_clip, with a torchvision of its own where there is one that fits."""
    if "open_clip" not in sys.modules:
        names = []
        try:
            import torchvision  # noqa: F401
        except (ImportError, RuntimeError):
            with suppress(ImportError):  # it remembers the answer, and open_clip imports it beside the stand-in
                from transformers.utils import is_torchvision_available

                is_torchvision_available()
            names = stand_in()
        import open_clip  # noqa: F401

        for name in names:  # others ask whether there is a torchvision, and would take this one for it
            del sys.modules[name]
    return sys.modules["open_clip"]


@pytest.fixture(scope="session")
def package():
    return imported()


@pytest.fixture
def tiny(tmp_path, package):
    """Writes a tiny model's config, and gives its path."""

    def write(tower="vit", **changes):
        config = {"embed_dim": 16, "vision_cfg": {"image_size": 32, **TINY[tower]}, "text_cfg": TEXT, **changes}
        path = tmp_path / f"{tower}.json"
        path.write_text(json.dumps(config))
        return str(path)

    return write
