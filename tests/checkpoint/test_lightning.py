"""Lightning's own state through our checkpoints: the real Trainer, stopped and resumed."""

import sys

import pytest
import pytorch_lightning as pl
import torch

from mmgen.checkpoint.lightning import SafeCheckpointIO
from mmgen.checkpoint.steps import checkpoint_path, kept_checkpoints, newest_valid
from mmgen.errors import CheckpointError

STEPS = 12


class Steps:
    """A loader whose batch is a function of the step alone."""

    def __init__(self, trainer):
        self.trainer = trainer

    def __len__(self):
        return STEPS

    def __iter__(self):
        for step in range(self.trainer.global_step, STEPS):
            yield torch.randn(4, 3, generator=torch.Generator().manual_seed(step))


class Tied(pl.LightningModule):
    """Shared weights, a 0-dim buffer, one that is not contiguous, an optimizer with a scheduler."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("transposed", torch.arange(6.0).reshape(2, 3).t())

    def training_step(self, batch, index):
        self.count += 1
        return self.second(torch.tanh(self.first(batch))).square().mean()

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1, betas=(0.8, 0.9))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def train_dataloader(self):
        return Steps(self.trainer)


class Keeper(pl.Callback):
    """Saves at one step, and keeps a state of its own."""

    def __init__(self, path=None, at=0):
        self.path, self.at, self.seen = path, at, {}

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.seen[trainer.global_step] = (float("nan"), index)
        if trainer.global_step == self.at:
            trainer.save_checkpoint(self.path)

    def state_dict(self):
        return {"seen": self.seen}

    def load_state_dict(self, state):
        self.seen = state["seen"]


def fit(tmp_path, seed, keeper, resume=None):
    pl.seed_everything(seed, verbose=False)
    module = Tied()
    trainer = pl.Trainer(
        max_steps=STEPS,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[keeper],
        plugins=[SafeCheckpointIO()],
    )
    trainer.fit(module, ckpt_path=resume)
    assert trainer.global_step == STEPS
    return trainer, module


@pytest.fixture(autouse=True)
def _quiet(caplog):
    pl_logger = "pytorch_lightning.utilities.rank_zero"
    caplog.set_level("ERROR", logger=pl_logger)


@pytest.mark.parametrize("at", [1, 7, STEPS])
def test_a_resumed_fit_ends_bit_equal(tmp_path, at):
    path = checkpoint_path(tmp_path, at)
    whole_trainer, whole = fit(tmp_path, 1, Keeper(path, at))
    trainer, resumed = fit(tmp_path, 2, keeper := Keeper(), resume=path)

    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert resumed.count == STEPS
    assert resumed.first.weight is resumed.second.weight
    for a, b in zip(moments(whole_trainer), moments(trainer), strict=True):
        assert torch.equal(a, b)
    assert trainer.optimizers[0].param_groups[0]["lr"] == whole_trainer.optimizers[0].param_groups[0]["lr"]
    assert trainer.optimizers[0].param_groups[0]["betas"] == (0.8, 0.9)
    assert list(keeper.seen) == list(range(1, STEPS + 1))  # integer keys


def moments(trainer):
    return [value for state in trainer.optimizers[0].state.values() for value in state.values()]


def test_the_whole_state_comes_back_as_lightning_made_it(tmp_path):
    trainer, _ = fit(tmp_path, 1, Keeper())
    state = trainer._checkpoint_connector.dump_checkpoint()
    io = SafeCheckpointIO()
    io.save_checkpoint(state, tmp_path / "whole")
    assert sorted(p.name for p in (tmp_path / "whole").iterdir()) == [
        "manifest.json",
        "state.json",
        "state.safetensors",
    ]
    assert same(state, io.load_checkpoint(tmp_path / "whole", weights_only=True))


def same(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


def test_no_pickle_is_written_or_read(tmp_path):
    events = []
    watching = True
    sys.addaudithook(lambda event, _: events.append(event) if watching and event.startswith("pickle") else None)
    io = SafeCheckpointIO()
    io.save_checkpoint({"a": torch.ones(3), "b": {1: (2, None)}}, tmp_path / "c")
    io.load_checkpoint(tmp_path / "c")
    watching = False
    assert events == []
    assert not any(p.read_bytes().startswith((b"PK", b"\x80")) for p in (tmp_path / "c").iterdir())


def test_tensors_go_where_they_are_asked_to(tmp_path):
    io = SafeCheckpointIO()
    io.save_checkpoint({"a": torch.ones(3)}, tmp_path / "c")
    for place in ("cpu", torch.device("cpu"), None, {"cuda:0": "cpu"}, lambda storage, location: storage):
        assert io.load_checkpoint(tmp_path / "c", map_location=place)["a"].device.type == "cpu"


def saved(tmp_path, *steps, keep_last=2, keep_every=None):
    io = SafeCheckpointIO(keep_last=keep_last, keep_every=keep_every)
    for step in steps:
        io.save_checkpoint({"global_step": step}, checkpoint_path(tmp_path, step))
    return io


def names(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir())


def damage(path):
    file = path / "state.json"
    file.write_bytes(file.read_bytes().replace(b"step", b"stop"))


@pytest.mark.parametrize(("keep_last", "kept"), [(1, [5]), (2, [4, 5]), (None, [1, 2, 3, 4, 5])])
def test_only_the_last_are_kept(tmp_path, keep_last, kept):
    (tmp_path / "other").mkdir()
    saved(tmp_path, 1, 2, 3, 4, 5, keep_last=keep_last)
    assert names(tmp_path) == ["other", *(f"step-00000{step}" for step in kept)]
    with pytest.raises(ValueError, match="keep_last"):
        SafeCheckpointIO(keep_last=0)


def test_those_of_chosen_steps_stay(tmp_path):
    saved(tmp_path, 1, 2, 3, 4, 5, 6, 7, 8, 9, keep_last=1, keep_every=3)
    assert list(kept_checkpoints(tmp_path)) == [3, 6, 9]
    saved(tmp_path, 10, 11, keep_last=1, keep_every=3)
    assert list(kept_checkpoints(tmp_path)) == [3, 6, 9, 11]


def test_newer_ones_are_never_removed(tmp_path):
    saved(tmp_path, 1, 2, 4, keep_last=None)
    saved(tmp_path, 3, keep_last=1)  # resumed from an earlier step than the last
    assert names(tmp_path) == ["step-000003", "step-000004"]


def test_a_damaged_one_does_not_count_as_kept(tmp_path):
    io = saved(tmp_path, 1, 2)
    damage(checkpoint_path(tmp_path, 2))
    io.save_checkpoint({"global_step": 3}, checkpoint_path(tmp_path, 3))
    assert names(tmp_path) == ["step-000001", "step-000003"]


def test_nothing_is_removed_before_the_new_one_is_verified(tmp_path, monkeypatch):
    io = saved(tmp_path, 1, 2)
    from mmgen.checkpoint import lightning

    original = lightning.write_directory_atomic

    def write_badly(path, fill, needed):
        original(path, fill, needed)
        damage(path)  # a disk that does not keep what it was given

    monkeypatch.setattr(lightning, "write_directory_atomic", write_badly)
    with pytest.raises(CheckpointError, match="step-000003 is damaged"):
        io.save_checkpoint({"global_step": 3}, checkpoint_path(tmp_path, 3))
    assert newest_valid(tmp_path)[0] == checkpoint_path(tmp_path, 2)
    assert names(tmp_path) == ["step-000001", "step-000002", "step-000003"]


def test_the_newest_whole_one_is_found_and_the_damaged_are_told(tmp_path):
    assert newest_valid(tmp_path / "nowhere") == (None, [])
    saved(tmp_path, 100, 900, 1000, keep_last=None)
    (tmp_path / "step-x").mkdir()
    (tmp_path / "step-002000").write_text("<html>")
    damage(checkpoint_path(tmp_path, 1000))
    path, problems = newest_valid(tmp_path)
    assert path == checkpoint_path(tmp_path, 900)
    assert len(problems) == 2
    assert "step-002000" in problems[0]
    assert "step-001000 is damaged (sha256 differs in state.json); passed over" in problems[1]


def test_a_damaged_one_that_was_asked_for_is_an_error_with_the_next_good_one(tmp_path):
    io = saved(tmp_path, 1, 2)
    damage(checkpoint_path(tmp_path, 2))
    with pytest.raises(CheckpointError) as caught:
        io.load_checkpoint(checkpoint_path(tmp_path, 2))
    assert (caught.value.code, caught.value.exit_code) == ("MMG-K01", 5)
    assert "step-000002 is damaged (sha256 differs in state.json)" in caught.value.what
    assert "older good one: step-000001; `resume=auto` takes it by itself" in caught.value.fix
    damage(checkpoint_path(tmp_path, 1))
    with pytest.raises(CheckpointError, match="damaged") as caught:
        io.load_checkpoint(checkpoint_path(tmp_path, 2))
    assert "older good one" not in caught.value.fix


def test_a_checkpoint_can_be_removed_twice(tmp_path):
    io = saved(tmp_path, 1)
    io.remove_checkpoint(checkpoint_path(tmp_path, 1))
    io.remove_checkpoint(str(checkpoint_path(tmp_path, 1)))
    assert names(tmp_path) == []


def test_leftovers_go_at_the_first_save(tmp_path):
    (tmp_path / ".step-000001.7-0123abcd.tmp").mkdir()
    saved(tmp_path, 2)
    assert names(tmp_path) == ["step-000002"]
