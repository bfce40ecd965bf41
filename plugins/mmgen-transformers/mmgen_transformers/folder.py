"""A folder with a model of transformers on this machine: its config.json and its safetensors. Nothing is downloaded, no
pickle is opened, and no code of the folder is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from mmgen_transformers.configs import from_json, line

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt", "model.pth")
MAX_JSON = 1 << 24  # bytes; the index of a large model names thousands of tensors


def read_config(folder: str) -> tuple[str, dict[str, Any]]:
    """The architecture of a folder and the fields of its config.

    Raises:
        ValueError: there is no such folder, or its config.json is missing, damaged, or of something else.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise ValueError(
            f"weights={folder} is no folder here, and nothing is downloaded: fetch it yourself, as with "
            f"`hf download {folder if _like_a_hub_name(folder) else 'OWNER/NAME'} --local-dir DIR`, then "
            "generator.weights=DIR"
        )
    return from_json(_json(path / CONFIG), f"weights: {path / CONFIG}")


def check_files(folder: str) -> None:
    """Raises ValueError where a folder has no safetensors, or one of them is missing, cut short, or lies elsewhere.
    Only headers are read: a stage of a run is looked at so long before it is its turn."""
    path = Path(folder).expanduser()
    for name in _names(path):
        try:
            with safe_open(path / name, framework="pt"):  # its size against what its header says
                pass
        except (OSError, SafetensorError) as error:
            raise ValueError(f"weights: {path / name} cannot be read ({line(error)}): copy or fetch it anew") from error


def read_tensors(folder: str) -> dict[str, Tensor]:
    """All tensors of a folder that was found whole, by their names in it."""
    path = Path(folder).expanduser()
    tensors: dict[str, Tensor] = {}
    for name in _names(path):
        tensors |= load_file(path / name)
    return tensors


def _names(path: Path) -> list[str]:
    """The names of a folder's safetensors: one, or those that its index names."""
    if (path / WEIGHTS).is_file():
        return [WEIGHTS]
    if (path / INDEX).is_file():
        places = _json(path / INDEX).get("weight_map")
        names = sorted(set(places.values())) if isinstance(places, dict) and places else [INDEX]
        for name in names:
            if not (isinstance(name, str) and name.endswith(".safetensors") and Path(name).name == name):
                raise ValueError(f"weights: {path / INDEX} does not name safetensors of its folder: fetch it anew")
            if not (path / name).is_file():
                raise ValueError(f"weights: {path / name} is missing, which {INDEX} names: fetch the folder anew")
        return names
    pickled = next((name for name in PICKLES if (path / name).is_file()), None)
    if pickled is not None:
        raise ValueError(
            f"weights: {path} holds its weights in {pickled} only, a pickle, which can run code and is never opened "
            "here: fetch the model's safetensors, or ask whoever made it for `save_pretrained` of today's transformers"
        )
    raise ValueError(f"weights: {path} holds no {WEIGHTS} and no {INDEX}: fetch the weights, too, or leave weights out")


def _json(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_JSON + 1)
        content = json.loads(data) if len(data) <= MAX_JSON else None
    except OSError as error:
        raise ValueError(f"weights: {path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"weights: {path} is no JSON: fetch it anew") from error
    if not isinstance(content, dict):
        raise ValueError(f"weights: {path} holds no JSON object: fetch it anew")
    return content


def _like_a_hub_name(folder: str) -> bool:
    return folder.count("/") == 1 and not folder.startswith((".", "/", "~"))
