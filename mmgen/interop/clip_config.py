"""What the JSON files beside CLIP's weights say that the weights do not: the activation, heads, how pixels are
normalised and pictures resized. What mmgen has no counterpart of is refused, since no weight would show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmgen.errors import CheckpointError, quoted
from mmgen.files import parse_json

MAX_JSON = 1_000_000  # bytes
# Kept here, as the component's module imports its networks; a test compares.
PIXELS = {
    "openai": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "symmetric": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
# open_clip's options: those that shapes tell or only training heeds, and those that have to be as they are here.
_TOLD = {
    "vision": {"layers", "width", "head_width", "patch_size", "image_size", "patch_dropout", "no_ln_pre"},
    "text": {"context_length", "vocab_size", "width", "heads", "layers", "hf_tokenizer_name"},
}
_HAS_TO_BE: dict[str, dict[str, Any]] = {
    "vision": {"pool_type": "tok", "pos_embed_type": "learnable", "mlp_ratio": 4.0},
    "text": {"pool_type": "argmax", "proj_type": "linear", "pad_id": 0, "mlp_ratio": 4.0},
}
# The shorter side is resized and the middle cropped, here and where a config says nothing. Bicubic passes: mmgen's own
# filter, Lanczos, is as sharp. "random" chooses in training; open_clip infers with bicubic then.
_RESIZED = {"resize_mode": ("shortest",), "interpolation": ("bicubic", "random")}
_BICUBIC = 3  # in Pillow, whose numbers transformers' configs have


@dataclass
class Told:
    """What config files say.

    Attributes:
        activation: of all MLPs; None where they do not tell.
        options: of `clip`, beside what shapes tell.
        path: of the file, for messages.
        sizes: what shapes tell as well: by our name, the config's key and its value (see `hold`).
    """

    activation: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    sizes: dict[str, tuple[str, Any]] = field(default_factory=dict)


def read_json(path: Path) -> dict[str, Any]:
    """An object in a stranger's file.

    Raises:
        CheckpointError: there is none.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_JSON + 1)
    except OSError as error:
        why = error.strerror or str(error)
        raise CheckpointError(f"cannot read {path}", code="MMG-K05", why=why, fix="name a file") from None
    try:
        value = parse_json(data, str(path), limit=MAX_JSON, trusted=True)
    except CheckpointError as error:
        fix = "give the model's own config, or none"
        raise CheckpointError(error.what, code=error.code, why=error.why, fix=fix) from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no object", code="MMG-K05", fix="give the model's own config, or none")
    return value


def open_clip_config(path: Path) -> Told:
    """`open_clip_config.json`, or one of the package's `model_configs`.

    Raises:
        CheckpointError: it is something else, or of a model that mmgen cannot express.
    """
    content = read_json(path)
    model = content.get("model_cfg", content)
    vision, text = (_object(path, model, f"{side}_cfg") for side in ("vision", "text"))
    for side, options in (("vision", vision), ("text", text)):
        for key, value in options.items():
            wanted = _HAS_TO_BE[side].get(key)
            if key not in _TOLD[side] and value != wanted and value not in (None, False, {}):
                raise unlike(path, f"{side}_cfg.{key} is {quoted(value, 60)}")
    for key in ("custom_text", "nonscalar_logit_scale"):
        if model.get(key) and key != "custom_text":
            raise unlike(path, f"{key} is {quoted(model[key], 60)}")
    resnet = isinstance(vision.get("layers"), list)
    width, heads = _number(path, vision, "width", 64 if resnet else 768), _number(path, text, "heads", 8)
    head_width = _number(path, vision, "head_width", 64)
    told = Told("quick_gelu" if model.get("quick_gelu") else "gelu", path=path)
    told.options = {
        "num_heads": _dividing(
            path, 32 * width if resnet else width, max(1, (32 if resnet else 1) * width // head_width)
        ),
        "text_heads": _dividing(path, _number(path, text, "width", 512), heads),
    }
    told.sizes = {
        "embed_dim": ("embed_dim", model.get("embed_dim")),
        "layers": ("vision_cfg.layers", vision.get("layers", 12)),
        "width": ("vision_cfg.width", width),
        "image_size": ("vision_cfg.image_size", _side(vision.get("image_size", 224))),
        **({} if resnet else {"patch_size": ("vision_cfg.patch_size", vision.get("patch_size", 16))}),
        "text_layers": ("text_cfg.layers", text.get("layers", 12)),
        "text_width": ("text_cfg.width", text.get("width", 512)),
        "ids": ("text_cfg.vocab_size", text.get("vocab_size", 49408)),
        "length": ("text_cfg.context_length", text.get("context_length", 77)),
    }
    pictures = content.get("preprocess_cfg")
    if isinstance(pictures, dict):
        for key, fits in _RESIZED.items():
            if pictures.get(key) not in (None, *fits):
                raise unlike(path, f"preprocess_cfg.{key} is {quoted(pictures[key], 60)}")
        told.options |= _pixels(path, pictures.get("mean"), pictures.get("std"))
    return told


def hugging_face_config(path: Path) -> Told:
    """`config.json` of transformers' CLIP; what it leaves out is transformers' default.

    Raises:
        CheckpointError: it is something else, or of a model that mmgen cannot express.
    """
    content = read_json(path)
    if content.get("model_type", "clip") != "clip":
        raise unlike(path, f"model_type is {quoted(content['model_type'], 60)}")
    text, vision = (_object(path, content, f"{side}_config") for side in ("text", "vision"))
    said = {str(side.get("hidden_act", "quick_gelu")) for side in (text, vision)}
    if said not in ({"gelu"}, {"quick_gelu"}):
        raise unlike(path, f"hidden_act is {quoted(' and '.join(sorted(said)), 60)}")
    for side in (text, vision):
        if side.get("layer_norm_eps", 1e-5) not in (1e-5, None):
            raise unlike(path, f"layer_norm_eps is {quoted(side['layer_norm_eps'], 60)}")
    widths = {"vision": _number(path, vision, "hidden_size", 768), "text": _number(path, text, "hidden_size", 512)}
    heads = {
        "num_heads": _dividing(path, widths["vision"], _number(path, vision, "num_attention_heads", 12)),
        "text_heads": _dividing(path, widths["text"], _number(path, text, "num_attention_heads", 8)),
    }
    sizes = {
        "embed_dim": ("projection_dim", content.get("projection_dim", 512)),
        "layers": ("vision_config.num_hidden_layers", vision.get("num_hidden_layers", 12)),
        "width": ("vision_config.hidden_size", widths["vision"]),
        "mlp_width": ("vision_config.intermediate_size", vision.get("intermediate_size", 3072)),
        "image_size": ("vision_config.image_size", vision.get("image_size", 224)),
        "patch_size": ("vision_config.patch_size", vision.get("patch_size", 32)),
        "text_layers": ("text_config.num_hidden_layers", text.get("num_hidden_layers", 12)),
        "text_width": ("text_config.hidden_size", widths["text"]),
        "text_mlp_width": ("text_config.intermediate_size", text.get("intermediate_size", 2048)),
        "ids": ("text_config.vocab_size", text.get("vocab_size", 49408)),
        "length": ("text_config.max_position_embeddings", text.get("max_position_embeddings", 77)),
    }
    return Told(said.pop(), heads, path, sizes)


def hold(told: Told, found: Mapping[str, Any]) -> None:
    """Holds a config's sizes against those that the weights have, by our names: a config of other weights would bring
    its heads and its activation along, which nothing in the weights contradicts.

    Raises:
        CheckpointError: MMG-K02, they differ.
    """
    for name, (key, value) in told.sizes.items():
        if value != found.get(name):
            raise CheckpointError(
                f"{told.path} is the config of other weights",
                code="MMG-K02",
                why=f"its {key} is {quoted(value, 60)}, the weights have {quoted(found.get(name), 60)}",
                fix="give the model's own config; or none, and say activation= and heads=",
            )


def preprocessor_config(path: Path) -> dict[str, Any]:
    """What `preprocessor_config.json` says of pixels, as an option of `clip`.

    Raises:
        CheckpointError: they are normalised, cropped or resized in a way that mmgen has not.
    """
    content = read_json(path)
    for key in ("do_normalize", "do_center_crop", "do_resize", "do_rescale"):
        if content.get(key) is False:
            raise unlike(path, f"{key} is false")
    size, crop = content.get("size"), content.get("crop_size")
    if isinstance(size, dict) and "shortest_edge" not in size:
        raise unlike(path, f"size is {quoted(size, 60)}: pictures are squashed")
    shortest = size["shortest_edge"] if isinstance(size, dict) else size
    edges = list(crop.values()) if isinstance(crop, dict) else [crop]
    if size is not None and crop is not None and any(edge != shortest for edge in edges):
        raise unlike(path, f"size is {quoted(size, 60)} and crop_size {quoted(crop, 60)}: a border is cut off")
    if content.get("resample") not in (None, _BICUBIC):
        raise unlike(path, f"resample is {quoted(content['resample'], 60)}")
    return _pixels(path, content.get("image_mean"), content.get("image_std"))


def _pixels(path: Path, mean: Any, deviation: Any) -> dict[str, Any]:
    if mean is None and deviation is None:
        return {}
    for name, (ours, spread) in PIXELS.items():
        if _near(mean, ours) and _near(deviation, spread):
            return {"pixels": name}
    raise unlike(path, f"pixels are normalised by {quoted(mean, 60)} and {quoted(deviation, 60)}")


def _near(values: Any, ours: tuple[float, ...]) -> bool:
    if not isinstance(values, list) or len(values) != 3 or not all(type(value) in (int, float) for value in values):
        return False
    return all(abs(value - own) < 1e-6 for value, own in zip(values, ours, strict=True))


def _object(path: Path, content: Any, key: str) -> dict[str, Any]:
    value: Mapping[str, Any] | None = content.get(key) if isinstance(content, dict) else None
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{path} is no config of CLIP",
            code="MMG-K05",
            why=f"it has no {key}",
            fix="give the model's own config, or none",
        )
    return value


def _number(path: Path, options: Mapping[str, Any], key: str, default: int) -> int:
    value = options.get(key, default)
    if type(value) is not int or not 1 <= value <= 1 << 20:
        raise unlike(path, f"{key} is {quoted(value, 60)}")
    return value


def _dividing(path: Path, width: int, heads: int) -> int:
    """So many heads of a width; raises CheckpointError where they do not share it out."""
    if width % heads:
        raise unlike(path, f"{heads} heads do not divide a width of {width}")
    return heads


def _side(size: Any) -> Any:
    """H = W of pictures, which open_clip may write as both."""
    return size[0] if isinstance(size, list) and len(size) == 2 and size[0] == size[1] else size


def unlike(path: Path, why: str) -> CheckpointError:
    """The error of a model that mmgen's `clip` cannot express."""
    return CheckpointError(
        f"{path} describes a model that mmgen's clip cannot be", code="MMG-K02", why=why, fix="import another model"
    )
