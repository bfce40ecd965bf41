"""Where a model computes."""

from __future__ import annotations

import os

import torch

from mmgen.errors import ConfigError, quoted


def device_of(asked: str) -> torch.device:
    """The device asked for; "auto" is this process's GPU, where there is one, and otherwise the CPU.

    Args:
        asked: auto, cpu, cuda, cuda:1, mps …

    Raises:
        ConfigError: MMG-C28, there is no such device here.
    """
    if asked == "auto":
        local = int(os.environ.get("LOCAL_RANK", "0"))
        asked = f"cuda:{local % torch.cuda.device_count()}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(asked)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:200]
        raise ConfigError(
            f"there is no device {quoted(asked)}", code="MMG-C28", where="device", why=reason, fix="device=auto"
        ) from error
    return device
