"""The image tokenizer `example`: a linear map of each patch, and the nearest of a codebook's vectors.

Letters: B batch, H W pixels, h w grid, D dimension of a code, K codes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.protocols import Batch, Logs


class Example(nn.Module):
    """Vector quantisation of patches (VQ-VAE, van den Oord et al. 2017, section 3).

    Args:
        codebook_size: K, how many codes there are.
        codebook_dim: D.
        patch: pixels a side that share a code; it divides the picture's size.
        commitment_weight: how strongly features are held to their codes.

    Raises:
        ValueError: the patch does not divide the picture.
    """

    def __init__(
        self,
        *,
        image_size: int,
        codebook_size: int = 256,
        codebook_dim: int = 16,
        patch: int = 4,
        commitment_weight: float = 0.25,
    ) -> None:
        super().__init__()
        if image_size % patch:
            raise ValueError(f"patch={patch} does not divide image_size={image_size}")
        self.image_size, self.codebook_size = image_size, codebook_size
        self.grid = (image_size // patch, image_size // patch)
        self.commitment_weight = commitment_weight
        self.encoder = nn.Conv2d(3, codebook_dim, patch, stride=patch)
        self.decoder = nn.ConvTranspose2d(codebook_dim, 3, patch, stride=patch)
        self.codebook = nn.Parameter(0.5 * torch.randn(codebook_size, codebook_dim))

    def encode(self, images: Tensor) -> Tensor:
        return self._nearest(self._features(images))

    def decode(self, indices: Tensor) -> Tensor:
        return self.decode_features(self._codes(indices))

    def quantize(self, images: Tensor) -> tuple[Tensor, Tensor]:
        indices = self.encode(images)
        return self._codes(indices), indices

    def decode_features(self, features: Tensor) -> Tensor:
        return (self.decoder(features) / 2 + 0.5).clamp(0, 1)

    def training_loss(self, batch: Batch, step: int) -> tuple[Tensor, Logs]:
        images = batch["image"]
        features = self._features(images)
        indices = self._nearest(features)
        codes = self._codes(indices)
        passed = features + (codes - features).detach()  # the gradient skips the choice of the nearest
        reconstruction_loss = F.mse_loss(self.decoder(passed) / 2 + 0.5, images)
        codebook_loss = F.mse_loss(codes, features.detach())
        commitment_loss = F.mse_loss(features, codes.detach())
        loss = reconstruction_loss + codebook_loss + self.commitment_weight * commitment_loss
        return loss, {"reconstruction_loss": reconstruction_loss.detach(), "indices": indices}

    def _features(self, images: Tensor) -> Tensor:
        """(B,3,H,W) in [0,1] to (B,D,h,w)."""
        return self.encoder(images * 2 - 1)

    def _nearest(self, features: Tensor) -> Tensor:
        """(B,D,h,w) to (B,h,w)."""
        flat = features.permute(0, 2, 3, 1)
        distances = self.codebook.square().sum(-1) - 2 * flat @ self.codebook.T  # and |flat|², the same for all codes
        return distances.argmin(-1)

    def _codes(self, indices: Tensor) -> Tensor:
        """(B,h,w) to (B,D,h,w)."""
        return F.embedding(indices, self.codebook).permute(0, 3, 1, 2)
