"""`mmgen classify PICTURE… LABEL…`: which of the labels fits each picture, with no training for the task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mmgen.commands.source import open_model, pictures_among, refuse_in_use
from mmgen.errors import ConfigError, DataError, quoted
from mmgen.files import write_atomic
from mmgen.images import decode


def main(config: dict[str, Any], positionals: list[str]) -> int:
    """Existing files are pictures, the other positionals are labels."""
    example = 'mmgen classify picture.png "a cat" "a dog"'
    pictures, words = pictures_among(positionals, "classify", example)
    labels = words + _labels_in(config["labels"])
    if len(labels) < 2:
        raise ConfigError(
            f"classifying needs at least two labels, there are {len(labels)}",
            code="MMG-C13",
            where="command line",
            fix=example,
        )
    refuse_in_use(config["out"])
    model, _ = open_model(config, "encoder")
    size = model.part("encoder").image_size
    results = []
    for picture in pictures:
        shares = model.classify(decode(picture, size=size), labels, config["templates"] or ("{}",))
        results.append({"picture": picture, "shares": shares})
        _print(picture, shares)
    if config["out"]:
        write_atomic(Path(config["out"]), json.dumps(results, indent=1, ensure_ascii=False).encode())
    return 0


def _labels_in(file: str | None) -> list[str]:
    if file is None:
        return []
    try:
        text = Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the labels {quoted(file)} cannot be read", code="MMG-D20", why=str(error)[:120], fix="labels=labels.txt"
        ) from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _print(picture: str, shares: dict[str, float]) -> None:
    table = Table(title=picture, title_justify="left", box=None, pad_edge=False)
    table.add_column("label")
    table.add_column("share", justify="right")
    table.add_column("")
    for label, share in list(shares.items())[:20]:
        table.add_row(label, f"{share:.1%}", "█" * round(30 * share))
    Console().print(table)
