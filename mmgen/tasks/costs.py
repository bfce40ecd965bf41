"""What training a generator costs, by arithmetic: parameters, operations, memory of a process.

It counts components whose `blocks` are those of `mmgen.models.layers`, which may lie on the meta device. How much
memory a step takes is measured in `mmgen.tasks.memory`; the estimate here says nearly the same in an instant, from the
tensors that a block keeps for the backward pass.

Letters: B pictures a process reads at once, S positions of the stream that are read, D model dim, F hidden units,
H heads, P parameters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any

import numpy as np
from torch import nn

from mmgen.stream import Mask
from mmgen.tasks.optimizers import hidden_matrices
from mmgen.tasks.parallel import COLUMNS, HEADS, ROWS

FP32 = 4  # bytes


@dataclass(frozen=True)
class Setting:
    """How a step is spread over processes.

    Args:
        ranks: processes, one a GPU.
        tensor_parallel_size: how many of them share a picture; divides `ranks`.
        micro_batch: B.
        sharded: whether weights, gradients and optimizer are spread over all processes (FSDP2), or each has its own.
        mixed: whether the arithmetic is bf16 and what is kept is fp32; else all of it is fp32.
        optimizer: `adamw` or `muon`.
        averaged: whether there is a moving average of the weights.
    """

    ranks: int = 1
    tensor_parallel_size: int = 1
    micro_batch: int = 1
    sharded: bool = True
    mixed: bool = True
    optimizer: str = "adamw"
    averaged: bool = True

    @property
    def compute_bytes(self) -> int:
        """Of a number in a matrix product."""
        return 2 if self.mixed else FP32


@dataclass(frozen=True)
class Memory:
    """Bytes of one process at the peak of a step.

    Args:
        weights, gradients, optimizer, average: what the process keeps of them.
        gathered: weights of others while they are needed, whole gradients before they are spread, and buffers.
        activations: what the forward pass leaves for the backward pass, and what both work with.
    """

    weights: float
    gradients: float
    optimizer: float
    average: float
    gathered: float
    activations: float

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))


def parts(generator: nn.Module) -> dict[str, int]:
    """The number of parameters by part: the attention, the MLPs and the norms of all blocks, and everything else by
    its name."""
    found: dict[str, int] = {}
    names = {"qkv": "attention", "out": "attention", "up": "mlp", "down": "mlp", "gate": "mlp"}
    for name, parameter in generator.named_parameters():
        words = name.split(".")
        part = f"blocks: {names.get(words[2], 'norms')}" if words[0] == "blocks" else words[0]
        found[part] = found.get(part, 0) + parameter.numel()
    return found


def linear_flops(generator: Any) -> int:
    """Of the forward pass of one picture: two for each weight of a matrix and each position that meets it."""
    stream = generator.stream
    text, image = stream.text_length, stream.image_length
    first = stream.order == "text_first"
    heads = {generator.text_head: text - 1 if first else text, generator.image_head: image if first else image - 1}
    flops = sum(2 * head.weight.numel() * positions for head, positions in heads.items())
    inside = sum(m.weight.numel() for m in generator.blocks.modules() if isinstance(m, nn.Linear))
    return int(flops + 2 * inside * (stream.length - 1))


def attention_flops(generator: Any, *, all_pairs: bool = False) -> int:
    """Of the forward pass of one picture: a score and a weighed value for each pair of positions that the mask lets
    see each other, or with `all_pairs` for any two, as dense attention computes them."""
    length, flops = generator.stream.length - 1, 0
    for block in generator.blocks:
        pairs = length**2 if all_pairs else visible_pairs(block.mask, length)
        flops += 4 * block.num_heads * block.head_dim * pairs
    return flops


@lru_cache(maxsize=64)
def visible_pairs(mask: Mask, length: int) -> int:
    """How many (query, key) of the first positions the mask allows."""
    positions = np.arange(length)
    return int(np.asarray(mask(positions[:, None], positions[None])).sum())


def training_flops(generator: Any) -> int:
    """Of one picture, forward and backward: the backward pass computes two products where the forward pass computes
    one. What gradient checkpointing computes again is not counted, as usual for a share of the peak (Chowdhery et al.
    2022, arXiv 2204.02311, appendix B)."""
    return 3 * (linear_flops(generator) + attention_flops(generator))


def estimate(generator: Any, setting: Setting) -> Memory:
    """The memory of one process, from the sizes of the tensors: the largest of three moments of the backward pass."""
    kept = FP32 * kept_parameters(generator, setting)
    states = 2 * kept
    if setting.optimizer == "muon":
        matrices = sum(matrix.numel() for matrix in hidden_matrices(generator))
        states -= FP32 * matrices / (setting.ranks if setting.sharded else 1)
    gradients, gathered, activations = max(_moments(generator, setting), key=sum)
    return Memory(
        weights=kept,
        gradients=gradients,
        optimizer=states,
        average=kept if setting.averaged else 0.0,
        gathered=gathered,
        activations=activations,
    )


def kept_parameters(generator: Any, setting: Setting) -> float:
    """How many parameters a process keeps: its share of those that tensor parallelism splits, and of all others."""
    if not setting.sharded:
        return sum(parameter.numel() for parameter in generator.parameters())
    block, root = _whole(generator, setting)
    return (block * len(generator.blocks) + root) * setting.tensor_parallel_size / setting.ranks


def _whole(generator: Any, setting: Setting) -> tuple[float, float]:
    """The parameters of a block, and of everything around the blocks, when they are gathered for one process."""
    split = setting.tensor_parallel_size
    block = root = 0.0
    for name, parameter in generator.blocks[0].named_parameters():
        module, _, kind = name.rpartition(".")
        alone = module in COLUMNS or (module in ROWS and kind == "weight")
        block += parameter.numel() / (split if alone else 1)
    for name, parameter in generator.named_parameters():
        if not name.startswith("blocks."):
            alone = name.partition(".")[0] in HEADS and parameter.shape[0] % split == 0
            root += parameter.numel() / (split if alone else 1)
    return block, root


def _moments(generator: Any, setting: Setting) -> list[tuple[float, float, float]]:
    """Bytes of gradients, of what is gathered, and of activations: with the logits, in the last block, in the first."""
    blocks, again = len(generator.blocks), generator.gradient_checkpointing
    residual, inside = _residual(generator, setting), _kept_by_block(generator, setting)
    kept = blocks * (residual if again else inside)
    block, root = _whole(generator, setting)
    heads = FP32 * sum(p.numel() for name in HEADS for p in getattr(generator, name).parameters())
    gradients = FP32 * kept_parameters(generator, setting)
    with_logits = kept + 3 * residual + _logits(generator, setting)
    in_last = kept + 2 * residual + (inside if again else 0)
    in_first = 2 * residual + inside
    if not setting.sharded:
        copies = 2 * block * blocks if setting.mixed else 0.0  # autocast's, until the forward pass is over
        copies *= 0 if again else 1  # or as long as the backward pass needs them
        return [(0, copies, with_logits), (heads, copies, in_last), (gradients, 0, in_first)]
    # A block's weights, its gradient in whole, the gradient on its way to its owners; those of the heads wait.
    working = FP32 * root + heads + (2 * setting.compute_bytes + FP32) * block
    return [(0, FP32 * root, with_logits), (0, working, in_last), (gradients, working, in_first)]


def _residual(generator: Any, setting: Setting) -> float:
    """Bytes of what flows from block to block, in fp32."""
    return float(FP32 * setting.micro_batch * (generator.stream.length - 1) * generator.blocks[0].qkv.in_features)


def _kept_by_block(generator: Any, setting: Setting) -> float:
    """Bytes that a block keeps for the backward pass: the inputs of norms in fp32, and those of matrix products."""
    block = generator.blocks[0]
    dim, hidden = block.qkv.in_features, block.up.out_features
    compute, split = setting.compute_bytes, setting.tensor_parallel_size
    of_norms = 2 * FP32 * dim
    of_attention = compute * (dim + (3 * dim + dim) / split)
    if isinstance(block.q_norm, nn.RMSNorm):  # queries and keys, normalised in fp32
        of_attention += 2 * (2 * FP32 + (compute if setting.mixed else 0)) * dim / split
    of_mlp = compute * (dim + (2 if block.gate is None else 4) * hidden / split)
    return float(setting.micro_batch * (generator.stream.length - 1) * (of_norms + of_attention + of_mlp))


def _logits(generator: Any, setting: Setting) -> float:
    """Bytes of the logarithmic softmax of all logits, in fp32, and of two gradients of the more numerous ones."""
    stream = generator.stream
    text = stream.text_length * generator.text_head.out_features
    image = stream.image_length * generator.image_head.out_features
    return float(FP32 * setting.micro_batch * (text + image + 2 * max(text, image)))


def largest_micro_batch(generator: Any, setting: Setting, share: int, fits: Any) -> int:
    """The largest part of a process's `share` of the batch, halved as often as it can be, that fits; else the smallest.

    Args:
        fits: a function of `Memory`.
    """
    best = share
    for size in _halves(share):
        best = size
        if fits(estimate(generator, with_(setting, micro_batch=size))):
            break
    return best


def _halves(share: int) -> Iterator[int]:
    while True:
        yield share
        if share % 2:
            return
        share //= 2


def with_(setting: Setting, **changes: Any) -> Setting:
    """The setting with changes."""
    values: Mapping[str, Any] = {field.name: getattr(setting, field.name) for field in fields(setting)}
    return Setting(**{**values, **changes})
