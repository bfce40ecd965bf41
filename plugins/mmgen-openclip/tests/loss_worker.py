"""One of two processes: the loss over half of the rows, and the gradient of a matrix that makes the features.

Run as `loss_worker.py DIRECTORY RANK`.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))
from conftest import imported

imported()
from mmgen_openclip import _loss  # noqa: E402

ROWS, WIDTH = 6, 5


def loss_and_gradient(rows):
    """Of pictures and texts (rows,WIDTH) through one matrix."""
    source = torch.Generator().manual_seed(0)
    pictures, texts, matrix = (torch.randn(n, WIDTH, generator=source) for n in (ROWS, ROWS, WIDTH))
    matrix.requires_grad_()
    loss = _loss()(F.normalize(pictures[rows] @ matrix), F.normalize(texts[rows] @ matrix), torch.tensor(7.0))
    loss.backward()
    return loss.detach(), matrix.grad


def main(directory, rank):
    if rank == 0:
        torch.save(loss_and_gradient(slice(None)), f"{directory}/whole.pt")
    dist.init_process_group("gloo", init_method=f"file://{directory}/meet", rank=rank, world_size=2)
    found = loss_and_gradient(slice(rank * ROWS // 2, (rank + 1) * ROWS // 2))
    for tensor in found:
        dist.all_reduce(tensor)
        tensor /= 2
    if rank == 0:
        torch.save(found, f"{directory}/mean.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
