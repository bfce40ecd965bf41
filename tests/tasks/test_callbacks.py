"""What happens around the steps: checkpoints that may fail, signals, pictures to look at."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from mmgen.checkpoint.lightning import SafeCheckpointIO
from mmgen.checkpoint.steps import newest_valid
from mmgen.errors import CheckpointError
from mmgen.tasks.callbacks import SaveCheckpoints, ShowProgress, ShowReconstructions, StopOnSignal
from tests.tasks.loops import Brightness, Rows, Watch, assert_equal, components, everything, fit, make_task


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_checkpoints_come_at_their_interval_and_at_the_end(tmp_path):
    saved, task = [], make_task("tokenizer", Brightness(), steps=5)
    fit(task, SaveCheckpoints(tmp_path, 2, saved=saved.append, failed=pytest.fail))
    assert saved == [2, 4, 5]
    assert names(tmp_path) == ["step-000004", "step-000005"]
    state = SafeCheckpointIO().load_checkpoint(tmp_path / "step-000005")
    assert_equal(state["state_dict"], dict(task.state_dict()))


def test_steps_that_are_to_stay_have_a_checkpoint_of_their_own(tmp_path):
    saved: list[int] = []
    fit(
        make_task("tokenizer", Brightness(), steps=7),
        SaveCheckpoints(tmp_path, 4, saved=saved.append, failed=pytest.fail, keep_every=3),
    )
    assert saved == [3, 4, 6, 7]


def test_the_end_is_not_saved_twice(tmp_path):
    saved = []
    fit(
        make_task("tokenizer", Brightness(), steps=4),
        SaveCheckpoints(tmp_path, 2, saved=saved.append, failed=pytest.fail),
    )
    assert saved == [2, 4]


def failing(monkeypatch, steps):
    """Checkpoints of these steps cannot be written."""
    write = SafeCheckpointIO.save_checkpoint

    def save(self, checkpoint, path, storage_options=None):
        if checkpoint["global_step"] in steps:
            raise CheckpointError("cannot write: the disk is full", code="MMG-K04")
        write(self, checkpoint, path, storage_options)

    monkeypatch.setattr(SafeCheckpointIO, "save_checkpoint", save)


def test_a_write_that_fails_is_told_and_tried_again_at_the_next_interval(tmp_path, monkeypatch):
    failing(monkeypatch, {2, 4, 8, 10})
    saved, failed = [], []
    fit(
        make_task("tokenizer", Brightness(), steps=12),
        SaveCheckpoints(tmp_path, 2, saved=saved.append, failed=failed.append),
    )
    assert saved == [6, 12]
    assert [error.code for error in failed] == ["MMG-K04"] * 4
    assert newest_valid(tmp_path)[0] == tmp_path / "step-000012"


def test_a_write_that_failed_is_not_tried_again_amid_a_step(tmp_path, monkeypatch):
    """With gradients accumulated over two batches; half a step could not be gone on with."""
    tried, saved, failed = [], [], []
    write = SafeCheckpointIO.save_checkpoint

    def save(self, checkpoint, path, storage_options=None):
        tried.append(checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]["ready"])
        if len(tried) == 1:
            raise CheckpointError("cannot write: the disk is full", code="MMG-K04")
        write(self, checkpoint, path, storage_options)

    monkeypatch.setattr(SafeCheckpointIO, "save_checkpoint", save)
    options = {"accumulate_grad_batches": 2, "val_check_interval": 12}
    fit(
        make_task("tokenizer", Brightness()),
        SaveCheckpoints(tmp_path, 2, saved=saved.append, failed=failed.append),
        **options,
    )
    assert (saved, len(failed)) == ([4, 6], 1)
    assert tried == [4, 8, 12]


def test_what_is_left_of_lightning_s_epoch_is_a_step_of_its_own(tmp_path):
    """Three batches an epoch, two a step: steps end after batches 2, 3, 5, 6 …, and each has its checkpoint, and heeds
    a signal."""

    class Struck(Brightness):
        def training_loss(self, batch, step):
            if self.training and step == 3:
                signal.raise_signal(signal.SIGTERM)
            return super().training_loss(batch, step)

    saved = []
    with StopOnSignal() as stop:
        save = SaveCheckpoints(tmp_path, 1, saved=saved.append, failed=pytest.fail)
        options = {"accumulate_grad_batches": 2, "overfit_batches": 3, "val_check_interval": 3}
        trainer = fit(make_task("tokenizer", Struck()), stop, save, **options)
    assert saved == [1, 2, 3, 4]
    assert trainer.fit_loop.epoch_loop.batch_progress.total.completed == 6


def test_the_third_failure_in_a_row_ends_the_training(tmp_path, monkeypatch):
    failing(monkeypatch, {4, 6, 8})
    saved, failed, reached = [], [], []
    with pytest.raises(CheckpointError, match="disk is full") as caught:
        fit(
            make_task("tokenizer", Brightness(), steps=12),
            Watch(lambda trainer, module: reached.append(trainer.global_step)),
            SaveCheckpoints(tmp_path, 2, saved=saved.append, failed=failed.append),
        )
    assert (saved, len(failed), reached[-1]) == ([2], 2, 8)
    assert caught.value.exit_code == 5
    assert newest_valid(tmp_path)[0] == tmp_path / "step-000002"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_signal_ends_the_training_after_the_step_with_a_checkpoint(tmp_path, number, accumulate):
    """With gradients accumulated over batches, a step is all of them: a half one could not be gone on with."""

    class Struck(Brightness):
        def training_loss(self, batch, step):
            if self.training and step == 2 and not struck:
                struck.append(step)
                signal.raise_signal(number)
            return super().training_loss(batch, step)

    struck: list[int] = []
    before = signal.getsignal(number)
    options = {"accumulate_grad_batches": accumulate, "val_check_interval": 6}
    with StopOnSignal() as stop:
        task = make_task("tokenizer", Struck())
        save = SaveCheckpoints(tmp_path, 100, saved=lambda step: None, failed=pytest.fail)
        trainer = fit(task, stop, save, **options)
    assert (stop.received, trainer.global_step) == (number, 3)
    assert signal.getsignal(number) is before
    assert names(tmp_path) == ["step-000003"]
    resumed, whole = make_task("tokenizer", Struck()), make_task("tokenizer", Struck())
    fit(resumed, checkpoint=tmp_path / "step-000003", **options)
    fit(whole, **options)
    assert_equal(everything(resumed), everything(whole))


def test_a_second_signal_ends_the_process_at_once():
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with StopOnSignal():
                signal.raise_signal(signal.SIGTERM)
                os.write(write, b"1")
                signal.raise_signal(signal.SIGINT)
                os.write(write, b"2")
        finally:
            os._exit(99)
    os.close(write)
    assert os.read(read, 9) == b"1"
    assert os.read(read, 9) == b""
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130


def test_reconstructions_are_shown_beside_the_originals():
    logger = Rows()
    kind, component = components()["vq"]
    images = torch.rand(3, 3, 8, 8)
    task = make_task(kind, component)
    fit(task, ShowReconstructions(images), logger=logger)
    ((name, picture),) = [row["picture"] for row in logger.rows if "picture" in row]
    assert name == "reconstructions"
    with torch.no_grad():
        rebuilt = task.averaged.decode(task.averaged.encode(images))
    cells = [(2 + row * 10, 2 + column * 10) for row in range(2) for column in range(3)]
    shown = torch.stack([picture[:, top : top + 8, left : left + 8] for top, left in cells])
    torch.testing.assert_close(shown, torch.cat([images, rebuilt]))


@pytest.mark.parametrize("batches", [1, 2])
def test_the_bar_moves_with_every_step_and_shows_the_loss(batches):
    moved: list[tuple[int, str]] = []

    class Line:
        def advance(self, count, text):
            moved.append((count, text))

    fit(make_task("tokenizer", Brightness()), ShowProgress(Line()), accumulate_grad_batches=batches)
    assert [count for count, _ in moved] == [1] * 6
    assert moved[-1][1].startswith("loss 0.")
