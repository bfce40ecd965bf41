"""Weights in fewer bits: how far they move, that the parts still know each other, and what is refused."""

import dataclasses

import pytest
import torch

from mmgen.checkpoint.compact import SCALE, SMALLEST, compacted, expanded
from mmgen.checkpoint.exports import read_export, write_export
from mmgen.checkpoint.parts import read_part, with_fingerprint
from mmgen.errors import CheckpointError


@pytest.fixture
def tensors():
    torch.manual_seed(0)
    return {
        "matrix": torch.randn(64, 80) * torch.logspace(-4, 4, 64)[:, None],  # rows of very different sizes
        "kernel": torch.randn(32, 16, 3, 3),
        "empty row": torch.cat([torch.zeros(1, SMALLEST), torch.ones(1, SMALLEST)]),
        "small": torch.randn(3, 4),
        "bias": torch.randn(8000),
        "step": torch.tensor(7),
        "flags": torch.tensor([True, False]),
        "brain": torch.randn(64, 80).bfloat16(),
    }


def test_a_row_in_eight_bits_is_off_by_half_a_step_at_most(tensors):
    stored = compacted(tensors, "eight")
    large = ("matrix", "kernel", "empty row")
    assert {name for name in stored if name.endswith(SCALE)} == {name + SCALE for name in large}
    back = expanded(stored)
    assert back.keys() == tensors.keys()
    for name in large:
        assert stored[name].dtype == torch.int8
        rows, original = back[name].flatten(1), tensors[name].flatten(1)
        step = original.abs().amax(1, keepdim=True) / 127
        assert ((rows - original).abs() <= step * 0.5001).all()
        assert (rows - original).abs().max() > 0 or name == "empty row", "nothing was rounded"
    for name in ("small", "bias"):
        assert torch.equal(back[name], tensors[name].half())
    for name in ("step", "flags", "brain"):
        assert torch.equal(back[name], tensors[name])


def test_full_and_half(tensors):
    assert all(stored is tensors[name] for name, stored in compacted(tensors, "full").items())
    half = compacted(tensors, "half")
    assert {name for name, tensor in half.items() if tensor.dtype == torch.float16} == tensors.keys() - {
        "step",
        "flags",
        "brain",
    }
    assert expanded(half).keys() == tensors.keys()


def test_a_weight_beyond_half_precision_is_told():
    with pytest.raises(CheckpointError, match=r"big has weights up to 1e\+05.*\n.*precision=full") as caught:
        compacted({"big": torch.tensor([1e5])}, "half")
    assert caught.value.code == "MMG-K02"
    kept = compacted({"odd": torch.tensor([torch.inf, torch.nan])}, "half")["odd"]
    assert kept.isnan().tolist() == [False, True], "what was no number before is none of ours"


@pytest.mark.parametrize(
    "tensors",
    [
        {f"a{SCALE}": torch.ones(3)},
        {"a": torch.ones(3, 4), f"a{SCALE}": torch.ones(3)},
        {"a": torch.ones(3, 4, dtype=torch.int8), f"a{SCALE}": torch.ones(4)},
        {"a": torch.ones((), dtype=torch.int8), f"a{SCALE}": torch.ones(1)},
    ],
    ids=["alone", "no bytes", "another length", "no rows"],
)
def test_factors_without_their_matrix_are_refused(tensors):
    with pytest.raises(CheckpointError):
        expanded(tensors, "file")


@pytest.mark.parametrize("precision", ["half", "eight"])
def test_an_export_in_fewer_bits_opens_and_its_parts_know_each_other(parts, tmp_path, precision):
    torch.manual_seed(0)
    parts = {
        kind: with_fingerprint(dataclasses.replace(part, tensors={**part.tensors, "wide": torch.randn(64, 80)}))
        for kind, part in parts.items()
    }
    parts["generator"] = dataclasses.replace(parts["generator"], requires={"tokenizer": parts["tokenizer"].fingerprint})
    sizes = {}
    for name in ("full", precision):
        write_export(tmp_path / name, parts=parts, data={}, sampler={"name": "autoregressive"}, precision=name)
        sizes[name] = (tmp_path / name / "tokenizer" / "model.safetensors").stat().st_size
    assert sizes[precision] < sizes["full"] * (0.6 if precision == "half" else 0.35)
    back = read_export(tmp_path / precision).parts
    for kind, part in back.items():
        assert part.info["precision"] == precision
        assert part.fingerprint == read_part(tmp_path / precision / kind).fingerprint != parts[kind].fingerprint
        torch.testing.assert_close(part.tensors["wide"].float(), parts[kind].tensors["wide"], atol=0.02, rtol=0)
    assert back["generator"].requires == {"tokenizer": back["tokenizer"].fingerprint}
