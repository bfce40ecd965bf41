"""What a training logs beside its loss: how fast it is, and where its gradients are large."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch

from mmgen.models.vq import VQ
from mmgen.runs.agreement import NOT_COMPUTED
from mmgen.tasks import callbacks
from mmgen.tasks.callbacks import MeasureSpeed
from tests.tasks.loops import Watch, fit, make_task
from tests.tasks.test_task import Rows


class Clock:
    """Each look at it is a second later."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1
        return self.now


class Slow(pl.Callback):
    """Validations of a hundred seconds."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_validation_epoch_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.clock.now += 100


def test_samples_per_second_without_the_validations(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, rows = Clock(), Rows()
    monkeypatch.setattr(callbacks, "time", clock)
    task = make_task("tokenizer", VQ(image_size=8, width=8, blocks=1, codebook_size=16))
    fit(task, MeasureSpeed(), Slow(clock), logger=rows, val_check_interval=2)
    speeds = [row["speed/samples_per_second"] for row in rows.rows if "train/loss" in row]
    assert speeds == [8, 8, 4, 8, 4, 8]  # eight samples a step, of a second or, where the clock began anew, two
    assert NOT_COMPUTED.search("speed/samples_per_second"), "two runs are compared without it"


def test_each_module_has_its_gradients_norm() -> None:
    component, rows = VQ(image_size=8, width=8, blocks=1, codebook_size=16), Rows()
    expected: list[dict[str, float]] = []

    def look(*arguments: object) -> None:
        expected.append({})
        for name, child in component.named_children():
            gradients = [p.grad.flatten() for p in child.parameters() if p.grad is not None]
            if gradients:
                expected[-1][f"grad_norm/{name}"] = float(torch.cat(gradients).norm())

    fit(make_task("tokenizer", component), Watch(look), logger=rows, log_every_n_steps=2)
    found = [{k: v for k, v in row.items() if k.startswith("grad_norm/")} for row in rows.rows if "train/loss" in row]
    assert len(expected[0]) > 1
    assert found == [pytest.approx(one) for one in expected[1::2]]
