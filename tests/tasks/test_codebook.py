"""Use of the codebook: counted over epochs and validations, through a resume and over ranks; picture and alarm."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from mmgen.data.module import PictureData
from mmgen.models.dvae import Dvae
from mmgen.models.vq import VQ
from mmgen.tasks.callbacks import SaveCheckpoints
from mmgen.tasks.codebook import CodebookUse, CodeCounter, WatchCodebook, histogram
from tests.tasks.loops import Bars, Brightness, Rows, fit, make_task

CODES = 40


class Painter(Brightness):
    """Its codes are a fixed function of the picture; how it learns is another matter."""

    codebook_size = CODES

    def codes(self, images):
        values = torch.stack([images[:, :, 1, 1], images[:, :, 5, 5]], -1)  # (B,3,2)
        weights = torch.tensor([7.0, 31.0, 113.0])[:, None]
        return (values * weights).sum(1).mul(10).long().view(-1, 1, 2) % CODES

    def training_loss(self, batch, step):
        loss, logs = super().training_loss(batch, step)
        return loss, {**logs, "indices": self.codes(batch["image"]), "codebook_usage": 0.5}


def use(*counts: int) -> CodebookUse:
    return CodebookUse(torch.tensor(counts))


def numbers(counts: torch.Tensor) -> tuple[float, float, int]:
    """Usage, perplexity and dead codes, by the definitions."""
    shares = [int(count) / int(counts.sum()) for count in counts if count]
    return len(shares) / CODES, math.exp(-sum(p * math.log(p) for p in shares)), CODES - len(shares)


def epochs(rows: Rows) -> list[tuple[int, float, float, float]]:
    names = ("usage", "perplexity")
    return [
        (row["at"], *(row[f"train/epoch_codebook_{name}"] for name in names), row["train/epoch_dead_codes"])
        for row in rows.rows
        if "train/epoch_dead_codes" in row
    ]


def test_usage_perplexity_and_dead_codes():
    found = use(4, 0, 2, 2, 0, 0, 0, 0)
    assert (found.usage, found.dead, found.within_reach) == (3 / 8, 5, 8)
    assert found.perplexity == pytest.approx(2**1.5)
    assert use(0, 3).perplexity == pytest.approx(1)
    assert use(*[7] * 5).perplexity == pytest.approx(5)


@pytest.mark.parametrize(
    ("counts", "collapsed"),
    [
        ([10] * 10 + [0] * 90, False),
        ([20] * 9 + [0] * 91, True),
        ([1] * 9 + [0] * 991, False),  # nine positions cannot use more
        ([100_000] + [1] * 50 + [0] * 49, True),  # half of them at all, one does the work
        ([500] * 51 + [0] * 49, False),
    ],
)
def test_what_is_a_collapse(counts, collapsed):
    assert use(*counts).collapsed is collapsed


def expected_epochs(task, batch: int, steps: int) -> list[tuple[int, float, float, float]]:
    """What the passes over the data must give: by hand, from the order of the batches."""
    data = PictureData(Bars(), batch_size=batch, seed=1, max_steps=steps)
    counts, found = torch.zeros(CODES, dtype=torch.long), []
    for step in range(steps):
        places = [data.train_positions[place] for place in data.order.positions(step)]
        indices = task.component.codes(data.samples.batch(places))
        counts += torch.bincount(indices.flatten(), minlength=CODES)
        size = len(data.train_positions)
        if (step + 1) * batch // size > step * batch // size:
            found.append((step, *numbers(counts)))
            counts = torch.zeros_like(counts)
    return found


def test_the_codes_of_an_epoch_are_counted_and_logged_where_it_ends():
    """Also where the steps that Lightning logs are others: here every tenth."""
    task, rows = make_task("tokenizer", Painter(), steps=9), Rows()
    fit(task, logger=rows, log_every_n_steps=10)
    expected = expected_epochs(task, 8, 9)
    assert len(expected) == 3
    assert expected[0][0] % 10 != 0
    assert epochs(rows) == [pytest.approx(values) for values in expected]
    assert task.epoch_use.usage == expected[-1][1]


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_a_resumed_epoch_counts_what_came_before(tmp_path, stop):
    options = {"steps": 7}
    whole, stopped = Rows(), Rows()
    fit(make_task("tokenizer", Painter(), **options), logger=whole)
    saver = SaveCheckpoints(tmp_path, 1, lambda step: None, lambda error: None)
    fit(make_task("tokenizer", Painter(), **options), saver, steps=stop, logger=stopped)
    fit(make_task("tokenizer", Painter(), **options), checkpoint=tmp_path / f"step-{stop:06d}", logger=stopped)
    assert len(epochs(whole)) == 2
    assert epochs(stopped) == epochs(whole)


def test_validation_counts_all_its_pictures_at_once():
    """The mean over batches would say less than what is used: each batch has a few codes."""
    task, rows = make_task("tokenizer", Painter()), Rows()
    data = PictureData(Bars(), batch_size=8, seed=1, max_steps=6)
    positions = list(range(24))

    class Every(PictureData):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.val_positions = positions

    fit(task, logger=rows, data=Every(Bars(), batch_size=8, seed=1, max_steps=6))
    counts = torch.bincount(task.component.codes(data.samples.batch(positions)).flatten(), minlength=CODES)
    (row,) = [row for row in rows.rows if "val/loss" in row]
    usage, perplexity, _ = numbers(counts)
    assert (row["val/codebook_usage"], row["val/codebook_perplexity"]) == pytest.approx((usage, perplexity))
    assert usage != 0.5
    assert [row["train/codebook_usage"] for row in rows.rows if "train/loss" in row] == [0.5] * 6


def test_a_component_that_logs_no_indices_is_trained_all_the_same():
    rows = Rows()
    task = make_task("tokenizer", Brightness())
    fit(task, WatchCodebook(pytest.fail), logger=rows)
    assert epochs(rows) == []
    assert task.epoch_use is task.val_use is None
    assert not any("codebook" in name for row in rows.rows for name in row)


def test_ranks_add_up_and_go_on_from_the_sum():
    counters = [CodeCounter(3) for _ in range(2)]
    counters[0].add(torch.tensor([[0, 0], [1, 0]]))
    counters[1].add(torch.tensor([[1, 1]]))

    class Both:
        def reduce(self, counts, reduce_op):
            assert reduce_op == "sum"
            return counts + CodeCounter.total(counters[1], Alone()).counts

    class Alone:
        def reduce(self, counts, reduce_op):
            return counts

    saved = counters[0].state(Both())
    assert saved == [3, 3, 0]
    again = [CodeCounter(3) for _ in range(2)]
    for rank, counter in enumerate(again):
        counter.restore(saved, rank)
        counter.add(torch.tensor([2]))
    assert [c.total(Alone()).counts.tolist() for c in again] == [[3, 3, 1], [0, 0, 1]]


def test_the_histogram_goes_from_the_most_to_the_least_used():
    picture = histogram(use(0, 1, 1000, 30), height=50, width=80)
    assert picture.shape == (3, 50, 80)
    assert 0 <= float(picture.min()) <= float(picture.max()) <= 1
    heights = (picture[2] == 0.6).sum(0) + (picture[0] == 0.9).sum(0)
    assert heights[0] == 50
    assert heights.tolist() == sorted(heights, reverse=True)
    assert len(set(heights.tolist())) == 4
    assert heights[-1] == 1, "a dead code has no bar, and only the level crosses it"


@pytest.mark.parametrize(
    ("component", "advice"),
    [
        (
            Dvae(image_size=8, codebook_size=400, width=4, blocks_per_group=1, decoder_width=4),
            "tokenizer.balance_weight",
        ),
        (VQ(image_size=8, codebook_size=400, width=4, blocks=1), "tokenizer.commitment_weight"),
        (object(), "lower task.optimizer.lr"),
    ],
)
def test_the_alarm_is_told_once_with_advice_that_fits(component, advice):
    told, pictures = [], Rows()
    counts = torch.zeros(400, dtype=torch.long)
    counts[:7] = 100
    module = SimpleNamespace(averaged=component, epoch_use=CodebookUse(counts), val_use=None)
    trainer = SimpleNamespace(sanity_checking=False, logger=pictures, global_step=200)
    callback = WatchCodebook(told.append)
    for _ in range(2):
        callback.on_validation_end(trainer, module)
    (text,) = told
    assert "at step 200 7 of 400 codes are in use over the last pass over the training pictures" in text
    assert "a perplexity of 7" in text
    assert text.endswith(getattr(component, "collapse_advice", advice))
    assert advice in text
    assert [row["picture"][0] for row in pictures.rows] == ["codebook", "codebook"]


def test_a_training_draws_the_histogram_and_stays_silent_when_all_is_well():
    rows = Rows()
    fit(make_task("tokenizer", Painter()), WatchCodebook(pytest.fail), logger=rows, val_check_interval=2)
    pictures = [row["picture"] for row in rows.rows if "picture" in row]
    assert [name for name, _ in pictures] == ["codebook"] * 3
    assert pictures[0][1].shape == (3, 96, 384)
