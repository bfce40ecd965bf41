"""A network trained on ImageNet's labels: the encoder `efficientnet_lite0`, and FID and KID by its features.

Letters: B batch, H W pixels, F features.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from mmgen_imagenet.network import IMAGE_SIZE, load_network


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0, trained on the 1.3 million labelled pictures of ImageNet: a supervised rival for linear
    probes. It reads pictures only, no captions, and comes with its weights:
    `mmgen evaluate encoder=efficientnet_lite0 evaluator=[linear_probe] dataset=…`.

    Args:
        text_tokenizer: None: it reads no text.
        image_size: what its pictures are resized to, 224.

    Raises:
        ValueError: a text tokenizer or another size; weights that are missing, or not those that were published.
    """

    pretrained = True
    image_size = IMAGE_SIZE

    def __init__(self, *, text_tokenizer: Any = None, image_size: int = IMAGE_SIZE) -> None:
        super().__init__()
        if text_tokenizer is not None:
            raise ValueError("it reads pictures only and is trained already: mmgen evaluate encoder=efficientnet_lite0")
        if image_size != IMAGE_SIZE:
            raise ValueError(f"image_size is {image_size}; its weights read pictures of {IMAGE_SIZE} pixels")
        self.network = load_network()

    def logits(self, images: Tensor) -> Tensor:
        """(B,3,H,W) in [0,1] of any size to logits (B,1000) of ImageNet's classes, in the order of ILSVRC 2012."""
        return self.network(images)

    def probe_features(self, images: Tensor) -> Tensor:
        """(B,3,H,W) in [0,1] of any size to (B,1280), what its own classifier reads."""
        return self.network.features(images)

    def encode_image(self, images: Tensor) -> Tensor:
        """The same, brought to length one."""
        return F.normalize(self.probe_features(images), dim=-1)
