"""`dvae`: DALL·E's discrete VAE (Ramesh et al. 2021, arXiv 2102.12092, section 2.1 and appendix A) at any size.

The encoder gives logits over the codebook at each grid position; in training the choice is relaxed by Gumbel-softmax
(Jang et al. 2016, Maddison et al. 2016) at a temperature tau that falls along a cosine, against a KL to the uniform
prior whose weight rises along one. Outside training the choice is the arg max, and nothing is random. The decoder gives
a distribution of every value of the picture, in the paper a logit-Laplace one.

Letters: B batch, K codes, D the decoder's first width, H W pixels, h w grid.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.models.blocks import codebook_use
from mmgen.models.dvae_trunk import DvaeDecoder, DvaeEncoder
from mmgen.protocols import Batch, Logs

EPSILON = 0.1  # how far the pixel map keeps values from 0 and 1, where the logit-Laplace density ends (appendix A.3)

SIGMA = 0.1  # of `likelihood: normal`
SPREAD = 12.0  # the first logits of `start: spread` over the paper's; it makes their spread over pictures about 2


def cosine(start: float, end: float, step: int, steps: int) -> float:
    """From `start` at step 0 to `end` at `steps` and after, along half a cosine."""
    share = min(max(step / steps, 0.0), 1.0) if steps else 1.0
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))


def map_pixels(images: Tensor) -> Tensor:
    """[0,1] to [ε,1-ε]: (1-2ε)x + ε, what the encoder reads and the likelihood is of."""
    return (1 - 2 * EPSILON) * images + EPSILON


def unmap_pixels(values: Tensor) -> Tensor:
    """The inverse of `map_pixels`, clamped to [0,1]."""
    return ((values - EPSILON) / (1 - 2 * EPSILON)).clamp(0, 1)


def logit_laplace(values: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
    """The logarithm of the logit-Laplace density, in nats, elementwise (appendix A.3, equation 2).

    Args:
        values: in (0,1), open at both ends.
        mean: μ, of the logits of the values.
        log_scale: ln b.
    """
    distance = (torch.logit(values) - mean).abs()
    return -math.log(2) - log_scale - (values * (1 - values)).log() - distance * (-log_scale).exp()


class Dvae(nn.Module):
    """An image tokenizer: logits over the codebook, Gumbel-softmax in training, arg max after it.

    The defaults are for pictures of 32 pixels and hundreds of steps on a CPU; the paper's, for three million steps, are
    `tokenizer=dalle_dvae`.

    Args:
        image_size: H = W, set by the dataset.
        codebook_size: K.
        width: channels of the encoder's first and the decoder's last group.
        num_groups: groups of blocks on each side; one code stands for 2^(num_groups-1) pixels a side.
        blocks_per_group: residual blocks in each.
        decoder_width: D, channels of the decoder's first convolution: the length of a code.
        residual_scale: what a residual branch is multiplied by; null: 1/(num_groups·blocks_per_group)², the paper's.
        start: of the weights. paper: all filters N(0, 1/sqrt(n_in·k²)), and no code stands out. spread: mid grey is
            zero, logits are a dozen times as large and codes have entries of about 1, so that from the first step on
            pictures choose different codes and the decoder sees which.
        likelihood: of a value. logit_laplace: the paper's; its learned scale grows where a picture is hard, which takes
            the gradient away from there. normal: the squared error, with a fixed deviation of 0.1.
        tau_start: Gumbel-softmax temperature at step 0.
        tau_end: and from `tau_steps` on; the paper's 1/16 brings the relaxation close to the arg max.
        tau_steps: length of the cosine between them.
        kl_weight: β, the weight of the KL to the uniform prior at the end of its cosine from 0; the evidence bound is
            divided by the number of values, 3·H·W, so that β stands before the KL's sum over positions over 3·H·W.
        kl_steps: length of that cosine.
        balance_weight: of the divergence from uniform of the mean choice over a (rank's) batch, in β's units: what
            keeps a short training from settling on few codes. The paper has none.

    Raises:
        ValueError: an image size that 2^(num_groups-1) does not divide; a width that is no multiple of 4; a temperature
            of 0 or less.
    """

    collapse_advice = "raise tokenizer.balance_weight, lengthen tokenizer.tau_steps, or lower task.optimizer.lr"

    def __init__(
        self,
        *,
        image_size: int,
        codebook_size: int = 1024,
        width: int = 32,
        num_groups: int = 3,
        blocks_per_group: int = 2,
        decoder_width: int = 64,
        residual_scale: float | None = 0.4,
        start: Literal["paper", "spread"] = "spread",
        likelihood: Literal["logit_laplace", "normal"] = "normal",
        tau_start: float = 1.0,
        tau_end: float = 1 / 16,
        tau_steps: int = 500,
        kl_weight: float = 0.0,
        kl_steps: int = 200,
        balance_weight: float = 6.6,
    ) -> None:
        super().__init__()
        if min(num_groups, blocks_per_group) < 1 or image_size % 2 ** (num_groups - 1):
            raise ValueError(
                f"num_groups={num_groups} makes {2 ** max(num_groups - 1, 0)} pixels a side into one code, which does "
                f"not divide image_size={image_size}"
            )
        if width < 4 or width % 4:
            raise ValueError(f"width={width} is no multiple of 4: a residual branch has a quarter of the channels")
        if min(tau_start, tau_end) <= 0:
            raise ValueError(f"tau must stay above 0, got tau_start={tau_start}, tau_end={tau_end}")
        self.image_size, self.codebook_size = image_size, codebook_size
        self.grid = (image_size // 2 ** (num_groups - 1),) * 2
        self.likelihood = likelihood
        self.tau_start, self.tau_end, self.tau_steps = tau_start, tau_end, tau_steps
        self.kl_weight, self.kl_steps, self.balance_weight = kl_weight, kl_steps, balance_weight
        scale = (num_groups * blocks_per_group) ** -2 if residual_scale is None else residual_scale
        self.encoder = DvaeEncoder(codebook_size, width, num_groups, blocks_per_group, scale)
        self.decoder = DvaeDecoder(codebook_size, decoder_width, width, num_groups, blocks_per_group, scale)
        if start == "spread":
            self._spread()

    @torch.no_grad()
    def _spread(self) -> None:
        first, last, codes = self.encoder.blocks.input, self.encoder.blocks.output.conv, self.decoder.blocks.input
        first.bias.copy_(-0.5 * first.weight.sum((1, 2, 3)))
        last.weight.mul_(SPREAD)
        nn.init.normal_(codes.weight)

    def logits(self, images: Tensor) -> Tensor:
        """(B,3,H,W) in [0,1] to (B,K,h,w)."""
        logits: Tensor = self.encoder(map_pixels(images))
        return logits

    def encode(self, images: Tensor) -> Tensor:
        """(B,3,H,W) in [0,1] to indices (B,h,w)."""
        return self.logits(images).argmax(1)

    def quantize(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B,3,H,W) in [0,1] to features (B,D,h,w), the codes as the decoder is fed them, and indices (B,h,w)."""
        indices = self.encode(images)
        return self.decoder.look_up(indices), indices

    def decode_features(self, features: Tensor) -> Tensor:
        """Features (B,D,h,w) to pictures (B,3,H,W) in [0,1]: the logits' location μ, without the scale."""
        return unmap_pixels(torch.sigmoid(self.decoder(features)[0]))

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (B,h,w) to pictures (B,3,H,W) in [0,1]."""
        return self.decode_features(self.decoder.look_up(indices))

    def training_loss(self, batch: Batch, step: int) -> tuple[Tensor, Logs]:
        """The negative evidence bound in nats a value (equation 1, over 3·H·W), plus the weighted balance."""
        images = batch["image"]
        logits = self.logits(images)
        indices = logits.argmax(1)
        log_probs = F.log_softmax(logits, dim=1)
        kl = self._from_uniform(log_probs).mean()
        tau = cosine(self.tau_start, self.tau_end, step, self.tau_steps)
        kl_weight = cosine(0.0, self.kl_weight, step, self.kl_steps)
        if self.training:
            features = self.decoder.mix(F.gumbel_softmax(logits, tau=tau, dim=1))
        else:
            features = self.decoder.look_up(indices)
        mean, log_scale = self.decoder(features)
        reconstruction = self._surprise(map_pixels(images), mean, log_scale)
        share = indices[0].numel() / images[0].numel()  # positions over values: 1/192 in the paper
        loss = reconstruction + share * kl_weight * kl
        logs: Logs = {"reconstruction": reconstruction.detach(), "kl": kl.detach(), "tau": tau, "kl_weight": kl_weight}
        if self.balance_weight:
            balance = self._from_uniform(log_probs.exp().mean((0, 2, 3), keepdim=True).clamp_min(1e-12).log()).mean()
            loss = loss + share * self.balance_weight * balance
            logs["balance"] = balance.detach()
        error = (unmap_pixels(torch.sigmoid(mean.detach())) - images).square().mean((1, 2, 3))
        logs |= {"psnr": -10 * error.clamp_min(1e-10).log10().mean(), "scale": log_scale.detach().exp().mean()}
        return loss, logs | codebook_use(indices, self.codebook_size) | {"indices": indices}

    def _surprise(self, values: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        """The negative log-likelihood of the mapped values, in nats a value, by μ and ln b."""
        if self.likelihood == "logit_laplace":
            return -logit_laplace(values, mean, log_scale).mean()
        squares = (torch.sigmoid(mean) - values).square().mean() / SIGMA**2
        return squares / 2 + math.log(SIGMA * math.sqrt(2 * math.pi))

    def _from_uniform(self, log_probs: Tensor) -> Tensor:
        """Log-probabilities (B,K,h,w) to their KL (B,h,w) from the uniform distribution, in nats, 0 to ln K."""
        return (log_probs.exp() * (log_probs + math.log(self.codebook_size))).sum(1)
