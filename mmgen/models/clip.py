"""`clip`: pictures and captions in one space (Radford et al. 2021, arXiv 2103.00020, section 2 and figure 3).

Letters: B batch, T text positions, E features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mmgen.models.contrast import sigmoid_loss, softmax_loss
from mmgen.models.damage import damaged
from mmgen.models.resnet import ModifiedResNet
from mmgen.models.towers import Activation, TextTransformer, VisionTransformer
from mmgen.protocols import Batch, Logs, TextTokenizer

MAX_LOGIT_SCALE = math.log(100)  # section 2.5: clipped, so that no logit is scaled by more than 100
# What pictures are normalised by: to [-1,1], or by the mean and deviation of OpenAI's training pictures.
PIXELS = {
    "symmetric": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "openai": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}


def held_scale(logit_scale: Tensor, training: bool) -> Tensor:
    """What cosines are multiplied by, at most 100. In training the stored number itself is held there, in place: held
    in the loss alone it would have no gradient once it is past, and stay so for good."""
    if not training:
        return logit_scale.clamp_max(MAX_LOGIT_SCALE).exp()
    with torch.no_grad():
        logit_scale.clamp_(max=MAX_LOGIT_SCALE)
    return logit_scale.exp()


class Clip(nn.Module):
    """The contrastive encoder: one network reads pictures, one reads text, trained to tell matching pairs in a batch.

    Args:
        text_tokenizer: caption to ids; the text's feature is taken where it says that a caption ends.
        image_size: H = W, set by the dataset.
        embed_dim: E, features shared by both sides.
        image_tower: a vision transformer, or CLIP's modified residual network.
        patch_size: of the vision transformer; divides the image size.
        width: of the vision transformer, or channels of the residual network's stem.
        image_layers: blocks of the vision transformer.
        stages: bottlenecks in each of the residual network's four stages.
        num_heads: of the vision transformer, or of the residual network's attention pool.
        pre_norm: whether the vision transformer normalises the patches first.
        pool: the vision transformer's class token, or the average of its patches.
        text_width: of the text transformer; null: as `width`.
        text_layers: blocks of the text transformer.
        text_heads: null: as `num_heads`.
        activation: of all MLPs. OpenAI's weights want quick_gelu; weights trained with one are wrong with the other.
        pixels: what pictures are normalised by.
        loss: softmax (symmetric cross-entropy, CLIP) or sigmoid (SigLIP).
        robustness: of the softmax loss in training against wrong captions, in [0,1]; see `mmgen.models.contrast`.
        damaged: share of a batch's pictures that stand beside it damaged in training with the softmax loss, in [0,1]
            (see `mmgen.models.damage`): a caption must prefer whole pictures to them, or a drawing's faults do not
            count when drawings are ranked. Of 1, the picture's network reads twice as much.
        chunk_size: rows that pass through a network at once in training; the loss is that of the whole batch and its
            gradients are the same, for one more forward pass. null: all rows at once.

    Raises:
        ValueError: sizes that do not divide, `robustness` or `damaged` out of its range or with the sigmoid loss, or
            `chunk_size` or `damaged` with a residual network, whose normalisation is over the rows that pass at once.
    """

    # Options without weights of their own, that weights trained with one value are wrong with another.
    fixed_options = ("activation", "pixels", "num_heads", "text_heads", "pre_norm", "pool")

    def __init__(
        self,
        *,
        text_tokenizer: TextTokenizer,
        image_size: int,
        embed_dim: int = 128,
        image_tower: Literal["vit", "resnet"] = "vit",
        patch_size: int = 8,
        width: int = 192,
        image_layers: int = 4,
        stages: tuple[int, ...] = (3, 4, 6, 3),
        num_heads: int = 4,
        pre_norm: bool = True,
        pool: Literal["class_token", "average"] = "class_token",
        text_width: int | None = None,
        text_layers: int = 2,
        text_heads: int | None = None,
        activation: Activation = "gelu",
        pixels: Literal["symmetric", "openai"] = "symmetric",
        loss: Literal["softmax", "sigmoid"] = "softmax",
        robustness: float = 0.0,
        damaged: float = 0.0,
        chunk_size: int | None = None,
    ) -> None:
        super().__init__()
        if chunk_size is not None and (chunk_size < 1 or image_tower == "resnet"):
            raise ValueError(
                f"chunk_size={chunk_size} with image_tower={image_tower}: it is at least 1, and a residual network's "
                "normalisation sees all rows at once"
            )
        for name, share in (("robustness", robustness), ("damaged", damaged)):
            if not 0 <= share <= 1 or (share and loss == "sigmoid"):
                raise ValueError(f"{name}={share} with loss={loss}: it is from 0 to 1, and the softmax loss's")
        if damaged and image_tower == "resnet":
            raise ValueError(
                f"damaged={damaged} with image_tower=resnet: its normalisation would be that of damaged pictures too"
            )
        self.robustness, self.damaged = robustness, damaged
        self.text_tokenizer, self.image_size, self.loss, self.chunk_size = text_tokenizer, image_size, loss, chunk_size
        self.image: VisionTransformer | ModifiedResNet
        if image_tower == "resnet":
            self.image = ModifiedResNet(
                image_size=image_size, width=width, stages=stages, num_heads=num_heads, embed_dim=embed_dim
            )
        else:
            self.image = VisionTransformer(
                image_size=image_size,
                patch_size=patch_size,
                width=width,
                layers=image_layers,
                num_heads=num_heads,
                embed_dim=embed_dim,
                activation=activation,
                pre_norm=pre_norm,
                pool=pool,
            )
        self.text = TextTransformer(
            num_ids=text_tokenizer.num_ids,
            context_length=text_tokenizer.context_length,
            width=text_width or width,
            layers=text_layers,
            num_heads=text_heads or num_heads,
            embed_dim=embed_dim,
            activation=activation,
        )
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10 if loss == "sigmoid" else 1 / 0.07)))
        self.logit_bias = nn.Parameter(torch.tensor(-10.0)) if loss == "sigmoid" else None
        mean, deviation = PIXELS[pixels]
        self._mean, self._deviation = mean, deviation

    def encode_image(self, images: Tensor) -> Tensor:
        """(B,3,H,W) in [0,1] to image_features (B,E), of length one."""
        return F.normalize(self.image(self._normalised(images)), dim=-1)

    def probe_features(self, images: Tensor) -> Tensor:
        """(B,3,H,W) in [0,1] to what a linear probe reads (CLIP, appendix A.3): of a vision transformer (B,D)
        before the projection, of a residual network its attention pool's output (B,E)."""
        images = self._normalised(images)
        return self.image.pooled(images) if isinstance(self.image, VisionTransformer) else self.image(images)

    def _normalised(self, images: Tensor) -> Tensor:
        mean = images.new_tensor(self._mean)[:, None, None]
        deviation = images.new_tensor(self._deviation)[:, None, None]
        return (images - mean) / deviation

    def encode_text(self, text_tokens: Tensor) -> Tensor:
        """(B,T) to text_features (B,E), of length one."""
        return F.normalize(self.text(text_tokens, self.text_tokenizer.end(text_tokens)), dim=-1)

    def training_loss(self, batch: Batch, step: int) -> tuple[Tensor, Logs]:
        """The loss over the batch's pairs, of all processes when there are several (see `mmgen.models.contrast`)."""
        images = batch["image"]
        text_tokens = self.text_tokenizer.encode(batch["caption"], batch["key"] if self.training else None)
        count, broken = len(images), round(self.damaged * len(images)) if self.training else 0
        pictures, seen = images, None
        if broken:
            spoilt, seen = damaged(images[:broken])
            pictures = torch.cat([images, spoilt])
        features = self._in_chunks(self.encode_image, pictures)
        image_features, wrong = features[:count], features[count:]
        text_features = self._in_chunks(self.encode_text, text_tokens.to(images.device))
        scale = held_scale(self.logit_scale, self.training)
        logs: Logs = {"logit_scale": scale.detach()}
        if self.logit_bias is not None:
            loss, right = sigmoid_loss(image_features, text_features, scale, self.logit_bias)
        elif seen is None:
            robustness = self.robustness if self.training else 0.0
            loss, right = softmax_loss(image_features, text_features, scale, robustness)
        else:
            loss, right = softmax_loss(image_features, text_features, scale, self.robustness, (wrong, seen))
            with torch.no_grad():
                better = ((image_features[:broken] - wrong) * text_features[:broken]).sum(1) > 0
                logs["whole_preferred"] = (better & seen).sum() / seen.sum().clamp_min(1)
        return loss, logs | {"batch_accuracy": right}

    def _in_chunks(self, encode: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
        """Rows through a network, `chunk_size` at once: what lies between is made again in the backward pass."""
        if self.chunk_size is None or len(rows) <= self.chunk_size or not self.training:
            return encode(rows)
        chunks = rows.split(self.chunk_size)
        features: list[Tensor] = [checkpoint(encode, chunk, use_reentrant=False) for chunk in chunks]
        return torch.cat(features)
