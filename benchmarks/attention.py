"""How long each way to compute attention takes, forward and backward: `python benchmarks/attention.py [cuda]`.

On a CPU one thread and its processor time, in fp32 and bf16; on a GPU elapsed time. Median of five, interleaved. The
rule of `executor=auto` rests on this table (docs/decisions.md).
"""

from __future__ import annotations

import statistics
import sys
import time

import torch

from mmgen.models.attention import attend
from mmgen.models.patterns import tiles
from mmgen.stream import Mask, TokenStream

SIZES = [  # side of the grid, text positions, batch, heads, numbers of a head
    (8, 20, 64, 4, 48),
    (8, 64, 16, 4, 64),
    (16, 20, 16, 4, 48),
    (16, 128, 8, 8, 64),
    (32, 64, 2, 8, 64),
    (32, 256, 2, 8, 64),
]


def seconds(mask: Mask, batch: int, heads: int, head_dim: int, executor: str, like: torch.Tensor) -> float:
    """One forward and backward pass over the stream as training reads it."""
    shape = (3, batch, heads, mask.stream.length - 1, head_dim)
    queries, keys, values = (part.requires_grad_() for part in like.new_empty(shape).normal_().unbind(0))
    wait = torch.cuda.synchronize if like.is_cuda else lambda: None
    clock = time.perf_counter if like.is_cuda else time.process_time
    wait()
    start = clock()
    attend(queries, keys, values, mask, executor=executor).sum().backward()
    wait()
    return clock() - start


def main(device: str = "cpu") -> None:
    """Prints the table, as Markdown."""
    torch.set_num_threads(1)
    names = ["dense", "blocked", *(["flex"] if device != "cpu" else [])]
    print(f"| grid | text | mask | computed pairs | dtype | {' | '.join(f'{name}, ms' for name in names)} |")
    print("|---" * (5 + len(names)) + "|")
    for side, text, batch, heads, head_dim in SIZES:
        for name in ("full", "row", "column", "convolution"):
            mask = TokenStream(text, (side, side)).mask(name)
            for dtype in (torch.float32, torch.bfloat16):
                like = torch.empty(0, device=device, dtype=dtype)
                possible = names[:1] if name == "full" else [n for n in names if n != "flex" or head_dim == 64]
                times = {n: [seconds(mask, batch, heads, head_dim, n, like)] for n in possible}  # a first, not counted
                for _ in range(5):
                    for executor in possible:
                        times[executor].append(seconds(mask, batch, heads, head_dim, executor, like))
                cells = [f"{1e3 * statistics.median(times[n][1:]):.1f}" if n in times else "" for n in names]
                share = 0.5 if name == "full" else tiles(mask, mask.stream.length - 1).share
                row = [f"{side}×{side}", text, name, f"{share:.0%}", str(dtype).removeprefix("torch."), *cells]
                print(f"| {' | '.join(map(str, row))} |", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
