"""`openai_dvae`: DALL·E's image tokenizer as OpenAI published it, encoder.pkl and decoder.pkl.

Each is a whole pickled module of package `dall_e`. Its convolutions keep their weights as `w` and `b`; all other names
are ours. The architecture follows from the shapes; residual branches are scaled by 1/layers², as there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mmgen.errors import ConfigError
from mmgen.interop.formats import Archives, Asked, Plan, another, pictures, relative, released, shape_of
from mmgen.interop.report import Comparison, Measure

FILES = "encoder.pkl decoder.pkl"
OPTIONS = ("image_size",)
REFERENCE = "DALL-E"
LEFT: Mapping[str, str] = {}
IMAGE_SIZE = 256  # what it was trained at; any multiple of 8 will do
MAX_GROUPS = 8

_BLOCK = re.compile(r"blocks\.group_(\d{1,2})\.block_(\d{1,2})\.")
_ENDS = {"w": "weight", "b": "bias"}


def plan(archives: Archives, extra: Sequence[Path], asked: Asked) -> Plan:
    """See `formats.Format.plan`."""
    if len(archives) != 2 or extra:
        raise ConfigError(
            "openai_dvae is two files, the encoder's and the decoder's",
            code="MMG-C40",
            where="command line",
            fix=f"mmgen import openai_dvae {FILES} to=DIR",
        )
    sides = ["encoder" if shape_of(archive, "blocks.input.w", 4)[2] == 7 else "decoder" for archive in archives]
    if sides[0] == sides[1]:
        raise another(archives[1], f"both files are of the {sides[0]}")
    encoder, decoder = (archives[sides.index(side)] for side in ("encoder", "decoder"))
    found = [(int(m[1]), int(m[2])) for name in encoder.weights if (m := _BLOCK.match(name))]
    groups, blocks = (max(numbers, default=0) for numbers in zip(*found, strict=True)) if found else (0, 0)
    if not 1 <= groups <= MAX_GROUPS:
        raise another(encoder, f"it has {groups} groups of blocks")
    config = {
        "name": "dvae",
        "codebook_size": shape_of(encoder, "blocks.output.conv.w", 4)[0],
        "width": shape_of(encoder, "blocks.input.w", 4)[0],
        "num_groups": groups,
        "blocks_per_group": blocks,
        "decoder_width": shape_of(decoder, "blocks.input.w", 4)[0],
        "residual_scale": (groups * blocks) ** -2,
    }
    sources = {_ours(side, name): (i, name) for i, side in enumerate(sides) for name in archives[i].weights}
    return Plan("tokenizer", config, {"image_size": asked.image_size or IMAGE_SIZE}, sources)


def _ours(side: str, name: str) -> str:
    stem, _, end = name.rpartition(".")
    return f"{side}.{stem}.{_ENDS.get(end, end)}"


@torch.no_grad()
def compare(component: Any, plan: Plan, tensors: Sequence[Mapping[str, Tensor]]) -> Comparison:
    """See `formats.Format.compare`."""
    from dall_e.decoder import Decoder
    from dall_e.encoder import Encoder
    from dall_e.utils import map_pixels, unmap_pixels

    codes = plan.config["codebook_size"]
    sizes = {"n_hid": plan.config["width"], "vocab_size": codes, "n_blk_per_group": plan.config["blocks_per_group"]}
    encoder, decoder = Encoder(**sizes), Decoder(**sizes, n_init=plan.config["decoder_width"])
    theirs = sorted(
        tensors, key=lambda weights: -weights["blocks.input.w"].shape[2]
    )  # the encoder's filters are larger
    encoder.load_state_dict(theirs[0])
    decoder.load_state_dict(theirs[1])
    images = pictures(64)
    logits, ours = encoder(map_pixels(images)), component.logits(images)
    chosen = logits.argmax(1)
    weights = functional.one_hot(chosen, codes).permute(0, 3, 1, 2).float()
    drawn = unmap_pixels(torch.sigmoid(decoder(weights).float()[:, :3]))
    measures = (
        Measure("largest difference of logits", relative(ours, logits), 1e-4),
        Measure("codes that differ", float((component.encode(images) != chosen).sum())),
        Measure("largest difference of pictures", float((component.decode(chosen) - drawn).abs().max()), 1e-5),
    )
    return Comparison(released(REFERENCE), "2 pictures of 64×64 pixels", measures)
