"""A stranger's safetensors file, read as `archives` reads those of torch: names and shapes first, data when asked for.

The format (huggingface/safetensors): 8 bytes, the header's length; a JSON header, name to dtype, shape and place; data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, BinaryIO

from mmgen.checkpoint.tensors import DTYPES, MAX_HEADER
from mmgen.errors import CheckpointError
from mmgen.files import parse_json
from mmgen.interop.stored import MAX_DIMENSIONS, MAX_ELEMENTS, Storage, StoredTensor
from mmgen.interop.stubs import MAX_NAMES, Foreign, Refused

READ = {code: dtype for code, dtype in DTYPES.items() if code not in ("C64", "U64", "U32", "U16")}


def looks_safe(begin: bytes) -> bool:
    """Whether a file begins as a safetensors file does: a length that is one, then an object."""
    return len(begin) > 8 and begin[8:9] == b"{" and 2 <= int.from_bytes(begin[:8], "little") <= MAX_HEADER


def open_safetensors(file: BinaryIO, size: int) -> tuple[dict[str, StoredTensor], Callable[[Storage], bytearray]]:
    """The tensors by name, unread, and what reads the data of one.

    Raises:
        EOFError: it is cut.
        Foreign: it is something else.
        Refused: the header does not add up.
    """
    length = int.from_bytes(file.read(8), "little")
    if length > size - 8:
        raise EOFError(f"a header of {length:,} bytes is claimed, {size - 8:,} are there")
    try:
        header = parse_json(file.read(length), "its header", limit=MAX_HEADER, trusted=True)
    except CheckpointError as error:
        raise Foreign(f"its header is none: {error.what}") from None
    if not isinstance(header, dict) or len(header) > MAX_NAMES:
        raise Refused(f"no header of at most {MAX_NAMES:,} tensors")
    header.pop("__metadata__", None)
    tensors, places = {}, {}
    for name, entry in header.items():
        tensors[name], places[name] = _entry(name, entry)
    end = 0
    for name in sorted(places, key=lambda name: (places[name], tensors[name].num_bytes)):
        if places[name] != end:
            raise Refused("tensors that overlap, or bytes between them")
        end += tensors[name].num_bytes
    if end != size - 8 - length:
        raise EOFError(f"{end:,} bytes of data are described, {size - 8 - length:,} are there")

    def read(storage: Storage) -> bytearray:
        data = bytearray(storage.count * storage.dtype.itemsize)
        file.seek(8 + length + places[storage.key])
        if file.readinto(data) != len(data):  # type: ignore[attr-defined]
            raise EOFError("a tensor is cut")
        return data

    return tensors, read


def _entry(name: str, entry: Any) -> tuple[StoredTensor, int]:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise Refused("an entry of the header that is none")
    dtype, shape, offsets = READ.get(str(entry["dtype"])), entry["shape"], entry["data_offsets"]
    numbers = [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) else [None]
    if dtype is None or len(offsets) != 2 or len(shape) > MAX_DIMENSIONS:
        raise Refused("a tensor of a type or shape that no checkpoint has")
    if any(type(number) is not int or not 0 <= number <= MAX_ELEMENTS for number in numbers):
        raise Refused("a tensor whose shape or place is none")
    count = math.prod(shape)
    if math.prod(max(side, 1) for side in shape) > MAX_ELEMENTS or offsets[1] - offsets[0] != count * dtype.itemsize:
        raise Refused("a tensor whose shape does not fit its place")
    stride = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    return StoredTensor(Storage(name, dtype, count), 0, tuple(shape), stride), offsets[0]
