"""A component with a discriminator: one optimizer, exact resume, and what is averaged and published without it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmgen.checkpoint.parts import load_weights, read_part, write_part
from mmgen.errors import NonFiniteError
from mmgen.loading import load_part
from mmgen.models.vq import VQ
from mmgen.tasks.optimizers import make_optimizer, make_schedule
from tests.tasks.loops import ADAMW, Rows, Watch, assert_equal, everything, fit, make_task

OWN = {"lr": 3e-3, "betas": [0.5, 0.9], "eps": None, "weight_decay": 0.2}
OPTIONS = {
    "codebook_size": 9, "codebook_dim": 6, "width": 4, "blocks": 1, "adversarial_weight": 0.8, "adversarial_start": 2,
    "discriminator_width": 4, "discriminator_layers": 1,
}  # fmt: skip


class Blocks(nn.Module):
    """A matrix that Muon takes, a table, and an adversary with a matrix that it must not take."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4)])
        self.embedding = nn.Embedding(3, 4)
        self.discriminator = nn.ModuleDict({"blocks": nn.Linear(4, 4)})


def adversarial(**options) -> VQ:
    torch.manual_seed(5)
    return VQ(image_size=8, **{**OPTIONS, **options})


def task(**options):
    settings = {"discriminator_optimizer": OWN, **options}
    return make_task("tokenizer", adversarial(), **settings)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_its_weights_are_groups_of_their_own_in_the_one_optimizer(name):
    model = Blocks()
    optimizer = make_optimizer(model, {**ADAMW, "name": name}, OWN)
    names = {id(parameter): n for n, parameter in model.named_parameters()}
    found = {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}
    assert found.keys() == set(names.values())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)
    for n, group in found.items():
        own = n.startswith("discriminator.")
        assert group["lr"] == (3e-3 if own else 1e-2), n
        if name == "adamw" or n != "blocks.0.weight":
            assert tuple(group["betas"]) == ((0.5, 0.9) if own else (0.9, 0.95)), n
            assert group["eps"] == 1e-8
    decay = {n: group["weight_decay"] for n, group in found.items()}
    assert decay["discriminator.blocks.weight"] == 0.2
    assert decay["discriminator.blocks.bias"] == decay["embedding.weight"] == 0
    if name == "muon":
        (matrix,) = optimizer.halves["muon"].param_groups[0]["params"]
        assert matrix is model.blocks[0].weight
    schedule = make_schedule(optimizer, {"warmup_steps": 4, "final": 0.0}, 20)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    schedule.step()
    rates = {n: group["lr"] for n, group in found.items()}
    assert rates["discriminator.blocks.weight"] == pytest.approx(3e-3 / 2)
    assert rates["blocks.0.weight"] == pytest.approx(1e-2 / 2)


def test_without_settings_of_its_own_it_has_the_optimizer_s():
    model = Blocks()
    for own in (None, dict.fromkeys(OWN)):
        groups = make_optimizer(model, ADAMW, own).param_groups
        assert {group["lr"] for group in groups} == {1e-2}
        assert {tuple(group["betas"]) for group in groups} == {(0.9, 0.95)}
        assert [group["weight_decay"] for group in groups] == [0.1, 0.0, 0.1, 0.0]


def test_a_step_moves_each_side_as_an_optimizer_of_its_own_would():
    """Three steps against two of torch's optimizers, each over one side."""
    ours, theirs = adversarial().train(), adversarial().train()
    optimizer = make_optimizer(ours, ADAMW, OWN)
    sides = {
        own: [(n, p) for n, p in theirs.named_parameters() if n.startswith("discriminator.") == own]
        for own in (False, True)
    }
    settings = {False: (1e-2, (0.9, 0.95), 0.1), True: (3e-3, (0.5, 0.9), 0.2)}
    others = []
    for own, parameters in sides.items():
        lr, betas, decay = settings[own]
        groups = [
            {"params": [p for _, p in parameters if p.ndim > 1], "weight_decay": decay},
            {"params": [p for _, p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        others.append(torch.optim.AdamW(groups, lr=lr, betas=betas, eps=1e-8))
    batch = {"image": torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))}
    for step in range(2, 5):
        for model, steppers in ((ours, [optimizer]), (theirs, others)):
            torch.manual_seed(step)
            loss, _ = model.training_loss(batch, step)
            model.zero_grad()
            loss.backward()
            for stepper in steppers:
                stepper.step()
    for (name, one), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("stop", [1, 4])
def test_a_training_stopped_before_or_after_its_start_goes_on_exactly(stop, tmp_path):
    """Weights, averages, the codebook and both sides' moments, bit for bit; clipped, over the end of an epoch."""
    options = {"gradient_clip_val": 0.5, "val_check_interval": 2}
    whole = task()
    fit(whole, **options)
    first = task()
    torch.manual_seed(77)
    fit(first, steps=stop, **options).save_checkpoint(tmp_path / f"step-{stop}")
    second = task()
    with torch.no_grad():
        for tensor in second.component.parameters():
            tensor.zero_()
    trainer = fit(second, checkpoint=tmp_path / f"step-{stop}", **options)
    assert trainer.global_step == 6
    assert_equal(everything(second), everything(whole))
    assert not torch.equal(whole.component.discriminator.main[0].weight, adversarial().discriminator.main[0].weight), (
        "it has learnt"
    )


def test_it_waits_for_its_start_and_is_logged_from_then_on():
    logger, seen = Rows(), {}
    first = adversarial(adversarial_start=3).discriminator.main[0].weight.detach().clone()
    trained = make_task(
        "tokenizer", adversarial(adversarial_start=3), discriminator_optimizer={**OWN, "weight_decay": 0.0}
    )
    watch = Watch(
        lambda trainer, module: seen.update(
            {trainer.global_step: module.component.discriminator.main[0].weight.detach().clone()}
        )
    )
    fit(trained, watch, logger=logger)
    assert [torch.equal(seen[step], first) for step in sorted(seen)] == [True] * 3 + [False] * 3
    rows = [row for row in logger.rows if "train/loss" in row]
    assert ["train/discriminator_loss" in row for row in rows] == [False] * 3 + [True] * 3


def test_the_average_and_the_published_part_are_without_it(tmp_path):
    trained = task()
    fit(trained, val_check_interval=3)
    assert trained.averaged.discriminator is None
    assert not [name for name in trained.averaged.state_dict() if "discriminator" in name]
    assert trained.averaged.state_dict().keys() == adversarial(adversarial_weight=0.0).state_dict().keys()
    part = write_part(
        tmp_path / "model",
        kind="tokenizer",
        config={"name": "vq", **OPTIONS},
        arguments={"image_size": 8},
        tensors=trained.averaged.state_dict(),
    )
    again = adversarial().eval()
    own = again.discriminator.main[0].weight.clone()
    load_weights(again, read_part(tmp_path / "model"), "")
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(again.encode(images), trained.averaged.encode(images))
    assert torch.equal(again.discriminator.main[0].weight, own)
    opened = load_part(part)
    assert opened.discriminator is None
    assert torch.equal(opened.encode(images), again.encode(images))


@pytest.mark.parametrize("where", ["made", "weights"])
def test_nothing_infinite_reaches_either_side(where):
    """An adversary whose verdict is not a number stops the training; both sides are as after the last good step."""

    class Poisoned(VQ):
        def training_loss(self, batch, step):
            loss, logs = super().training_loss(batch, step)
            if step == 3 and where == "made":
                loss = loss * float("nan")
            if step == 3 and where == "weights":
                weight = self.discriminator.main[0].weight
                loss = loss + (weight - weight.detach()).sum().abs().sqrt()
            return loss, logs

    torch.manual_seed(5)
    trained = make_task("tokenizer", Poisoned(image_size=8, **OPTIONS), discriminator_optimizer=OWN)
    after = {}
    watch = Watch(lambda trainer, module: after.update({trainer.global_step: everything(module)}))
    told = {"made": "the loss is nan", "weights": "the gradient's norm is"}[where]
    with pytest.raises(NonFiniteError, match=told):
        fit(trained, watch, gradient_clip_val=1.0)
    # The codebook's moving averages are taken while the loss is computed; they stay finite.
    learnt = {name: tensor for name, tensor in everything(trained).items() if "codebook" not in name}
    assert_equal(learnt, {name: tensor for name, tensor in after[3].items() if "codebook" not in name})
    assert all(tensor.isfinite().all() for tensor in everything(trained).values())
