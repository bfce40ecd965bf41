"""Token shards on disk: how they are written, and proven whole. `docs/data.md` tells the format.

    recipe.json           what decides their content: tokenizer, dataset, augmentation, seed
    shard-00000.tokens    image tokens (n,V,N), offsets (n+1) of 8 bytes, a JSON line a sample; little-endian
    shard-00000.json      size and SHA-256 of that; the shard is whole once this is in place
    shard-00000.text      text tokens (n,T)
    text_tokenizer.json   the tokenizer that made those
    index.json            size and SHA-256 of all of it; the directory is whole once this is in place

n samples, V variants of each picture, N image tokens, T text tokens. Numbers are uint16 where all fit, else int32.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from mmgen.errors import CheckpointError, DataError, quoted
from mmgen.files import read_json, write_atomic, write_json
from mmgen.protocols import Record

RECIPE, INDEX, TEXT_TOKENIZER = "recipe.json", "index.json", "text_tokenizer.json"
FORMAT = 1
MAX_INDEX = 64_000_000  # bytes
REPAIR = "copy it again, or repeat the `mmgen data tokenize` that made it: what is whole is kept"

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Entry:
    """A file as it was written."""

    size: int  # bytes
    sha256: str  # hex


@dataclass(frozen=True)
class Shard:
    """A shard as it was written."""

    number: int
    split: str
    first: int  # the places in the split that it was made of: a sample may have been left out
    last: int
    count: int  # n
    variants: int  # V
    size: int
    sha256: str

    @property
    def name(self) -> str:
        return f"shard-{self.number:05d}"

    @property
    def tokens(self) -> Entry:
        return Entry(self.size, self.sha256)


@dataclass(frozen=True)
class Index:
    """All of a finished directory."""

    recipe: dict[str, Any]
    shards: list[Shard]
    text: list[Entry]  # of each shard
    text_tokenizer: Entry
    text_fingerprint: str
    context_length: int  # T
    num_ids: int

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with any token, id or caption."""
        content = [shard.sha256 for shard in self.shards] + [self.text_fingerprint, self.recipe["image_tokenizer"]]
        return hashlib.sha256("".join(content).encode()).hexdigest()[:16]


def token_type(count: int) -> np.dtype[Any]:
    """The smallest type in which numbers below `count` are stored."""
    return np.dtype("<u2" if count <= 1 << 16 else "<i4")


def write_shard(
    directory: Path,
    shard: tuple[int, str, int, int],
    samples: Iterable[tuple[Array, Record]],
    variants: int,
    num_codes: int,
) -> Shard:
    """Writes a shard so that a crash at any moment leaves none, or all of it.

    Args:
        shard: its number, the split, and the first and last place in it.
        samples: image tokens (V,N) and record of each, in order; taken one after another, never all at once.
        num_codes: the codebook's size.

    Raises:
        CheckpointError: MMG-K04, the disk is full, or the place cannot be written.
    """
    number, split, first, last = shard
    found: dict[str, Any] = {}

    def fill(file: BinaryIO) -> None:
        sink, lines = _Hashed(file), []
        for tokens, record in samples:
            assert tokens.shape[0] == variants, (tokens.shape, variants)
            sink.write(tokens.astype(token_type(num_codes)).tobytes())
            line = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
            lines.append(line.encode("utf-8", "backslashreplace") + b"\n")  # ids may be file names of any bytes
        sink.write(bytes(-sink.size % 8))
        sink.write(np.cumsum([0, *map(len, lines)], dtype="<u8").tobytes())
        sink.write(b"".join(lines))
        found.update(count=len(lines), size=sink.size, sha256=sink.digest.hexdigest())

    name = f"shard-{number:05d}"
    write_atomic(directory / f"{name}.tokens", fill)
    written = Shard(number, split, first, last, variants=variants, **found)
    write_json(directory / f"{name}.json", {"format": FORMAT, **asdict(written)})
    return written


class _Hashed:
    """Counts and hashes what is written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.size, self.digest = file, 0, hashlib.sha256()

    def write(self, content: bytes) -> None:
        self.file.write(content)
        self.digest.update(content)
        self.size += len(content)


def read_shard(directory: Path, number: int) -> Shard | None:
    """What is known of a shard that was written to its end; None where it was not.

    Raises:
        DataError: MMG-D13, the file that says so is damaged.
    """
    path = directory / f"shard-{number:05d}.json"
    if not path.is_file():
        return None
    said = _object(path)
    if said.pop("format", None) != FORMAT:
        raise damaged(path, "it has another format")
    return _made(Shard, said, path)


def _made(kind: type[Any], said: Any, path: Path) -> Any:
    """A dataclass of numbers and texts from JSON."""
    types = {"int": int, "str": str}
    wanted = {field.name: types[str(field.type)] for field in fields(kind)}
    if not isinstance(said, dict) or {key: type(value) for key, value in said.items()} != wanted:
        raise damaged(path, f"it does not describe a {kind.__name__.lower()}")
    if any(value < 0 for value in said.values() if isinstance(value, int)):
        raise damaged(path, "a number is negative")
    return kind(**said)


def _object(path: Path) -> dict[str, Any]:
    try:
        said = read_json(path, limit=MAX_INDEX, trusted=True)
    except CheckpointError as error:
        raise damaged(path, f"{error.what.removeprefix(str(path)).strip()}; {error.why}".strip("; ")) from error
    if not isinstance(said, dict):
        raise damaged(path, "it is no JSON object")
    return said


def damaged(path: Path, why: str) -> DataError:
    """MMG-D13: a file that is not what was written."""
    return DataError(f"{path.name} is damaged: {why}", code="MMG-D13", where=str(path), fix=REPAIR)


def check_size(path: Path, entry: Entry) -> None:
    """Raises DataError MMG-D13 where a file is missing or has another size than it was written with."""
    try:
        actual = os.stat(path).st_size
    except OSError as error:
        raise damaged(path, f"it cannot be read ({error.strerror}), {entry.size:,} bytes were written") from None
    if actual != entry.size:
        raise damaged(path, f"it has {actual:,} bytes, {entry.size:,} were written")


def check_content(path: Path, entry: Entry) -> None:
    """Raises DataError MMG-D13 where a file is not what was written, byte for byte; reads all of it."""
    check_size(path, entry)
    with open(path, "rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != entry.sha256:
        raise damaged(path, f"its SHA-256 is {actual[:16]}…, {entry.sha256[:16]}… was written")


def write_text(directory: Path, shard: Shard, tokens: Array) -> Entry:
    """Writes the text tokens (n,T) of a shard, in the type that holds them."""
    content = tokens.tobytes()
    write_atomic(directory / f"{shard.name}.text", content)
    return Entry(len(content), hashlib.sha256(content).hexdigest())


def write_index(directory: Path, index: Index) -> None:
    """Makes the directory whole."""
    shards = [asdict(shard) for shard in index.shards]
    write_json(directory / INDEX, {"format": FORMAT, **asdict(index), "shards": shards})


def read_index(directory: Path) -> Index:
    """The index of a finished directory, every file of which has the size it was written with.

    Raises:
        DataError: MMG-D12, there is no such directory, or it is not finished; MMG-D13, a file is damaged.
    """
    path = directory / INDEX
    if not path.is_file():
        raise _unfinished(directory)
    said = _object(path)
    if said.pop("format", None) != FORMAT:
        raise damaged(path, f"it has another format than {FORMAT}, or none")
    if said.keys() != {field.name for field in fields(Index)} or not isinstance(said["recipe"], dict):
        raise damaged(path, "it does not describe token shards")
    if not isinstance(said["shards"], list) or not isinstance(said["text"], list):
        raise damaged(path, "it lists no shards")
    said["shards"] = [_made(Shard, shard, path) for shard in said["shards"]]
    said["text"] = [_made(Entry, entry, path) for entry in said["text"]]
    said["text_tokenizer"] = _made(Entry, said["text_tokenizer"], path)
    index = Index(**said)
    _check_index(index, path)
    for file, entry in entries(index).items():
        check_size(directory / file, entry)
    return index


def _check_index(index: Index, path: Path) -> None:
    numbers = [index.context_length, index.num_ids, index.recipe.get("codebook_size")]
    grid, texts = index.recipe.get("grid"), [index.text_fingerprint, index.recipe.get("image_tokenizer")]
    sound = (
        all(type(n) is int and n > 0 for n in (*numbers, *(grid if isinstance(grid, list) and len(grid) == 2 else [0])))
        and all(isinstance(text, str) for text in texts)
        and len(index.text) == len(index.shards) > 0
        and [shard.number for shard in index.shards] == list(range(len(index.shards)))
        and all(shard.variants > 0 for shard in index.shards)
    )
    if not sound:
        raise damaged(path, "it does not describe token shards")


def entries(index: Index) -> Mapping[str, Entry]:
    """Every file of a finished directory that training reads, by its name."""
    found = {TEXT_TOKENIZER: index.text_tokenizer}
    for shard, text in zip(index.shards, index.text, strict=True):
        found[f"{shard.name}.tokens"] = shard.tokens
        found[f"{shard.name}.text"] = text
    return found


def _unfinished(directory: Path) -> DataError:
    if not directory.is_dir():
        what = f"the directory {quoted(str(directory))} does not exist"
    elif (directory / RECIPE).is_file():
        done = sum(1 for path in directory.glob("shard-*.json"))
        what = f"the token shards in {quoted(str(directory))} are not finished: {done} shards are written, and no index"
        why = "repeat the `mmgen data tokenize` that makes it: it goes on where it was stopped"
        return DataError(what, code="MMG-D12", where=str(directory), fix=why)
    else:
        what = f"the directory {quoted(str(directory))} holds no token shards"
    fix = f"mmgen data tokenize dataset=… tokenizer_from=RUN to={directory}"
    return DataError(what, code="MMG-D12", where=str(directory), fix=fix)
