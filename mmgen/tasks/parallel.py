"""One component over many devices: FSDP2 leaves each a piece of every weight, tensor parallelism splits the matrices.

A mesh has two dimensions, `data_parallel` and `tensor_parallel`. Along the first the batch is split, and the weights
are gathered block by block while they are needed (Zhao et al. 2023, arXiv 2304.11277); along the second every process
has the same samples and works with its own heads and hidden units (Shoeybi et al. 2019, arXiv 1909.08053, section 3).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from mmgen.checkpoint.sharded import box, is_sharded, mesh_of, splits_of
from mmgen.errors import ConfigError
from mmgen.ranks import current

COLUMNS, ROWS, NORMS = ("qkv", "up", "gate"), ("out", "down"), ("q_norm", "k_norm")
FP32 = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)  # what autocast leaves in fp32
HEADS = ("text_head", "image_head")
# What is called from outside besides `forward`: the gathered weights of the root have to be there for each of them.
ENTRANCES = (
    "training_loss", "encode", "decode", "quantize", "decode_features", "encode_image", "encode_text", "attention_maps",
)  # fmt: skip


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """What is gathered as one: the outermost callable children of the component's `nn.ModuleList`s."""
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            for item in child:
                if type(item).forward is not nn.Module.forward:
                    yield item
                else:
                    yield from blocks(item)
        else:
            yield from blocks(child)


def split_blocks(component: nn.Module) -> list[nn.Module]:
    """The blocks that tensor parallelism knows how to split: with the linear layers qkv, out, up and down, and perhaps
    gate, and with the word, `whole_heads`, that every part of qkv's columns holds heads and nothing else."""
    wanted = ("qkv", "out", "up", "down")
    return [
        block
        for block in blocks(component)
        if getattr(block, "whole_heads", False) and all(isinstance(getattr(block, n, None), nn.Linear) for n in wanted)
    ]


def check_parallel(component: nn.Module, tensor_parallel_size: int, place: str = "") -> None:
    """Whether a component can be split so; it may be on the meta device.

    Args:
        place: what stands before `trainer.` in a message.

    Raises:
        ConfigError: MMG-C30, a size that does not divide the heads or the hidden units, or no plan for the component;
            MMG-C31, a component with a discriminator.
    """
    key = f"{place}trainer.tensor_parallel_size"
    if getattr(component, "discriminator", None) is not None:
        raise ConfigError(
            "a component with a discriminator cannot be sharded",
            code="MMG-C31",
            where=f"{place}trainer.strategy",
            why="the discriminator is called with weights that are not its own",
            fix=f"{place}trainer.strategy=ddp_find_unused_parameters_true",
        )
    if tensor_parallel_size == 1:
        return
    known = split_blocks(component)
    if not known:
        raise ConfigError(
            f"{type(component).__name__} has no tensor-parallel plan",
            code="MMG-C30",
            where=key,
            why="it is for blocks like the generator's, whose matrices can be split between heads",
            fix=f"{key}=1",
        )
    heads = {int(block.num_heads) for block in known}  # type: ignore[arg-type]
    hidden = {int(block.up.out_features) for block in known}  # type: ignore[arg-type, union-attr]
    fits = [n for n in range(1, min(heads) + 1) if not any(size % n for size in heads | hidden)]
    if tensor_parallel_size not in fits:
        undivided = [f"{n} heads" for n in heads if n % tensor_parallel_size]
        undivided += [f"{n} hidden units" for n in hidden if n % tensor_parallel_size]
        raise ConfigError(
            f"tensor_parallel_size={tensor_parallel_size} does not divide {undivided[0]}",
            code="MMG-C30",
            where=key,
            why=f"a head is not split; these sizes divide the heads and the hidden units: {', '.join(map(str, fits))}",
            fix=f"{key}={max(n for n in fits if n <= tensor_parallel_size)}",
        )


def parallelise(component: nn.Module, mesh: Any, *, mixed: bool = False) -> None:
    """Splits and shards a component in place, over a mesh with the dimensions data_parallel and tensor_parallel.

    Args:
        mixed: whether autocast computes in bf16. Then the blocks' weights are gathered in it: autocast would keep a
            copy of every weight that it casts, of all blocks at once. Gradients are summed in fp32, and what flows from
            block to block, norms, embeddings and heads stay fp32.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

    policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    if mixed:
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
    if mesh["tensor_parallel"].size() > 1:
        _split(component, mesh["tensor_parallel"])
    for block in blocks(component):
        norms: list[nn.Module] = [
            m for m in block.modules() if isinstance(m, FP32) and any(True for _ in m.parameters())
        ]
        if mixed and norms and block not in norms:
            fully_shard(norms, mesh=mesh["data_parallel"])
        fully_shard(block, mesh=mesh["data_parallel"], mp_policy=policy)
    fully_shard(component, mesh=mesh["data_parallel"])
    for entrance in ENTRANCES:
        if hasattr(component, entrance):
            register_fsdp_forward_method(component, entrance)


@torch.no_grad()
def distribute(component: nn.Module, mesh: Any, device: torch.device, *, mixed: bool = False) -> None:
    """Splits and shards a component in place, and fills it with rank 0's values, tensor by tensor.

    The others' may lie on the meta device: so a machine needs the memory of one whole component, not of one for each of
    its processes.

    Args:
        device: of this process, where its pieces will lie.
        mixed: see `parallelise`.
    """
    values = _tensors(component) if current().first else {}
    component.to("meta")
    parallelise(component, mesh, mixed=mixed)
    component.to_empty(device=device)
    for name, target in _tensors(component).items():
        value = values.pop(name).to(device) if values else torch.empty(target.shape, dtype=target.dtype, device=device)
        if current().size > 1:
            torch.distributed.broadcast(value, src=0)
        local(target).copy_(piece_of(value, target))


def holds_plain_tensors(component: nn.Module) -> bool:
    """Whether it has tensors that are neither parameters nor buffers: `distribute` cannot fill them."""
    return any(isinstance(value, Tensor) for module in component.modules() for value in vars(module).values())


def _tensors(component: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, also those that no state holds."""
    return {name: tensor.detach() for name, tensor in [*component.named_parameters(), *component.named_buffers()]}


def _split(component: nn.Module, mesh: Any) -> None:
    """Matrices by columns, then by rows, with one sum behind each pair. Embeddings and norms are the same everywhere;
    the norms of queries and keys too, but each process sees its own heads only: their gradients have to be summed."""
    from torch.distributed.tensor import Replicate
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        RowwiseParallel,
        SequenceParallel,
        parallelize_module,
    )

    for block in split_blocks(component):
        plan: dict[str, Any] = {name: ColwiseParallel() for name in COLUMNS}
        plan |= {name: RowwiseParallel() for name in ROWS}
        plan |= {name: SequenceParallel(sequence_dim=1, use_local_output=True) for name in NORMS}
        has = {name for name, child in block.named_children() if any(True for _ in child.parameters())}
        parallelize_module(block, mesh, {name: style for name, style in plan.items() if name in has})
    for name in HEADS:
        head = getattr(component, name, None)
        if isinstance(head, nn.Linear) and head.out_features % mesh.size() == 0:
            parallelize_module(component, mesh, {name: ColwiseParallel(output_layouts=Replicate())})


# ---- what is done with tensors of which every process holds a piece


def local(tensor: Tensor) -> Tensor:
    """This process's piece of a DTensor; any other tensor as it is."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor


def whole(tensor: Tensor) -> Tensor:
    """A DTensor put together, on every process; any other tensor as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def piece_of(tensor: Tensor, like: Tensor) -> Tensor:
    """What this process holds of a DTensor `like`, cut out of a whole tensor of its shape; else the whole."""
    if not is_sharded(like):
        return tensor
    return tensor[tuple(slice(low, high) for low, high in box(like.shape, splits_of(like), *mesh_of(like)))]


def whole_state(module: nn.Module, keep: bool) -> dict[str, Tensor]:
    """A module's state, put together tensor by tensor, on the CPU where it was sharded. Every process calls it.

    Args:
        keep: whether this process wants it; the others help, and get nothing.
    """
    found = {}
    for name, tensor in module.state_dict().items():
        full = whole(tensor)
        if keep:
            found[name] = full.cpu() if full is not tensor else tensor
    return found


def gradient_norm(gradients: Iterable[Tensor]) -> Tensor:
    """The norm of all gradients, over all pieces of all processes, in one exchange.

    torch's own cannot put together what lies on different meshes: with tensor parallelism the split matrices lie on
    both dimensions, and everything else on one.
    """
    by_copies: dict[int, list[Tensor]] = {}  # how many processes hold the same piece
    for gradient in gradients:
        by_copies.setdefault(_copies(gradient), []).append(local(gradient))
    if by_copies.keys() <= {0}:
        return torch.nn.utils.get_total_norm(by_copies.get(0, []))
    squares = [torch.nn.utils.get_total_norm(group).float().square() / n for n, group in by_copies.items()]
    total = torch.stack(squares).sum()
    torch.distributed.all_reduce(total)
    return total.sqrt()


def norms_by_module(component: nn.Module) -> dict[str, Tensor]:
    """The norm of the gradients of each of a component's own modules and parameters, by name; nothing where they lie in
    pieces, which would take an exchange for each."""
    gradients: dict[str, list[Tensor]] = {}
    for name, parameter in component.named_parameters():
        if parameter.grad is not None:
            gradients.setdefault(name.partition(".")[0], []).append(parameter.grad)
    if any(_copies(gradient) for group in gradients.values() for gradient in group):
        return {}
    return {name: torch.nn.utils.get_total_norm(group) for name, group in gradients.items()}


def _copies(gradient: Tensor) -> int:
    """How many processes hold the same piece of a DTensor; 0 for another tensor."""
    mesh = getattr(gradient, "device_mesh", None)
    if mesh is None:
        return 0
    placements = gradient.placements  # type: ignore[attr-defined]
    pieces = [size for size, placement in zip(mesh.shape, placements, strict=True) if not placement.is_replicate()]
    return torch.distributed.get_world_size() // math.prod(pieces)


def clip_gradients(gradients: Iterable[Tensor], norm: Tensor, largest: float) -> None:
    """Scales the gradients so that their norm is at most `largest`, as `torch.nn.utils.clip_grad_norm_` does."""
    torch._foreach_mul_([local(gradient) for gradient in gradients], (largest / (norm + 1e-6)).clamp(max=1.0))
