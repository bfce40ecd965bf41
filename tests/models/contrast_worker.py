"""One process of several: the gradients of its share of a batch, averaged as DistributedDataParallel averages them.

`python contrast_worker.py RANK WORLD FILE LOSS OUT`
"""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from mmgen.models.contrast import sigmoid_loss, softmax_loss

PAIRS = 24


def batch_of(rank: int, world: int) -> tuple[Tensor, Tensor, nn.ParameterDict]:
    source = torch.Generator().manual_seed(0)
    images, texts = (torch.randn(PAIRS, 7, generator=source, dtype=torch.float64) for _ in range(2))
    weights = nn.ParameterDict(
        {name: torch.randn(7, 5, generator=source, dtype=torch.float64) for name in ("image", "text")}
        | {"scale": torch.tensor(1.7, dtype=torch.float64), "bias": torch.tensor(-3.0, dtype=torch.float64)}
    )
    share = slice(rank * PAIRS // world, (rank + 1) * PAIRS // world)
    return images[share], texts[share], weights


def loss_of(kind: str, images: Tensor, texts: Tensor, weights: nn.ParameterDict) -> Tensor:
    features = F.normalize(images @ weights["image"], dim=-1), F.normalize(texts @ weights["text"], dim=-1)
    if kind == "damaged":
        wrong = F.normalize(images.flip(1) @ weights["image"], dim=-1)
        return softmax_loss(*features, weights["scale"].exp(), wrong_images=(wrong, images[:, 0] > 0))[0]
    if kind == "softmax":
        return softmax_loss(*features, weights["scale"].exp())[0]
    return sigmoid_loss(*features, weights["scale"].exp(), weights["bias"])[0]


def main(rank: int, world: int, file: str, kind: str, out: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world)
    images, texts, weights = batch_of(rank, world)
    loss = loss_of(kind, images, texts, weights)
    loss.backward()
    found = {"loss": loss.detach()}
    for name, parameter in weights.items():
        found[name] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    for tensor in found.values():
        dist.all_reduce(tensor)
        tensor /= world
    if rank == 0:
        torch.save(found, out)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
