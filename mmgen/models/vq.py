"""`vq`: an image tokenizer with a vector-quantised codebook (van den Oord et al. 2017, arXiv 1711.00937).

Two trunks: `patches`, which starts as k-means on patches, and `vqgan`, the encoder and decoder of VQGAN (Esser et al.
2021, arXiv 2012.09841); for either its perceptual and adversarial losses on demand.

Letters: B batch, D codebook dim, h w grid, K codes.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from mmgen.models.blocks import (
    ImageDecoder,
    ImageEncoder,
    Trunk,
    VqganDecoder,
    VqganEncoder,
    codebook_use,
    make_trunk,
    to_signed,
    to_unit,
)
from mmgen.models.codebooks import look_up, make_codebook
from mmgen.models.discriminator import Discriminator
from mmgen.models.picture_loss import PictureLoss
from mmgen.protocols import Batch, Logs


class VQ(nn.Module):
    """An image tokenizer: convolutional encoder, nearest code, convolutional decoder.

    Args:
        image_size: H = W, set by the dataset.
        codebook_size: K.
        codebook_dim: D, the length of a code vector.
        downsample: pixels a side that one code stands for.
        width: channels at half the picture's size; they double at each level. Of the vqgan trunk: at the whole size.
        blocks: residual blocks a level.
        commitment_weight: of the loss that holds features close to their codes.
        codebook_decay: of the codebook's moving averages.
        revive_below: uses a batch under which a code is put back to work.
        trunk: `patches`, or `vqgan`.
        codebook: how codes learn: by moving averages of their features (`ema`), by gradient (`straight_through`), or as
            choices drawn by Gumbel-softmax (`gumbel`).
        channel_multipliers: vqgan trunk: each level's width over `width`; null doubles it, four times at most.
        attention_sizes: vqgan trunk: the sides of the feature maps that attention is computed on, besides the grid.
        norm_groups: vqgan trunk: of GroupNorm, at most.
        tau: of the Gumbel-softmax.
        kl_weight: of the Gumbel codebook's KL to the uniform prior.
        pixel_loss: whether the error of a pixel counts squared or absolute.
        perceptual_weight: of LPIPS; 0 leaves it out.
        perceptual_file: a safetensors file with the weights of LPIPS and VGG16.
        perceptual_start: the first step that it counts at.
        adversarial_weight: of the discriminator's verdict, beside a reconstruction of weight 1; 0 leaves it out.
        adversarial_start: the first step at which the discriminator counts and learns.
        discriminator_width: channels of its first layer.
        discriminator_layers: halvings of the picture's size.

    Attributes:
        discriminator: learns beside the tokenizer; None without adversarial loss and in what is published.

    Raises:
        ValueError: a downsample that is no power of two, or does not divide the image size; channel multipliers or a
            discriminator that do not fit them.
        ConfigError: a perceptual loss without a file.
    """

    def __init__(
        self,
        *,
        image_size: int,
        codebook_size: int = 1024,
        codebook_dim: int = 48,
        downsample: int = 4,
        width: int = 64,
        blocks: int = 2,
        commitment_weight: float = 0.25,
        codebook_decay: float = 0.98,
        revive_below: float = 0.05,
        trunk: Trunk = "patches",
        codebook: Literal["ema", "straight_through", "gumbel"] = "ema",
        channel_multipliers: tuple[int, ...] | None = None,
        attention_sizes: tuple[int, ...] = (),
        norm_groups: int = 32,
        tau: float = 1.0,
        kl_weight: float = 5e-4,
        pixel_loss: Literal["squared", "absolute"] = "squared",
        perceptual_weight: float = 0.0,
        perceptual_file: str | None = None,
        perceptual_start: int = 0,
        adversarial_weight: float = 0.0,
        adversarial_start: int = 0,
        discriminator_width: int = 64,
        discriminator_layers: int = 3,
    ) -> None:
        super().__init__()
        self.image_size, self.codebook_size = image_size, codebook_size
        self.picture_loss = PictureLoss(
            pixel_loss, perceptual_weight, perceptual_file, perceptual_start, adversarial_weight, adversarial_start
        )
        self.encoder: ImageEncoder | VqganEncoder
        self.decoder: ImageDecoder | VqganDecoder
        self.encoder, self.decoder = make_trunk(
            trunk,
            image_size=image_size,
            channels=codebook_dim,
            downsample=downsample,
            width=width,
            blocks=blocks,
            channel_multipliers=channel_multipliers,
            attention_sizes=attention_sizes,
            norm_groups=norm_groups,
        )
        self.grid = (image_size // downsample, image_size // downsample)
        self.quant_conv: nn.Module = nn.Identity()
        self.post_quant_conv: nn.Module = nn.Identity()
        if trunk == "vqgan":
            self.quant_conv = nn.Conv2d(codebook_dim, codebook_dim, 1)
            self.post_quant_conv = nn.Conv2d(codebook_dim, codebook_dim, 1)
        self.codebook = make_codebook(
            codebook,
            codebook_size,
            codebook_dim,
            decay=codebook_decay,
            revive_below=revive_below,
            commitment_weight=commitment_weight,
            tau=tau,
            kl_weight=kl_weight,
        )
        self.collapse_advice = self.codebook.collapse_advice
        self.discriminator: Discriminator | None = None
        if adversarial_weight > 0:
            self.discriminator = Discriminator(image_size, discriminator_width, discriminator_layers)

    def features(self, images: Tensor) -> Tensor:
        """(B,3,H,W) in [0,1] to what codes are chosen for (B,D,h,w)."""
        features: Tensor = self.quant_conv(self.encoder(to_signed(images)))
        return features

    def encode(self, images: Tensor) -> Tensor:
        """(B,3,H,W) in [0,1] to indices (B,h,w)."""
        return self.codebook.assign(self.features(images))

    def quantize(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B,3,H,W) in [0,1] to the code vectors (B,D,h,w) at each position, and their indices (B,h,w)."""
        indices = self.encode(images)
        return look_up(indices, self.codebook.codes), indices

    def decode_features(self, features: Tensor) -> Tensor:
        """Code vectors (B,D,h,w) to pictures (B,3,H,W) in [0,1]."""
        return to_unit(self.decoder(self.post_quant_conv(features)))

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (B,h,w) to pictures (B,3,H,W) in [0,1]."""
        return self.decode_features(look_up(indices, self.codebook.codes))

    def training_loss(self, batch: Batch, step: int) -> tuple[Tensor, Logs]:
        """The reconstruction's loss plus the codebook's (eq. 3 of the paper); the discriminator's own, if there is one.

        In eval mode without the adversary: only training batches are judged by it.
        """
        images = to_signed(batch["image"])
        passed, indices, codebook_loss, logs = self.codebook(self.features(batch["image"]), step)
        made = self.decoder(self.post_quant_conv(passed))
        loss, told = self.picture_loss(
            made,
            images,
            step,
            discriminator=self.discriminator if self.training else None,
            last_layer=self.decoder.last_layer,
        )
        psnr = -10 * (to_unit(made.detach()) - batch["image"]).square().mean((1, 2, 3)).clamp_min(1e-10).log10()
        logs = {**told, **logs, "psnr": psnr.mean(), "indices": indices}
        return loss + codebook_loss, logs | codebook_use(indices, self.codebook_size)
