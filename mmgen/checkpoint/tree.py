"""A training state, any nesting of plain Python and tensors, as JSON and named tensors: a pickle's work without one.

JSON has no integer keys, tuples or tensors: those become objects whose only key begins with `~`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmgen.checkpoint.tensors import storable
from mmgen.errors import CheckpointError

_TENSOR, _TUPLE, _MAPPING, _FLOAT, _BYTES = "~tensor", "~tuple", "~mapping", "~float", "~bytes"


def flatten(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """Splits a state into JSON and tensors.

    Dicts keep their order and their keys' types; tuples, lists, None, bools, ints, floats (NaN and infinities too),
    strings and bytes come back as they were; a tensor that stands in two places is stored once and comes back as one.

    Raises:
        CheckpointError: a value of another type, named with its place.
    """
    writer = _Writer()
    return writer.encode(tree, ()), writer.tensors


def unflatten(tree: Any, tensors: Mapping[str, Any]) -> Any:
    """The inverse of `flatten`.

    Raises:
        CheckpointError: a tensor is missing, or the JSON was not made by `flatten`.
    """
    try:
        return _decode(tree, tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError("the state does not fit its tensors", code="MMG-K01", why=repr(error)) from None


class _Writer:
    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[tuple[Any, ...], str] = {}

    def encode(self, value: Any, path: tuple[str, ...]) -> Any:
        if value is None or isinstance(value, bool | int | str):
            return value
        if isinstance(value, float):
            return value if math.isfinite(value) else {_FLOAT: repr(float(value))}
        if isinstance(value, Tensor):
            return {_TENSOR: self._name(value, path)}
        if isinstance(value, dict):
            return self._encode_dict(value, path)
        if isinstance(value, list):
            return self._encode_items(value, path)
        if type(value) in (tuple, torch.Size):
            return {_TUPLE: self._encode_items(value, path)}
        if isinstance(value, bytes):
            return {_BYTES: value.hex()}
        raise _cannot_store(path, f"a {type(value).__module__}.{type(value).__qualname__}")

    def _encode_items(self, items: Any, path: tuple[str, ...]) -> list[Any]:
        return [self.encode(item, (*path, str(i))) for i, item in enumerate(items)]

    def _encode_dict(self, value: dict[Any, Any], path: tuple[str, ...]) -> dict[str, Any]:
        if all(isinstance(key, str) and not key.startswith("~") for key in value):
            return {key: self.encode(item, (*path, key)) for key, item in value.items()}
        pairs = [[self.encode(k, (*path, str(k))), self.encode(v, (*path, str(k)))] for k, v in value.items()]
        return {_MAPPING: pairs}

    def _name(self, tensor: Tensor, path: tuple[str, ...]) -> str:
        reason = storable(tensor)
        if reason:
            raise _cannot_store(path, reason)
        held = tensor.to_local() if hasattr(tensor, "to_local") else tensor  # of a DTensor, this process's piece
        view = (
            held.untyped_storage().data_ptr(),
            held.storage_offset(),
            held.dtype,
            held.device,
            tuple(held.shape),
            held.stride(),
            held.is_conj(),
            held.is_neg(),
        )
        if held.numel() and view in self._names:
            return self._names[view]
        wanted = name = "/".join(path)[-400:] or "tensor"
        count = 1
        while name in self.tensors or name == "__metadata__":  # the key 1 beside the key "1"; safetensors' own name
            count += 1
            name = f"{wanted}~{count}"
        self.tensors[name] = tensor
        self._names[view] = name
        return name


def _cannot_store(path: tuple[str, ...], what: str) -> CheckpointError:
    return CheckpointError(
        f"the training state holds {what}, which no checkpoint can store",
        code="MMG-K08",
        where="/".join(path),
        fix="give the callback or module that keeps it a state of tensors, numbers, strings, lists and dicts",
    )


def _decode(value: Any, tensors: Mapping[str, Any]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    tag = next(iter(value), "")
    if not tag.startswith("~"):
        return {key: _decode(item, tensors) for key, item in value.items()}
    ((tag, content),) = value.items()
    if tag == _TENSOR:
        return tensors[content]
    if tag == _TUPLE:
        return tuple(_decode(item, tensors) for item in content)
    if tag == _MAPPING:
        return {_decode(key, tensors): _decode(item, tensors) for key, item in content}
    if tag == _FLOAT:
        return float(content)
    if tag == _BYTES:
        return bytes.fromhex(content)
    raise ValueError(tag)
