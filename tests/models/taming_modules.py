"""Modules of taming-transformers, VQGAN as published, without torchvision and without its downloads."""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from typing import Any
from unittest import mock

from torch import nn

VGG16 = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool", 512, 512, 512, "pool", 512, 512, 512, "pool")


def vgg16(pretrained: bool = False) -> Any:
    """torchvision's VGG16 as far as it is used, with random weights."""
    layers: list[nn.Module] = []
    channels = 3
    for entry in VGG16:
        if isinstance(entry, int):
            layers += [nn.Conv2d(channels, entry, 3, padding=1), nn.ReLU(inplace=True)]
            channels = entry
        else:
            layers.append(nn.MaxPool2d(2, 2))
    return types.SimpleNamespace(features=nn.Sequential(*layers))


def module(name: str) -> Any:
    """A module of the package, such as `modules.vqvae.quantize`."""
    torchvision, util = types.ModuleType("torchvision"), types.ModuleType("taming.util")
    torchvision.models = types.SimpleNamespace(vgg16=vgg16)  # type: ignore[attr-defined]
    util.get_ckpt_path = None  # type: ignore[attr-defined]
    stubs = {"torchvision": torchvision, "taming.util": util}
    before = set(sys.modules)
    with mock.patch.dict(sys.modules, stubs), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = importlib.import_module(f"taming.{name}")
        loaded = {name: sys.modules[name] for name in set(sys.modules) - before - set(stubs)}
    sys.modules.update(loaded)  # importing again would make other classes of them
    if hasattr(found, "LPIPS"):
        found.LPIPS.load_from_pretrained = lambda self: None
    return found
