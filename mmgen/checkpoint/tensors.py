"""Tensors in a safetensors file: written piece by piece, read only after its header was checked.

The format (huggingface/safetensors): 8 bytes, the header's length; a JSON header, name to dtype,
shape and place; the data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from mmgen.errors import CheckpointError, quoted
from mmgen.files import parse_json, refused

MAX_HEADER = 10_000_000
MAX_TENSORS = 10_000

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}


def storable(tensor: Tensor) -> str:
    """Why a tensor cannot be written; empty if it can."""
    if tensor.layout != torch.strided or tensor.is_quantized:
        return f"a tensor of layout {tensor.layout}"
    if tensor.device.type == "meta":
        return "a tensor on the meta device, without values"
    return "" if tensor.dtype in CODES else f"a tensor of {tensor.dtype}"


def num_bytes(tensors: Mapping[str, Tensor]) -> int:
    """How many bytes the file will have, up to some hundred a tensor for the header."""
    return sum(t.numel() * t.element_size() + 200 for t in tensors.values())


def write_tensors(file: BinaryIO, tensors: Mapping[str, Tensor]) -> None:
    """Writes tensors of any device and stride, one at a time: the writer needs the memory of the largest, and a full
    disk is an ordinary OSError. (The library's writer refuses tensors that share memory and hides the errno.)"""
    # Large elements first keeps every tensor aligned to its own size.
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {}
    place = 0
    for name in order:
        end = place + tensors[name].numel() * tensors[name].element_size()
        header[name] = {
            "dtype": CODES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [place, end],
        }
        place = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        file.write(as_bytes(tensors[name]))


def as_bytes(tensor: Tensor) -> memoryview:
    """The values of a tensor, row by row, little-endian."""
    flat = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy().data) if flat.numel() else memoryview(b"")


def load_tensors(path: Path, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """Reads a file that has been verified."""
    mapped = safetensors.torch.load_file(path, device=str(device))
    # A view of the mapped file would keep a checkpoint that was removed since on the disk.
    return {name: tensor.clone() for name, tensor in mapped.items()}


def parse_tensors(data: bytes, where: str) -> dict[str, Tensor]:
    """Tensors from the bytes of a stranger's file.

    Raises:
        CheckpointError: the header is too large, or anything in it does not add up.
    """
    _check_header(data, where)
    try:
        return safetensors.torch.load(data)
    except (SafetensorError, ValueError) as error:
        raise CheckpointError(f"{where} is no safetensors file", code="MMG-K05", why=quoted(str(error))) from None


def _check_header(data: bytes, where: str) -> None:
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise refused(where, "no safetensors file")
    if length > MAX_HEADER:
        raise refused(where, f"a header of {length:,} bytes, at most {MAX_HEADER:,}")
    header = parse_json(data[8 : 8 + length], where, limit=MAX_HEADER, trusted=True)
    if not isinstance(header, dict) or len(header) > MAX_TENSORS:
        raise refused(where, f"no safetensors file of at most {MAX_TENSORS:,} tensors")
    ends = [0]
    for name, entry in sorted(header.items(), key=_place):
        if not _adds_up(name, entry, ends[-1]):
            raise refused(where, f"tensor {quoted(name)} is {quoted(entry)}")
        ends.append(entry["data_offsets"][1])
    if ends[-1] != len(data) - 8 - length:
        raise refused(where, f"{len(data) - 8 - length:,} bytes of data, the header describes {ends[-1]:,}")


def _place(item: tuple[str, Any]) -> int:
    try:
        return int(item[1]["data_offsets"][0])
    except (TypeError, KeyError, IndexError, ValueError, OverflowError):
        return -1  # `_adds_up` refuses it


def _adds_up(name: str, entry: Any, begin: int) -> bool:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"} or len(name) > 500:
        return False
    dtype, shape, offsets = DTYPES.get(str(entry["dtype"])), entry["shape"], entry["data_offsets"]
    if dtype is None or not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        return False
    if len(shape) > 16 or any(type(number) is not int or number < 0 for number in [*shape, *offsets]):
        return False
    # An empty tensor may claim huge other sides, whose product overflows inside torch.
    if math.prod(max(side, 1) for side in shape) >= 2**48:
        return False
    return offsets == [begin, begin + math.prod(shape) * dtype.itemsize]
