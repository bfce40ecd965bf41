"""`mmgen caption PICTURE…`: says what pictures show, with a generator trained picture first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmgen.commands.source import open_model, pictures_among, refuse_in_use
from mmgen.data.asked import check_counts
from mmgen.drawings import Captions
from mmgen.errors import ConfigError
from mmgen.files import json_bytes, write_atomic
from mmgen.progress import Bar
from mmgen.samplers.choice import Choice

EXAMPLE = "mmgen caption picture.png num_captions=16"


def main(config: dict[str, Any], positionals: list[str]) -> int:
    """Captions every picture given and prints what was written, best first."""
    pictures, words = pictures_among(positionals, "caption", EXAMPLE)
    if words:
        raise ConfigError(
            f"{words[0]!r} is no picture",
            code="MMG-C15",
            where="command line",
            why="there is no such file",
            fix=EXAMPLE,
        )
    check_counts(config["num_captions"], config["keep"], "captions")
    choice = _choice(config)
    refuse_in_use(config["out"])
    model, _ = open_model(config, "generator", order="image_first")
    model.generator_of("image_first")  # before anything else is missed
    images = torch.stack([model.picture(picture) for picture in pictures])
    with Bar("writing", total=len(pictures) * config["num_captions"], unit="captions") as bar:
        described = model.describe(
            images,
            num_captions=config["num_captions"],
            keep=config["keep"],
            seed=config["seed"],
            choice=choice,
            progress=lambda captions: bar.advance(captions, ""),
        )
    for picture, captions in zip(pictures, described, strict=True):
        _print(picture, captions)
    if not model.ranks:
        print("there is no encoder to rank them: encoder_from=RUN names one; those written most often lead")
    if config["out"]:
        record = [
            {"picture": picture, "seed": captions.seed, "captions": _plain(captions), "parts": model.fingerprints}
            for picture, captions in zip(pictures, described, strict=True)
        ]
        write_atomic(Path(config["out"]), json_bytes(record))
    return 0


def _choice(config: dict[str, Any]) -> Choice:
    try:
        return Choice(config["temperature"], config["top_k"], config["top_p"], config["min_p"])
    except ValueError as error:
        raise ConfigError(str(error), code="MMG-C04", fix="mmgen caption --help lists the ranges") from error


def _plain(captions: Captions) -> list[dict[str, Any]]:
    scores = [None] * len(captions) if captions.scores is None else captions.scores.tolist()
    columns = zip(captions, captions.numbers.tolist(), captions.counts.tolist(), scores, strict=True)
    return [
        {"caption": text, "number": number, "count": count, "score": score} for text, number, count, score in columns
    ]


def _print(picture: str, captions: Captions) -> None:
    title = Text("".join(c if c.isprintable() else " " for c in picture))  # a path: no markup, nothing moves the cursor
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("caption")
    table.add_column("written", justify="right")
    if captions.scores is not None:
        table.add_column("score", justify="right")
    for row in _plain(captions):
        score = [] if row["score"] is None else [f"{row['score']:.3f}"]
        table.add_row(Text(row["caption"]), f"{row['count']}×", *score)
    Console().print(table)
