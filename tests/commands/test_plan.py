"""`mmgen plan`: what fits and what does not, what would, and that nothing is measured twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mmgen.commands import composition, measured, places, plan
from mmgen.errors import ConfigError

LARGE = ["generator=dalle_12b", "measure=false"]
SMALL = [
    "generator=transformer", "generator.layout=dalle", "generator.num_layers=1", "task.batch_size=64",
    "task.text_tokenizer.vocab_size=300", "task.text_tokenizer.context_length=16", "grid=[4,4]", "codebook_size=50",
]  # fmt: skip


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMGEN_CACHE", str(tmp_path / "cache"))


def planned(tmp_path: Path, *overrides: str) -> dict[str, Any]:
    """What the command writes."""
    out = tmp_path / "plan.json"
    config = composition.checked("plan", [*overrides, f"out={out}"], places.places()).config
    assert plan.main(config, []) == 0
    return json.loads(out.read_text())


def test_the_papers_generator(tmp_path, capsys):
    found = planned(tmp_path, *LARGE, "nodes=[2,128]")
    assert found["parameters"] == sum(found["parts"].values()) == 12_293_849_088
    # Six operations a parameter and token, but for embeddings, which are looked up, and with sparse attention on top.
    assert found["flops_a_picture"] / 1280 / 6 == pytest.approx(12.29e9, rel=0.02)
    assert found["flops_a_step"] == 1024 * found["flops_a_picture"]
    few, many = found["rows"]
    assert (few["gpus"], many["gpus"]) == (16, 1024)
    for row in (few, many):
        assert row["fits"]
        assert row["gpus"] * row["micro_batch"] * row["passes"] == 1024
        seconds = found["tokens"] / row["tokens_a_second"]
        assert row["days"] * 86_400 == pytest.approx(seconds)
        assert row["cost"] == pytest.approx(seconds / 3600 * row["gpus"] * 3.0)
        speed = row["gpus"] * 989e12 * 0.4 / (found["flops_a_picture"] / 1280)
        assert row["tokens_a_second"] == pytest.approx(speed)
    assert few["memory"]["weights"] == pytest.approx(4 * 12_293_849_088 / 16)
    assert "12,293,849,088" in capsys.readouterr().out


@pytest.mark.parametrize(
    "overrides",
    [
        ["micro_batch=64"],
        ["generator.gradient_checkpointing=false", "micro_batch=8"],
        ["generator.gradient_checkpointing=false", "micro_batch=1", "memory_gb=30"],
        ["gpu=v100"],
        ["trainer=ddp"],
    ],
    ids=str,
)
def test_what_does_not_fit_is_marked_and_the_change_that_is_named_helps(tmp_path, overrides, capsys):
    asked = [*LARGE, "nodes=2", *overrides]
    (row,) = planned(tmp_path, *asked)["rows"]
    assert not row["fits"]
    assert "16 GPUs do not suffice; this does: " + row["change"] in capsys.readouterr().out
    changed = {text.partition("=")[0]: text for text in [*asked, *row["change"].split()]}
    (row,) = planned(tmp_path, *changed.values())["rows"]
    assert row["fits"]


def test_a_small_generator_is_measured_once(tmp_path, monkeypatch, capsys):
    first = planned(tmp_path, *SMALL)
    assert first["rows"][0]["measured"]
    assert "measured on fake tensors" in capsys.readouterr().out
    monkeypatch.setattr(measured, "measure", lambda *_: pytest.fail("measured again"))
    assert planned(tmp_path, *SMALL) == first
    with pytest.raises(pytest.fail.Exception):
        planned(tmp_path, *SMALL, "generator.num_layers=3")
    assert measured.cache() == tmp_path / "cache" / "plan"
    (file,) = measured.cache().glob("*.json")
    file.write_text("{")
    with pytest.raises(pytest.fail.Exception):
        planned(tmp_path, *SMALL)


def test_a_measurement_that_cannot_be_kept_is_told_all_the_same(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MMGEN_CACHE", str(tmp_path / "file"))
    assert planned(tmp_path, *SMALL)["rows"][0]["measured"]
    assert f"the measurement cannot be kept in {tmp_path}/file/plan: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "code", "said"),
    [
        (["trainer.tensor_parallel_size=4"], "MMG-C30", "1, 2, 31, 62"),
        (["nodes=3"], "MMG-C50", "cannot be spread over 24 GPUs"),
        (["nodes=2048"], "MMG-C50", "cannot be spread over 16384 GPUs"),
        (["micro_batch=7"], "MMG-C50", "7 at a time"),
        (["nodes=[]"], "MMG-C50", "nodes is"),
    ],
    ids=str,
)
def test_what_cannot_be(tmp_path, overrides, code, said):
    with pytest.raises(ConfigError) as caught:
        planned(tmp_path, *LARGE, *overrides)
    assert caught.value.code == code
    assert said in caught.value.render()


def test_a_generator_of_another_build_is_not_counted(tmp_path, monkeypatch):
    (tmp_path / "other_generator.py").write_text(
        "from mmgen.testing import SmallGenerator\n"
        "class Other(SmallGenerator):\n"
        "    def __init__(self, *, text_tokenizer, grid, codebook_size):\n"
        "        super().__init__(grid, codebook_size)\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="cannot be counted") as caught:
        planned(tmp_path, "generator=other_generator:Other")
    assert caught.value.code == "MMG-C51"
