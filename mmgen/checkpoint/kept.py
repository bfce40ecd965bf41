"""Features that were computed before, kept in a directory of caches: one file for one question, named by its digest.

A file is written whole or not at all and holds its own SHA-256, so that what is read is what was written.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmgen.checkpoint.tensors import as_bytes, parse_tensors, write_tensors
from mmgen.errors import CheckpointError
from mmgen.files import write_atomic

MAX_BYTES = 8 << 30


def digest_of(*question: Any) -> str:
    """64 hex digits of what JSON can hold."""
    text = json.dumps(question, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def read_kept(path: Path, rows: int) -> tuple[Tensor, int] | None:
    """The features (rows,D) fp32 that `keep` wrote there, and how many captions were cut; None where nothing lies.

    Raises:
        CheckpointError: MMG-K01, what lies there is not what was written.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error
    try:
        tensors = parse_tensors(data, str(path))
    except CheckpointError as error:
        raise _damaged(path, error.why or error.what) from error
    features, cut, sha256 = (tensors.get(name) for name in ("features", "cut", "sha256"))
    if features is None or cut is None or sha256 is None:
        raise _damaged(path, "it holds other tensors than were written")
    fit = features.dtype == torch.float32 and features.shape[:-1] == (rows,)
    if not fit or cut.dtype != torch.int64 or cut.shape != (1,):
        raise _damaged(path, "it holds other tensors than were written")
    if bytes(as_bytes(sha256)) != _sha256(path, features, int(cut)):
        raise _damaged(path, "its SHA-256 differs")
    return features.clone(), int(cut)


def keep(path: Path, features: Tensor, cut: int = 0) -> None:
    """Writes features (rows,D) for `read_kept`, making the directory.

    Args:
        cut: how many of their captions were cut, to be told whenever they are used.

    Raises:
        CheckpointError: it cannot be written.
        OSError: the directory cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    features = features.detach().cpu().float().contiguous()
    sha256 = torch.frombuffer(bytearray(_sha256(path, features, cut)), dtype=torch.uint8)
    tensors = {"features": features, "cut": torch.tensor([cut]), "sha256": sha256}
    write_atomic(path, lambda file: write_tensors(file, tensors))


def _sha256(path: Path, features: Tensor, cut: int) -> bytes:
    """Of the file's name, the count, the shape and the values: one that was renamed answers another question."""
    digest = hashlib.sha256(f"{path.name} {tuple(features.shape)} {cut}\n".encode())
    digest.update(as_bytes(features))
    return digest.digest()


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is damaged", code="MMG-K01", why=why, fix="delete it; it is computed anew")
