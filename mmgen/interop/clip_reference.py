"""The packages that an imported CLIP is compared with, where they are installed."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from mmgen.interop.clip_names import RESNET_STRIDE, flat
from mmgen.interop.formats import Plan

# Normalised pictures (B,3,H,W) and ids (B,T) to the features (B,E) of both, of length one.
Features = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def _module(name: str) -> Any:
    """Raises ImportError also where a package is there and broken, as torchvision is beside another torch."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise
    except Exception as error:
        raise ImportError(f"{name}: {error}") from error


def open_clip(plan: Plan, tensors: Mapping[str, Tensor]) -> tuple[str, Features]:
    """open_clip's model with the file's tensors.

    Raises:
        ImportError: it is not installed.
    """
    model = _module("open_clip.model")
    config, resnet = plan.config, plan.config["image_tower"] == "resnet"
    vision = {
        "image_size": plan.arguments["image_size"],
        "layers": list(config["stages"]) if resnet else config["image_layers"],
        "width": config["width"],
        "head_width": (RESNET_STRIDE if resnet else 1) * config["width"] // config["num_heads"],
        "patch_size": None if resnet else config["patch_size"],
        "no_ln_pre": not config.get("pre_norm", True),
    }
    text = {
        "context_length": plan.about["length"],
        "vocab_size": plan.about["ids"],
        "width": config["text_width"],
        "heads": config["text_heads"],
        "layers": config["text_layers"],
    }
    bias = {"init_logit_bias": 0.0} if config["loss"] == "sigmoid" else {}
    theirs = model.CLIP(config["embed_dim"], vision, text, quick_gelu=config["activation"] == "quick_gelu", **bias)
    _load(theirs, {flat(name): tensor for name, tensor in tensors.items()}, "num_batches_tracked")
    theirs.eval()

    def features(images: Tensor, text_tokens: Tensor) -> tuple[Tensor, Tensor]:
        return theirs.encode_image(images, normalize=True), theirs.encode_text(text_tokens, normalize=True)

    return "open_clip_torch", features


def transformers(plan: Plan, tensors: Mapping[str, Tensor]) -> tuple[str, Features]:
    """transformers' model with the file's tensors.

    Raises:
        ImportError: it is not installed.
    """
    package = _module("transformers.models.clip")
    config = plan.config
    shared = {"hidden_act": config["activation"], "projection_dim": config["embed_dim"]}
    sides = {
        "text_config": {
            **_side(config["text_width"], config["text_layers"], config["text_heads"]),
            "vocab_size": plan.about["ids"],
            "max_position_embeddings": plan.about["length"],
            "eos_token_id": plan.about["ids"] - 1,
            "bos_token_id": plan.about["ids"] - 2,
            "pad_token_id": 0,
            **shared,
        },
        "vision_config": {
            **_side(config["width"], config["image_layers"], config["num_heads"]),
            "image_size": plan.arguments["image_size"],
            "patch_size": config["patch_size"],
            **shared,
        },
    }
    theirs = package.CLIPModel(package.CLIPConfig(**sides, projection_dim=config["embed_dim"]))
    _load(theirs, tensors, "position_ids")
    theirs.eval()

    def features(images: Tensor, text_tokens: Tensor) -> tuple[Tensor, Tensor]:
        out = theirs(input_ids=text_tokens, pixel_values=images)
        return F.normalize(out.image_embeds, dim=-1), F.normalize(out.text_embeds, dim=-1)

    return "transformers", features


def _side(width: int, layers: int, heads: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


def _load(theirs: Any, tensors: Mapping[str, Tensor], may_lack: str) -> None:
    """Raises RuntimeError unless all fit, and only names that end in `may_lack` are missing."""
    result = theirs.load_state_dict(dict(tensors), strict=False)
    if result.unexpected_keys or any(not name.endswith(may_lack) for name in result.missing_keys):
        raise RuntimeError(f"the reference has other tensors: {result}")
