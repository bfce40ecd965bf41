"""Contrastive losses over the pairs of a batch, on one device or gathered from many.

Letters: B pairs of this process, W processes, E features.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F


class _Gather(torch.autograd.Function):
    """Every process's rows, one below the other. Backwards, what all processes' losses ask of these rows is summed."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        world = dist.get_world_size()
        every = [torch.empty_like(rows) for _ in range(world)]
        dist.all_gather(every, rows.contiguous())
        return torch.cat(every)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total.chunk(dist.get_world_size())[dist.get_rank()]


def gathered(features: Tensor) -> tuple[Tensor, int]:
    """(B,E) to the rows of all processes (W·B,E), and where this one's begin. Every process has as many rows."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return features, 0
    return _Gather.apply(features), dist.get_rank() * len(features)


def softmax_loss(
    image_features: Tensor,
    text_features: Tensor,
    scale: Tensor,
    robustness: float = 0.0,
    wrong_images: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Symmetric cross-entropy (CLIP, figure 3).

    Each process answers for its own rows against everyone's, so that nothing of size (W·B)² is held; the mean over the
    processes, which is what averaging their gradients takes, is the loss of one large batch.

    Args:
        image_features: (B,E) of length one.
        text_features: (B,E) of length one.
        scale: (), what cosines are multiplied by.
        robustness: q of the generalised cross-entropy (1 - p^q)/q (Zhang and Sabuncu, arXiv 1805.07836, equation 6), in
            which a pair counts by p^q of what it does in cross-entropy, p being the probability it is given: a wrong
            caption stays unlikely, and so is not learned by heart. 0 is cross-entropy, 1 the mean absolute error.
        wrong_images: features (D,E) of pictures that no caption belongs to, and which of them count (D,): every caption
            has them to choose from beside the batch's. Every process has as many.

    Returns:
        The loss, and the share of pictures whose caption scores best.
    """
    all_images, first = gathered(image_features)
    all_texts, _ = gathered(text_features)
    truth = torch.arange(first, first + len(image_features), device=image_features.device)
    by_image = scale * image_features @ all_texts.T
    by_text = scale * text_features @ all_images.T
    if wrong_images is not None:
        features, _ = gathered(wrong_images[0])
        counts, _ = gathered(wrong_images[1].float())
        by_wrong = (scale * text_features @ features.T).masked_fill(counts == 0, -torch.inf)
        by_text = torch.cat([by_text, by_wrong], 1)
    loss = (_cross_entropy(by_image, truth, robustness) + _cross_entropy(by_text, truth, robustness)) / 2
    return loss, (by_image.argmax(1) == truth).float().mean()


def sigmoid_loss(image_features: Tensor, text_features: Tensor, scale: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Every pair judged for itself: match or not (SigLIP, arXiv 2303.15343, section 3.2, algorithm 1).

    Arguments and result are those of `softmax_loss`; `bias` () is added to every logit. Divided by the number of
    pictures, not of pairs, as in the paper.
    """
    all_texts, first = gathered(text_features)
    logits = _in_full(scale * image_features @ all_texts.T + bias)
    rows = torch.arange(len(logits), device=logits.device)
    signs = -torch.ones_like(logits)
    signs[rows, first + rows] = 1
    right = (logits.argmax(1) == first + rows).float().mean()
    return -F.logsigmoid(signs * logits).sum() / len(logits), right


def _cross_entropy(logits: Tensor, truth: Tensor, robustness: float) -> Tensor:
    """Logits (B,L) and the places of the right ones (B,); generalised by `robustness`, see `softmax_loss`."""
    logits = _in_full(logits)
    if not robustness:
        return F.cross_entropy(logits, truth)
    log_probability = -F.cross_entropy(logits, truth, reduction="none")
    return -torch.expm1(robustness * log_probability).mean() / robustness


def _in_full(logits: Tensor) -> Tensor:
    """Logits of half precision, as autocast makes them, in single."""
    return logits.float() if logits.dtype.itemsize < 4 else logits
