"""A plugin's import and construction leave what all share as it was; what they change is put back, and told."""

from __future__ import annotations

import os
import random
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mmgen import isolation, registry

Install = Callable[..., Path]
CHANGES = {
    "torch's default dtype": "import torch; torch.set_default_dtype(torch.float64)",
    "torch's default device": "import torch; torch.set_default_device('meta')",
    "torch's number of threads": "import torch; torch.set_num_threads(torch.get_num_threads() + 1)",
    "torch's random numbers": "import torch; torch.manual_seed(90210)",
    "numpy's random numbers": "import numpy; numpy.random.seed(90210)",
    "Python's random numbers": "import random; random.seed(90210)",
    "whether torch records gradients": "import torch; torch.set_grad_enabled(False)",
    "whether torch looks for anomalies": "import torch; torch.autograd.set_detect_anomaly(True, check_nan=False)",
    "torch's deterministic algorithms": "import torch; torch.use_deterministic_algorithms(True)",
    "torch's precision of float32 products": "import torch; torch.set_float32_matmul_precision('medium')",
    "cudnn's benchmark and deterministic": "import torch; torch.backends.cudnn.benchmark = True",
    "os.environ": "import os; os.environ['MMGEN_TEST_X'] = '1'; os.environ.pop('HOME', None)",
    "the working directory": "import os; os.chdir('/')",
    "warnings.filters": "import warnings; warnings.simplefilter('ignore')",
    "warnings.showwarning": "import warnings; warnings.showwarning = print",
    "the root logger's level": "import logging; logging.getLogger().setLevel(3)",
    "the root logger's handlers": "import logging; logging.getLogger().addHandler(logging.NullHandler())",
    "logging.disable": "import logging; logging.disable(50)",
    "the handlers of SIGINT and SIGTERM": "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "sys.excepthook": "import sys; sys.excepthook = print",
    "sys.stdout and sys.stderr": "import sys, io; sys.stdout = io.StringIO()",
    "the recursion limit": "import sys; sys.setrecursionlimit(1234)",
    "Pillow's largest picture": "import PIL.Image; PIL.Image.MAX_IMAGE_PIXELS = None",
}


def state() -> list[Any]:
    return [guard.read() for guard in isolation.guards()]


def unchanged(before: list[Any]) -> bool:
    return all(g.same(a, g.read()) for g, a in zip(isolation.guards(), before, strict=True))


@pytest.mark.parametrize(("what", "source"), CHANGES.items())
def test_what_an_import_changes_is_put_back_and_told(install: Install, what: str, source: str):
    install("rude", {"mmgen.sampler": {"rude": "rude_mod:Rude"}}, {"rude_mod.py": f"{source}\nclass Rude: ..."})
    before = state()
    with pytest.warns(isolation.PluginWarning, match="sampler 'rude' of rude 1.0 changes") as caught:
        registry.find("sampler", "rude").load()
    assert what in str(caught[0].message)
    assert unchanged(before)
    assert os.environ.get("MMGEN_TEST_X") is None


def test_every_guard_is_tried_here():
    assert {guard.what for guard in isolation.guards()} == CHANGES.keys()
    assert len(CHANGES) == 23


def test_an_import_that_fails_halfway_is_put_back_too(install: Install):
    source = "import torch; torch.set_default_dtype(torch.float64); raise SystemExit(0)"
    install("rude", {"mmgen.sampler": {"rude": "rude_half:Rude"}}, {"rude_half.py": source})
    with pytest.warns(isolation.PluginWarning), pytest.raises(registry.PluginError, match="SystemExit"):
        registry.find("sampler", "rude").load()
    assert torch.get_default_dtype() == torch.float32


def test_weights_may_be_drawn_but_nothing_else_may_change_when_it_is_built(install: Install):
    source = """
        import torch
        class Rude:
            def __init__(self, loud: bool = False):
                self.weight = torch.rand(3)
                if loud:
                    torch.set_default_dtype(torch.float64)
    """
    install("rude", {"mmgen.sampler": {"rude": "rude_built:Rude"}}, {"rude_built.py": source})
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one, other = (registry.build("sampler", {"name": "rude"}) for _ in range(2))
    assert not torch.equal(one.weight, other.weight)
    with pytest.warns(isolation.PluginWarning, match="torch's default dtype when it is built"):
        registry.build("sampler", {"name": "rude", "loud": True})
    assert torch.get_default_dtype() == torch.float32


def test_the_state_of_what_is_imported_is_compared_in_full():
    """The random numbers of numpy are an array and a position in it."""
    changed: list[str] = []
    with isolation.guarded(changed):
        np.random.rand(), random.random(), torch.rand(1)
    assert len(changed) == 3
    with isolation.guarded(changed, random_numbers=False):
        np.random.rand(), random.random(), torch.rand(1)
    assert len(changed) == 3
    assert "torch" in sys.modules
