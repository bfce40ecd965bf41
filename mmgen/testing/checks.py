"""How the kit runs: named checks over one instance, all of them, every failure told at once.

A check is a function of the subject that returns when it is met and raises `Unmet` (or anything else) when it is not.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmgen.isolation import guarded


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


@dataclass(frozen=True)
class Prepared:
    """A component and what it is to be checked by."""

    component: object
    subject: Any
    checks: tuple[Callable[[Any], None], ...]

    def find(self, check: Callable[[Any], None]) -> str | None:
        """Runs one check: what it found, None where it is met. Random numbers begin at a fixed state; they and all else
        that is shared are given back, so that one check's component hurts no other check."""
        with own_random_state(), guarded([], random_numbers=False):
            try:
                check(self.subject)
            except Unmet as e:
                return str(e)
            except Exception as e:  # a component may raise anything; the other checks still say something
                return f"raised {type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}"
        return None

    def verdicts(self, expected_failures: Mapping[str, str] | None = None) -> Iterator[tuple[str, str | None]]:
        """Every check's name, and why it fails, None where it does not.

        Args:
            expected_failures: reasons, by the names of the checks that are known to fail. Strict: one that is met after
                all fails, so that the list cannot outlive its reasons.

        Raises:
            ValueError: there is no check of such a name.
        """
        expected = dict(expected_failures or {})
        names = [check.__name__ for check in self.checks]
        if unknown := expected.keys() - set(names):
            raise ValueError(f"no check is called {sorted(unknown)}; there are {names}")
        if empty := [name for name, reason in expected.items() if not reason.strip()]:
            raise ValueError(f"an expected failure has a reason; {empty} have none")
        for check in self.checks:
            found, reason = self.find(check), expected.get(check.__name__)
            if reason and found is None:
                yield check.__name__, f"is met, though it was expected to fail ({reason}): take it off the list"
            else:
                yield check.__name__, None if reason else found


def run(prepared: Prepared, expected_failures: Mapping[str, str] | None = None) -> list[str]:
    """Runs every check.

    Returns:
        The names of the checks that were run.

    Raises:
        Nonconforming: with every check that failed.
        ValueError: an expected failure is no check's name, or has no reason.
    """
    found = list(prepared.verdicts(expected_failures))
    if failures := {name: why for name, why in found if why is not None}:
        raise Nonconforming(prepared.component, failures)
    return [name for name, _ in found]


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


def require_shared_state_kept(call: Callable[[], Any]) -> None:
    """The call must leave alone what all share: the default dtype, the environment, warnings, and so on."""
    changed: list[str] = []
    with guarded(changed, random_numbers=False):
        call()
    require(not changed, f"it changes {', '.join(changed)}")


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
