"""Several processes that train together: which of them this is, and how all agree on what one of them found out.

Each is started with the same command, by torchrun, by SLURM or by mmgen itself (`mmgen.commands.starting`). Rank 0
alone writes a run's files; what it decides, and what it fails at, the others learn here. They talk over a group of
their own, which does not time out: the timeout of the training's collectives is for collectives, not for long writes.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from mmgen.errors import MmgenError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """The processes of one training, seen by one of them.

    Args:
        rank: from 0 to size - 1.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1
    _group: Any = None

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which writes."""
        return self.rank == 0

    def agree(self, work: Callable[[], T]) -> T:
        """Rank 0 does the work; everyone returns what it found, or raises what it raised."""
        if self.size == 1:
            return work()
        import torch.distributed as dist

        told: list[Any] = [_attempt(work) if self.first else None]
        dist.broadcast_object_list(told, src=0, group=self._group)
        return self._settled(told, 0)[0]

    def together(self, work: Callable[[], T]) -> list[T]:
        """Everyone does the work; everyone returns all results by rank, or raises the first error there is."""
        return self._settled(self._gathered(_attempt(work)), None)

    def alike(self, work: Callable[[], T]) -> T:
        """Everyone does the same work and keeps what it made, unless it fails for any of them: then all end alike."""
        if self.size == 1:
            return work()
        result, error = _attempt(work)
        self._settled(self._gathered((None, error)), None)
        return result

    def _gathered(self, outcome: Any) -> list[Any]:
        if self.size == 1:
            return [outcome]
        import torch.distributed as dist

        told: list[Any] = [None] * self.size
        dist.all_gather_object(told, outcome, group=self._group)
        return told

    def _settled(self, told: list[Any], source: int | None) -> list[Any]:
        for place, (_, error) in enumerate(told):
            if error is not None:
                error.elsewhere = self.rank != (place if source is None else source)  # one of them tells it
                raise error
        return [result for result, _ in told]


_current = Ranks()


def current() -> Ranks:
    """The processes that this one has joined; until then it is alone."""
    return _current


def launched() -> bool:
    """Whether torchrun, SLURM's srun or mmgen started this process as one of several, or as the only one of a group."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return True
    return "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in ("bash", "interactive")


def join(backend: str, timeout: float) -> Ranks:
    """Meets the other processes; alone, does nothing.

    Args:
        backend: of the training's collectives: "gloo" for CPUs, "nccl" for GPUs.
        timeout: seconds that a collective waits for a process that does not answer.

    Raises:
        MmgenError: MMG-R06, some of them did not come.
    """
    global _current
    if _current.size > 1 or not launched():
        return _current
    import torch
    import torch.distributed as dist
    from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
    from lightning_fabric.utilities.distributed import _init_dist_connection

    environment = TorchElasticEnvironment() if TorchElasticEnvironment.detect() else SLURMEnvironment()
    if environment.world_size() == 1:
        return _current
    if backend == "nccl":
        torch.cuda.set_device(environment.local_rank())
    for name in ("lightning_fabric", "pytorch_lightning.utilities.rank_zero"):  # they announce the group in a box
        logging.getLogger(name).setLevel(logging.ERROR)
    try:  # Lightning's strategies find the group made, and use it
        _init_dist_connection(environment, backend, timeout=timedelta(seconds=timeout))
    except (dist.DistError, RuntimeError) as error:
        raise MmgenError(
            f"rank {environment.global_rank()} did not find all {environment.world_size()} processes of its group",
            code="MMG-R06",
            where=f"{environment.main_address}:{environment.main_port}",
            why=str(error).strip().splitlines()[0][:200],
            fix="start all of them with torchrun, or with srun; see docs/scale.md",
        ) from error
    group = dist.new_group(backend="gloo", timeout=timedelta(days=1))
    _current = Ranks(dist.get_rank(), dist.get_world_size(), group)
    return _current


def _attempt(work: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return work(), None
    except MmgenError as error:
        return None, error
    except Exception as error:  # it may hold what cannot be sent to another process
        return None, RuntimeError(f"{type(error).__name__}: {error}")
