"""Checks of whatever owns its loss: tokenizer, generator, encoder."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmgen.protocols import Batch
from mmgen.testing.checks import require, require_tensor, seed_everything


@dataclass
class Subject:
    """A component that learns, a batch for it, and what it is used for after training."""

    component: Any
    given: Batch
    outputs: Callable[[Any], list[Tensor]]  # of a component in eval mode

    @property
    def batch(self) -> Batch:
        """Each time a copy of its own: what one check's component does to it is no other check's business."""
        return copy.deepcopy(self.given)

    def copy(self, *, training: bool) -> Any:
        """The checks work on copies: the component that was handed over stays as it is."""
        return copy.deepcopy(self.component).train(training)

    def stirred(self) -> Any:
        """A copy in eval mode with noise on its parameters, so that no layer that starts at zero hides the others."""
        component = self.copy(training=False)
        source = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in component.parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=source).to(parameter)
        return component


def it_is_a_module(subject: Subject) -> None:
    require(isinstance(subject.component, nn.Module), "it is no torch.nn.Module")
    require(any(p.requires_grad for p in subject.component.parameters()), "it has no parameters to train")


def its_loss_is_a_number(subject: Subject) -> None:
    loss, _ = subject.copy(training=True).training_loss(subject.batch, 0)
    require_tensor(loss, (), "the training loss")
    require(loss.requires_grad, "the training loss has no gradient")


def its_logs_are_numbers(subject: Subject) -> None:
    _, logs = subject.copy(training=True).training_loss(subject.batch, 0)
    for name, value in logs.items():
        require(isinstance(name, str), f"the log {name!r} has no name")
        if name == "indices":  # a tokenizer's, which the task counts and does not log
            continue
        single = isinstance(value, float | int) or (isinstance(value, Tensor) and value.numel() == 1)
        require(single, f"the log {name} is no single number")
        require(
            not (isinstance(value, Tensor) and value.requires_grad), f"the log {name} holds on to the graph: detach it"
        )


def every_parameter_learns(subject: Subject) -> None:
    component = subject.copy(training=True)
    component.training_loss(subject.batch, 0)[0].backward()
    for name, parameter in component.named_parameters():
        if parameter.requires_grad:
            require(parameter.grad is not None, f"{name} gets no gradient")
            require(parameter.grad.isfinite().all(), f"the gradient of {name} is not finite")


def training_can_be_repeated(subject: Subject) -> None:
    losses = []
    for _ in range(2):
        seed_everything(7)
        losses.append(subject.copy(training=True).training_loss(subject.batch, 3)[0])
    require(torch.equal(*losses), "the same batch, step and random state give another loss")


def validation_is_repeatable(subject: Subject) -> None:
    component = subject.copy(training=False)
    before = {name: value.clone() for name, value in component.state_dict().items()}
    with torch.no_grad():
        losses = [component.training_loss(subject.batch, 3)[0] for _ in range(2)]
    require(torch.equal(*losses), "in eval mode the loss of a batch is another the second time")
    after = component.state_dict()
    require(all(torch.equal(before[name], after[name]) for name in before), "in eval mode its loss changes its state")


def the_batch_is_left_alone(subject: Subject) -> None:
    batch = subject.batch
    subject.copy(training=True).training_loss(batch, 0)
    require(batch.keys() == subject.given.keys(), "its loss adds to the batch or takes from it")
    for name, value in subject.batch.items():
        now = batch[name]  # type: ignore[literal-required]
        require(torch.equal(now, value) if isinstance(value, Tensor) else now == value, f"its loss changes {name}")


def the_state_dict_holds_everything(subject: Subject) -> None:
    """What training changes and what a checkpoint leaves out would be lost; so: train one copy, load into another."""
    fresh, trained = subject.copy(training=True), subject.copy(training=True)
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.05)
    for step in range(3):
        optimizer.zero_grad()
        trained.training_loss(subject.batch, step)[0].backward()
        optimizer.step()
    state = trained.state_dict()
    odd = [name for name, value in state.items() if not isinstance(value, Tensor)]
    require(not odd, f"its state dict holds {odd[:3]}, which are no tensors")
    fresh.load_state_dict(state)
    fresh.eval(), trained.eval()
    with torch.no_grad():
        losses = [c.training_loss(subject.batch, 3)[0] for c in (fresh, trained)]
        same = all(map(torch.equal, subject.outputs(fresh), subject.outputs(trained)))
    require(torch.equal(*losses) and same, "after loading its state dict a copy computes something else")


def its_outputs_are_repeatable(subject: Subject) -> None:
    component = subject.stirred()
    with torch.no_grad():
        same = all(map(torch.equal, subject.outputs(component), subject.outputs(component)))
    require(same, "in eval mode the same input gives another output the second time")


TRAINABLE_CHECKS = (
    it_is_a_module,
    its_loss_is_a_number,
    its_logs_are_numbers,
    every_parameter_learns,
    training_can_be_repeated,
    validation_is_repeatable,
    the_batch_is_left_alone,
    the_state_dict_holds_everything,
    its_outputs_are_repeatable,
)
