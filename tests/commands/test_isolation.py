"""What a plugin raises in the middle of an evaluation hurts nobody else: it is told, and the rest is judged."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent

import pytest

BAD = """
import sys
import torch
from mmgen.protocols import Finding, Findings, Needs

class Bad:
    needs = Needs(split="val", reconstructions=True)
    def __init__(self, when: str = "compute"):
        self.when = when
        self._at("built")
        if when == "needs":
            self.needs = None
    def _at(self, when):
        if when == self.when:
            torch.set_default_dtype(torch.float64)
            raise RuntimeError(f"broken when {when}")
    def begin(self, setting):
        self._at("begin")
    def update(self, evidence):
        self._at("update")
        if self.when == "exit":
            sys.exit(0)
        if self.when == "mmgen":
            from mmgen.images import decode
            decode(b"no picture")
    def compute(self):
        self._at("compute")
        if self.when == "nothing":
            return None
        value = torch.tensor(1.0) if self.when == "stored" else float("nan")
        return Findings([Finding("bad/number", value, 3)], depends_on=("dataset",))

class Sampler:
    def draw(self, generator, text_tokens, **options):
        raise RuntimeError("no drawing today")
"""
JUDGE = ["evaluate", "run=runs/tiny", "dataset=folder", "dataset.path=pictures", "dataset.image_size=16"]
TOLD = {
    "begin": "RuntimeError: broken when begin",
    "update": "RuntimeError: broken when update",
    "compute": "RuntimeError: broken when compute",
    "exit": "SystemExit: 0",
    "mmgen": "error[MMG-D",
    "nothing": "AttributeError: ",
    "stored": "TypeError: ",
    "not a number": "ValueError: Out of range float values",
}


@pytest.fixture
def bad(install, work: Path) -> None:
    entries = {"mmgen.evaluator": {"bad": "bad_parts:Bad"}, "mmgen.sampler": {"bad": "bad_parts:Sampler"}}
    install("bad-parts", entries, {"bad_parts.py": dedent(BAD)})


def evaluation(path: Path) -> dict:
    return json.loads((path / "evaluation.json").read_text())


@pytest.mark.parametrize(("when", "told"), TOLD.items())
def test_an_evaluator_that_fails_is_told_and_the_others_judge(call, work: Path, bad: None, when: str, told: str):
    out = f"judged-{when.replace(' ', '-')}"
    code, said, err = call(*JUDGE, "evaluator=[bad,reconstruction]", f"evaluator.bad.when={when}", f"out={out}")
    assert code == 4, err
    found = evaluation(work / out)
    assert found["findings"]["bad"]["failed"].startswith(told)
    assert found["findings"]["bad"]["numbers"] == []
    assert found["failed"] == {"bad": found["findings"]["bad"]["failed"]}
    judged = {number["name"]: number["value"] for number in found["findings"]["reconstruction"]["numbers"]}
    assert judged["reconstruction/psnr"] > 5
    assert "bad failed: " in said
    assert f"tracebacks: {out}/error.log" in said
    assert "Traceback" in (work / out / "error.log").read_text()
    assert "Traceback" not in said + err


@pytest.mark.parametrize(
    ("when", "told"),
    [("built", "MMG-P07]: evaluator 'bad' of bad-parts 1.0 cannot be built"), ("needs", "MMG-P04]: evaluator 'bad'")],
)
def test_one_that_cannot_even_begin_is_told_before_anything_is_read(call, bad: None, when: str, told: str):
    code, _, err = call(*JUDGE, "evaluator=[bad,reconstruction]", f"evaluator.bad.when={when}")
    assert code == 8
    assert told in err


def test_what_it_finds_is_what_it_finds_without_the_one_that_failed(call, work: Path, bad: None):
    for name, evaluators in (("with", "[bad,reconstruction]"), ("without", "[reconstruction]")):
        call(*JUDGE, f"evaluator={evaluators}", f"out=found-{name}", "evaluator.reconstruction.max_pictures=40")
    both, alone = (evaluation(work / f"found-{name}")["findings"]["reconstruction"] for name in ("with", "without"))
    assert both["numbers"] == alone["numbers"]


def test_a_sampler_that_fails_fails_those_that_need_drawings(call, work: Path, bad: None):
    code, said, _ = call(*JUDGE, "evaluator=[nearest_picture,reconstruction]", "sampler=bad", "out=undrawn")
    assert code == 4
    found = evaluation(work / "undrawn")
    assert found["failed"] == {"(drawing)": "RuntimeError: no drawing today"}
    assert found["findings"]["nearest_picture"]["failed"] == "RuntimeError: no drawing today"
    assert found["findings"]["reconstruction"]["numbers"]
    assert "(drawing) failed: RuntimeError: no drawing today" in said


def test_nobody_but_those_who_choose_it_is_hurt(call, work: Path, install):
    """Broken at import in every way, a taken name: whoever chooses something else notices nothing."""
    sources = {"a": "raise SystemExit(0)", "b": "def broken(:", "c": "import einops_is_not_here", "d": "1 / 0"}
    for name, source in sources.items():
        kinds = {f"mmgen.{kind}": {f"bad_{name}": f"bad_{name}:Bad"} for kind in ("dataset", "sampler", "evaluator")}
        install(f"bad-{name}", kinds, {f"bad_{name}.py": source})
    taken = {"mmgen.dataset": {"emoji": "thief:T"}, "mmgen.sampler": {"bad_a": "thief:T"}}
    install("thief", taken, {"thief.py": "1 / 0"})
    for arguments in (["plugins", "list"], ["--help"], ["evaluate", "--help"]):
        assert call(*arguments)[0] == 0
    code, _, err = call(*JUDGE, "evaluator=[reconstruction]", "out=unhurt")
    assert (code, err.count("warning")) == (0, 0)
    for name in ("b", "c", "d"):
        code, _, err = call(*JUDGE, f"evaluator=[bad_{name}]")
        assert code == 8
        assert f"bad-{name} 1.0" in err
    code, _, err = call(*JUDGE, "evaluator=[reconstruction]", "sampler=bad_a")
    assert code == 8
    assert "bad-a 1.0 and thief 1.0" in err
