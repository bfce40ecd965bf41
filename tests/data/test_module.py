"""Batches through a real Lightning Trainer: after any resume, the same ones as without."""

from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch

from mmgen.data.augment import AUGMENTATIONS
from mmgen.data.module import PictureData
from mmgen.data.order import is_text_only, sample_key
from mmgen.data.pictures import Pictures
from mmgen.errors import DataError
from tests.data.fakes import Noisy, Numbered

STEPS = 22  # of 4 samples, from 19: more than four epochs, and no epoch ends with a batch


class Tiny(pl.LightningModule):
    """One weight; writes down what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple] = []
        self.validated: list[list[str]] = []

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        self.seen.append((batch_idx, tuple(batch["id"]), tuple(batch["key"]), tuple(batch["caption"])))
        return ((self.weight - batch["image"].mean()) ** 2).sum()

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        self.validated.append(batch["id"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Scheduled(Tiny):
    """Asks for the length of the training while it is set up: Lightning then builds the loader before it resumes."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        assert self.trainer.estimated_stepping_batches == STEPS
        return super().configure_optimizers()


class StopAfter(pl.Callback):
    """Saves, and ends the process as a kill does, after so many optimizer steps."""

    def __init__(self, steps: int, path: Path, hook: str) -> None:
        def stop(trainer: pl.Trainer, *_: object) -> None:
            if trainer.global_step == steps and not trainer.sanity_checking and not path.exists():
                trainer.save_checkpoint(path)
                raise KeyboardInterrupt

        setattr(self, hook, stop)


def train(
    module: Tiny,
    callback: pl.Callback | None = None,
    ckpt: Path | None = None,
    data: PictureData | None = None,
    **options,
) -> Tiny:
    data = data or PictureData(Numbered(20), batch_size=4, seed=3, max_steps=STEPS, alternative_captions=0.5)
    options = {"max_steps": STEPS, "val_check_interval": 5, "num_sanity_val_steps": 0, **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[callback] if callback else [],
            **options,
        )
        try:
            trainer.fit(module, datamodule=data, ckpt_path=ckpt, weights_only=False if ckpt else None)
        except SystemExit:  # what Lightning makes of a KeyboardInterrupt
            assert callback
    return module


@pytest.mark.parametrize("module", [Tiny, Scheduled])
@pytest.mark.parametrize(
    ("steps", "hook"),
    [
        (1, "on_train_batch_end"),
        (7, "on_train_batch_end"),
        (10, "on_train_batch_end"),  # just before a validation
        (10, "on_validation_end"),
        (10, "on_train_batch_start"),  # just after it
        (21, "on_train_batch_end"),
    ],
)
def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(
    module: type[Tiny], steps: int, hook: str, tmp_path: Path
) -> None:
    whole = train(module())
    first = train(module(), StopAfter(steps, tmp_path / "ckpt", hook))
    second = train(module(), ckpt=tmp_path / "ckpt")
    assert len(whole.seen) == STEPS
    assert len(first.seen) == steps
    assert first.seen + second.seen == whole.seen
    assert torch.equal(second.weight, whole.weight)


def test_a_resumed_run_goes_on_when_the_training_was_made_longer(tmp_path: Path) -> None:
    short = PictureData(Numbered(20), batch_size=4, seed=3, max_steps=10, alternative_captions=0.5)
    first = train(Tiny(), StopAfter(10, tmp_path / "ckpt", "on_train_batch_end"), data=short, max_steps=10)
    second = train(Tiny(), ckpt=tmp_path / "ckpt")
    assert first.seen + second.seen == train(Tiny()).seen


def test_accumulation_takes_as_many_batches_a_step(tmp_path: Path) -> None:
    whole = train(Tiny(), accumulate_grad_batches=3)
    first = train(Tiny(), StopAfter(7, tmp_path / "ckpt", "on_train_batch_end"), accumulate_grad_batches=3)
    second = train(Tiny(), ckpt=tmp_path / "ckpt", accumulate_grad_batches=3)
    assert len(whole.seen) == 3 * STEPS
    assert first.seen + second.seen == whole.seen


def test_overfitting_repeats_its_batches() -> None:
    seen = [batch[1] for batch in train(Tiny(), overfit_batches=2, val_check_interval=1).seen]
    assert len(seen) == STEPS
    assert seen == seen[:2] * (STEPS // 2)


def test_workers_make_the_same_batches() -> None:
    def data(num_workers: int) -> list[dict]:
        source = PictureData(Numbered(20), batch_size=4, seed=3, max_steps=6, num_workers=num_workers)
        return list(source.train_dataloader())

    for alone, by_worker in zip(data(0), data(1), strict=True):
        assert torch.equal(alone.pop("image"), by_worker.pop("image"))
        assert alone == by_worker


class Ranks:
    """Stands for a trainer under DDP, where it matters to the datamodule."""

    def __init__(self, rank: int, world_size: int) -> None:
        self.strategy = type("Strategy", (), {"distributed_sampler_kwargs": {"rank": rank, "num_replicas": world_size}})
        self.accumulate_grad_batches = 1
        done = SimpleNamespace(total=SimpleNamespace(completed=0))
        self.fit_loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=done))


def loaders(world_size: int, dataset: Numbered | None = None) -> list[PictureData]:
    pictures = Pictures(dataset or Numbered(50))
    modules = []
    for rank in range(world_size):
        modules.append(PictureData(pictures, batch_size=4, seed=3, max_steps=15))
        modules[-1].trainer = Ranks(rank, world_size)  # type: ignore[assignment]
    return modules


def test_the_ranks_share_each_global_batch() -> None:
    alone = [(b["id"], b["key"]) for b in loaders(1)[0].train_dataloader()]
    one, two = ([(b["id"], b["key"]) for b in data.train_dataloader()] for data in loaders(2))
    assert len(alone) == 15
    assert [(a[0] + b[0], a[1] + b[1]) for a, b in zip(one, two, strict=True)] == alone


def test_the_ranks_share_the_validation() -> None:
    dataset = Numbered(50, splits={"train": list(range(43)), "val": list(range(43, 50))})
    data = loaders(1, dataset)[0]
    expected = [f"n{i:04d}" for i in range(43, 50)]
    assert [id for batch in data.val_dataloader() for id in batch["id"]] == expected
    ranks = [[batch["id"] for batch in data.val_dataloader()] for data in loaders(4, dataset)]
    assert {len(batches) for batches in ranks} == {2}  # equally many, or one rank would wait for another
    shared = Counter(id for batches in ranks for batch in batches for id in batch)
    assert set(shared) == set(expected)
    assert sum(shared.values()) == 8


def test_no_rank_is_without_validation() -> None:
    dataset = Numbered(50, splits={"train": list(range(49)), "val": [49]})
    assert [[batch["id"] for batch in data.val_dataloader()] for data in loaders(2, dataset)] == [[["n0049"]]] * 2


def test_a_world_that_does_not_divide_the_batch_is_refused() -> None:
    with pytest.raises(ValueError, match="3 processes do not divide a batch of 4"):
        loaders(3)[0].train_dataloader()


def test_validation_is_always_the_same_and_complete() -> None:
    module = train(Tiny())
    rounds = len(module.validated)
    assert rounds == STEPS // 5
    assert module.validated == module.validated[:1] * rounds
    data = PictureData(
        Numbered(60, splits={"train": [0, 1, 2, 3], "val": [9, 8, 7, 6, 5]}), batch_size=2, seed=0, max_steps=1
    )
    batches = list(data.val_dataloader())
    assert [batch["id"] for batch in batches] == [["n0009", "n0008"], ["n0007", "n0006"], ["n0005"]]
    assert batches[0]["key"] == [sample_key(0, 0, "n0009"), sample_key(0, 0, "n0008")]
    assert batches[0]["caption"] == ["number 9", "number 8"]


def test_a_batch_holds_pictures_of_its_samples() -> None:
    batch = next(iter(PictureData(Numbered(20), batch_size=4, seed=3, max_steps=1).train_dataloader()))
    assert batch["image"].shape == (4, 3, 8, 8)
    assert batch["image"].dtype == torch.float32
    assert [f"n{round(image.mean().item() * 255):04d}" for image in batch["image"]] == batch["id"]


def test_codes_stand_for_the_pictures() -> None:
    codes = torch.arange(20)[:, None].expand(20, 16).to(torch.int32)
    data = PictureData(Numbered(20), batch_size=4, seed=3, max_steps=2, codes=codes)
    for batch in [*data.train_dataloader(), *data.val_dataloader()]:
        assert "image" not in batch
        assert batch["image_tokens"].dtype == torch.int64
        assert [f"n{row[0]:04d}" for row in batch["image_tokens"].tolist()] == batch["id"]
    with pytest.raises(ValueError, match=r"codes must be \(20,N\)"):
        PictureData(Numbered(20), batch_size=4, seed=3, max_steps=2, codes=codes[:5])


def captions(share: float, others: int = 3) -> list[str]:
    data = PictureData(Numbered(40, others=others), batch_size=40, seed=3, max_steps=50, alternative_captions=share)
    return [caption for batch in data.train_dataloader() for caption in batch["caption"]]


def test_training_draws_other_captions_as_often_as_asked() -> None:
    assert all("words" not in caption for caption in captions(0.0))
    assert all("words" in caption for caption in captions(1.0))
    drawn = captions(0.3)
    share = sum("words" in caption for caption in drawn) / len(drawn)
    assert abs(share - 0.3) < 0.04  # 2,000 draws: four standard deviations
    which = Counter(caption[-1] for caption in drawn if "words" in caption)
    assert set(which) == {"0", "1", "2"}
    assert min(which.values()) > 0.2 * sum(which.values())
    assert captions(0.3) == drawn


def test_one_caption_alone_stays() -> None:
    assert all("words" not in caption for caption in captions(1.0, others=0))


def test_the_global_random_numbers_are_left_alone() -> None:
    data = PictureData(Numbered(20), batch_size=4, seed=3, max_steps=3)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(data.train_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def test_an_empty_split_is_named() -> None:
    with pytest.raises(DataError, match="'val' holds no samples"):
        PictureData(Numbered(5, splits={"train": [0, 1], "val": []}), batch_size=1, seed=0, max_steps=1)


# --- augmented pictures, captions alone ------------------------------------------------------------------------------


@pytest.mark.parametrize("augment", ["dalle_tokenizer", "dalle_generator"])
def test_training_pictures_are_augmented_by_their_keys_and_val_is_not(augment: str) -> None:
    dataset = Noisy(20)
    options = {"batch_size": 4, "seed": 3, "max_steps": 9, "augment": augment}
    data = PictureData(dataset, **options)
    found = list(data.train_dataloader())
    place = {dataset[i]["id"]: i for i in range(20)}
    for batch in found:
        crops = [
            AUGMENTATIONS[augment](dataset.original(place[id]), 8, key)
            for id, key in zip(batch["id"], batch["key"], strict=True)
        ]
        torch.testing.assert_close(batch["image"], torch.stack(crops))
    workers = list(PictureData(dataset, num_workers=2, **options).train_dataloader())
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(found, workers, strict=True))
    val = torch.cat([batch["image"] for batch in data.val_dataloader()])
    assert torch.equal(val, torch.stack([dataset[i]["image"] for i in data.val_positions]))


def test_a_generator_s_augmentation_takes_no_long_pictures() -> None:
    dataset = Noisy(20)
    data = PictureData(dataset, batch_size=4, seed=3, max_steps=1, augment="dalle_generator")
    everything = PictureData(dataset, batch_size=4, seed=3, max_steps=1)
    assert data.train_positions == [i for i in everything.train_positions if i % 5]  # every fifth is 20×50
    assert data.left_out == len(everything.train_positions) - len(data.train_positions) > 0
    assert data.val_positions == everything.val_positions
    dataset.original = lambda index: torch.zeros(3, 50, 20)
    with pytest.raises(DataError, match="more than twice as long"):
        PictureData(dataset, batch_size=4, seed=3, max_steps=1, augment="dalle_generator")


def test_an_augmented_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    def data() -> PictureData:
        return PictureData(Noisy(20), batch_size=4, seed=3, max_steps=STEPS, augment="dalle_tokenizer")

    whole = train(Tiny(), data=data())
    train(Tiny(), StopAfter(7, tmp_path / "ckpt", "on_train_batch_end"), data=data())
    assert torch.equal(train(Tiny(), ckpt=tmp_path / "ckpt", data=data()).weight, whole.weight)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_some_steps_have_captions_alone(num_workers: int) -> None:
    options = {"batch_size": 4, "seed": 3, "max_steps": 30, "num_workers": num_workers}
    codes = torch.arange(20 * 6).view(20, 6)
    data = PictureData(Numbered(20), codes=codes, text_only=0.4, **options)
    every = PictureData(Numbered(20), codes=codes, **options)
    for step, (batch, full) in enumerate(zip(data.train_dataloader(), every.train_dataloader(), strict=True)):
        assert ("image_tokens" in batch) != is_text_only(3, step, 0.4)
        assert "image" not in batch
        assert all(batch[name] == full[name] for name in ("id", "key", "caption")), "samples come in the same order"
    assert all("image_tokens" in batch for batch in data.val_dataloader())
