"""Tensors as a torch archive describes them, and the checks that make one real."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmgen.interop.pickles import Call
from mmgen.interop.stubs import Global, Refused, Stub

MAX_DIMENSIONS = 16
MAX_ELEMENTS = 2**40

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True, slots=True)
class Storage:
    """A stretch of the archive's data."""

    key: str
    dtype: torch.dtype
    count: int  # elements


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A view of a storage, within its bounds and without an element twice."""

    storage: Storage
    offset: int  # elements
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.storage.dtype.itemsize

    def of(self, data: Tensor) -> Tensor:
        """The tensor, by its storage's elements (count,); of its own memory, row by row."""
        return torch.as_strided(data, self.shape, self.stride, self.offset).clone(memory_format=torch.contiguous_format)


def persistent(id: Any) -> Storage | Global:
    """What a persistent id of `torch.save` stands for: a storage. In the older format also a module's class, with its
    source code, which is not read.

    Raises:
        Refused: any other.
    """
    if type(id) is tuple and len(id) == 4 and id[0] == "module" and isinstance(id[1], Global):
        return id[1]
    if type(id) is not tuple or len(id) not in (5, 6) or id[0] != "storage" or not isinstance(id[1], Global):
        raise Refused("a persistent id that is no storage")
    _, of, key, _, count, *view = id
    if of.module not in ("torch", "torch.cuda") or of.name not in _DTYPES:
        raise Refused(f"a storage of type {of}")
    if not isinstance(key, str) or not key.isascii() or not key.isalnum() or len(key) > 40:
        raise Refused("a storage's key that is none")
    if view not in ([], [None]) or not _is_size(count) or count > MAX_ELEMENTS:
        raise Refused("a storage that does not add up")
    return Storage(key, _DTYPES[of.name], count)


def _is_size(value: Any) -> bool:
    return type(value) is int and value >= 0


def _tensor(args: tuple[Any, ...]) -> StoredTensor:
    """`torch._utils._rebuild_tensor_v2(storage, offset, shape, stride, requires_grad, hooks[, metadata])`."""
    if not 4 <= len(args) <= 7 or not isinstance(args[0], Storage):
        raise Refused("a tensor of no storage")
    storage, offset, shape, stride = args[:4]
    shape, stride = _sizes(shape), _sizes(stride)
    if shape is None or stride is None or not _is_size(offset) or len(shape) != len(stride):
        raise Refused("a tensor whose shape, stride or offset is none")
    # An empty tensor may claim huge other sides, whose product overflows inside torch.
    elements = math.prod(max(side, 1) for side in shape)
    last = offset + sum((side - 1) * step for side, step in zip(shape, stride, strict=True)) if 0 not in shape else -1
    if elements > MAX_ELEMENTS or max((*stride, offset)) > MAX_ELEMENTS or last >= storage.count:
        raise Refused(f"a tensor of shape {shape} beyond its storage of {storage.count:,} elements")
    if 0 not in shape and elements > storage.count:  # strides of 0 would make much out of little
        raise Refused(f"a tensor of shape {shape} in {storage.count:,} elements")
    return StoredTensor(storage, offset, shape, stride)


def _sizes(value: Any) -> tuple[int, ...] | None:
    """A tuple, a list (TorchScript), or a recorded `torch.Size`."""
    if isinstance(value, Stub) and len(value.args) == 1:
        value = value.args[0]
    if not isinstance(value, tuple | list) or len(value) > MAX_DIMENSIONS or not all(map(_is_size, value)):
        return None
    return tuple(value)


def _parameter(args: tuple[Any, ...]) -> StoredTensor:
    if not args or not isinstance(args[0], StoredTensor):
        raise Refused("a parameter of no tensor")
    return args[0]


def _ordered(args: tuple[Any, ...]) -> dict[Any, Any]:
    if args:
        raise Refused("an OrderedDict with arguments")
    return {}


# What a pickle may call, and what is done instead.
CALLS: Mapping[str, Call] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "collections.OrderedDict": _ordered,
}
