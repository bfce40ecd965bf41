"""How the kit runs: named checks over one instance, all of them, every failure told at once.

A check is a function of the subject that returns when it is met and raises `Unmet` (or anything else) when it is not.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Subject = TypeVar("Subject")


class Unmet(Exception):
    """What a check found."""


class Nonconforming(AssertionError):
    """A component that fails checks.

    Attributes:
        failures: what each failed check found, by the check's name.
    """

    def __init__(self, component: object, failures: dict[str, str]) -> None:
        self.failures = failures
        name = type(component).__name__
        lines = [f"{name} fails {len(failures)} checks:", *(f"  {check}: {what}" for check, what in failures.items())]
        super().__init__("\n".join(lines))


def require(condition: object, what: str) -> None:
    """Raises `Unmet` with `what` unless the condition holds."""
    if not bool(condition):
        raise Unmet(what)


def run(component: object, subject: Subject, checks: Sequence[Callable[[Subject], None]]) -> list[str]:
    """Runs every check, each from the same random state, which is given back afterwards.

    Returns:
        The names of the checks that were run.

    Raises:
        Nonconforming: with every check that failed.
    """
    failures: dict[str, str] = {}
    for check in checks:
        with own_random_state():
            try:
                check(subject)
            except Unmet as e:
                failures[check.__name__] = str(e)
            except Exception as e:  # a component may raise anything; the other checks still say something
                failures[check.__name__] = f"raised {type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"
    if failures:
        raise Nonconforming(component, failures)
    return [check.__name__ for check in checks]


@contextmanager
def own_random_state() -> Iterator[None]:
    """Inside, the global random numbers start at a fixed state; afterwards they are as before."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        seed_everything()
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def seed_everything(seed: int = 0) -> None:
    """Seeds the global random numbers of torch, numpy and Python."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def require_random_state_kept(call: Callable[[], Any]) -> None:
    """The call must not draw from the global random numbers: a run could not be repeated."""
    before = random.getstate(), pickle.dumps(np.random.get_state()), torch.get_rng_state()
    call()
    require(random.getstate() == before[0], "it draws from Python's global random numbers")
    require(pickle.dumps(np.random.get_state()) == before[1], "it draws from numpy's global random numbers")
    require(torch.equal(torch.get_rng_state(), before[2]), "it draws from torch's global random numbers")


def require_tensor(value: object, shape: tuple[int, ...], what: str, *, integral: bool = False) -> Tensor:
    """A tensor of this shape, float and finite, or with `integral` long."""
    require(isinstance(value, Tensor), f"{what} is a {type(value).__name__}, not a tensor")
    assert isinstance(value, Tensor)
    require(tuple(value.shape) == shape, f"{what} has the shape {tuple(value.shape)}, not {shape}")
    if integral:
        require(value.dtype == torch.int64, f"{what} is {value.dtype}, not torch.int64")
    else:
        require(value.is_floating_point(), f"{what} is {value.dtype}, not a float")
        require(value.isfinite().all(), f"{what} holds values that are not finite")
    return value


def require_unchanged(call: Callable[[], Any], *given: Tensor) -> None:
    """The call must leave the tensors it was given as they are."""
    copies = [tensor.clone() for tensor in given]
    call()
    require(all(map(torch.equal, given, copies)), "it changes a tensor of its caller")
