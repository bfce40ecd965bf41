"""Codebooks of `vq`: by moving averages, by gradient straight through, and by Gumbel-softmax.

Each is called with the features of a batch and gives what the decoder is fed, the indices, a loss and its parts;
`assign` alone gives the indices, `codes` is the table.

Letters: B batch, D codebook dim, h w grid, K codes, M = B·h·w.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.protocols import Logs

Passed = tuple[Tensor, Tensor, Tensor, Logs]  # features (B,D,h,w) for the decoder, indices (B,h,w), a loss, its parts


def rows_of(features: Tensor) -> Tensor:
    """(B,D,h,w) to (M,D)."""
    return features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])


def look_up(indices: Tensor, codes: Tensor) -> Tensor:
    """Indices (B,h,w) to their codes (B,D,h,w)."""
    return F.embedding(indices, codes).permute(0, 3, 1, 2)


def nearest(rows: Tensor, codes: Tensor) -> Tensor:
    """(M,D) to the index (M,) of the nearest code."""
    return (codes.square().sum(1) - 2 * rows @ codes.T).argmin(1)


class Codebook(nn.Module):
    """K code vectors that follow the features assigned to them; no gradient reaches it.

    By moving averages (van den Oord et al. 2017, arXiv 1711.00937, appendix A.1); codes that go unused are put back to
    work on features of the batch, as in Jukebox (arXiv 2005.00341, section 3.2). Where several processes train, the
    averages follow the features of all of them, and the codes put back to work are those that the first one draws.

    Args:
        size: K.
        dim: D.
        decay: of the moving averages, in [0,1).
        revive_below: a code whose moving count of uses a batch falls under this starts anew on a feature of the batch.
        commitment_weight: of the loss that holds features close to their codes.
    """

    collapse_advice = "raise tokenizer.commitment_weight, or lower task.optimizer.lr"
    codes: Tensor
    counts: Tensor
    sums: Tensor
    started: Tensor

    def __init__(self, size: int, dim: int, decay: float, revive_below: float, commitment_weight: float = 0.25) -> None:
        super().__init__()
        self.decay, self.revive_below, self.commitment_weight = decay, revive_below, commitment_weight
        self.register_buffer("codes", torch.randn(size, dim) / dim**0.5)
        self.register_buffer("counts", torch.ones(size))
        self.register_buffer("sums", self.codes.clone())
        self.register_buffer("started", torch.tensor(False))

    def nearest(self, features: Tensor) -> Tensor:
        """(M,D) to the index (M,) of the nearest code."""
        return nearest(features, self.codes)

    def assign(self, features: Tensor) -> Tensor:
        """(B,D,h,w) to indices (B,h,w)."""
        batch, _, height, width = features.shape
        return self.nearest(rows_of(features)).view(batch, height, width)

    def forward(self, features: Tensor, step: int) -> Passed:
        indices = self.assign(features)
        if self.training:
            rows = rows_of(features).detach().to(self.codes.dtype)  # features may be of less precision
            self.follow(rows, indices.flatten())
            indices = self.nearest(rows).view(indices.shape)
        codes = look_up(indices, self.codes)
        commitment = F.mse_loss(features, codes)
        # Straight through: the decoder sees the codes, the encoder gets the decoder's gradient.
        passed = features + (codes - features).detach()
        return passed, indices, self.commitment_weight * commitment, {"commitment_loss": commitment.detach()}

    @torch.no_grad()
    def follow(self, features: Tensor, indices: Tensor) -> None:
        """One step of the moving averages, then unused codes are revived. The first call puts all codes on features."""
        if not self.started:
            self._restart(torch.ones_like(self.counts, dtype=torch.bool), features)
            self.started.fill_(True)
            indices = self.nearest(features)
        counts = torch.bincount(indices, minlength=len(self.codes)).to(features.dtype)
        sums = torch.zeros_like(self.sums).index_add_(0, indices, features)
        if _several():
            dist.all_reduce(counts)
            dist.all_reduce(sums)
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
        if _several():  # all have counted alike, and come here together
            for table in (self.codes, self.sums, self.counts):
                dist.broadcast(table, src=0)


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class StraightThroughCodebook(nn.Module):
    """K code vectors that learn by gradient (van den Oord et al. 2017, eq. 3): the codebook loss draws codes to their
    features, the commitment loss, with its weight, features to their codes.

    The code of VQGAN puts the weight on the other of the two unless told `legacy=False`, and its published weights were
    trained so; for what a trained tokenizer computes it makes no difference.

    Args: as `Codebook`'s.
    """

    collapse_advice = "take tokenizer.codebook=ema, which puts unused codes back to work"

    def __init__(self, size: int, dim: int, commitment_weight: float = 0.25) -> None:
        super().__init__()
        self.commitment_weight = commitment_weight
        self.embedding = nn.Embedding(size, dim)
        nn.init.uniform_(self.embedding.weight, -1 / size, 1 / size)

    @property
    def codes(self) -> Tensor:
        return self.embedding.weight

    def assign(self, features: Tensor) -> Tensor:
        """(B,D,h,w) to indices (B,h,w)."""
        batch, _, height, width = features.shape
        return nearest(rows_of(features), self.codes).view(batch, height, width)

    def forward(self, features: Tensor, step: int) -> Passed:
        with torch.no_grad():
            indices = self.assign(features)
        codes = look_up(indices, self.codes)
        commitment, drawn = F.mse_loss(features, codes.detach()), F.mse_loss(codes, features.detach())
        passed = features + (codes - features).detach()
        logs: Logs = {"commitment_loss": commitment.detach(), "codebook_loss": drawn.detach()}
        return passed, indices, drawn + self.commitment_weight * commitment, logs


class GumbelCodebook(nn.Module):
    """Logits over K codes; in training a choice drawn by Gumbel-softmax, whose gradient is the relaxation's, against a
    KL to the uniform prior; outside training the likeliest. What VQGAN's code calls GumbelVQ.

    Args:
        size: K.
        dim: D.
        tau: temperature of the relaxation.
        kl_weight: of the KL, in the mean over positions.
    """

    collapse_advice = "raise tokenizer.kl_weight or tokenizer.tau, or take tokenizer.codebook=ema"

    def __init__(self, size: int, dim: int, tau: float, kl_weight: float) -> None:
        super().__init__()
        self.tau, self.kl_weight = tau, kl_weight
        self.proj = nn.Conv2d(dim, size, 1)
        self.embedding = nn.Embedding(size, dim)

    @property
    def codes(self) -> Tensor:
        return self.embedding.weight

    def assign(self, features: Tensor) -> Tensor:
        """(B,D,h,w) to indices (B,h,w)."""
        logits: Tensor = self.proj(features)
        return logits.argmax(1)

    def forward(self, features: Tensor, step: int) -> Passed:
        logits = self.proj(features)
        log_probs = F.log_softmax(logits, dim=1)
        kl = (log_probs.exp() * (log_probs + math.log(len(self.codes)))).sum(1).mean()
        if self.training:
            choice = F.gumbel_softmax(logits, tau=self.tau, hard=True, dim=1)
            indices = choice.argmax(1)
            passed = torch.einsum("bkhw,kd->bdhw", choice, self.codes)
        else:
            indices = logits.argmax(1)
            passed = look_up(indices, self.codes)
        return passed, indices, self.kl_weight * kl, {"kl": kl.detach()}


def make_codebook(
    kind: Literal["ema", "straight_through", "gumbel"],
    size: int,
    dim: int,
    *,
    decay: float,
    revive_below: float,
    commitment_weight: float,
    tau: float,
    kl_weight: float,
) -> Codebook | StraightThroughCodebook | GumbelCodebook:
    """The codebook of a kind; each reads those of the settings that it has."""
    if kind == "ema":
        return Codebook(size, dim, decay, revive_below, commitment_weight)
    if kind == "straight_through":
        return StraightThroughCodebook(size, dim, commitment_weight)
    return GumbelCodebook(size, dim, tau, kl_weight)
