"""CLIP's tensors by the names that OpenAI and open_clip give them, by Hugging Face's, and by ours; and what their
shapes say of the architecture."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

HEAD_WIDTH = 64  # features of an attention head, in all that OpenAI published; in others' larger ones up to 112
RESNET_STRIDE = 32  # pixels a side of a place in a residual network's last stage

_OPEN_CLIP = {
    "positional_embedding": "text.position",
    "text_projection": "text.projection.weight",
    "token_embedding.weight": "text.embedding.weight",
    "logit_scale": "logit_scale",
    "logit_bias": "logit_bias",
    "visual.class_embedding": "image.class_embedding",
    "visual.positional_embedding": "image.position",
    "visual.conv1.weight": "image.patch_embedding.weight",
    "visual.proj": "image.projection.weight",
}
_OPEN_CLIP_NORMS = {"ln_pre": "norm_before", "ln_post": "norm", "ln_final": "norm"}
_OPEN_CLIP_BLOCK = {
    "ln_1.": "attention_norm.",
    "ln_2.": "mlp_norm.",
    "attn.in_proj_": "qkv.",
    "attn.out_proj.": "out.",
    "mlp.c_fc.": "up.",
    "mlp.c_proj.": "down.",
}
_TO_OPEN_CLIP = {ours: theirs for theirs, ours in _OPEN_CLIP.items()}
_TO_NORMS = {("image", "norm_before"): "ln_pre", ("image", "norm"): "ln_post", ("text", "norm"): "ln_final"}
_HUGGING_FACE = {
    "text_model.embeddings.position_embedding.weight": "text.position",
    "text_model.embeddings.token_embedding.weight": "text.embedding.weight",
    "text_projection.weight": "text.projection.weight",
    "logit_scale": "logit_scale",
    "vision_model.embeddings.class_embedding": "image.class_embedding",
    "vision_model.embeddings.position_embedding.weight": "image.position",
    "vision_model.embeddings.patch_embedding.weight": "image.patch_embedding.weight",
    "visual_projection.weight": "image.projection.weight",
}
_HUGGING_FACE_NORMS = {"pre_layrnorm": "norm_before", "post_layernorm": "norm", "final_layer_norm": "norm"}
_HUGGING_FACE_BLOCK = {
    "layer_norm1.": "attention_norm.",
    "layer_norm2.": "mlp_norm.",
    "self_attn.out_proj.": "out.",
    "mlp.fc1.": "up.",
    "mlp.fc2.": "down.",
}
_TEXT_ONLY = ("positional_embedding", "text_projection", "token_embedding.", "transformer.", "ln_final.")


def is_hugging_face(names: Iterable[str]) -> bool:
    """Whether these are names of transformers' CLIP."""
    return any(name.startswith("text_model.") for name in names)


def flat(name: str) -> str:
    """A name as OpenAI's model has it: without the `module.` of a model that was wrapped for several processes, and
    without the `text.` of open_clip's models whose text side is a module of its own."""
    name = name.removeprefix("module.")
    inner = name.removeprefix("text.")
    return inner if inner.startswith(_TEXT_ONLY) else name


def from_open_clip(names: Iterable[str]) -> tuple[dict[str, str], frozenset[str]]:
    """Our names to the file's, and which of ours are matrices that lie the other way round. A name that is not known
    is left out."""
    names = list(names)
    resnet = any(flat(name).startswith("visual.layer1.") for name in names)
    found = {}
    for name in names:
        ours = _from_open_clip(flat(name), resnet)
        if ours:
            found[ours] = name
    turned = {"text.projection.weight", *(() if resnet else ("image.projection.weight",))}
    return found, frozenset(turned)


def _from_open_clip(name: str, resnet: bool) -> str | None:
    if resnet and name.startswith("visual."):
        return "image." + name.removeprefix("visual.")
    if name in _OPEN_CLIP:
        return _OPEN_CLIP[name]
    side, inner = ("image", name.removeprefix("visual.")) if name.startswith("visual.") else ("text", name)
    stem, _, end = inner.rpartition(".")
    if stem in _OPEN_CLIP_NORMS and (stem == "ln_final") == (side == "text"):
        return f"{side}.{_OPEN_CLIP_NORMS[stem]}.{end}"
    match = re.fullmatch(r"transformer\.resblocks\.(\d{1,3})\.(.+)", inner)
    return _in_block(side, match, _OPEN_CLIP_BLOCK) if match else None


def to_open_clip(names: Iterable[str]) -> tuple[dict[str, str], frozenset[str]]:
    """Our names to open_clip's, and which of ours are matrices that lie the other way round there: the inverse of
    `from_open_clip`.

    Raises:
        KeyError: a name that `clip` has not.
    """
    names = list(names)
    resnet = any(name.startswith("image.layer1.") for name in names)
    found = {name: _to_open_clip(name, resnet) for name in names}
    return found, frozenset({"text.projection.weight", *(() if resnet else ("image.projection.weight",))})


def _to_open_clip(name: str, resnet: bool) -> str:
    if resnet and name.startswith("image."):
        return "visual." + name.removeprefix("image.")
    if name in _TO_OPEN_CLIP:
        return _TO_OPEN_CLIP[name]
    side, _, inner = name.partition(".")
    before = {"image": "visual.", "text": ""}[side]
    match = re.fullmatch(r"blocks\.(\d{1,3})\.(.+)", inner)
    if match is None:
        norm, _, end = inner.rpartition(".")
        return f"{before}{_TO_NORMS[side, norm]}.{end}"
    theirs = next((theirs for theirs, ours in _OPEN_CLIP_BLOCK.items() if match[2].startswith(ours)), None)
    if theirs is None:
        raise KeyError(name)
    return f"{before}transformer.resblocks.{match[1]}.{theirs}{match[2].removeprefix(_OPEN_CLIP_BLOCK[theirs])}"


def from_hugging_face(names: Iterable[str]) -> dict[str, list[str]]:
    """Our names to the file's, of which queries, keys and values are three."""
    found: dict[str, list[str]] = {}
    for name in names:
        if name in _HUGGING_FACE:
            found[_HUGGING_FACE[name]] = [name]
            continue
        model, _, inner = name.partition(".")
        side = {"text_model": "text", "vision_model": "image"}.get(model)
        stem, _, end = inner.rpartition(".")
        match = re.fullmatch(r"encoder\.layers\.(\d{1,3})\.(.+)", inner)
        if side and stem in _HUGGING_FACE_NORMS and (stem == "final_layer_norm") == (side == "text"):
            found[f"{side}.{_HUGGING_FACE_NORMS[stem]}.{end}"] = [name]
        elif side and match and (part := re.fullmatch(r"self_attn\.([qkv])_proj\.(\w+)", match[2])):
            if part[1] == "q":
                parts = [f"{model}.encoder.layers.{match[1]}.self_attn.{letter}_proj.{part[2]}" for letter in "qkv"]
                found[f"{side}.blocks.{match[1]}.qkv.{part[2]}"] = parts
        elif side and match and (ours := _in_block(side, match, _HUGGING_FACE_BLOCK)):
            found[ours] = [name]
    return found


def _in_block(side: str, match: re.Match[str], names: Mapping[str, str]) -> str | None:
    for theirs, ours in names.items():
        if match[2].startswith(theirs):
            return f"{side}.blocks.{match[1]}.{ours}{match[2].removeprefix(theirs)}"
    return None


def architecture(shapes: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, Any], int]:
    """The options of `clip` that shapes tell, and the pictures' size. Heads and pixels, which they do not tell, are
    those of OpenAI's.

    Args:
        shapes: by our names.

    Raises:
        KeyError, IndexError, ValueError: these are no weights of CLIP.
    """
    empty = next((name for name, shape in shapes.items() if min(shape, default=1) < 1), None)
    if empty is not None:
        raise ValueError(f"{empty} would be empty")
    text_width = shapes["text.embedding.weight"][1]
    options: dict[str, Any] = {
        "name": "clip",
        "embed_dim": shapes["text.projection.weight"][0],
        "text_width": text_width,
        "text_layers": _count(shapes, "text.blocks."),
        "text_heads": max(1, text_width // HEAD_WIDTH),
        "pixels": "openai",
        "loss": "sigmoid" if "logit_bias" in shapes else "softmax",
    }
    if "image.layer1.0.conv1.weight" in shapes:
        width = shapes["image.conv3.weight"][0]
        stages = [_count(shapes, f"image.layer{number}.") for number in range(1, 5)]
        side = _side(shapes["image.attnpool.positional_embedding"][0] - 1)
        options |= {"image_tower": "resnet", "width": width, "stages": stages}
        options["num_heads"] = max(1, RESNET_STRIDE * width // HEAD_WIDTH)
        return options, side * RESNET_STRIDE
    width, _, patch, _ = shapes["image.patch_embedding.weight"]
    class_token = "image.class_embedding" in shapes
    options |= {
        "image_tower": "vit",
        "patch_size": patch,
        "width": width,
        "image_layers": _count(shapes, "image.blocks."),
        "num_heads": max(1, width // HEAD_WIDTH),
        "pre_norm": "image.norm_before.weight" in shapes,
        "pool": "class_token" if class_token else "average",
    }
    return options, _side(shapes["image.position"][0] - class_token) * patch


def _count(shapes: Mapping[str, Any], prefix: str) -> int:
    """How many numbered modules follow a prefix: with all below the largest number, or `_match` misses some."""
    numbers = [int(m[1]) for name in shapes if (m := re.match(re.escape(prefix) + r"(\d{1,3})\.", name))]
    return max(numbers, default=-1) + 1


def _side(places: int) -> int:
    side = math.isqrt(max(places, 0))
    if side < 1 or side * side != places:
        raise ValueError(f"{places} places of pictures, which are no square")
    return side
