"""open_clip's models, from its own names, or from a JSON or a hub's folder that lies here. Nothing is downloaded."""

from __future__ import annotations

import difflib
import json
import shlex
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

CONFIG = "open_clip_config.json"
WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "model.safetensors")
PICKLES = ("open_clip_pytorch_model.bin", "pytorch_model.bin", "open_clip_pytorch_model.pth")
# Turns a pickle of tensors, or a training's checkpoint, without running code of the file.
AS_SAFETENSORS = (
    "import sys, torch; from safetensors.torch import save_file; "
    "found = torch.load(sys.argv[1], map_location='cpu', weights_only=True); found = found.get('state_dict', found); "
    "save_file({name: tensor.clone().contiguous() for name, tensor in found.items()}, sys.argv[2])"
)
MAX_CONFIG = 1 << 20  # bytes
MAX_SIZE = 1 << 14  # pixels a side; ids of text have no bound of their own: the text tokenizer has them

# What mmgen's tasks cannot give such a model, by the place of the option.
_REFUSED = {
    ("multimodal_cfg",): "it writes captions as well (CoCa), which needs another loss",
    ("text_cfg", "hf_model_name"): "its text side is downloaded from the hub",
    ("text_cfg", "embed_cls"): "its text side has a token of its own behind every caption",
}


@dataclass(frozen=True)
class Source:
    """Where a model is described.

    Attributes:
        config: `embed_dim`, `vision_cfg`, `text_cfg` and more, as open_clip has them.
        folder: the hub's folder, if it is one.
        weights: a safetensors file that belongs to it, or None.
        pixels: mean and deviation, three channels each, if the folder says them.
    """

    config: dict[str, Any]
    folder: Path | None = None
    weights: Path | None = None
    pixels: tuple[list[float], list[float]] | None = None


def package() -> Any:
    """The package `open_clip`.

    Raises:
        ValueError: it cannot be imported; says how to install it.
    """
    try:
        import open_clip
    except (ImportError, RuntimeError, AttributeError) as error:  # torchvision of another build raises the last two
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"open_clip cannot be imported ({why}): pip install 'mmgen-openclip[open_clip]', with a torchvision that "
            f"was built for torch {torch.__version__} (pytorch.org/get-started lists pairs; for a CPU's, add "
            "--index-url https://download.pytorch.org/whl/cpu)"
        ) from error
    return open_clip


def find(model: str) -> Source:
    """A model by open_clip's name, the path of a JSON, or that of a hub's folder.

    Raises:
        ValueError: there is none, or it is one that mmgen cannot train.
    """
    path = Path(model)
    if path.is_dir():
        source = _in_folder(path)
    elif path.suffix == ".json" or path.is_file():
        config, pixels = _read(path)
        source = Source(config, pixels=pixels)
    else:
        source = Source(_named(model))
    _refuse(model, source.config)
    return source


def _named(model: str) -> dict[str, Any]:
    known = package().list_models()
    if model not in known:  # get_model_config would ask the hub for some names
        near = difflib.get_close_matches(model, known, 3)
        raise ValueError(
            f"model={model[:200]} is neither a model of open_clip nor a folder or JSON file here"
            + (f"; near are {', '.join(near)}" if near else "")
        )
    return deepcopy(package().get_model_config(model))


def _in_folder(folder: Path) -> Source:
    config, pixels = _read(folder / CONFIG)
    _refuse(str(folder), config)  # first: of a model that cannot be one, no advice on its weights helps
    weights = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    pickled = next((name for name in PICKLES if (folder / name).is_file()), None)
    if weights is None and pickled is not None:
        raise ValueError(
            f"{folder} holds its weights in {pickled} only, a pickle: "
            + _turned(folder / pickled, folder / WEIGHTS[0], imported=folder)
        )
    return Source(config, folder, weights, pixels)


def _turned(pickled: Path, to: Path, imported: Path) -> str:
    """What to do with weights in a pickle. `mmgen import clip` alone would send models of timm back to here."""
    command = f'python -c "{AS_SAFETENSORS}" {shlex.quote(str(pickled))} {shlex.quote(str(to))}'
    return (
        f"{command} writes them as safetensors without running code; and of a model that is not of timm or with "
        f"another pooling, mmgen import clip {shlex.quote(str(imported))} to=DIR makes a part that needs no open_clip"
    )


def _read(path: Path) -> tuple[dict[str, Any], tuple[list[float], list[float]] | None]:
    """The model's config in a JSON file, and what it says of pixels."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_CONFIG + 1)
        content = json.loads(data) if len(data) <= MAX_CONFIG else None
    except OSError as error:
        raise ValueError(f"model: {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"model: {path} is no JSON") from error
    config = content.get("model_cfg", content) if isinstance(content, dict) else None
    if not isinstance(config, dict) or not all(isinstance(config.get(f"{s}_cfg"), dict) for s in ("vision", "text")):
        raise ValueError(f"model: {path} is no config of open_clip: it has no vision_cfg and text_cfg")
    said = content.get("preprocess_cfg")
    said = said if isinstance(said, dict) else {}
    mean, deviation = said.get("mean"), said.get("std")
    if mean is None and deviation is None:
        return config, None
    if not _three(mean) or not _three(deviation) or not all(deviation):
        raise ValueError(f"model: {path} normalises pixels by what is no mean and deviation of three channels")
    return config, (mean, deviation)


def _three(values: Any) -> bool:
    return isinstance(values, list) and len(values) == 3 and all(type(value) in (int, float) for value in values)


def _refuse(model: str, config: dict[str, Any]) -> None:
    for place, why in _REFUSED.items():
        value: Any = config
        for key in place:
            value = value.get(key)
        if value:
            raise ValueError(f"model={model} cannot be an encoder here: {why}")
    pool = config["text_cfg"].get("pool_type", "argmax")
    if pool != "argmax":
        raise ValueError(
            f"model={model} cannot be an encoder here: it reads captions at {str(pool)[:40]}, and here where they end"
        )


def build(source: Source, image_size: int, num_ids: int, context_length: int) -> torch.nn.Module:
    """The model with random weights, for pictures and captions of these sizes.

    Raises:
        ValueError: open_clip cannot build it.
    """
    open_clip = package()
    config = deepcopy(source.config)
    vision, text = config["vision_cfg"], config["text_cfg"]
    patch = vision.get("patch_size")
    grid = patch if isinstance(patch, int) and not isinstance(vision.get("layers"), list) else 1
    if not 1 <= image_size <= MAX_SIZE or image_size % max(grid, 1):
        raise ValueError(f"image_size is {image_size}, and the model's patches have {grid} pixels a side")
    vision["image_size"] = image_size
    if vision.get("timm_model_name"):
        vision["timm_model_pretrained"] = False
    text["vocab_size"], text["context_length"] = num_ids, context_length
    # One logarithm for all pairs, as the protocol has it; weights of the other form fit.
    config["nonscalar_logit_scale"] = False
    kind = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    try:
        return kind(**config)
    except (TypeError, ValueError, RuntimeError, AssertionError, KeyError, ZeroDivisionError) as error:
        raise ValueError(f"open_clip cannot build this model: {_line(error)}") from error


def load(model: torch.nn.Module, weights: Path) -> None:
    """Puts a file's weights into the model; positions of pictures of another size are interpolated as open_clip does.

    Raises:
        ValueError: it is no safetensors file, damaged, or of another model.
    """
    if weights.suffix != ".safetensors":
        raise ValueError(
            f"pretrained={weights} is no .safetensors file, and others are pickles: "
            + _turned(weights, weights.with_suffix(".safetensors"), imported=weights)
        )
    try:
        package().load_checkpoint(model, str(weights), strict=True)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"pretrained={weights} cannot be read: {_line(error)}") from error
    except (RuntimeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(f"pretrained={weights} holds weights of another model: {_line(error)}") from error


def _line(error: BaseException) -> str:
    """What an error of torch says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2])[:300] or type(error).__name__
