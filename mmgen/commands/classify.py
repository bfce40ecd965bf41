"""`mmgen classify PICTURE… LABEL…`: which of the labels fits each picture, with no training for the task."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmgen.commands.classes import EXAMPLE, Classes, asked_classes, class_features
from mmgen.commands.source import open_model, pictures_among, refuse_in_use
from mmgen.errors import ConfigError, quoted
from mmgen.files import json_bytes, write_atomic
from mmgen.images import decode
from mmgen.tracking.classified import classified_page

SHOWN = 20  # labels of a picture that are printed


def main(config: dict[str, Any], positionals: list[str]) -> int:
    """Existing files are pictures, the other positionals are labels."""
    pictures, words = pictures_among(positionals, "classify", EXAMPLE)
    classes = asked_classes(config, words)
    _refuse_unwritable(config)
    model, source = open_model(config, "encoder")
    size = model.part("encoder").image_size
    features = class_features(model, classes, cache=config["cache"])
    labels = list(classes.labels)
    images = ((picture, decode(picture, size=size, resize="bicubic")) for picture in pictures)  # as CLIP reads them
    found = [(picture, model.shares(image, labels, features)) for picture, image in images]
    for picture, shares in found:
        _print(picture, shares)
    about = _about(config, classes, str(source), model.fingerprints["encoder"])
    if config["out"]:
        record = [{"picture": picture, "shares": shares, **about} for picture, shares in found]
        write_atomic(Path(config["out"]), json_bytes(record))
    if config["html"]:
        page = classified_page(found, **about, source=classes.source)
        write_atomic(Path(config["html"]), page.encode("utf-8", "replace"))
        print(f"page: {config['html']}")
    return 0


def _about(config: dict[str, Any], classes: Classes, run: str, encoder: str) -> dict[str, Any]:
    """What the shares depend on, beside the picture and the labels."""
    return {"run": run, "encoder": encoder, "prompts": config["prompts"], "templates": list(classes.templates)}


def _refuse_unwritable(config: dict[str, Any]) -> None:
    """Raises ConfigError where `out` or `html` names what is there already, or what nobody could write."""
    for key in ("out", "html"):
        refuse_in_use(config[key], key)
        if config[key] is not None and os.path.isdir(config[key]):
            inside = str(Path(config[key]) / f"classified.{'json' if key == 'out' else 'html'}")
            raise ConfigError(f"{quoted(config[key])} is a directory", code="MMG-C22", where=key, fix=f"{key}={inside}")
        if config[key] is not None and not os.access(Path(config[key]).absolute().parent, os.W_OK | os.X_OK):
            raise ConfigError(
                f"{quoted(config[key])} cannot be written",
                code="MMG-C22",
                where=key,
                why="there is no such directory, or it is not writable",
                fix=f"mkdir -p {str(Path(config[key]).parent)!r}",
            )
    written = [os.path.realpath(config[key]) for key in ("out", "html") if config[key] is not None]
    if len(set(written)) < len(written):
        raise ConfigError("out and html name one file", code="MMG-C22", where="html", fix=f"html={config['out']}.html")


def _print(picture: str, shares: dict[str, float]) -> None:
    table = Table(title=_shown(picture), title_justify="left", box=None, pad_edge=False)
    table.add_column("label")
    table.add_column("share", justify="right")
    table.add_column("")
    for label, share in list(shares.items())[:SHOWN]:
        table.add_row(_shown(label), f"{share:.1%}", "█" * round(30 * share))
    Console().print(table)
    if len(shares) > SHOWN:
        rest = sum(list(shares.values())[SHOWN:])
        print(f"and {len(shares) - SHOWN:,} more labels with {rest:.1%} together")


def _shown(text: str) -> Text:
    """A label or a path as a terminal may have it: no markup, nothing that moves the cursor."""
    return Text("".join(c if c.isprintable() else " " for c in text[:200]))
