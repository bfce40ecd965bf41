"""Image tokenizers without a codebook to learn: `fsq`, `lfq`, quantisers of vector-quantize-pytorch in mmgen's trunks.

Letters: B batch, C channels of the grid, h w grid.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.models.blocks import Trunk, codebook_use, make_trunk, to_signed, to_unit
from mmgen.protocols import Batch, Logs

# vector_quantize_pytorch is imported where a tokenizer is built: it takes seconds, and a command that only checks
# options need not wait. Its quantisers read numbers off tensors while they are built, so they are built on the CPU even
# where the rest is on the meta device.


class Quantized(nn.Module):
    """Encoder, a quantiser that is a function and not a table, decoder.

    Args:
        codebook_size: how many codes there are.
        quantizer: `indices_to_codes` gives the grid (B,C,h,w) of indices (B,h,w).
        image_size, downsample, sizes: as `mmgen.models.blocks.make_trunk` takes them.
    """

    def __init__(self, codebook_size: int, quantizer: Any, *, image_size: int, downsample: int, **sizes: Any) -> None:
        super().__init__()
        self.image_size, self.codebook_size = image_size, codebook_size
        self.encoder, self.decoder = make_trunk(image_size=image_size, downsample=downsample, **sizes)
        self.grid = (image_size // downsample, image_size // downsample)
        self.quantizer = quantizer

    def choose(self, images: Tensor) -> tuple[Tensor, Tensor, Logs, Tensor | None]:
        """(B,3,H,W) in [0,1] to what the decoder is fed (B,C,h,w), indices (B,h,w), logs, and the quantiser's loss."""
        raise NotImplementedError

    def encode(self, images: Tensor) -> Tensor:
        """(B,3,H,W) in [0,1] to indices (B,h,w)."""
        return self.choose(images)[1]

    def quantize(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B,3,H,W) in [0,1] to the grid that the decoder is fed (B,C,h,w), and its indices (B,h,w)."""
        indices = self.encode(images)
        # Not what the quantiser passed on: it rounds by z + (round(z) - z), which is off in the last bits.
        return self.quantizer.indices_to_codes(indices), indices

    def decode_features(self, features: Tensor) -> Tensor:
        """(B,C,h,w) to pictures (B,3,H,W) in [0,1]."""
        return to_unit(self.decoder(features))

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (B,h,w) to pictures (B,3,H,W) in [0,1]."""
        return self.decode_features(self.quantizer.indices_to_codes(indices))

    def training_loss(self, batch: Batch, step: int) -> tuple[Tensor, Logs]:
        """Squared error of the reconstruction, plus the quantiser's own loss where it has one."""
        passed, indices, logs, own = self.choose(batch["image"])
        made = self.decoder(passed)
        error = F.mse_loss(made, to_signed(batch["image"]))
        psnr = -10 * (to_unit(made.detach()) - batch["image"]).square().mean((1, 2, 3)).clamp_min(1e-10).log10()
        logs = {"reconstruction": error.detach(), "psnr": psnr.mean(), "indices": indices, **logs}
        return error if own is None else error + own, logs | codebook_use(indices, self.codebook_size)


class FSQ(Quantized):
    """Finite scalar quantisation (Mentzer et al. 2023, arXiv 2309.15505): a few numbers at each position, each rounded
    to one of a few levels. No codes to collapse, and no loss but the reconstruction's.

    Args:
        image_size: H = W, set by the dataset.
        levels: of each number, at least 3; their product is the number of codes. Table 1 of the paper has good ones.
        channels: of the grid; a linear map leads to the numbers, and one back.
        downsample: pixels a side that one code stands for.
        width: channels at half the picture's size; of the vqgan trunk at the whole.
        blocks: residual blocks a level.
        trunk: `patches` or `vqgan`, as in `vq`.
        channel_multipliers: vqgan trunk: each level's width over `width`.
        attention_sizes: vqgan trunk: sides of the feature maps with attention, besides the grid.
        norm_groups: vqgan trunk: of GroupNorm, at most.

    Raises:
        ValueError: sizes that do not fit each other, or a level below 3.
    """

    collapse_advice = "lower task.optimizer.lr, or take fewer tokenizer.levels"

    def __init__(
        self,
        *,
        image_size: int,
        levels: tuple[int, ...] = (8, 5, 5, 5),
        channels: int = 48,
        downsample: int = 4,
        width: int = 64,
        blocks: int = 2,
        trunk: Trunk = "patches",
        channel_multipliers: tuple[int, ...] | None = None,
        attention_sizes: tuple[int, ...] = (),
        norm_groups: int = 32,
    ) -> None:
        from vector_quantize_pytorch import FSQ as Quantizer

        if not levels or min(levels) < 3:
            raise ValueError(f"levels={list(levels)} must each be at least 3")
        with torch.device("cpu"):
            quantizer = Quantizer(list(levels), dim=channels)
        super().__init__(
            math.prod(levels),
            quantizer,
            image_size=image_size,
            channels=channels,
            downsample=downsample,
            width=width,
            blocks=blocks,
            trunk=trunk,
            channel_multipliers=channel_multipliers,
            attention_sizes=attention_sizes,
            norm_groups=norm_groups,
        )

    def choose(self, images: Tensor) -> tuple[Tensor, Tensor, Logs, Tensor | None]:
        passed, indices = self.quantizer(self.encoder(to_signed(images)))
        return passed, indices.long(), {}, None


class LFQ(Quantized):
    """Lookup-free quantisation (Yu et al. 2023, arXiv 2310.05737, section 3.1): a few numbers at each position, of
    which the signs alone are kept. Its loss wants each choice certain and all choices used.

    Args:
        image_size: H = W, set by the dataset.
        codebook_size: a power of two; its logarithm is how many signs there are.
        channels: of the grid; a linear map leads to the numbers, and one back.
        entropy_weight: of the entropy of a choice less `diversity` times the entropy of a batch's choices.
        diversity: see above.
        commitment_weight: of the loss that holds the numbers close to their signs.
        downsample: pixels a side that one code stands for.
        width: channels at half the picture's size; of the vqgan trunk at the whole.
        blocks: residual blocks a level.
        trunk: `patches` or `vqgan`, as in `vq`.
        channel_multipliers: vqgan trunk: each level's width over `width`.
        attention_sizes: vqgan trunk: sides of the feature maps with attention, besides the grid.
        norm_groups: vqgan trunk: of GroupNorm, at most.

    Raises:
        ValueError: sizes that do not fit each other, or a codebook size that is no power of two.
    """

    collapse_advice = "raise tokenizer.entropy_weight or tokenizer.diversity"

    def __init__(
        self,
        *,
        image_size: int,
        codebook_size: int = 1024,
        channels: int = 48,
        entropy_weight: float = 0.1,
        diversity: float = 1.0,
        commitment_weight: float = 0.25,
        downsample: int = 4,
        width: int = 64,
        blocks: int = 2,
        trunk: Trunk = "patches",
        channel_multipliers: tuple[int, ...] | None = None,
        attention_sizes: tuple[int, ...] = (),
        norm_groups: int = 32,
    ) -> None:
        from vector_quantize_pytorch import LFQ as Quantizer

        if codebook_size < 2 or codebook_size & (codebook_size - 1):
            raise ValueError(f"codebook_size={codebook_size} is not a power of two")
        with torch.device("cpu"):
            quantizer = Quantizer(
                dim=channels,
                codebook_size=codebook_size,
                entropy_loss_weight=entropy_weight,
                diversity_gamma=diversity,
                commitment_loss_weight=commitment_weight,
            )
        super().__init__(
            codebook_size,
            quantizer,
            image_size=image_size,
            channels=channels,
            downsample=downsample,
            width=width,
            blocks=blocks,
            trunk=trunk,
            channel_multipliers=channel_multipliers,
            attention_sizes=attention_sizes,
            norm_groups=norm_groups,
        )

    def choose(self, images: Tensor) -> tuple[Tensor, Tensor, Logs, Tensor | None]:
        (passed, indices, own), parts = self.quantizer(self.encoder(to_signed(images)), return_loss_breakdown=True)
        logs: Logs = {
            "sample_entropy": parts.per_sample_entropy.detach(),
            "batch_entropy": parts.batch_entropy.detach(),
            "commitment_loss": parts.commitment.detach(),
        }
        return passed, indices.long(), logs, own
