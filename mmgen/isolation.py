"""What a plugin must leave alone: the state that every part of a process shares. Compared, put back, and told.

A component is imported only where it is chosen, and may then run anything. What it changes for all the others (the
default dtype, the random numbers, warnings, the environment) is put back, so that the figures of what stands beside it
stay what they are without it. This guards against mistakes, not against malice.
"""

from __future__ import annotations

import importlib
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Guard:
    """One piece of shared state: how it is told, read, compared and put back."""

    what: str
    read: Callable[[], Any]
    restore: Callable[[Any], object]
    same: Callable[[Any, Any], bool] = lambda before, after: bool(before == after)


def _environment(before: dict[str, str]) -> None:
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ.update(before)


def _handlers(before: list[logging.Handler]) -> None:
    logging.getLogger().handlers[:] = before


def _signals() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}


def _restore_signals(before: dict[int, Any]) -> None:
    for number, handler in before.items():
        if handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(number, handler)


def _same_filters(before: list[Any], after: list[Any]) -> bool:
    """Libraries add filters about warnings of their own, or of one text; only those that concern everybody count."""
    kept = [
        [f for f in filters if f[1] is None and f[3] is None and f[2].__module__ == "builtins"]
        for filters in (before, after)
    ]
    return kept[0] == kept[1]


def _filters(before: list[Any]) -> None:
    warnings.filters[:] = before  # type: ignore[index]
    warnings._filters_mutated()  # type: ignore[attr-defined]  # else what was decided under the others stays so


PLAIN = (
    Guard("os.environ", lambda: dict(os.environ), _environment),
    Guard("the working directory", os.getcwd, os.chdir),
    Guard("warnings.filters", lambda: list(warnings.filters), _filters, _same_filters),
    Guard("warnings.showwarning", lambda: warnings.showwarning, lambda f: setattr(warnings, "showwarning", f)),
    Guard("the root logger's level", lambda: logging.getLogger().level, lambda n: logging.getLogger().setLevel(n)),
    Guard("the root logger's handlers", lambda: list(logging.getLogger().handlers), _handlers),
    Guard("logging.disable", lambda: logging.root.manager.disable, logging.disable),
    Guard("the handlers of SIGINT and SIGTERM", _signals, _restore_signals),
    Guard("sys.excepthook", lambda: sys.excepthook, lambda f: setattr(sys, "excepthook", f)),
    Guard("sys.stdout and sys.stderr", lambda: (sys.stdout, sys.stderr), lambda both: _streams(*both)),
    Guard("the recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
)


def _streams(out: Any, err: Any) -> None:
    sys.stdout, sys.stderr = out, err


def _of_torch(torch: Any) -> list[Guard]:
    backends, warn_only = torch.backends, torch.is_deterministic_algorithms_warn_only_enabled
    return [
        Guard("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
        Guard("torch's default device", torch.get_default_device, lambda d: _device(torch, d)),
        Guard("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
        Guard("whether torch records gradients", torch.is_grad_enabled, torch.set_grad_enabled),
        Guard("whether torch looks for anomalies", torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
        Guard(
            "torch's deterministic algorithms",
            lambda: (torch.are_deterministic_algorithms_enabled(), warn_only()),
            lambda both: torch.use_deterministic_algorithms(both[0], warn_only=both[1]),
        ),
        Guard(
            "torch's precision of float32 products",
            torch.get_float32_matmul_precision,
            torch.set_float32_matmul_precision,
        ),
        Guard(
            "cudnn's benchmark and deterministic",
            lambda: (backends.cudnn.benchmark, backends.cudnn.deterministic),
            lambda both: _cudnn(backends.cudnn, *both),
        ),
    ]


def _device(torch: Any, device: Any) -> None:
    # None is how torch says that there is none; the processor as such would be a mode that costs on every call.
    torch.set_default_device(None if str(device) == "cpu" else device)


def _cudnn(cudnn: Any, benchmark: bool, deterministic: bool) -> None:
    cudnn.benchmark, cudnn.deterministic = benchmark, deterministic


def _random_numbers() -> list[Guard]:
    found = [Guard("Python's random numbers", random.getstate, random.setstate)]
    if numpy := sys.modules.get("numpy"):
        found.append(
            Guard(
                "numpy's random numbers",
                numpy.random.get_state,
                numpy.random.set_state,
                lambda a, b: bool((a[1] == b[1]).all() and a[2:] == b[2:]),
            )
        )
    if torch := sys.modules.get("torch"):
        found.append(Guard("torch's random numbers", torch.get_rng_state, torch.set_rng_state, torch.equal))
    return found


def guards(random_numbers: bool = True) -> list[Guard]:
    """All that is looked at: of torch, numpy and Pillow where they are imported."""
    found = [*PLAIN]
    if torch := sys.modules.get("torch"):
        found += _of_torch(torch)
    if pillow := sys.modules.get("PIL.Image"):
        found.append(
            Guard(
                "Pillow's largest picture",
                lambda: pillow.MAX_IMAGE_PIXELS,
                lambda n: setattr(pillow, "MAX_IMAGE_PIXELS", n),
            )
        )
    return found + (_random_numbers() if random_numbers else [])


@contextmanager
def guarded(changed: list[str], *, random_numbers: bool = True) -> Iterator[None]:
    """Puts shared state back, whatever happens inside.

    Args:
        changed: gets the names of what had to be put back.
        random_numbers: whether those count; a component that is built may draw its weights.
    """
    looked_at = guards(random_numbers)
    before = [guard.read() for guard in looked_at]
    try:
        yield
    finally:
        for guard, value in zip(looked_at, before, strict=True):
            with suppress(Exception):  # a state that cannot be read or put back ends nothing
                if not guard.same(value, guard.read()):
                    changed.append(guard.what)
                    guard.restore(value)


class PluginWarning(UserWarning):
    """A plugin did what it should not, and nobody else was hurt."""


@contextmanager
def alone(who: str, doing: str, *, random_numbers: bool = True) -> Iterator[None]:
    """As `guarded`, with a warning that names the plugin.

    Args:
        who: such as "dataset 'squares' of mmgen-squares 0.1".
        doing: what it does inside, such as "is imported".
    """
    for library in ("numpy", "torch", "PIL.Image"):  # what they set up themselves is not to be blamed on the plugin
        with suppress(ImportError):
            importlib.import_module(library)  # by name: the registry, above, must not depend on torch
    changed: list[str] = []
    try:
        with guarded(changed, random_numbers=random_numbers):
            yield
    finally:
        if changed:
            text = f"{who} changes {', '.join(changed)} when it {doing}; that was put back"
            warnings.warn(text, PluginWarning, stacklevel=5)
