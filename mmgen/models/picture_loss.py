"""What a reconstruction is judged by in training: pixels, and from a set step on its look and an adversary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from mmgen.models.discriminator import Discriminator, adaptive_weight
from mmgen.models.perceptual import load_perceptual, require_file
from mmgen.protocols import Logs


@dataclass(frozen=True)
class PictureLoss:
    """The loss of VQGAN (Esser et al. 2021, section 3.1), any part of it.

    Args:
        pixels: how the difference of pixels counts, in the mean.
        perceptual_weight: of LPIPS; 0 leaves it out.
        perceptual_file: its weights; read at the first step, so that a trained tokenizer can be used without them.
        perceptual_start: the first step that it counts at.
        adversarial_weight: of the adversary, times the weight that balances the gradients; 0 leaves it out.
        adversarial_start: the first step at which it counts and learns.

    Raises:
        ConfigError: a perceptual weight without a file.
    """

    pixels: Literal["squared", "absolute"] = "squared"
    perceptual_weight: float = 0.0
    perceptual_file: str | None = None
    perceptual_start: int = 0
    adversarial_weight: float = 0.0
    adversarial_start: int = 0

    def __post_init__(self) -> None:
        require_file(self.perceptual_weight, self.perceptual_file)

    def __call__(
        self,
        made: Tensor,
        images: Tensor,
        step: int,
        *,
        discriminator: Discriminator | None,
        last_layer: Tensor,
    ) -> tuple[Tensor, Logs]:
        """Pictures made and original (B,3,H,W) in [-1,1] to a loss; with a discriminator, its own is part of it.

        Neither side's gradient reaches the other's weights. Without a discriminator (validation, and the averaged
        weights, which have none) the loss is what is left.
        """
        loss = F.mse_loss(made, images) if self.pixels == "squared" else F.l1_loss(made, images)
        logs: Logs = {"reconstruction": loss.detach()}
        if self.perceptual_weight > 0:
            assert self.perceptual_file is not None
            network = load_perceptual(self.perceptual_file, images.device)
            if step >= self.perceptual_start:
                distance = network(made, images).mean()
                loss = loss + self.perceptual_weight * distance
                logs["perceptual_loss"] = distance.detach()
        if discriminator is None:
            return loss, logs
        if step < self.adversarial_start:
            return loss + discriminator.idle(), logs
        adversarial = discriminator.deceived(made)
        weight = self.adversarial_weight * adaptive_weight(loss, adversarial, last_layer)
        own, told = discriminator.tell_apart(images, made)
        logs |= {"adversarial_loss": adversarial.detach(), "adversarial_weight": weight}
        return loss + weight * adversarial + own, logs | told
