"""CLIP's tensors, from open_clip's names to ours, written down by hand: the tests' own map, not the importer's."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

BLOCK = {
    "ln_1": "attention_norm",
    "ln_2": "mlp_norm",
    "attn.out_proj": "out",
    "mlp.c_fc": "up",
    "mlp.c_proj": "down",
}
TRANSPOSED = {"visual.proj": "image.projection.weight", "text_projection": "text.projection.weight"}
SAME = {
    "positional_embedding": "text.position",
    "token_embedding.weight": "text.embedding.weight",
    "logit_scale": "logit_scale",
    "visual.class_embedding": "image.class_embedding",
    "visual.positional_embedding": "image.position",
    "visual.conv1.weight": "image.patch_embedding.weight",
}


def ours(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's state dict under our names."""
    resnet = any(name.startswith("visual.layer1") for name in theirs)
    found = {}
    for name, tensor in theirs.items():
        if name in TRANSPOSED:
            found[TRANSPOSED[name]] = tensor.T
        elif resnet and name.startswith("visual."):
            found["image." + name.removeprefix("visual.")] = tensor
        elif name in SAME:
            found[SAME[name]] = tensor
        else:
            found[_renamed(name)] = tensor
    return found


def _renamed(name: str) -> str:
    side = "image." if name.startswith("visual.") else "text."
    name = name.removeprefix("visual.")
    name = re.sub(r"^ln_final\.", "norm.", re.sub(r"^ln_post\.", "norm.", re.sub(r"^ln_pre\.", "norm_before.", name)))
    name = re.sub(r"^transformer\.resblocks\.", "blocks.", name)
    name = name.replace("attn.in_proj_weight", "qkv.weight").replace("attn.in_proj_bias", "qkv.bias")
    for old, new in BLOCK.items():
        name = name.replace(f".{old}.", f".{new}.")
    return side + name
