"""Small CLIPs of open_clip and transformers with random weights, saved in the ways that such weights are published."""

from __future__ import annotations

import gzip
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mmgen.data.clip_text import ClipTextTokenizer
from tests.models.open_clip_models import open_clip

CONTEXT, IDS = 9, 2 * 256 + 4 + 2
MERGES = ["t h", "th e</w>", "c a", "ca t</w>"]
TEXT = {"context_length": CONTEXT, "vocab_size": IDS, "width": 128, "heads": 2, "layers": 2}
VISION: dict[str, dict[str, Any]] = {
    "vit": {"image_size": 32, "layers": 2, "width": 128, "head_width": 64, "patch_size": 8},
    "vit without norm": {"image_size": 16, "layers": 1, "width": 64, "patch_size": 8, "no_ln_pre": True},
    "resnet": {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "patch_size": None, "head_width": 64},
}


def randomised(model: Any) -> Any:
    """Weights of which a mistake in any shows: the packages' own biases start at zero, and norms at one."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "running_var" in name:
                tensor.copy_(torch.rand(tensor.shape) + 0.5)
            elif tensor.is_floating_point() and name not in ("logit_scale", "logit_bias"):
                tensor.copy_(torch.randn(tensor.shape) * 0.15 + (tensor.ndim == 1 and name.endswith("weight")))
    return model.eval()


def make_open_clip(tower: str = "vit", activation: str = "quick_gelu", **changes: Any) -> Any:
    torch.manual_seed(0)
    quick = activation == "quick_gelu"
    return randomised(open_clip().model.CLIP(16, VISION[tower], {**TEXT}, quick_gelu=quick, **changes))


def make_hugging_face(activation: str = "quick_gelu", **changes: Any) -> Any:
    from transformers.models.clip import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    side = {"hidden_act": activation, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
    side |= {"hidden_size": 128, "projection_dim": 16, **changes}
    marks = {"bos_token_id": IDS - 2, "eos_token_id": IDS - 1, "pad_token_id": 0}
    text = {**side, **marks, "vocab_size": IDS, "max_position_embeddings": CONTEXT}
    config = CLIPConfig(text_config=text, vision_config={**side, "image_size": 32, "patch_size": 8}, projection_dim=16)
    return randomised(CLIPModel(config))


def save_vocabulary(directory: Path, name: str = "vocabulary.txt.gz") -> str:
    text = "\n".join(["#version: 0.2", *MERGES, ""])
    data = text.encode()
    (directory / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return name


def save_ids(directory: Path, name: str, *, permuted: bool = False) -> None:
    """The folder's `merges.txt` as `vocab.json` or `tokenizer.json`; permuted, two pieces have each other's ids."""
    content = json.loads(ClipTextTokenizer.from_file(directory / "merges.txt", CONTEXT).to_hugging_face())
    ids = content["model"]["vocab"]
    if permuted:
        ids["th"], ids["ca"] = ids["ca"], ids["th"]
    if name == "vocab.json":
        content = {**ids, **{token["content"]: token["id"] for token in content["added_tokens"]}}
    (directory / name).write_text(json.dumps(content))


def save_archive(model: Any, path: Path, half: bool = True) -> None:
    """As OpenAI's: traced, with three numbers as buffers; matrices and filters in half precision, norms in single."""
    size = model.visual.image_size
    for name in ("context_length", "vocab_size"):
        delattr(model, name)
    numbers = {"input_resolution": size if isinstance(size, int) else size[0]}
    for name, value in {**numbers, "context_length": CONTEXT, "vocab_size": IDS}.items():
        model.register_buffer(name, torch.tensor(value))
    side = int(model.input_resolution)
    images, text_tokens = torch.rand(2, 3, side, side), torch.randint(0, IDS, (2, CONTEXT))
    with warnings.catch_warnings():  # that tracing is old, and that sizes become constants
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(model, (images, text_tokens), check_trace=False)
    for parameter in traced.parameters():
        if half and parameter.ndim > 1:
            parameter.data = parameter.data.half()
    traced.save(str(path))
    model.float()  # the two share their parameters


def halved(model: Any) -> Any:
    """The values that half precision keeps of the matrices and filters."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(parameter.half().float())
    return model


def open_clip_config(tower: str, activation: str, **changes: Any) -> dict[str, Any]:
    vision = {key: value for key, value in VISION[tower].items() if value is not None}
    model = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT, "quick_gelu": activation == "quick_gelu"}
    pixels = {"mean": [0.48145466, 0.4578275, 0.40821073], "std": [0.26862954, 0.26130258, 0.27577711]}
    return {"model_cfg": {**model, **changes}, "preprocess_cfg": pixels}


def save_hub_folder(model: Any, directory: Path, config: dict[str, Any]) -> None:
    """open_clip's, with the vocabulary that such folders hold for transformers."""
    directory.mkdir()
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(state, directory / "open_clip_model.safetensors", metadata={"format": "pt"})
    (directory / "open_clip_config.json").write_text(json.dumps(config))
    save_vocabulary(directory, "merges.txt")
