"""The memory of a training step, measured without memory: the step runs on fake tensors in a process group of one.

torch's tracker watches the very component, the very sharding (`mmgen.tasks.parallel`) and a real optimizer, of which
only the sizes exist. It cannot see the workspace of kernels and the fragmentation of a GPU's memory, 10 to 20 %.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmgen.tasks.costs import FP32, Memory, Setting, kept_parameters
from mmgen.tasks.parallel import parallelise

# The tracker's words to ours; what is not named here is an activation.
KINDS = {
    "SHARDED_PARAM": "weights",
    "SHARDED_GRAD": "gradients",
    "OPT": "optimizer",
    "UNSHARDED_PARAM": "gathered",
    "UNSHARDED_GRAD": "gathered",
    "ALL_GATHER": "gathered",
    "REDUCE_SCATTER": "gathered",
}


class SizesOnly:
    """Stands for a text tokenizer: it has the sizes, and every caption is the same."""

    def __init__(self, vocab_size: int, context_length: int) -> None:
        self.vocab_size, self.context_length = vocab_size, context_length
        self.num_ids = vocab_size + context_length

    def encode(self, captions: Sequence[str], keys: Sequence[int] | None = None) -> Tensor:
        """(B,T) of zeros."""
        return torch.zeros(len(captions), self.context_length, dtype=torch.long)


def measure(generator: Any, setting: Setting, passed: Callable[[int], None] = lambda blocks: None) -> Memory:
    """The peak of the second step of rank 0; the optimizer's state is there.

    Args:
        generator: on the meta device; it is sharded in place, so it is of no use afterwards.
        setting: `sharded` is true, `optimizer` adamw: of others nothing is known here.
        passed: called with the number of blocks computed since its last call.
    """
    assert setting.sharded
    assert setting.optimizer == "adamw"
    average = FP32 * kept_parameters(generator, setting) if setting.averaged else 0.0
    with _pretended_group(setting) as mesh, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # On the meta device, not on fake tensors: a mesh computes with real numbers.
        parallelise(generator, mesh, mixed=setting.mixed)
        snapshot = _traced(generator, setting, passed)
    found = dict.fromkeys(("weights", "gradients", "optimizer", "gathered", "activations"), 0.0)
    for kind, count in snapshot.items():
        if kind != "Total":
            found[KINDS.get(kind.rpartition(".")[2], "activations")] += count
    return Memory(average=average, **found)


def _traced(generator: Any, setting: Setting, passed: Callable[[int], None]) -> dict[str, float]:
    """Bytes by the tracker's words at the peak."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker

    for block in generator.blocks:
        block.register_forward_pre_hook(lambda *_: passed(1))
    with FakeTensorMode(allow_non_fake_inputs=True):
        generator.to_empty(device="cpu").train()
        # Not foreach: the tracker would count the whole tensors that a list operation's result is derived from.
        optimizer = torch.optim.AdamW(generator.parameters(), foreach=False)
        _make_state(generator, optimizer)
        batch: Any = {
            "caption": [""] * setting.micro_batch,
            "key": list(range(setting.micro_batch)),
            "image_tokens": torch.zeros(setting.micro_batch, generator.stream.image_length, dtype=torch.long),
        }
        tracker = FSDPMemTracker(generator, optimizer)
        with tracker:
            with torch.autocast("cpu", torch.bfloat16, enabled=setting.mixed):
                loss, _ = generator.training_loss(batch, 0)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    (snapshot,) = (s for device, s in tracker.get_tracker_snapshot("peak").items() if device.type == "cpu")
    return {str(kind): float(count) for kind, count in snapshot.items()}


def _make_state(generator: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """The optimizer's averages, as after a first step."""
    for parameter in generator.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()


@contextmanager
def _pretended_group(setting: Setting) -> Any:
    """The mesh of rank 0 among `ranks` that are not there."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=setting.ranks, store=FakeStore())
    try:
        split = setting.tensor_parallel_size
        names = ("data_parallel", "tensor_parallel")
        mesh = init_device_mesh("cpu", (setting.ranks // split, split), mesh_dim_names=names)
        for name in names:
            mesh[name]  # made now, outside of the fake tensors
        yield mesh
    finally:
        dist.destroy_process_group()
