"""`taming_vqgan`: VQGAN as its authors' code (taming-transformers) saves it, a Lightning checkpoint and its YAML.

Codebooks by nearest code (`quantize.embedding`) and by Gumbel-softmax (`quantize.proj`, `quantize.embed`). Everything
but the picture's size follows from names and shapes; which levels have attention shows in the names. The YAML, where it
is given, is held against that.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.nn import functional

from mmgen.errors import CheckpointError, ConfigError, quoted
from mmgen.interop.formats import Archives, Asked, Plan, another, pictures, relative, released, shape_of
from mmgen.interop.report import Comparison, Measure

FILES = "last.ckpt [model.yaml]"
OPTIONS = ("image_size",)
REFERENCE = "taming-transformers-rom1504"
LEFT: Mapping[str, str] = {"loss.": "perceptual loss and discriminator"}
IMAGE_SIZE = 256  # the published ones'; any multiple of the grid's pixels will do
MAX_YAML = 100_000  # bytes
MAX_BRACKETS = 200  # the parser takes the square of their depth
MAX_LEVELS = 12

_LEVEL = re.compile(r"encoder\.down\.(\d{1,2})\.(?:block|attn)\.(\d{1,2})\.")


def plan(archives: Archives, extra: Sequence[Path], asked: Asked) -> Plan:
    """See `formats.Format.plan`."""
    if len(archives) != 1 or len(extra) > 1:
        raise ConfigError(
            "taming_vqgan is one checkpoint, and its YAML if you have it",
            code="MMG-C40",
            where="command line",
            fix=f"mmgen import taming_vqgan {FILES} to=DIR",
        )
    archive = archives[0]
    width, channels = shape_of(archive, "encoder.conv_in.weight", 4)[:2]
    found = [(int(m[1]), int(m[2])) for name in archive.weights if (m := _LEVEL.match(name))]
    levels, blocks = (max(numbers) + 1 for numbers in zip(*found, strict=True)) if found else (0, 0)
    if channels != 3 or not 2 <= levels <= MAX_LEVELS:
        raise another(archive, f"it reads {channels} channels a pixel, at {levels} sizes")
    outs = [shape_of(archive, f"encoder.down.{i}.block.0.conv1.weight", 4)[0] for i in range(levels)]
    gumbel = "quantize.embed.weight" in archive.weights
    size, dim = shape_of(archive, f"quantize.{'embed' if gumbel else 'embedding'}.weight", 2)
    between = shape_of(archive, "encoder.conv_out.weight", 4)[0]
    if between != dim or any(out % width for out in outs):
        raise another(archive, f"{between} channels at the grid for codes of {dim}, or widths {outs} on {width}")
    attention = [i for i in range(levels) if f"encoder.down.{i}.attn.0.q.weight" in archive.weights]
    facts = {
        "n_embed": size,
        "embed_dim": dim,
        "z_channels": between,
        "ch": width,
        "ch_mult": [out // width for out in outs],
        "num_res_blocks": blocks,
    }
    told = _read_yaml(extra[0], facts, attention) if extra else None
    pixels = asked.image_size or told or IMAGE_SIZE
    config = {
        "name": "vq",
        "trunk": "vqgan",
        "codebook": "gumbel" if gumbel else "straight_through",
        "codebook_size": size,
        "codebook_dim": dim,
        "downsample": 2 ** (levels - 1),
        "width": width,
        "blocks": blocks,
        "channel_multipliers": facts["ch_mult"],
        "attention_sizes": [pixels // 2**i for i in attention],
        "norm_groups": 32,
    }
    kept = (name for name in archive.weights if not name.startswith(tuple(LEFT)))
    return Plan("tokenizer", config, {"image_size": pixels}, {_ours(name): (0, name) for name in kept})


def _ours(name: str) -> str:
    return re.sub(r"^quantize\.(embed\b|embedding\b)", "codebook.embedding", name).replace("quantize.", "codebook.", 1)


def _read_yaml(path: Path, facts: Mapping[str, Any], attention: Sequence[int]) -> int | None:
    """The picture's size that a model's YAML tells; what else it tells must be what the weights say.

    Raises:
        CheckpointError: it is no such YAML, or is another model's.
    """
    try:
        text = path.read_text(encoding="utf-8") if path.stat().st_size <= MAX_YAML else ""
        if text.count("[") + text.count("{") > MAX_BRACKETS:
            raise ValueError
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise ValueError  # a page of them can stand for billions of values
        params = yaml.safe_load(text)["model"]["params"]
        said = {**params, **params["ddconfig"]}
        resolution = said.get("resolution")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise CheckpointError(
            f"{path} is no YAML of a VQGAN",
            code="MMG-K05",
            why=f"model.params.ddconfig cannot be read ({type(error).__name__})",
            fix="give the model's own YAML, or none and image_size=PIXELS",
        ) from None
    if type(resolution) is not int or not 8 <= resolution <= 4096:
        resolution = None
    for key, value in facts.items():
        if key in said and said[key] != value:
            raise _contradicts(path, f"{key} is {quoted(said[key], 40)} there, {value} in the weights")
    sizes = [resolution // 2**i for i in range(len(facts["ch_mult"]))] if resolution else []
    listed = said.get("attn_resolutions")
    if sizes and isinstance(listed, list) and [i for i, side in enumerate(sizes) if side in listed] != list(attention):
        found = [sizes[i] for i in attention]
        raise _contradicts(path, f"attn_resolutions is {quoted(listed, 40)} there, {found} in the weights")
    return resolution


def _contradicts(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path} is another model's", code="MMG-K02", why=why, fix="give its own YAML, or none")


@torch.no_grad()
def compare(component: Any, plan: Plan, tensors: Sequence[Mapping[str, Tensor]]) -> Comparison:
    """See `formats.Format.compare`. In double precision: in single, the two round apart by more than a small mistake.

    Their Gumbel codebook draws codes at random even outside training; the likeliest are compared.
    """
    from taming.modules.diffusionmodules.model import Decoder, Encoder
    from taming.modules.vqvae.quantize import VectorQuantizer2

    component = copy.deepcopy(component).double()
    config, weights = plan.config, {name: tensor.double() for name, tensor in tensors[0].items()}
    sizes = {
        "ch": config["width"],
        "out_ch": 3,
        "ch_mult": config["channel_multipliers"],
        "num_res_blocks": config["blocks"],
        "attn_resolutions": config["attention_sizes"],
        "in_channels": 3,
        "resolution": plan.arguments["image_size"],
        "z_channels": config["codebook_dim"],
    }
    with redirect_stdout(StringIO()):  # the decoder prints its sizes
        encoder, decoder = Encoder(**sizes, double_z=False).double(), Decoder(**sizes).double()
    encoder.load_state_dict(_below("encoder.", weights))
    decoder.load_state_dict(_below("decoder.", weights))
    images = pictures(4 * config["downsample"]).double()
    features = functional.conv2d(encoder(images * 2 - 1), weights["quant_conv.weight"], weights["quant_conv.bias"])
    grid = (len(images), 4, 4)
    if config["codebook"] == "gumbel":
        proj = functional.conv2d(features, weights["quantize.proj.weight"], weights["quantize.proj.bias"])
        chosen, codes = proj.argmax(1), weights["quantize.embed.weight"]
        quantized = functional.embedding(chosen, codes).permute(0, 3, 1, 2)
    else:
        quantize = VectorQuantizer2(config["codebook_size"], config["codebook_dim"], beta=0.25).double()
        quantize.load_state_dict(_below("quantize.", weights))
        chosen = quantize(features)[2][2].view(grid)
        quantized = quantize.get_codebook_entry(chosen.flatten(), (*grid, config["codebook_dim"]))
    after = functional.conv2d(quantized, weights["post_quant_conv.weight"], weights["post_quant_conv.bias"])
    drawn = (decoder(after) / 2 + 0.5).clamp(0, 1)
    measures = (
        Measure("largest difference of features", relative(component.features(images), features), 1e-9),
        Measure("codes that differ", float((component.encode(images) != chosen).sum())),
        Measure("largest difference of pictures", float((component.decode(chosen) - drawn).abs().max()), 1e-9),
    )
    return Comparison(released(REFERENCE), f"2 pictures of {images.shape[-1]}×{images.shape[-1]} pixels", measures)


def _below(prefix: str, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
