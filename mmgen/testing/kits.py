"""The kit of each kind by the kind's name, what it builds a component with, and every check as a test of pytest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mmgen.testing import datasets, encoders, evaluators, generators, samplers, tokenizers
from mmgen.testing.checks import Nonconforming, Prepared
from mmgen.testing.stand_ins import small_text_tokenizer

IMAGE_SIZE = 32
CODEBOOK_SIZE = 23
GRID = (3, 4)


def small_arguments(kind: str, component: object = None) -> dict[str, Any]:
    """What other parts would hand over when a component of this kind is built (`BUILD_ARGUMENTS`), small.

    Args:
        component: the class, where it is known: an encoder that comes with its weights is told no text tokenizer, and
            the size of pictures that it names.
    """
    if kind == "tokenizer":
        return {"image_size": IMAGE_SIZE}
    if kind == "generator":
        return {"text_tokenizer": small_text_tokenizer(), "grid": GRID, "codebook_size": CODEBOOK_SIZE}
    if kind == "encoder" and getattr(component, "pretrained", False):
        return {"text_tokenizer": None, "image_size": getattr(component, "image_size", IMAGE_SIZE)}
    if kind == "encoder":
        return {"text_tokenizer": small_text_tokenizer(), "image_size": IMAGE_SIZE}
    return {}


def prepare(kind: str, component: Any) -> Prepared:
    """An instance, built with `small_arguments`, and the checks of its kind."""
    kits: dict[str, Callable[[Any], Prepared]] = {
        "dataset": datasets.prepare,
        "tokenizer": tokenizers.prepare,
        "generator": lambda generator: generators.prepare(generator, CODEBOOK_SIZE),
        "encoder": lambda encoder: encoders.prepare(encoder, getattr(encoder, "image_size", IMAGE_SIZE)),
        "sampler": samplers.prepare,
        "evaluator": evaluators.prepare,
    }
    return kits[kind](component)


def conformance(
    kind: str,
    component: Callable[..., Any],
    *,
    expected_failures: Mapping[str, str] | None = None,
    **options: Any,
) -> Callable[..., None]:
    """Every check of a kind as a test of its own, for pytest:

        test_conforms = conformance("dataset", Squares)

    The component is built once, when the tests are collected, with its options and what other parts would hand over.

    Args:
        kind: dataset, tokenizer, generator, encoder, sampler or evaluator.
        component: the class.
        expected_failures: reasons, by the names of the checks that are known to fail. Strict: one that is met after all
            fails.
        options: of the component, where it needs some or is large without.

    Raises:
        ValueError: an expected failure is no check's name, or has no reason.
    """
    import pytest  # who writes tests has it; who runs mmgen need not

    expected = dict(expected_failures or {})
    prepared = prepare(kind, component(**options, **small_arguments(kind, component)))
    known = {check.__name__ for check in prepared.checks}
    if expected.keys() - known or not all(reason.strip() for reason in expected.values()):
        raise ValueError(f"expected failures are reasons by the name of a check, of {sorted(known)}; got {expected}")

    def strictly(name: str) -> list[Any]:
        reason = expected.get(name)
        return [pytest.mark.xfail(reason=reason, strict=True, raises=Nonconforming)] if reason else []

    checks = [pytest.param(check, id=check.__name__, marks=strictly(check.__name__)) for check in prepared.checks]

    @pytest.mark.parametrize("check", checks)
    def conforms(check: Callable[[Any], None]) -> None:
        if found := prepared.find(check):
            raise Nonconforming(prepared.component, {check.__name__: found})

    conforms.__doc__ = f"{getattr(component, '__name__', component)} keeps the contract of its kind."
    return conforms
