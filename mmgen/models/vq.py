"""`vq`: an image tokenizer with a vector-quantised codebook (van den Oord et al. 2017, arXiv 1711.00937).

The codebook follows the features by moving averages (appendix A.1 there); codes that go unused are put back to work on
features of the batch, as in Jukebox (arXiv 2005.00341, section 3.2).

Letters: B batch, D codebook dim, h w grid, K codes, M = B·h·w.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.models.blocks import ImageDecoder, ImageEncoder, codebook_use, to_signed, to_unit
from mmgen.protocols import Batch, Logs


class Codebook(nn.Module):
    """K code vectors that follow the features assigned to them; no gradient reaches it.

    Args:
        size: K.
        dim: D.
        decay: of the moving averages, in [0,1).
        revive_below: a code whose moving count of uses a batch falls under this starts anew on a feature of the batch.
    """

    codes: Tensor
    counts: Tensor
    sums: Tensor
    started: Tensor

    def __init__(self, size: int, dim: int, decay: float, revive_below: float) -> None:
        super().__init__()
        self.decay, self.revive_below = decay, revive_below
        self.register_buffer("codes", torch.randn(size, dim) / dim**0.5)
        self.register_buffer("counts", torch.ones(size))
        self.register_buffer("sums", self.codes.clone())
        self.register_buffer("started", torch.tensor(False))

    def nearest(self, features: Tensor) -> Tensor:
        """(M,D) to the index (M,) of the nearest code."""
        return (self.codes.square().sum(1) - 2 * features @ self.codes.T).argmin(1)

    @torch.no_grad()
    def follow(self, features: Tensor, indices: Tensor) -> None:
        """One step of the moving averages, then unused codes are revived. The first call puts all codes on features."""
        if not self.started:
            self._restart(torch.ones_like(self.counts, dtype=torch.bool), features)
            self.started.fill_(True)
            indices = self.nearest(features)
        counts = torch.bincount(indices, minlength=len(self.codes)).to(features.dtype)
        sums = torch.zeros_like(self.sums).index_add_(0, indices, features)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        self.codes.copy_(self.sums / self.counts.clamp_min(1e-5)[:, None])
        self._restart(self.counts < self.revive_below, features)

    def _restart(self, which: Tensor, features: Tensor) -> None:
        """Puts the codes of `which` (K,) on random features; a little noise keeps two of them apart."""
        rows = which.nonzero().flatten()
        if not len(rows):
            return
        chosen = features[torch.randint(len(features), (len(rows),), device=features.device)]
        chosen = chosen + 0.01 * features.std() * torch.randn_like(chosen)
        self.counts[rows] = max(1.0, 2 * self.revive_below)
        self.sums[rows] = chosen * self.counts[rows, None]
        self.codes[rows] = chosen


class VQ(nn.Module):
    """An image tokenizer: convolutional encoder, nearest code, convolutional decoder.

    Args:
        image_size: H = W, set by the dataset.
        codebook_size: K.
        codebook_dim: D, the length of a code vector.
        downsample: pixels a side that one code stands for.
        width: channels at half the picture's size; they double at each level.
        blocks: residual blocks a level.
        commitment_weight: of the loss that holds features close to their codes.
        codebook_decay: of the codebook's moving averages.
        revive_below: uses a batch under which a code is put back to work.

    Raises:
        ValueError: a downsample that is no power of two, or does not divide the image size.
    """

    collapse_advice = "raise tokenizer.commitment_weight, or lower task.optimizer.lr"

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
    ) -> None:
        super().__init__()
        if image_size % downsample:
            raise ValueError(f"downsample={downsample} does not divide image_size={image_size}")
        self.image_size, self.codebook_size = image_size, codebook_size
        self.grid = (image_size // downsample, image_size // downsample)
        self.commitment_weight = commitment_weight
        self.encoder = ImageEncoder(codebook_dim, width, blocks, downsample)
        self.decoder = ImageDecoder(codebook_dim, width, blocks, downsample)
        self.decoder.invert(self.encoder)
        self.codebook = Codebook(codebook_size, codebook_dim, codebook_decay, revive_below)

    def encode(self, images: Tensor) -> Tensor:
        """(B,3,H,W) in [0,1] to indices (B,h,w)."""
        return self._assign(self.encoder(to_signed(images)))[1]

    def quantize(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(B,3,H,W) in [0,1] to the code vectors (B,D,h,w) at each position, and their indices (B,h,w)."""
        indices = self.encode(images)
        return self._look_up(indices), indices

    def decode_features(self, features: Tensor) -> Tensor:
        """Code vectors (B,D,h,w) to pictures (B,3,H,W) in [0,1]."""
        return to_unit(self.decoder(features))

    def decode(self, indices: Tensor) -> Tensor:
        """Indices (B,h,w) to pictures (B,3,H,W) in [0,1]."""
        return self.decode_features(self._look_up(indices))

    def _look_up(self, indices: Tensor) -> Tensor:
        """Indices (B,h,w) to code vectors (B,D,h,w)."""
        return F.embedding(indices, self.codebook.codes).permute(0, 3, 1, 2)

    def _assign(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B,D,h,w) to the same as rows (M,D), and indices (B,h,w)."""
        rows = features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])
        batch, _, height, width = features.shape
        return rows, self.codebook.nearest(rows).view(batch, height, width)

    def training_loss(self, batch: Batch, step: int) -> tuple[Tensor, Logs]:
        """Squared error of the reconstruction plus commitment (eq. 3 of the paper; the codebook moves by averages)."""
        images = to_signed(batch["image"])
        features = self.encoder(images)
        rows, indices = self._assign(features)
        if self.training:
            self.codebook.follow(rows.detach(), indices.flatten())
            indices = self.codebook.nearest(rows.detach()).view(indices.shape)
        codes = self._look_up(indices)
        commitment = F.mse_loss(features, codes)
        # Straight through: the decoder sees the codes, the encoder gets the decoder's gradient.
        output = self.decoder(features + (codes - features).detach())
        error = F.mse_loss(output, images)
        psnr = -10 * (to_unit(output.detach()) - batch["image"]).square().mean((1, 2, 3)).clamp_min(1e-10).log10()
        logs: Logs = {"reconstruction": error.detach(), "commitment_loss": commitment.detach(), "psnr": psnr.mean()}
        logs["indices"] = indices
        return error + self.commitment_weight * commitment, logs | codebook_use(indices, self.codebook_size)
