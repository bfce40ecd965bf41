"""`dvae`: DALL·E's discrete VAE (Ramesh et al. 2021, arXiv 2102.12092, section 2.1 and appendix A) at any size.

The encoder gives logits over the codebook at each grid position; in training the choice is relaxed by Gumbel-softmax
(Jang et al. 2016, Maddison et al. 2016) at a temperature tau that falls along a cosine, against a KL to the uniform
prior whose weight rises along one. Outside training the choice is the arg max, and nothing is random. The decoder gives
a logit-Laplace distribution of every value of the picture.

Modules carry the names of the published one (package `dall_e`): `encoder.blocks.group_1.block_1.res_path.conv_1`.

Letters: B batch, C channels, K codes, D the decoder's first width, H W pixels, h w grid.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.models.blocks import codebook_use
from mmgen.protocols import Batch, Logs

EPSILON = 0.1  # how far the pixel map keeps values from 0 and 1, where the logit-Laplace density ends (appendix A.3)


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


class Bottleneck(nn.Module):
    """id(x) + scale · res(x): four convolutions, each behind a ReLU, through a quarter of the channels.

    Args:
        in_channels: C that comes in; where it is another than `channels`, a 1×1 convolution takes the place of id.
        channels: C that goes out.
        kernels: sides of the four filters.
        scale: what the branch is multiplied by.
    """

    def __init__(self, in_channels: int, channels: int, kernels: tuple[int, ...], scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.id_path = nn.Identity() if in_channels == channels else nn.Conv2d(in_channels, channels, 1)
        widths = [in_channels, *[channels // 4] * (len(kernels) - 1), channels]
        layers: list[tuple[str, nn.Module]] = []
        for i, side in enumerate(kernels):
            convolution = nn.Conv2d(widths[i], widths[i + 1], side, padding=side // 2)
            layers += [(f"relu_{i + 1}", nn.ReLU()), (f"conv_{i + 1}", convolution)]
        self.res_path = nn.Sequential(OrderedDict(layers))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.id_path(x) + self.scale * self.res_path(x)
        return out


def _group(in_channels: int, channels: int, blocks: int, kernels: tuple[int, ...], scale: float) -> nn.Sequential:
    widths = [in_channels] + [channels] * blocks
    names = [f"block_{i + 1}" for i in range(blocks)]
    made = [Bottleneck(widths[i], channels, kernels, scale) for i in range(blocks)]
    return nn.Sequential(OrderedDict(zip(names, made, strict=True)))


def _trunk(layers: list[tuple[str, nn.Module]], in_channels: int, out_channels: int) -> nn.Sequential:
    """The layers, then ReLU and a 1×1 convolution; all weights N(0, 1/sqrt(n_in·k²)), all biases zero."""
    output = OrderedDict(relu=nn.ReLU(), conv=nn.Conv2d(in_channels, out_channels, 1))
    trunk = nn.Sequential(OrderedDict([*layers, ("output", nn.Sequential(output))]))
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return trunk


class DvaeEncoder(nn.Module):
    """Pictures (B,3,H,W), mapped, to logits (B,K,h,w): each group but the last ends in a max-pool; widths double.

    Args:
        codebook_size: K.
        width: channels of the first group.
        groups: H/h is 2^(groups-1).
        blocks: residual blocks a group.
        scale: of their branches.
    """

    def __init__(self, codebook_size: int, width: int, groups: int, blocks: int, scale: float) -> None:
        super().__init__()
        layers: list[tuple[str, nn.Module]] = [("input", nn.Conv2d(3, width, 7, padding=3))]
        channels = width
        for i in range(groups):
            group = _group(channels, width * 2**i, blocks, (3, 3, 3, 1), scale)
            if i + 1 < groups:
                group.add_module("pool", nn.MaxPool2d(2))
            layers.append((f"group_{i + 1}", group))
            channels = width * 2**i
        self.blocks = _trunk(layers, channels, codebook_size)

    def forward(self, values: Tensor) -> Tensor:
        return _in_full(self.blocks.output, self.blocks[:-1](values))


class DvaeDecoder(nn.Module):
    """The way back: weights of the codes (B,K,h,w) to features (B,D,h,w), and these to μ and ln b (B,6,H,W).

    `blocks.input` is a 1×1 convolution over codes: its filters are the codebook.

    Args:
        codebook_size: K.
        first: D.
        width: channels of the last group; in the first they are 2^(groups-1) times as many.
        groups, blocks, scale: as in the encoder.
    """

    def __init__(self, codebook_size: int, first: int, width: int, groups: int, blocks: int, scale: float) -> None:
        super().__init__()
        layers: list[tuple[str, nn.Module]] = [("input", nn.Conv2d(codebook_size, first, 1))]
        channels = first
        for i in range(groups):
            size = width * 2 ** (groups - 1 - i)
            group = _group(channels, size, blocks, (1, 3, 3, 3), scale)
            if i + 1 < groups:
                group.add_module("upsample", nn.Upsample(scale_factor=2, mode="nearest"))
            layers.append((f"group_{i + 1}", group))
            channels = size
        self.blocks = _trunk(layers, channels, 6)

    def mix(self, weights: Tensor) -> Tensor:
        """Weights of the codes (B,K,h,w) to features (B,D,h,w)."""
        return _in_full(self.blocks.input, weights)

    def look_up(self, indices: Tensor) -> Tensor:
        """Indices (B,h,w) to features (B,D,h,w): `mix` of one-hot weights, without making them."""
        first: nn.Conv2d = self.blocks.input  # type: ignore[assignment]
        assert first.bias is not None
        return (F.embedding(indices, first.weight[:, :, 0, 0].T) + first.bias).permute(0, 3, 1, 2).contiguous()

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B,D,h,w) to μ and ln b, each (B,3,H,W)."""
        mean, log_scale = self.blocks[1:](features).float().chunk(2, dim=1)
        return mean, log_scale


def _in_full(layer: nn.Module, x: Tensor) -> Tensor:
    """The layer in the precision of its weights, whatever autocast says: logits and codes stay fp32 in the paper too."""
    device = x.device.type
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        out: Tensor = layer(x)
        return out
    with torch.autocast(device, enabled=False):
        return _in_full(layer, x.to(next(layer.parameters()).dtype))


class Dvae(nn.Module):
    """An image tokenizer: logits over the codebook, Gumbel-softmax in training, arg max after it.

    The defaults are for pictures of 32 pixels on a CPU; the paper's are `tokenizer=dalle_dvae`.

    Args:
        image_size: H = W, set by the dataset.
        codebook_size: K.
        width: channels of the encoder's first and the decoder's last group.
        num_groups: groups of blocks on each side; one code stands for 2^(num_groups-1) pixels a side.
        blocks_per_group: residual blocks in each.
        decoder_width: D, channels of the decoder's first convolution: the length of a code.
        residual_scale: what a residual branch is multiplied by; null: 1/(num_groups·blocks_per_group)², the paper's.
        tau_start: Gumbel-softmax temperature at step 0.
        tau_end: and from `tau_steps` on; the paper's 1/16 brings the relaxation close to the arg max.
        tau_steps: length of the cosine between them.
        kl_weight: β, the weight of the KL to the uniform prior at the end of its cosine from 0; the evidence bound is
            divided by the number of values, 3·H·W, so that β stands before the KL's sum over positions over 3·H·W.
        kl_steps: length of that cosine.

    Raises:
        ValueError: an image size that 2^(num_groups-1) does not divide; a width that is no multiple of 4; a temperature
            of 0 or less.
    """

    collapse_advice = "lengthen tokenizer.tau_steps and tokenizer.kl_steps, or lower task.optimizer.lr"

    def __init__(
        self,
        *,
        image_size: int,
        codebook_size: int = 1024,
        width: int = 32,
        num_groups: int = 3,
        blocks_per_group: int = 2,
        decoder_width: int = 64,
        residual_scale: float | None = None,
        tau_start: float = 1.0,
        tau_end: float = 1 / 16,
        tau_steps: int = 500,
        kl_weight: float = 6.6,
        kl_steps: int = 200,
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
        self.tau_start, self.tau_end, self.tau_steps = tau_start, tau_end, tau_steps
        self.kl_weight, self.kl_steps = kl_weight, kl_steps
        scale = (num_groups * blocks_per_group) ** -2 if residual_scale is None else residual_scale
        self.encoder = DvaeEncoder(codebook_size, width, num_groups, blocks_per_group, scale)
        self.decoder = DvaeDecoder(codebook_size, decoder_width, width, num_groups, blocks_per_group, scale)

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
        """Features (B,D,h,w) to pictures (B,3,H,W) in [0,1]: the mode of the logits, without the scale."""
        return unmap_pixels(torch.sigmoid(self.decoder(features)[0]))

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (B,h,w) to pictures (B,3,H,W) in [0,1]."""
        return self.decode_features(self.decoder.look_up(indices))

    def training_loss(self, batch: Batch, step: int) -> tuple[Tensor, Logs]:
        """The negative evidence bound in nats a value (equation 1, over 3·H·W): likelihood plus weighted KL."""
        images = batch["image"]
        logits = self.logits(images)
        indices = logits.argmax(1)
        tau = cosine(self.tau_start, self.tau_end, step, self.tau_steps)
        kl_weight = cosine(0.0, self.kl_weight, step, self.kl_steps)
        log_probs = F.log_softmax(logits, dim=1)
        kl = (log_probs.exp() * (log_probs + math.log(self.codebook_size))).sum(1).mean()
        if self.training:
            features = self.decoder.mix(F.gumbel_softmax(logits, tau=tau, dim=1))
        else:
            features = self.decoder.look_up(indices)
        mean, log_scale = self.decoder(features)
        reconstruction = -logit_laplace(map_pixels(images), mean, log_scale).mean()
        positions, values = indices[0].numel(), images[0].numel()
        loss = reconstruction + kl_weight * kl * positions / values
        error = (unmap_pixels(torch.sigmoid(mean.detach())) - images).square().mean((1, 2, 3))
        logs: Logs = {"reconstruction": reconstruction.detach(), "kl": kl.detach(), "tau": tau, "kl_weight": kl_weight}
        logs |= {"psnr": -10 * error.clamp_min(1e-10).log10().mean(), "scale": log_scale.detach().exp().mean()}
        return loss, logs | codebook_use(indices, self.codebook_size) | {"indices": indices}
