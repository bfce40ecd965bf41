"""Whether token shards are what was written, byte for byte, and hold tokens of their tokenizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mmgen.data.shards import Shard, check_content, damaged, entries, token_type
from mmgen.data.tokens import MappedShard, Tokens, mapped
from mmgen.errors import DataError


def check(tokens: Tokens, progress: Callable[[int], None] = lambda count: None) -> list[DataError]:
    """Reads every byte.

    Args:
        progress: called with the number of bytes that were read since its last call.

    Returns:
        An error for each file that is not what was written, or that holds what no tokenizer gives.
    """
    found = []
    for file, entry in entries(tokens.index).items():
        try:
            check_content(tokens.path / file, entry)
        except DataError as error:
            found.append(error)
        progress(entry.size)
    if not found:
        for shard in tokens.shards:
            try:
                _check_shard(tokens, shard)
            except DataError as error:
                found.append(error)
    return found


def _check_shard(tokens: Tokens, shard: Shard) -> None:
    """Raises DataError where the bytes are as written, and yet are no tokens of these tokenizers."""
    path, text = (tokens.path / f"{shard.name}.{suffix}" for suffix in ("tokens", "text"))
    part = MappedShard(tokens.path, shard, tokens.grid[0] * tokens.grid[1], tokens.codebook_size)
    num_ids = tokens.index.num_ids
    if _largest(part.image_tokens, token_type(tokens.codebook_size)) >= tokens.codebook_size:
        raise damaged(path, f"it holds an image token above {tokens.codebook_size - 1}")
    if _largest(mapped(text), token_type(num_ids)) >= num_ids:
        raise damaged(text, f"it holds a text token above {num_ids - 1}")
    for row in range(shard.count):
        if not _is_sound(part, row):
            raise damaged(path, f"its sample {row} has no id, or no caption")


def _largest(content: memoryview, kind: np.dtype[Any]) -> int:
    return int(np.frombuffer(content, dtype=kind).max()) if len(content) else -1


def _is_sound(part: MappedShard, row: int) -> bool:
    try:
        record = part.record(row)
        texts = [record["id"], *record["captions"], *record["attributes"].values()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    return bool(record["captions"]) and all(isinstance(text, str) and text for text in texts)
