"""Trainings by several processes through the real command: they end as one process's does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import mmgen
from mmgen.checkpoint.parts import read_part
from mmgen.checkpoint.steps import newest_valid
from mmgen.runs.metrics import MetricsFile
from tests.groups import command, run_groups, said
from tests.tiny import QUIET, RUN, write_pictures
from tests.tiny import mmgen as run_mmgen

STEPS = 20
TOLERANCE = 1e-5  # of a loss near 4
DATA = ["dataset=folder", "dataset.path=pictures", "dataset.image_size=16", "task.batch_size=16", QUIET]
TOKENIZER = ["tokenizer.width=8", "tokenizer.blocks=1", "tokenizer.codebook_size=32"]
# Small enough to be quick; the gradient is clipped at every step, and the captions are the only thing that is random.
GENERATOR = [
    *("task=generator", "generator.embed_dim=32", "generator.num_layers=2"),
    *("generator.num_heads=2", "tokenizer_from=runs/tokenizer", "trainer.gradient_clip_val=0.5"),
    *(f"trainer.max_steps={STEPS}", "trainer.log_every_n_steps=1", "trainer.val_check_interval=10"),
    *("task.checkpoint_every=6", "task.text_tokenizer={vocab_size: 280, context_length: 12, bpe_dropout: 0.1}"),
]
CPU = ["trainer.accelerator=cpu", "trainer.precision=32-true"]


def train(name: str, trainer: str, *more: str, processes: int = 2, **env: str) -> dict:
    """A training of the generator by a group of processes; what `more` says goes before."""
    placed = [f"trainer={trainer}", *CPU, f"trainer.devices={processes}"]
    return command("train", *DATA, *GENERATOR, *placed, f"run.name={name}", *more, **env)


STRIKING = "generator=striking:Striking"


def export(name: str) -> dict:
    return command("export", f"runs/{name}", f"exports/{name}", "tokenizer_from=runs/tokenizer")


def workplace(directory: Path) -> Path:
    write_pictures(directory / "pictures")
    shutil.copy(Path(__file__).parent / "striking.py", directory)
    return directory


TRAIN_TOKENIZER = command("train", "task=tokenizer", *DATA, *TOKENIZER, "trainer.max_steps=4", "run.name=tokenizer")
ALONE = (1, [TRAIN_TOKENIZER, train("alone", "cpu", processes=1)])


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A directory where one process has trained, and two in every way, some of them disturbed; with the exit codes."""
    work = workplace(tmp_path_factory.mktemp("scale"))
    stop, poison = "1:7:TERM", "1:4:NAN"
    codes = run_groups(
        work,
        [
            ALONE,
            (
                2,
                [
                    train("ddp", "ddp"),
                    train("fsdp", "fsdp"),
                    train("tp", "fsdp_tp"),
                    train("stopped", "fsdp", STRIKING, STRIKE=stop),
                    {"copy": ["runs/stopped", "runs/moved"]},
                    train("stopped", "fsdp", STRIKING),
                    train("poisoned", "fsdp", STRIKING, "task.checkpoint_every=3", STRIKE=poison),
                ],
            ),
            (1, [train("moved", "cpu", STRIKING, processes=1), *(export(name) for name in ("alone", "fsdp", "tp"))]),
        ],
    )
    return work, codes


def rows(run: Path, key: str = "train/loss") -> list[tuple[int, float]]:
    return [(row["step"], row[key]) for row in MetricsFile(run / "metrics.jsonl").rows() if key in row]


def assert_same_curves(work: Path, name: str, tolerance: float = TOLERANCE, alone: str = "alone") -> None:
    """Of loss and gradient norm at every step, and of the validations; a stop makes a further one of these."""
    for key, count in {"train/loss": STEPS, "train/grad_norm": STEPS, "val/loss": 2}.items():
        found, theirs = rows(work / "runs" / name, key), rows(work / "runs" / alone, key)
        ours = dict(found)
        assert len(ours) == len(found), "each step once"
        assert ours.keys() >= dict(theirs).keys()
        assert len(theirs) == count
        assert max(abs(ours[step] - value) for step, value in theirs) < tolerance, key


def weights(work: Path, name: str) -> dict[str, torch.Tensor]:
    return read_part(work / "runs" / name / "model", trusted=True).tensors


def test_every_training_ended_as_it_should(work):
    directory, codes = work
    expected = [[[0, 0]], [[0, 0, 0, 143, 0, 6]] * 2, [[0, 0, 0, 0]]]
    assert codes == expected, "\n".join(path.read_text() for path in sorted(directory.glob("group-*.log")))


@pytest.mark.parametrize("name", ["ddp", "fsdp", "tp", "stopped", "moved"])
def test_the_loss_is_that_of_one_process(work, name):
    assert_same_curves(work[0], name)


@pytest.mark.parametrize("name", ["ddp", "fsdp", "tp"])
def test_the_weights_are_those_of_one_process(work, name):
    """A gradient that lacks the part of another process hardly shows in a loss of twenty steps, but here."""
    ours, theirs = weights(work[0], name), weights(work[0], "alone")
    assert ours.keys() == theirs.keys()
    assert max(float((ours[key] - theirs[key]).abs().max()) for key in theirs) < 1e-5
    moved = [key for key in theirs if "q_norm" in key or "k_norm" in key]
    assert all(float((theirs[key] - 1).abs().max()) > 1e-3 for key in moved)
    assert len(moved) == 4


@pytest.mark.parametrize("name", ["fsdp", "tp"])
def test_what_was_trained_in_pieces_is_one_part(work, name):
    """Exported, and loaded in this process, it gives the logits of what one process trained."""
    generators = [mmgen.load(work[0] / "exports" / run).part("generator") for run in (name, "alone")]
    text = torch.arange(36).view(3, 12)
    image = torch.arange(48).view(3, 16) % 32
    with torch.no_grad():
        ours, theirs = (generator(text, image) for generator in generators)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-4)
        assert one.std() > 0.1


def test_a_signal_to_one_process_stops_all_after_the_same_step(work):
    directory = work[0]
    first, second = (said(directory, 1, rank) for rank in (0, 1))
    assert "the generator is saved at step 8 of 20" in first
    assert "run.name=stopped goes on from there" in first
    assert "stopped" not in second, "only rank 0 speaks"
    assert "reading" not in second


def test_a_resumed_sharded_training_ends_bit_equal(work):
    ours, theirs = weights(work[0], "stopped"), weights(work[0], "fsdp")
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_a_sharded_checkpoint_holds_each_weight_once(work):
    checkpoints = work[0] / "runs" / "fsdp" / "checkpoints"
    newest, problems = newest_valid(checkpoints)
    assert (newest.name, problems) == ("step-000020", [])
    pieces = sorted(path.name for path in newest.glob("*.safetensors"))
    assert pieces == ["rank-00000.safetensors", "rank-00001.safetensors"]
    (whole,) = (work[0] / "runs" / "alone" / "checkpoints" / "step-000020").glob("*.safetensors")
    sizes = [(newest / name).stat().st_size for name in pieces]
    assert sum(sizes) == pytest.approx(whole.stat().st_size, rel=0.15), "headers aside"
    assert max(sizes) < 0.6 * sum(sizes)


def test_one_process_s_bad_loss_stops_all_before_the_step(work):
    directory = work[0]
    run = directory / "runs" / "poisoned"
    assert [step for step, _ in rows(run)] == [0, 1, 2, 3]
    assert json.loads((run / "status.json").read_text())["state"] == "failed"
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000003"]
    assert "the loss is nan at step 4" in said(directory, 1, 1)
    assert "the gradient's norm is nan at step 4" in said(directory, 1, 0)


PAIRS = """
from mmgen.testing.stand_ins import small_samples


class Pairs(list):
    def __init__(self):
        super().__init__(small_samples(24, 16))
        self.splits = {"train": range(24), "val": range(7, 18)}
"""


@pytest.mark.slow
def test_an_encoder_s_validation_searches_the_pictures_of_all_processes(tmp_path):
    """Eleven pictures, so that one comes twice for the second process to have as many."""
    (tmp_path / "pairs.py").write_text(PAIRS)
    encoder = ["encoder.width=32", "encoder.embed_dim=16", "encoder.image_layers=1", "encoder.text_layers=1"]
    encoder += ["encoder.num_heads=2", "task.text_tokenizer={vocab_size: 280, context_length: 24}"]
    steps = ["trainer.max_steps=6", "trainer.val_check_interval=2", "task.batch_size=8", QUIET]
    train = ["train", "task=encoder", "dataset=pairs:Pairs", *encoder, *steps]
    groups = []
    for processes, trainer in ((1, "cpu"), (2, "ddp")):
        placed = [f"trainer={trainer}", *CPU, f"trainer.devices={processes}", f"run.name={trainer}"]
        groups.append((processes, [command(*train, *placed)]))
    assert run_groups(tmp_path, groups) == [[[0]], [[0], [0]]], said(tmp_path, 0, 0) + said(tmp_path, 1, 0)
    ours, theirs = (rows(tmp_path / "runs" / name, "val/retrieval_at_1") for name in ("ddp", "cpu"))
    assert len(theirs) == 3
    assert ours == theirs


# ---- what takes longer: four processes, other options, and the command's own processes


def more_groups() -> list:
    def variants(trainer: str, processes: int) -> list:
        options = {
            "muon": ["task.optimizer.name=muon"],
            "bf16": ["trainer.precision=bf16-mixed"],
            "halves": ["trainer.accumulate_grad_batches=2", "trainer.val_check_interval=20"],
        }
        return [train(f"{name}-{trainer}", trainer, *said, processes=processes) for name, said in options.items()]

    return [
        (1, [*ALONE[1], *variants("cpu", 1)]),
        (2, [*variants("ddp", 2), *variants("fsdp", 2), *variants("fsdp_tp", 2)]),
        (4, [train("ddp-4", "ddp", processes=4), train("fsdp-tp-4", "fsdp_tp", processes=4)]),
        (4, [train("muon-fsdp-tp-4", "fsdp_tp", "task.optimizer.name=muon", processes=4)]),
    ]


@pytest.fixture(scope="module")
def more(tmp_path_factory):
    work = workplace(tmp_path_factory.mktemp("more"))
    codes = run_groups(work, more_groups())
    wrong = [code for group in codes for rank in group for code in rank if code]
    assert not wrong, "\n".join(path.read_text() for path in sorted(work.glob("group-*.log")))
    return work


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "alone", "tolerance"),
    [
        ("ddp-4", "alone", TOLERANCE),
        ("fsdp-tp-4", "alone", TOLERANCE),
        ("muon-fsdp-tp-4", "muon-cpu", TOLERANCE),
        *((f"muon-{trainer}", "muon-cpu", TOLERANCE) for trainer in ("ddp", "fsdp", "fsdp_tp")),
        *((f"halves-{trainer}", "halves-cpu", TOLERANCE) for trainer in ("ddp", "fsdp", "fsdp_tp")),
        *((f"bf16-{trainer}", "bf16-cpu", 1e-2) for trainer in ("ddp", "fsdp", "fsdp_tp")),
    ],
)
def test_four_processes_and_other_options_train_as_one_process(more, name, alone, tolerance):
    assert_same_curves(more, name, tolerance, alone)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Where one process has trained, and nothing else has happened."""
    work = workplace(tmp_path_factory.mktemp("alone"))
    assert run_groups(work, [ALONE]) == [[[0, 0]]], said(work, 0, 0)
    return work


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_all_and_the_training_goes_on(alone, rank):
    """Started by mmgen itself; a process dies without a word amid a step."""
    name = f"killed-{rank}"
    argv = train(name, "fsdp", STRIKING)["argv"]
    before = time.monotonic()
    result = run_mmgen(*argv, cwd=alone, timeout=100, STRIKE=f"{rank}:9:KILL")
    assert result.returncode == 137, result.stderr
    assert f"rank {rank} (pid " in result.stderr
    assert "was killed by SIGKILL" in result.stderr
    assert "Traceback" not in result.stderr
    newest, _ = newest_valid(alone / "runs" / name / "checkpoints")
    assert newest.name == "step-000006"
    died = newest.stat().st_mtime - time.time() + time.monotonic()
    assert before < died
    assert time.monotonic() - died < 15, "all are gone soon after"
    assert run_mmgen(*argv, cwd=alone, timeout=100).returncode == 0
    assert_same_curves(alone, name)


@pytest.mark.slow
def test_a_process_that_hangs_ends_all_after_the_timeout(alone):
    argv = train("hung", "ddp", STRIKING, "trainer.timeout=5")["argv"]
    result = run_mmgen(*argv, cwd=alone, timeout=100, STRIKE="1:9:SLEEP")
    assert result.returncode == 1, result.stderr
    assert "error[MMG-R06]: rank 0 of 2 lost touch with another process at step 9 of the generator" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_torchrun_starts_it_too(alone):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    argv = [*torchrun, Path(sys.executable).parent / "mmgen", *train("torchrun", "fsdp")["argv"]]
    result = subprocess.run(argv, cwd=alone, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert_same_curves(alone, "torchrun")


@pytest.mark.slow
def test_a_whole_run_by_two_processes(alone):
    """Every stage by both; drawing and judging by one of them."""
    placed = ["trainer=ddp", *CPU, "trainer.devices=2"]
    codes = run_groups(alone, [(2, [command("run", "run.name=whole", *RUN, QUIET, *placed)])])
    assert codes == [[[0], [0]]], said(alone, 0, 0)
    whole = alone / "runs" / "whole"
    assert json.loads((whole / "status.json").read_text())["state"] == "finished"
    assert len(json.loads((whole / "evaluation.json").read_text())["findings"]) == 4
    for kind in ("tokenizer", "generator", "encoder"):
        assert [step for step, _ in rows(whole / kind)] == list(range(24))
