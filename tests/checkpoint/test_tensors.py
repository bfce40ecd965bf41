"""The safetensors file: what is written is what the library reads, and a stranger's header is checked to the byte."""

import io
import json

import pytest
import safetensors.torch
import torch

from mmgen.checkpoint import tensors
from mmgen.errors import CheckpointError


def written(values):
    file = io.BytesIO()
    tensors.write_tensors(file, values)
    return file.getvalue()


def test_the_library_reads_what_is_written():
    values = {code: torch.arange(6).reshape(2, 3).to(dtype) for code, dtype in tensors.DTYPES.items()}
    base = torch.randn(4, 5)
    values |= {
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 7),
        "transposed": base.t(),
        "strided": base[:, ::2],
        "shared": base,
        "expanded": torch.ones(1).expand(3),
        "conjugate": torch.randn(3, dtype=torch.complex64).conj(),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "a/long name ü": torch.ones(1, dtype=torch.bool),
    }
    back = safetensors.torch.load(written(values))
    assert back.keys() == values.keys()
    for name, value in values.items():
        assert back[name].dtype == value.dtype
        assert torch.equal(back[name], value.detach()), name


def test_the_file_does_not_depend_on_the_order_of_names():
    a, b = torch.ones(2), torch.zeros(3, dtype=torch.int8)
    assert written({"a": a, "b": b}) == written({"b": b, "a": a})


def test_a_loaded_file_may_be_removed(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(written({"a": torch.ones(1000)}))
    loaded = tensors.load_tensors(path)
    with open("/proc/self/maps") as maps:
        assert str(path) not in maps.read()
    assert loaded["a"].sum() == 1000


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (torch.eye(2).to_sparse(), "layout"),
        (torch.empty(2, device="meta"), "meta"),
        (torch.zeros(2, dtype=torch.complex128), "complex128"),
        (torch.zeros(2), ""),
    ],
)
def test_what_cannot_be_stored_is_told(tensor, reason):
    assert reason in tensors.storable(tensor)
    assert bool(reason) == bool(tensors.storable(tensor))


GOOD = {
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b": {"dtype": "U8", "shape": [1], "data_offsets": [8, 9]},
}


def header_file(header, data=bytes(9)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def changed(**entry):
    return {**GOOD, "b": {**GOOD["b"], **entry}}


def test_the_good_header_of_the_attacks_is_good():
    back = tensors.parse_tensors(header_file(GOOD), "model.safetensors")
    assert {name: tuple(t.shape) for name, t in back.items()} == {"a": (2,), "b": (1,)}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"1234567",
        b"<html>" * 100,
        bytes(100),
        b"\xff" * 100,
        (10**7 + 1).to_bytes(8, "little") + b" " * (10**7 + 1),
        header_file(b"[]"),
        header_file(b'{"a": 1, "a": 2}'),
        header_file(b"[" * 5000 + b"]" * 5000),
        header_file(GOOD, bytes(8)),
        header_file(GOOD, bytes(10)),
        header_file({f"t{i}": {} for i in range(10_001)}),
        header_file({"__metadata__": {"a": "b"}, **GOOD}),
        header_file({"x" * 501: GOOD["a"]}, bytes(8)),
        header_file(changed(dtype="OBJECT")),
        header_file(changed(dtype=["F32"])),
        header_file(changed(shape=[2])),
        header_file(changed(shape=[-1])),
        header_file(changed(shape=[True])),
        header_file(changed(shape=[1.0])),
        header_file(changed(shape=[1] * 17)),
        header_file(changed(shape=[0, 2**40, 2**40], data_offsets=[8, 8]), bytes(8)),
        header_file(changed(shape=[10**300])),
        header_file(changed(data_offsets=[0, 1])),
        header_file(changed(data_offsets=[7, 8])),
        header_file(changed(data_offsets=[9, 8])),
        header_file(changed(data_offsets=[8])),
        header_file(changed(data_offsets="89")),
        header_file(changed(data_offsets=[1e400, 9])),
        header_file(changed(more=1)),
        header_file({**GOOD, "b": None}),
        header_file({**GOOD, "b": [[[[]]]]}),
    ],
)
def test_a_header_that_does_not_add_up_is_refused(data):
    with pytest.raises(CheckpointError) as caught:
        tensors.parse_tensors(data, "model.safetensors")
    assert caught.value.code in ("MMG-K05", "MMG-K06")
    assert "model.safetensors" in caught.value.what
    assert len(caught.value.render()) < 600
