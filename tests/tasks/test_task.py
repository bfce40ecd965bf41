"""The loop around a component: what it logs, that it goes on exactly, and that nothing infinite gets into a weight."""

from __future__ import annotations

import itertools

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from mmgen.data.module import PictureData
from mmgen.errors import NonFiniteError
from mmgen.tasks.callbacks import SaveCheckpoints
from tests.tasks.loops import (
    ADAMW,
    CODES,
    Bars,
    Brightness,
    Rows,
    Watch,
    assert_equal,
    components,
    everything,
    fit,
    make_task,
)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize(
    ("poison", "told"), [("nan", "the loss is nan"), ("inf", "the loss is inf"), ("gradient", "the gradient's norm is")]
)
def test_nothing_infinite_reaches_a_weight(poison, told, optimizer):
    """Weights, averages and the optimizer's state are, bit for bit, those after the last good step."""
    component = Brightness(poison, at=3)
    component.blocks = nn.ModuleList([nn.Linear(2, 2)])  # a matrix that Muon takes, so that it can be chosen
    component.blocks[0].weight.grad = torch.zeros(2, 2)
    task = make_task("tokenizer", component, optimizer={**ADAMW, "name": optimizer})
    after = {}
    watch = Watch(lambda trainer, module: after.update({trainer.global_step: everything(module)}))
    with pytest.raises(NonFiniteError, match=told) as caught:
        fit(task, watch, gradient_clip_val=1.0)
    assert sorted(after) == [1, 2, 3]
    assert_equal(everything(task), after[3])
    assert not torch.equal(after[3]["component.mean"], after[2]["component.mean"])
    error = caught.value
    assert (error.exit_code, error.code) == (6, "MMG-N01")
    assert "step 3" in error.where
    assert "bar-" in error.where
    assert "task.optimizer.lr=0.0033 (now 0.01)" in error.fix


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [("dvae", "adamw"), ("vq", "adamw"), ("transformer", "adamw"), ("transformer", "muon"), ("clip", "muon")],
)
def test_a_training_goes_on_as_if_it_had_never_stopped(name, optimizer, tmp_path):
    """Noise, dropout, revived codes, dropped captions and segmentations included. The epoch ends at step 3."""
    options = {"optimizer": {**ADAMW, "name": optimizer}}
    codes = CODES if name == "transformer" else None

    def task():
        kind, component = components()[name]
        return make_task(kind, component, **options)

    whole = task()
    fit(whole, codes=codes, gradient_clip_val=0.5, val_check_interval=2)
    first = task()
    torch.manual_seed(77)  # what else this process has drawn does not matter
    fit(first, steps=4, codes=codes, gradient_clip_val=0.5, val_check_interval=2).save_checkpoint(tmp_path / "step-4")
    second = task()
    with torch.no_grad():
        for tensor in second.component.parameters():
            tensor.zero_()
    trainer = fit(second, checkpoint=tmp_path / "step-4", codes=codes, gradient_clip_val=0.5, val_check_interval=2)
    assert trainer.global_step == 6
    assert_equal(everything(second), everything(whole))
    assert not all(torch.equal(tensor, first.state_dict()[name]) for name, tensor in whole.state_dict().items())


@pytest.mark.parametrize("lightnings_epoch", [0, 4])
def test_batches_whose_gradients_are_accumulated_do_not_draw_alike(lightnings_epoch, tmp_path):
    """Going on in the middle of an epoch, theirs and Lightning's, gives the numbers that would have been drawn."""

    class Draws(Brightness):
        def training_loss(self, batch, step):
            if self.training:
                drawn.append(float(torch.rand(())))
            return super().training_loss(batch, step)

    options = {"accumulate_grad_batches": 2, "overfit_batches": lightnings_epoch, "val_check_interval": 4}
    drawn: list[float] = []
    save = SaveCheckpoints(tmp_path, 3, saved=lambda step: None, failed=pytest.fail)
    fit(make_task("tokenizer", Draws()), save, **options)
    whole, drawn = drawn, []
    assert len(set(whole)) == len(whole) == 12
    fit(make_task("tokenizer", Draws()), checkpoint=tmp_path / "step-000003", **options)
    assert drawn == whole[6:]


def test_what_is_drawn_follows_the_step_where_nothing_is_accumulated():
    """The numbers of runs that were trained before are drawn again."""
    drawn = []

    class Draws(Brightness):
        def training_loss(self, batch, step):
            if self.training:
                drawn.append((step, float(torch.rand(()))))
            return super().training_loss(batch, step)

    fit(make_task("tokenizer", Draws(), seed=7))
    expected = [torch.rand((), generator=torch.Generator().manual_seed((7 * 1_000_003 + s) * 4096)) for s in range(6)]
    assert drawn == [(step, float(number)) for step, number in enumerate(expected)]


def test_another_seed_gives_another_training():
    ends = []
    for seed in (1, 1, 2):
        task = make_task("tokenizer", components()["dvae"][1], seed=seed)
        fit(task, steps=2)
        ends.append(task.component.decoder.blocks.input.weight.detach().clone())
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_the_loss_the_rate_and_the_norm_are_logged_each_step():
    component, logger = Brightness(), Rows()
    task = make_task("tokenizer", component)
    losses, rates, norms = [], [], []

    class Listen(pl.Callback):
        def on_before_optimizer_step(self, trainer, module, optimizer):
            rates.append(optimizer.param_groups[0]["lr"])
            norms.append(float(torch.cat([p.grad.flatten() for p in component.parameters()]).norm()))

        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            losses.append(float(outputs["loss"].detach()))

    fit(task, Listen(), logger=logger, gradient_clip_val=1e-3)
    rows = [row for row in logger.rows if "train/loss" in row]
    assert [row["train/loss"] for row in rows] == pytest.approx(losses)
    assert [row["train/lr"] for row in rows] == pytest.approx(rates)
    assert [row["train/grad_norm"] for row in rows] == pytest.approx(norms)
    assert max(norms) > 1e-2, "the norm is the one before clipping"
    assert all("train/brightness" in row for row in rows)
    assert len(rows) == 6


def test_validation_judges_the_averaged_weights():
    logger = Rows()
    task = make_task("tokenizer", Brightness(), ema_decay=0.5)
    fit(task, logger=logger)
    (row,) = [row for row in logger.rows if "val/loss" in row]
    val = task.trainer.datamodule.val_dataloader()
    batches = list(val)
    counts = [len(batch["id"]) for batch in batches]
    losses = [float(task.averaged.training_loss(batch, 6)[0]) for batch in batches]
    expected = sum(c * loss for c, loss in zip(counts, losses, strict=True)) / sum(counts)
    assert row["val/loss"] == pytest.approx(expected)
    others = [float(task.component.training_loss(batch, 6)[0].detach()) for batch in batches]
    assert others[0] != pytest.approx(losses[0], rel=1e-3)


def test_a_gradient_is_clipped_to_the_norm_asked_for():
    moved = {}
    for clip in (None, 1e-4):
        task = make_task("tokenizer", Brightness(), optimizer={**ADAMW, "eps": 1.0, "weight_decay": 0.0})
        fit(task, steps=1, gradient_clip_val=clip)
        moved[clip] = float(task.component.mean.detach().abs().max())
    assert 0 < moved[1e-4] < moved[None] / 10


def test_gradients_are_clipped_in_bf16_too():
    """Lightning's own clipping refuses the fused AdamW under autocast."""
    task = make_task("tokenizer", Brightness())
    fit(task, steps=1, gradient_clip_val=1e-9, precision="bf16-mixed")
    start = Brightness()
    assert float((task.component.mean - start.mean).detach().abs().max()) < 1e-3
    assert not torch.equal(task.component.mean, start.mean)


def test_the_average_may_follow_every_few_steps():
    """After steps 4 and 6 of six: with the paper's 0.99 every 25 the last steps are not lost either."""
    task = make_task("tokenizer", Brightness(), ema_every=4, ema_decay=0.0)
    seen = {}
    watch = Watch(lambda trainer, module: seen.update({trainer.global_step: module.averaged.mean.clone()}))
    seen[0] = task.averaged.mean.clone()
    fit(task, watch)
    averages = [seen[step] for step in range(7)]
    assert [not torch.equal(one, after) for one, after in itertools.pairwise(averages)] == [
        False, False, False, True, False, True,
    ]  # fmt: skip
    assert int(task.ema.updates) == 2


def test_the_encoder_s_task_says_how_often_the_right_caption_comes_first():
    """Two pictures share each caption, and either is right."""
    bars, logger = Bars(), Rows()
    bars.splits = {"train": range(24), "val": range(1, 24)}
    task = make_task("encoder", components()["clip"][1], steps=20)
    fit(task, logger=logger, data=PictureData(bars, batch_size=8, seed=1, max_steps=20))
    (row,) = [row for row in logger.rows if "val/retrieval_at_1" in row]
    batches = list(task.trainer.datamodule.val_dataloader())
    words = task.averaged.text_tokenizer
    with torch.no_grad():
        images = torch.cat([task.averaged.encode_image(batch["image"]) for batch in batches])
        texts = torch.cat([task.averaged.encode_text(words.encode(batch["caption"])) for batch in batches])
    captions = [caption for batch in batches for caption in batch["caption"]]
    found = [int(torch.argmax(images @ text)) for text in texts]
    assert sum(i == place for i, place in enumerate(found)) < sum(
        captions[i] == captions[place] for i, place in enumerate(found)
    )
    hits = [captions[i] == captions[place] for i, place in enumerate(found)]
    assert row["val/retrieval_at_1"] == pytest.approx(sum(hits) / 23)
    assert row["val/loss"] > 0
