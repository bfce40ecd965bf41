"""Captions from files: text beside a picture, `captions.jsonl`, `captions.csv`. All of it untrusted."""

from __future__ import annotations

import csv
import json
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmgen.data.text import MAX_CAPTION_BYTES
from mmgen.errors import DataError, quoted

FILE_KEYS = ("file", "file_name", "image")
CAPTION_KEYS = ("caption", "text")
LISTS = ("captions.jsonl", "captions.csv")

Row = tuple[str, dict[str, Any] | DataError]  # where it stands, and what it says or why it says nothing


def beside(picture: Path) -> list[str]:
    """The captions in the text file beside a picture, one a line."""
    file = picture.with_suffix(".txt")
    if not file.is_file():
        raise DataError(f"the picture {quoted(picture.name)} has no caption", code="MMG-D03", where=str(picture))
    if file.stat().st_size > MAX_CAPTION_BYTES:
        raise _too_long(file.stat().st_size, str(file))
    text = _utf8(file.read_bytes(), str(file), file)
    return [clean(line, str(file)) for line in text.splitlines() if line.strip()] or [clean(text, str(file))]


def _utf8(content: bytes, where: str, file: Path) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        raise DataError(
            f"the caption is not UTF-8 (byte {e.start} is 0x{content[e.start]:02x})",
            code="MMG-D06",
            where=where,
            fix=f"iconv -f latin1 -t utf-8 {file} > new.txt && mv new.txt {file}",
        ) from e


def clean(text: str, where: str) -> str:
    """A caption as it is trained on: NFC, one line, no control characters (joiners of emoji stay)."""
    if (size := len(text.encode("utf-8", "replace"))) > MAX_CAPTION_BYTES:
        raise _too_long(size, where)
    spaced = "".join(" " if c.isspace() else c for c in text)
    kept = "".join(c for c in spaced if unicodedata.category(c) not in ("Cc", "Cs"))
    caption = unicodedata.normalize("NFC", " ".join(kept.split()))
    if not caption:
        raise DataError("the caption is empty", code="MMG-D06", where=where, fix="write one; or dataset.on_bad=skip")
    return caption


def clean_attributes(found: Mapping[str, str], where: str) -> dict[str, str]:
    """Attributes as captions are, their names too; empty ones are none."""
    filled = {name: value for name, value in found.items() if name.strip() and value.strip()}
    return {clean(name, where): clean(value, where) for name, value in filled.items()}


def _too_long(size: int, where: str) -> DataError:
    return DataError(
        f"the caption has {size:,} bytes, more than {MAX_CAPTION_BYTES:,}",
        code="MMG-D06",
        where=where,
        fix="shorten it; or dataset.on_bad=skip",
    )


def list_error(what: str, where: str, key: str) -> DataError:
    """MMG-D08, with a line as it should be."""
    example = '{"file": "cats/1.png", "caption": "a cat", "attributes": {"animal": "cat"}}'
    columns = f"columns named {' or '.join(FILE_KEYS)}, and {' or '.join(CAPTION_KEYS)}"
    fix = columns if ".csv" in where else f"a line such as {example}"
    return DataError(what, code="MMG-D08", where=f"{where}: {key}", fix=fix)


def listed(listing: Path) -> Iterator[Row]:
    """The rows of `captions.jsonl` or `captions.csv`."""
    return _jsonl(listing) if listing.suffix == ".jsonl" else _csv(listing)


def _jsonl(listing: Path) -> Iterator[Row]:
    with listing.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{listing}:{number}"
                try:
                    yield where, _object(_utf8(line, where, listing), where)
                except DataError as e:
                    yield where, e


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise list_error(f"the line is not JSON: {e}", where, "line") from e
    if not isinstance(row, dict):
        raise list_error("the line is not a JSON object", where, "line")
    return row


def _csv(listing: Path) -> Iterator[Row]:
    reader = csv.DictReader(_utf8(listing.read_bytes(), str(listing), listing).splitlines(keepends=True))
    try:
        columns = list(reader.fieldnames or [])
        if not set(columns) & set(FILE_KEYS) or not set(columns) & set(CAPTION_KEYS):
            what = f"the first line must name the columns; it says {quoted(columns)}"
            raise list_error(what, f"{listing}:1", "header")
        for row in reader:
            yield f"{listing}:{reader.line_num}", {k: v for k, v in row.items() if k in (*FILE_KEYS, *CAPTION_KEYS)}
    except csv.Error as e:
        raise list_error(f"the line is not CSV: {e}", f"{listing}:{reader.line_num}", "line") from e
