"""What makes the run that begins now: command, config, data, code and machine, as `mmgen.runs.origin` keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mmgen.data.module import Samples
from mmgen.ranks import current
from mmgen.runs.origin import origin


def made_by(
    command: str, config: Mapping[str, Any], pictures: Samples, requires: Mapping[str, str] | None = None
) -> dict[str, Any] | None:
    """The origin of a run; None on ranks but 0, which write nothing.

    Args:
        command: run or train.
        config: the composed config.
        pictures: the data.
        requires: fingerprints of the parts that come from elsewhere, by the key that names where.
    """
    if not current().first:
        return None
    data = {"name": config["dataset"]["name"], "fingerprint": pictures.fingerprint, "size": len(pictures)}
    return {**origin(command, config, data, machine()), "requires": dict(requires or {})}


def machine() -> dict[str, Any]:
    """What the last bits of the numbers depend on, beside the processor."""
    cuda = torch.cuda.is_available()
    return {
        "threads": torch.get_num_threads(),
        "processes": current().size,
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if cuda else [],
    }
