"""Optimizer and schedule of a task, from plain numbers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from mmgen.errors import ConfigError
from mmgen.tasks.muon import MuonAdamW

OPTIMIZERS = ("adamw", "muon")
TABLES = ("embedding", "position", "codebook")  # how a bare parameter's name ends that is looked up in or added


def discriminator_of(module: nn.Module) -> nn.Module | None:
    """The part of a component that learns against it (see `mmgen.protocols.Trainable`), if it has one."""
    return getattr(module, "discriminator", None)


def own_parameters(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """What learns, by name, without the discriminator's."""
    adversary = discriminator_of(module)
    others = {id(parameter) for parameter in adversary.parameters()} if adversary else set()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and id(parameter) not in others:
            yield name, parameter


def parameter_groups(
    module: nn.Module, weight_decay: float, embedding_lr: float | None = None
) -> list[dict[str, Any]]:
    """Weight decay for matrices and filters; none for gains, biases, embeddings and single numbers, as in CLIP.

    With `embedding_lr`, embeddings are a group of their own, of that learning rate.
    """
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    tables: list[nn.Parameter] = []
    for name, parameter in own_parameters(module):
        if embedding_lr is not None and id(parameter) in embeddings:
            tables.append(parameter)
            continue
        plain = parameter.ndim < 2 or id(parameter) in embeddings or name.endswith(TABLES)
        (others if plain else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [*groups, {"params": tables, "weight_decay": 0.0, "lr": embedding_lr}] if tables else groups


def hidden_matrices(module: nn.Module) -> list[nn.Parameter]:
    """What Muon is meant for: the matrices inside the blocks; not embeddings, heads, filters or projections."""
    return [parameter for name, parameter in own_parameters(module) if parameter.ndim == 2 and "blocks." in name]


def check_optimizer(module: nn.Module, options: Mapping[str, Any], key: str = "task.optimizer.name") -> None:
    """Raises ConfigError, at `key`, for an unknown name, or Muon for a component without blocks of matrices."""
    if options["name"] not in OPTIMIZERS:
        raise ConfigError(
            f"unknown optimizer {options['name']!r}",
            code="MMG-C05",
            where=key,
            fix=f"{key}={OPTIMIZERS[0]}",
        )
    if options["name"] == "muon" and not hidden_matrices(module):
        raise ConfigError(
            "muon needs a component with blocks of matrices, a transformer",
            code="MMG-C05",
            where=key,
            fix=f"{key}=adamw",
        )


def discriminator_groups(
    module: nn.Module, options: Mapping[str, Any], discriminator: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """Groups of the discriminator's, for AdamW always, with settings of their own; None means the optimizer's."""
    adversary = discriminator_of(module)
    if adversary is None:
        return []
    given = {name: value for name, value in (discriminator or {}).items() if value is not None}
    settings = {name: given.get(name, options[name]) for name in ("lr", "betas", "eps", "weight_decay")}
    groups = parameter_groups(adversary, settings.pop("weight_decay"))
    return [{**settings, "betas": tuple(settings["betas"]), **group} for group in groups]


def make_optimizer(
    module: nn.Module, options: Mapping[str, Any], discriminator: Mapping[str, Any] | None = None
) -> torch.optim.Optimizer:
    """Builds the optimizer named by `options` (name, lr, betas, eps, weight_decay, embedding_lr).

    A component's discriminator is in it too, in groups of its own: with a second optimizer object Lightning would count
    each step twice.

    Args:
        discriminator: lr, betas, eps, weight_decay of the discriminator's groups, as far as they differ.

    Raises:
        ConfigError: see `check_optimizer`.
    """
    check_optimizer(module, options)
    beta1, beta2 = options["betas"]
    groups = parameter_groups(module, options["weight_decay"], options.get("embedding_lr"))
    groups += discriminator_groups(module, options, discriminator)
    if options["name"] == "adamw":
        return torch.optim.AdamW(groups, lr=options["lr"], betas=(beta1, beta2), eps=options["eps"], fused=True)
    matrices = hidden_matrices(module)
    taken = {id(parameter) for parameter in matrices}
    for group in groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in taken]
    return MuonAdamW(
        matrices,
        groups,
        lr=options["lr"],
        betas=(beta1, beta2),
        eps=options["eps"],
        weight_decay=options["weight_decay"],
    )


def warmup_cosine(step: int, warmup_steps: int, max_steps: int, final: float) -> float:
    """The factor on the learning rate at a step: linear from 0, then a cosine from 1 down to `final` at `max_steps`."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    share = min(1.0, (step - warmup_steps) / max(1, max_steps - warmup_steps))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * share))


def make_schedule(optimizer: torch.optim.Optimizer, options: Mapping[str, Any], max_steps: int) -> LambdaLR:
    """`warmup_cosine` over the run's steps, or over `steps` of them (options: warmup_steps, final, steps)."""
    warmup, final, end = options["warmup_steps"], options["final"], options.get("steps") or max_steps
    return LambdaLR(optimizer, lambda step: warmup_cosine(step, warmup, end, final))
