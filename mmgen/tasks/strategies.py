"""Lightning's strategies with our checkpoints: replicas (DDP), or pieces (FSDP2, with tensor parallelism)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy, Strategy
from typing_extensions import override

from mmgen.checkpoint.lightning import SafeCheckpointIO
from mmgen.checkpoint.sharded import Stored, read_stored
from mmgen.checkpoint.steps import stored_state
from mmgen.errors import CheckpointError
from mmgen.ranks import current
from mmgen.tasks.parallel import local

UNUSED = "ddp_find_unused_parameters_true"


def make_strategy(name: str, world_size: int, tensor_parallel_size: int, timeout: float) -> Strategy | str:
    """The strategy of a config: for several processes one of ours, else Lightning's by name.

    Args:
        name: auto, ddp, ddp_find_unused_parameters_true or fsdp; auto is ddp for several processes.
        world_size: all processes, on all machines.
        tensor_parallel_size: how many of them share a sample; divides `world_size`.
        timeout: seconds that a collective waits for a process that does not answer.
    """
    waits = timedelta(seconds=timeout)
    if name == "fsdp":
        return Sharded(world_size // tensor_parallel_size, tensor_parallel_size, timeout=waits)
    if world_size == 1:
        return "auto"
    return Replicated(timeout=waits, find_unused_parameters=name == UNUSED)


class Replicated(DDPStrategy):
    """DDP; when a checkpoint cannot be written, all processes learn of it, not rank 0 alone."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        current().agree(lambda: self.checkpoint_io.save_checkpoint(checkpoint, filepath, storage_options))


class Sharded(ModelParallelStrategy):
    """FSDP2, and tensor parallelism. The module splits itself in `configure_model` (see `mmgen.tasks.parallel`).

    Lightning's own writes its checkpoints with torch's, which pickles. Here the state is the same tree as that of one
    process, with DTensors in it: optimizers keep the numbers of their parameters. So what was saved by any number of
    processes, sharded or not, can be loaded by any other.
    """

    @override
    def lightning_module_state_dict(self) -> dict[str, Any]:
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    @override
    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        state: dict[str, Any] = getattr(optimizer, "_optimizer", optimizer).state_dict()
        return state

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any | None = None) -> None:
        io = self.checkpoint_io
        assert isinstance(io, SafeCheckpointIO)
        mesh = self.device_mesh
        sizes = dict(zip(mesh.mesh_dim_names or (), mesh.shape, strict=True))
        io.save_sharded(checkpoint, Path(self.broadcast(str(filepath))), sizes)

    @override
    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        state = stored_state(Path(self.broadcast(str(checkpoint_path))))
        lazy = ("state_dict", "optimizer_states")  # read when it is known who needs what
        return {key: value if key in lazy else read_stored(value) for key, value in state.items()}

    @override
    @torch.no_grad()
    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.lightning_module is not None
        targets, stored = self.lightning_module.state_dict(), checkpoint["state_dict"]
        wrong = sorted(targets.keys() ^ stored.keys()) or [
            name for name, target in targets.items() if tuple(target.shape) != stored[name].shape
        ]
        if wrong:
            raise CheckpointError(f"the checkpoint does not fit the model: {wrong[0]}", code="MMG-K02")
        for name, target in targets.items():
            local(target).copy_(local(stored[name].like(target)))

    @property
    @override
    def lightning_restore_optimizer(self) -> bool:
        return True

    @override
    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            optimizer.load_state_dict(_placed(state, optimizer))


def _placed(state: dict[str, Any], optimizer: Any) -> dict[str, Any]:
    """An optimizer's state as this process holds it: what has a parameter's shape is cut as the parameter is."""
    halves = getattr(optimizer, "halves", None)
    if halves is not None:
        return {name: _placed(state[name], half) for name, half in halves.items()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    found = {
        number: {
            key: value.like(parameters[number]) if isinstance(value, Stored) else value for key, value in of_one.items()
        }
        for number, of_one in state["state"].items()
    }
    return {**read_stored({key: value for key, value in state.items() if key != "state"}), "state": found}
