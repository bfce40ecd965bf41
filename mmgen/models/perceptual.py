"""How far apart two pictures look: LPIPS (Zhang et al. 2018, arXiv 1801.03924) on the features of VGG16.

The weights come from a file that the user gives; nothing is downloaded. docs/tokenizers.md says how to make it.

Letters: B batch, C channels, H W pixels.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.errors import ConfigError, quoted

# Convolutions of VGG16 (Simonyan and Zisserman 2014, configuration D), stage by stage; 2×2 pooling lies between.
STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
KEY, WEIGHT_KEY = "tokenizer.perceptual_file", "tokenizer.perceptual_weight"


class Perceptual(nn.Module):
    """LPIPS with VGG16, as its version 0.1: features of each stage's end, of length one over the channels; squared
    differences, weighted by a linear head, averaged over positions, summed over the stages.

    Names of the tensors: torchvision's `features.N.weight` and `.bias`, and LPIPS's `linK.model.1.weight`.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.ends: list[int] = []  # the position of each stage's last ReLU
        channels = 3
        for stage in STAGES:
            layers += [nn.MaxPool2d(2)] if layers else []
            for width in stage:
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            self.ends.append(len(layers) - 1)
        self.features = nn.Sequential(*layers)
        self.heads = nn.ModuleList([nn.Conv2d(stage[-1], 1, 1, bias=False) for stage in STAGES])
        # ImageNet's mean and deviation, as they are for pixels in [-1,1].
        statistics = {"shift": [-0.030, -0.088, -0.188], "scale": [0.458, 0.448, 0.450]}
        for name, values in statistics.items():
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        self.eval().requires_grad_(False)

    def _stages(self, images: Tensor) -> list[Tensor]:
        x, found = (images - self.shift) / self.scale, []
        for position, layer in enumerate(self.features):
            x = layer(x)
            if position in self.ends:
                found.append(F.normalize(x, dim=1, eps=1e-10))
        return found

    def forward(self, images: Tensor, others: Tensor) -> Tensor:
        """Two batches of pictures (B,3,H,W) in [-1,1], of 16 pixels a side or more, to their distances (B,)."""
        pairs = zip(self.heads, self._stages(images), self._stages(others), strict=True)
        distances = [head((one - other).square()).mean((1, 2, 3)) for head, one, other in pairs]
        return torch.stack(distances).sum(0)


def tensor_name(ours: str) -> str:
    """The name in the file of a tensor of `Perceptual`."""
    return ours.replace("heads.", "lin").replace(".weight", ".model.1.weight") if ours.startswith("heads.") else ours


def require_file(weight: float, file: str | None) -> None:
    """Raises ConfigError where a perceptual loss is asked for and no weights are given."""
    if weight > 0 and not file:
        raise ConfigError(
            f"{WEIGHT_KEY}={weight:g} needs the weights of LPIPS, and no file is given",
            code="MMG-C24",
            where=KEY,
            why="they are never downloaded; docs/tokenizers.md shows how to make the file",
            fix=f"{KEY}=lpips_vgg16.safetensors, or {WEIGHT_KEY}=0",
        )


@functools.lru_cache(maxsize=2)
def load_perceptual(file: str, device: torch.device) -> Perceptual:
    """The network with the weights of a safetensors file; read once in a process.

    Raises:
        ConfigError: no such file, or one that holds other tensors.
    """
    path = Path(file).expanduser()
    why = ""
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0]
    else:
        network = Perceptual()
        wanted = {name: tensor_name(name) for name in network.state_dict()}
        why = _misfit({theirs: network.state_dict()[ours].shape for ours, theirs in wanted.items()}, found)
        if not why:
            network.load_state_dict({ours: found[theirs] for ours, theirs in wanted.items()})
            return network.to(device)
    raise ConfigError(
        f"the perceptual loss cannot use {quoted(file, 300)}",
        code="MMG-C24",
        where=KEY,
        why=why,
        fix=f"make the file as docs/tokenizers.md shows, or {WEIGHT_KEY}=0",
    )


def _misfit(wanted: dict[str, torch.Size], found: dict[str, Tensor]) -> str:
    """What is wrong with the first tensor that is not as wanted; what there is besides does not matter."""
    for name, shape in wanted.items():
        if name not in found:
            return f"it has no tensor {name!r}"
        if found[name].shape != shape:
            return f"{name} has the shape {tuple(found[name].shape)}, not {tuple(shape)}"
    return ""
