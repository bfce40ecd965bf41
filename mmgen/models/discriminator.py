"""The adversary of an image tokenizer: a PatchGAN discriminator (Isola et al. 2017, arXiv 1611.07004, section 3.2.2)
with the hinge loss, weighed as in VQGAN (Esser et al. 2021, arXiv 2012.09841, eq. 7).

Letters: B batch, H W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F


class Discriminator(nn.Module):
    """Pictures (B,3,H,W) in [-1,1] to a logit for each of many overlapping patches: above 0 real, below it made up.

    Batch normalisation is by the batch's own statistics always: it judges nothing but training batches.

    Args:
        image_size: H = W.
        width: channels of the first layer; they double at each, up to eight times as many.
        layers: halvings of the size; a logit's patch is 70 pixels wide at three.

    Raises:
        ValueError: pictures too small for so many layers.
    """

    def __init__(self, image_size: int, width: int = 64, layers: int = 3) -> None:
        super().__init__()
        if layers < 1 or image_size // 2**layers < 3:
            raise ValueError(f"discriminator_layers={layers} does not fit pictures of {image_size} pixels a side")
        sequence: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        channels = width
        for layer in range(1, layers + 1):
            out = width * min(2**layer, 8)
            stride = 2 if layer < layers else 1
            sequence += [
                nn.Conv2d(channels, out, 4, stride=stride, padding=1, bias=False),
                nn.BatchNorm2d(out, track_running_stats=False),
                nn.LeakyReLU(0.2),
            ]
            channels = out
        self.main = nn.Sequential(*sequence, nn.Conv2d(channels, 1, 4, padding=1))
        for module in self.main:
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.main(images)
        return logits

    def deceived(self, images: Tensor) -> Tensor:
        """How badly the pictures deceive it, to be lowered by whoever made them: no gradient reaches its weights."""
        frozen = {name: parameter.detach() for name, parameter in self.named_parameters()}
        logits: Tensor = functional_call(self, frozen, (images,))
        return -logits.mean()

    def tell_apart(self, real: Tensor, made: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The hinge loss of its own judgement; no gradient reaches the pictures."""
        of_real, of_made = self(real.detach()), self(made.detach())
        loss = (F.relu(1 - of_real).mean() + F.relu(1 + of_made).mean()) / 2
        logs = {"discriminator_loss": loss, "logits_real": of_real.mean(), "logits_made": of_made.mean()}
        return loss, {name: value.detach() for name, value in logs.items()}

    def idle(self) -> Tensor:
        """Zero, with a gradient of zero for each weight: while it waits it takes part in every step, as DDP demands."""
        return torch.stack([parameter.sum() for parameter in self.parameters()]).sum() * 0


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """The ratio of the gradients' norms at the layer that makes the pixels: with it both losses pull alike (eq. 7)."""
    (wanted,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (given,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    return (wanted.norm() / (given.norm() + 1e-4)).clamp(0, 1e4).detach()
