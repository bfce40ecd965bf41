"""Checks of whatever owns its loss: tokenizer, generator, encoder."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from mmgen.protocols import Batch
from mmgen.testing.checks import (
    require,
    require_random_state_kept,
    require_shared_state_kept,
    require_tensor,
    seed_everything,
)
from mmgen.testing.elsewhere import require_moved


@dataclass
class Subject:
    """A component that learns, a batch for it, and what it is used for after training."""

    component: Any
    given: Batch
    outputs: Callable[[Any, Callable[[Tensor], Tensor]], list[Tensor]]  # in eval mode, of inputs put somewhere

    @property
    def batch(self) -> Batch:
        """Each time a copy of its own: what one check's component does to it is no other check's business."""
        return copy.deepcopy(self.given)

    def copy(self, *, training: bool) -> Any:
        """The checks work on copies: the component that was handed over stays as it is."""
        return copy.deepcopy(self.component).train(training)

    def stirred(self) -> Any:
        """A copy in eval mode with noise on its parameters, so that no layer that starts at zero hides the others."""
        component = self.stir(self.copy(training=False))
        return component

    @staticmethod
    def stir(component: Any) -> Any:
        """Adds noise to the parameters."""
        source = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in component.parameters():
                parameter += 0.02 * torch.randn(parameter.shape, generator=source).to(parameter)
        return component


    def made(self, component: Any) -> list[Tensor]:
        """What it gives for the kit's inputs, where they are."""
        return self.outputs(component, lambda tensor: tensor.clone())


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


def gradients_reach_every_parameter(subject: Subject) -> None:
    """After some noise, since a layer that starts at zero keeps the gradients of those before it. A discriminator's may
    cancel: what it says of true and of made pictures pulls its last bias both ways."""
    component = subject.stir(subject.copy(training=True))
    component.training_loss(subject.batch, 0)[0].backward()
    for name, parameter in component.named_parameters():
        if parameter.requires_grad and parameter.grad is not None and not name.startswith("discriminator."):
            require(parameter.grad.any(), f"the gradient of {name} is zero throughout")


def it_trains_in_mixed_precision(subject: Subject) -> None:
    component = subject.copy(training=True)
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = component.training_loss(subject.batch, 0)
    require(loss.isfinite(), "under bfloat16 the training loss is no finite number")
    loss.backward()


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
        same = all(map(torch.equal, subject.made(fresh), subject.made(trained)))
    require(torch.equal(*losses) and same, "after loading its state dict a copy computes something else")


def it_can_be_saved_and_loaded(subject: Subject) -> None:
    """As a part is: tensors by safetensors, into a component built anew."""
    one, other = subject.stirred(), subject.copy(training=False)
    with torch.no_grad():
        for tensor in other.state_dict().values():
            tensor.zero_()
        stored = save({name: tensor.contiguous().clone() for name, tensor in one.state_dict().items()})
        other.load_state_dict(load(stored))
        same = all(map(torch.equal, subject.made(one), subject.made(other)))
    require(same, "it comes back changed")


def it_moves_to_another_device(subject: Subject) -> None:
    require_moved(subject.stirred(), subject.outputs)


def the_random_numbers_are_left_alone_in_eval_mode(subject: Subject) -> None:
    component = subject.stirred()
    with torch.no_grad():
        require_random_state_kept(lambda: (subject.made(component), component.training_loss(subject.batch, 3)))


def nothing_that_all_share_changes(subject: Subject) -> None:
    component = subject.copy(training=True)
    require_shared_state_kept(lambda: component.training_loss(subject.batch, 0))
    require_shared_state_kept(lambda: subject.made(component.eval()))


def its_outputs_are_repeatable(subject: Subject) -> None:
    component = subject.stirred()
    with torch.no_grad():
        same = all(map(torch.equal, subject.made(component), subject.made(component)))
    require(same, "in eval mode the same input gives another output the second time")


TRAINABLE_CHECKS = (
    it_is_a_module,
    its_loss_is_a_number,
    its_logs_are_numbers,
    every_parameter_learns,
    gradients_reach_every_parameter,
    it_trains_in_mixed_precision,
    training_can_be_repeated,
    validation_is_repeatable,
    the_batch_is_left_alone,
    the_state_dict_holds_everything,
    it_can_be_saved_and_loaded,
    it_moves_to_another_device,
    the_random_numbers_are_left_alone_in_eval_mode,
    nothing_that_all_share_changes,
    its_outputs_are_repeatable,
)
