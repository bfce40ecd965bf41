"""`dvae`: DALL·E's discrete VAE (Ramesh et al. 2021, arXiv 2102.12092, section 2.1) at any size.

The encoder gives logits over the codebook at each grid position; in training the choice is relaxed by Gumbel-softmax
(Jang et al. 2016, Maddison et al. 2016) at a temperature tau that falls along a cosine, against a KL to the uniform
prior whose weight rises along one. Outside training the choice is the arg max, and nothing is random.

Letters: B batch, K codes, D codebook dim, h w grid.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.models.blocks import ImageDecoder, ImageEncoder, codebook_use, to_signed, to_unit
from mmgen.protocols import Batch, Logs


def cosine(start: float, end: float, step: int, steps: int) -> float:
    """From `start` at step 0 to `end` at `steps` and after, along half a cosine."""
    share = min(max(step / steps, 0.0), 1.0) if steps else 1.0
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


class Dvae(nn.Module):
    """An image tokenizer: logits over the codebook, Gumbel-softmax in training, arg max after it.

    Args:
        image_size: H = W, set by the dataset.
        codebook_size: K.
        codebook_dim: D, the length of a code's embedding.
        downsample: pixels a side that one code stands for.
        width: channels at half the picture's size; they double at each level.
        blocks: residual blocks a level.
        tau_start: Gumbel-softmax temperature at step 0.
        tau_end: and from `tau_steps` on; the paper's 1/16 brings the relaxation close to the arg max.
        tau_steps: length of the cosine between them.
        kl_weight: of the KL to the uniform prior at the end of its cosine from 0; in units of the mean over positions.
        kl_steps: length of that cosine.

    Raises:
        ValueError: a downsample that is no power of two, or does not divide the image size; a temperature of 0 or less.
    """

    def __init__(
        self,
        *,
        image_size: int,
        codebook_size: int = 1024,
        codebook_dim: int = 64,
        downsample: int = 4,
        width: int = 32,
        blocks: int = 2,
        tau_start: float = 1.0,
        tau_end: float = 1 / 16,
        tau_steps: int = 500,
        kl_weight: float = 1e-4,
        kl_steps: int = 200,
    ) -> None:
        super().__init__()
        if image_size % downsample:
            raise ValueError(f"downsample={downsample} does not divide image_size={image_size}")
        if min(tau_start, tau_end) <= 0:
            raise ValueError(f"tau must stay above 0, got tau_start={tau_start}, tau_end={tau_end}")
        self.image_size, self.codebook_size = image_size, codebook_size
        self.grid = (image_size // downsample, image_size // downsample)
        self.tau_start, self.tau_end, self.tau_steps = tau_start, tau_end, tau_steps
        self.kl_weight, self.kl_steps = kl_weight, kl_steps
        self.encoder = ImageEncoder(codebook_dim, width, blocks, downsample)
        self.to_logits = nn.Conv2d(codebook_dim, codebook_size, 1)
        self.codebook = nn.Parameter(torch.randn(codebook_size, codebook_dim) / codebook_dim**0.5)
        self.decoder = ImageDecoder(codebook_dim, width, blocks, downsample)

    def logits(self, images: Tensor) -> Tensor:
        """(B,3,H,W) in [0,1] to (B,K,h,w)."""
        logits: Tensor = self.to_logits(self.encoder(to_signed(images)))
        return logits

    def encode(self, images: Tensor) -> Tensor:
        """(B,3,H,W) in [0,1] to indices (B,h,w)."""
        return self.logits(images).argmax(1)

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (B,h,w) to pictures (B,3,H,W) in [0,1]."""
        return to_unit(self.decoder(F.embedding(indices, self.codebook).permute(0, 3, 1, 2)))

    def training_loss(self, batch: Batch, step: int) -> tuple[Tensor, Logs]:
        """Squared error plus the weighted KL to the uniform prior: the paper's ELB but for the likelihood's form."""
        logits = self.logits(batch["image"])
        tau = cosine(self.tau_start, self.tau_end, step, self.tau_steps)
        kl_weight = cosine(0.0, self.kl_weight, step, self.kl_steps)
        log_probs = F.log_softmax(logits, dim=1)
        kl = (log_probs.exp() * (log_probs + math.log(self.codebook_size))).sum(1).mean()
        if self.training:
            weights = F.gumbel_softmax(logits, tau=tau, dim=1)
            codes = torch.einsum("bkhw,kd->bdhw", weights, self.codebook)
        else:
            codes = F.embedding(logits.argmax(1), self.codebook).permute(0, 3, 1, 2)
        output = self.decoder(codes)
        error = F.mse_loss(output, to_signed(batch["image"]))
        psnr = -10 * (to_unit(output.detach()) - batch["image"]).square().mean((1, 2, 3)).clamp_min(1e-10).log10()
        logs: Logs = {"reconstruction": error.detach(), "kl": kl.detach(), "psnr": psnr.mean()}
        logs |= {"tau": tau, "kl_weight": kl_weight}
        return error + kl_weight * kl, logs | codebook_use(logits.argmax(1), self.codebook_size)
