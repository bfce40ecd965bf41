"""The page of each kind: its example is what `mmgen plugins new` writes, it runs, and every check is told."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from mmgen import registry
from mmgen.commands.plugin_new import TEMPLATES, USES
from mmgen.testing import datasets, encoders, evaluators, generators, samplers, tokenizers, trainables

DOCS = Path(__file__).parents[1] / "docs" / "plugins"
PAGES = {kind: (DOCS / f"{kind}.md").read_text(encoding="utf-8") for kind in registry.KINDS}
LEARNING = (DOCS / "learning.md").read_text(encoding="utf-8")
CHECKS = {
    "dataset": {*datasets.DATASET_CHECKS, *datasets.TOKEN_DATASET_CHECKS},
    "tokenizer": {*tokenizers.TOKENIZER_CHECKS},
    "generator": {*generators.GENERATOR_CHECKS, *generators.CAPTIONER_CHECKS},
    "encoder": {*encoders.ENCODER_CHECKS, *encoders.PRETRAINED_CHECKS},
    "sampler": {*samplers.SAMPLER_CHECKS},
    "evaluator": {*evaluators.EVALUATOR_CHECKS},
}


def files(page: str) -> dict[str, str]:
    return dict(re.findall(r'^```python title="([^"]+)"\n(.*?)^```', page, re.MULTILINE | re.DOTALL))


def told(page: str) -> set[str]:
    return set(re.findall(r"^\| `(\w+)` \| [^|]+ \|$", page.partition("## What the kit checks")[2], re.MULTILINE))


@pytest.mark.parametrize("kind", registry.KINDS)
def test_the_example_is_the_one_that_new_writes(kind: str):
    template = (TEMPLATES / kind / "example.py").read_text(encoding="utf-8")
    assert files(PAGES[kind])["mmgen_example/__init__.py"] == template


@pytest.mark.parametrize("kind", registry.KINDS)
def test_the_example_conforms_as_the_page_tests_it(kind: str, monkeypatch: pytest.MonkeyPatch):
    written = files(PAGES[kind])
    module: Any = types.ModuleType("mmgen_example")
    monkeypatch.setitem(sys.modules, "mmgen_example", module)
    exec(compile(written["mmgen_example/__init__.py"], "mmgen_example", "exec"), vars(module))  # noqa: S102  the page's
    namespace: dict[str, Any] = {}
    exec(compile(written["tests/test_example.py"], "test_example", "exec"), namespace)  # noqa: S102
    test = namespace["test_conforms"]
    (mark,) = test.pytestmark
    checks = [parameter.values[0] for parameter in mark.args[1]]
    assert len(checks) >= 10
    for check in checks:
        test(check)


def test_every_check_is_told_on_its_page():
    learned = {check.__name__ for check in trainables.TRAINABLE_CHECKS}
    assert told(LEARNING) == learned
    assert len(learned) == 15
    for kind, checks in CHECKS.items():
        names = {check.__name__ for check in checks}
        shared = learned if kind in ("tokenizer", "generator", "encoder") else set()
        assert names - shared <= told(PAGES[kind]) <= names, kind
        assert bool(shared) == ("learning.md#what-the-kit-checks" in PAGES[kind])


def test_every_kind_has_a_page_and_a_template():
    assert sorted(path.stem for path in DOCS.glob("*.md")) == sorted([*registry.KINDS, "learning", "promise"])
    assert USES.keys() == set(registry.KINDS)
    for kind, page in PAGES.items():
        assert f"`mmgen.{kind}`" in page
        assert [line for line in page.splitlines() if line.startswith("## ")] == [
            "## The contract", "## A minimal one", "## What the kit checks", "## Traps",
        ]  # fmt: skip
        for argument in registry.BUILD_ARGUMENTS[kind]:
            assert f"`{argument}`" in page.partition("## The contract")[0]
