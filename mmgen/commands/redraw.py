"""`mmgen redraw PICTURE… CAPTION…`: draws a part of pictures anew to fit a caption, and keeps the rest."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmgen.commands.drawn import Made, kept, save, tell, words
from mmgen.commands.source import fresh_directory, open_model, pictures_among, refuse_in_use
from mmgen.drawings import Redrawing
from mmgen.errors import ConfigError
from mmgen.images import decode
from mmgen.progress import Bar
from mmgen.samplers.region import Region
from mmgen.text_to_image import TextToImage

EXAMPLE = 'mmgen redraw picture.png "a cat" row=16'
AGAIN = (
    *("run", "tokenizer_from", "generator_from", "encoder_from", "num_images", "keep", "seed"),
    *("row", "column", "mask", "unit", "keep_pixels"),
)


def main(config: dict[str, Any], positionals: list[str]) -> int:
    """Redraws every picture with every caption, and prints what was kept and where the results lie."""
    pictures, captions = pictures_among(positionals, "redraw", EXAMPLE)
    if not captions:
        raise ConfigError("there is no caption to draw", code="MMG-C11", where="command line", fix=EXAMPLE)
    count = config["num_images"]
    keep = kept(config["keep"], count)
    corner, mask = _asked(config)
    refuse_in_use(config["out"])
    model, source = open_model(config, "tokenizer", "generator")
    model.generator_of("text_first")  # before anything else is missed
    regions = {picture: model.region(picture, corner, mask, config["unit"]) for picture in pictures}
    images = {picture: model.picture(picture) for picture in pictures}
    again = words("redraw", config, AGAIN, model)
    made: list[Made] = []
    total = (count if model.ranks else keep) * len(pictures) * len(captions)
    with Bar("drawing", total=total, unit="pictures") as bar:
        for group in _alike(pictures, regions):
            region, jobs = regions[group[0]], list(itertools.product(group, captions))
            drawn = model.draw(
                [caption for _, caption in jobs],
                num_images=count,
                keep=keep,
                seed=config["seed"],
                progress=lambda pictures: bar.advance(pictures, ""),
                redrawing=Redrawing(torch.stack([images[p] for p, _ in jobs]), region, config["keep_pixels"]),
            )
            for (picture, caption), drawings in zip(jobs, drawn, strict=True):
                about = {"picture": picture, "redrawn": region.map(), "keep_pixels": config["keep_pixels"]}
                made.append(Made(drawings, [*again, "--", picture, caption], about, images[picture]))
    out = fresh_directory(config["out"], "samples", captions[0])
    save(made, out, model, source, count)
    for group in _alike(pictures, regions):
        _tell_region(group, regions[group[0]], model)
    tell(made, out, count)
    return 0


def _asked(config: dict[str, Any]) -> tuple[tuple[int, int] | None, Tensor | None]:
    """The corner (row, column) or the mask that the config asks for."""
    row, column, file = config["row"], config["column"], config["mask"]
    if (row is not None or column is not None) == (file is not None):
        what = "a mask and a corner both say" if file is not None else "nothing says"
        raise ConfigError(
            f"{what} what is to be redrawn",
            code="MMG-C16",
            where="row, column, mask",
            fix="row=16 for the rows from 16 on; row=8 column=8 for a corner; or mask=mask.png, white is redrawn",
        )
    if file is None:
        return (row or 0, column or 0), None
    return None, decode(file).mean(0) >= 0.5


def _alike(pictures: list[str], regions: dict[str, Region]) -> list[list[str]]:
    """Pictures of which the same codes are redrawn, which can be drawn together."""
    groups: dict[str, list[str]] = {}
    for picture in dict.fromkeys(pictures):
        groups.setdefault(regions[picture].map(), []).append(picture)
    return list(groups.values())


def _tell_region(pictures: list[str], region: Region, model: TextToImage) -> None:
    """What was kept of these pictures, and what of it could not guide the drawing."""
    names = ", ".join(Path(picture).name for picture in pictures)
    if region.note:
        print(f"{names}: {region.note}")
    print(f"{names}: {region.describe()}")
    if region.unseen.any():
        print("# redrawn, . kept, o kept but not seen by all that is redrawn:")
        print(region.map())
