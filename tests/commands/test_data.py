"""`mmgen data`, through the command: stopped anywhere it goes on, and whatever does not fit is refused in words."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from mmgen.checkpoint.parts import read_part, write_part
from mmgen.data.order import is_text_only
from mmgen.data.tokens import Tokens
from mmgen.runs.lock import locked
from tests.tiny import QUIET, RUN, files, mmgen, start

PICTURES = RUN[:3]
TEXT = "task.text_tokenizer={vocab_size: 280, context_length: 12, bpe_dropout: 0.1}"
MAKE = ["data", "tokenize", *PICTURES, "tokenizer_from=runs/tiny", "shard_size=9", TEXT]
TRAIN = [
    *("train", "task=generator", "tokenizer_from=runs/tiny", "generator.embed_dim=32", "generator.num_layers=1", TEXT),
    *("generator.num_heads=2", "trainer.max_steps=6", "trainer.val_check_interval=3", "task.batch_size=8", QUIET),
    "trainer.log_every_n_steps=1",
]


def content(directory: Path) -> dict[str, bytes]:
    """What a finished directory holds, locks aside."""
    return {name: data for name, (_, data) in files(directory).items() if not name.startswith(".lock")}


def ours(err: str) -> str:
    """What was told on standard error besides the bars."""
    return "\n".join(line for line in err.splitlines() if not line.startswith(("image tokens:", "text tokens:")))


@pytest.fixture(scope="module")
def tokens(work: Path) -> Path:
    """Token shards of the pictures, made by the installed command."""
    done = mmgen(*MAKE, "to=tokens", cwd=work)
    assert done.returncode == 0, done.stderr
    assert "tokens: tokens (58 train, 2 val; 8 shards" in done.stdout
    assert "mmgen train task=generator dataset=tokens dataset.path=tokens tokenizer_from=runs/tiny" in done.stdout
    assert "60/60 pictures" in done.stderr
    assert "ETA" in done.stderr
    return work / "tokens"


# --- what is trained on them -----------------------------------------------------------------------------------------


def rows(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key.startswith(("step", "train/", "val/"))} for row in found]


def test_a_training_on_shards_is_the_training_on_the_pictures(work: Path, tokens: Path, call: Any) -> None:
    """Bit for bit: losses, gradients, and the generator that comes out, however often its attention is looked at."""
    assert call(*TRAIN, *PICTURES, "run.name=of-pictures")[0] == 0
    looking = ["tracking.attention=true", "run.name=of-tokens"]
    code, _, err = call(*TRAIN, "dataset=tokens", "dataset.path=tokens", *looking)
    assert code == 0, err
    samples = work / "runs/of-tokens/samples"
    assert [path.name for path in sorted(samples.iterdir())] == ["attention-000003.png", "attention-000006.png"]
    assert "Where the generator looked" in (work / "runs/of-tokens/report.html").read_text()
    assert not (work / "runs/of-pictures/samples").exists(), "nobody asked"
    pictures, shards = (rows(work / "runs" / name) for name in ("of-pictures", "of-tokens"))
    assert len([row for row in pictures if "train/loss" in row]) == 6
    assert [row["val/loss"] for row in shards if "val/loss" in row]
    assert shards == pictures
    one, other = (read_part(work / "runs" / name / "model") for name in ("of-pictures", "of-tokens"))
    assert one.fingerprint == other.fingerprint
    assert one.requires == other.requires == {"tokenizer": Tokens(str(tokens)).image_tokenizer}
    assert other.info["data"] == Tokens(str(tokens)).fingerprint


def test_variants_and_captions_alone_train_and_go_on(work: Path, call: Any) -> None:
    make = [*MAKE, "to=varied", "variants=2", "task.augment=dalle_generator", "seed=4"]
    code, out, err = call(*make)
    assert code == 0, err
    assert "2 variants of each" in out
    train = [*TRAIN, "dataset=tokens", "dataset.path=varied", "task.text_only=0.5", "task.num_workers=1"]
    code, _, err = call(*train, "run.name=varied")
    assert code == 0, err
    found = [row for row in rows(work / "runs/varied") if "train/loss" in row]
    alone = [row["train/loss"] == row["train/text_loss"] for row in found]
    assert alone == [is_text_only(1, step, 0.5) for step in range(6)] == [False, True, False, True, True, False]
    assert [row["train/image_loss"] is None for row in found] == alone, "a step without pictures has no image loss"


# --- stopped, and going on -------------------------------------------------------------------------------------------


def test_finished_shards_are_kept_and_a_damaged_one_is_made_anew(work: Path, tokens: Path, call: Any) -> None:
    copy = Path(shutil.copytree(tokens, work / "again"))
    before = files(copy)
    assert call(*MAKE, "to=again")[0] == 0
    after = files(copy)
    for name in set(before) | set(after):
        assert name.startswith(".lock") or before[name] == after[name], "nothing is written twice"
    damaged = bytearray(before["shard-00003.tokens"][1])
    damaged[5] ^= 1
    (copy / "shard-00003.tokens").write_bytes(damaged)
    (copy / "shard-00005.tokens").write_bytes(before["shard-00005.tokens"][1][:100])
    (copy / "shard-00006.json").write_text("{")
    code, _, err = call(*MAKE, "to=again")
    assert code == 0
    assert "shard-00003.tokens is damaged: its SHA-256 is" in err
    assert "shard-00005.tokens is damaged: it has 100 bytes" in err
    assert "shard-00006.json is damaged" in err
    assert content(copy) == content(tokens)
    rewritten = {name for name, (time, _) in files(copy).items() if name in before and before[name][0] != time}
    assert {name for name in rewritten if name.endswith(".tokens")} == {
        "shard-00003.tokens", "shard-00005.tokens", "shard-00006.tokens"
    }  # fmt: skip


KILLED = """
    import os, random, signal, sys, time
    import mmgen.commands.data, mmgen.data.folder, mmgen.models.vq
    from mmgen import cli
    draw, kills, finished = random.Random(int(sys.argv[1])), 0, False
    while not finished:
        child = os.fork()
        if child == 0:
            sys.stderr = sys.stdout = open(os.devnull, "w")
            os._exit(cli.main(sys.argv[2:]))
        if kills < 12:
            time.sleep(draw.uniform(0.02, 0.6))
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(status):
            kills += 1
        else:
            assert status == 0, status
            finished = kills > 5
            if not finished:
                os.remove("killed/index.json"), os.remove("killed/shard-00002.json")
    print(kills)
"""


def test_killed_anywhere_it_goes_on_to_the_same_shards(work: Path, tokens: Path) -> None:
    """The processes are forked by one that has imported everything and computed nothing: each starts at once."""
    script = work / "killed.py"
    script.write_text(dedent(KILLED))
    command = [sys.executable, str(script), "1", *MAKE, "to=killed"]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 6
    assert content(work / "killed") == content(tokens), "no leftovers, and the same bytes"


SLOW = """
    import time
    from mmgen.data.folder import Folder
    class Slow(Folder):
        def __getitem__(self, index):
            time.sleep(0.05)
            return super().__getitem__(index)
"""


def test_a_signal_leaves_whole_shards_and_one_line(work: Path) -> None:
    (work / "slow.py").write_text(dedent(SLOW))
    make = [argument.replace("dataset=folder", "dataset=slow:Slow") for argument in MAKE]
    to = work / "stopped"
    with start(*make, f"to={to.name}", cwd=work) as process:
        deadline = time.monotonic() + 60
        while not (to / "shard-00000.json").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert out == ""
    written = len(list(to.glob("shard-*.json")))
    assert ours(err) == f"stopped: {written} of 8 shards are written to {to.name}; the same command goes on from there"
    assert not [path.name for path in to.iterdir() if path.name.endswith(".tmp")]
    assert not (to / "index.json").exists()


def test_processes_share_the_shards_and_the_last_makes_the_index(
    work: Path, tokens: Path, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    for rank in (2, 0, 1):
        monkeypatch.setenv("RANK", str(rank))
        code, out, err = call(*MAKE, "to=shared")
        assert code == 0, err
        assert ("of other processes are not" in out) == (rank != 1)
    assert content(work / "shared") == content(tokens)


def test_processes_at_the_same_time(work: Path, tokens: Path) -> None:
    processes = [start(*MAKE, "to=together", cwd=work, RANK=str(rank), WORLD_SIZE="2") for rank in range(2)]
    results = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert content(work / "together") == content(tokens)


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(work: Path, tokens: Path) -> Path:
    """With all that the bad inputs name."""
    part = read_part(work / "runs/tiny/tokenizer/model", trusted=True)
    changed = {name: tensor + 1e-3 for name, tensor in part.tensors.items() if tensor.is_floating_point()}
    write_part(
        work / "other", kind=part.kind, config=part.config, arguments=part.arguments, tensors=part.tensors | changed
    )
    (work / "used").mkdir()
    (work / "used/mine.txt").write_text("mine")
    (work / "file").write_text("mine")
    cut = Path(shutil.copytree(tokens, work / "cut"))
    (cut / "shard-00001.tokens").write_bytes((cut / "shard-00001.tokens").read_bytes()[:512])
    unfinished = Path(shutil.copytree(tokens, work / "unfinished"))
    (unfinished / "index.json").unlink()
    return work


BAD: dict[str, tuple[list[str], int, list[str]]] = {
    "what": (["data"], 2, ["is to do what?", "mmgen data tokenize"]),
    "typo": (["data", "tokenise"], 2, ["cannot 'tokenise'", "mmgen data tokenize"]),
    "words": ([*MAKE, "to=x", "here"], 2, ["takes no 'here'"]),
    "no dataset": (["data", "tokenize", "tokenizer_from=runs/tiny", "to=x"], 2, ["dataset is required"]),
    "no tokenizer": (["data", "tokenize", *PICTURES, "to=x"], 2, ["tokenizer_from is required"]),
    "no place": (MAKE, 2, ["to is required"]),
    "gone run": ([*MAKE, "tokenizer_from=runs/gone", "to=x"], 5, ["'runs/gone' holds no finished run"]),
    "no pictures": ([*MAKE, "dataset.path=gone", "to=x"], 3, ["'gone' does not exist"]),
    "another size": ([*MAKE, "dataset.image_size=24", "to=x"], 5, ["16-pixel pictures", "dataset.image_size=16"]),
    "same variants": ([*MAKE, "variants=4", "to=x"], 2, ["would all be the same", "task.augment=dalle_generator"]),
    "no variants": ([*MAKE, "variants=0", "to=x"], 2, ["variants must be a whole number from 1"]),
    "typo in a key": ([*MAKE, "variant=2", "to=x"], 2, ["did you mean variants?"]),
    "no device": ([*MAKE, "device=abacus", "to=x"], 2, ["no device 'abacus'", "device=auto"]),
    "of tokens": ([*MAKE, "dataset=tokens", "dataset.path=tokens", "to=x"], 2, ["image tokens already"]),
    "in use": ([*MAKE, "to=used"], 2, ["'used' is in use", "mine.txt", "to=used-2"]),
    "a file": ([*MAKE, "to=file"], 2, ["'file' is in use", "to=file-2"]),
    "otherwise": ([*MAKE, "shard_size=8", "to=tokens"], 2, ["made otherwise", "shard_size 9 → 8", "to=tokens-2"]),
    "other tokenizer": ([*MAKE, "tokenizer_from=other", "to=tokens"], 2, ["made otherwise", "image_tokenizer"]),
    "check nothing": (["data", "check"], 2, ["which directory?"]),
    "check gone": (["data", "check", "gone"], 3, ["'gone' does not exist", "to=gone"]),
    "check foreign": (["data", "check", "pictures"], 3, ["'pictures' holds no token shards"]),
    "check unfinished": (["data", "check", "unfinished"], 3, ["not finished: 8 shards are written"]),
    "check cut": (["data", "check", "cut"], 3, ["shard-00001.tokens is damaged: it has 512 bytes"]),
    "train gone": ([*TRAIN, "dataset=tokens", "dataset.path=gone", "run.name=x"], 3, ["'gone' does not exist"]),
    "train cut": ([*TRAIN, "dataset=tokens", "dataset.path=cut", "run.name=x"], 3, ["it has 512 bytes, "]),
    "train with another": (
        [*TRAIN, "dataset=tokens", "dataset.path=tokens", "tokenizer_from=other", "run.name=x"],
        5,
        ["made by the image tokenizer", "but this one is"],
    ),
    "train another part": (
        ["train", "task=encoder", "dataset=tokens", "dataset.path=tokens", QUIET, "run.name=x"],
        2,
        ["holds no pictures to train the encoder on"],
    ),
    "run": (["run", *RUN, "dataset=tokens", "dataset.path=tokens", QUIET, "run.name=x"], 2, ["holds no pictures"]),
    "augment tokens": (
        [*TRAIN, "dataset=tokens", "dataset.path=tokens", "task.augment=dalle_generator", "run.name=x"],
        2,
        ["cannot be augmented", "mmgen data tokenize", "variants="],
    ),
    "augment a generator": (
        [*TRAIN, *PICTURES, "task.augment=dalle_generator", "run.name=x"],
        2,
        ["cannot be augmented", "mmgen data tokenize", "variants="],
    ),
    "captions alone": (
        ["train", "task=tokenizer", *PICTURES, "task.text_only=0.5", QUIET, "run.name=x"],
        2,
        ["only a generator", "task.text_only=0"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_and_nothing_is_written(prepared: Path, call: Any, name: str) -> None:
    arguments, expected, words = BAD[name]
    before = content(prepared)
    code, out, err = call(*(arguments if "dataset=tokens" not in arguments else without_folder(arguments)))
    told = [line for line in err.splitlines() if not line.startswith(("reading:", "checking:"))]
    assert code == expected, err
    assert out == ""
    assert all(word in err for word in words), err
    assert told[0].startswith("error[MMG-")
    assert len(told) <= 6
    assert content(prepared) == before


def without_folder(arguments: list[str]) -> list[str]:
    """Without the options of another dataset."""
    return [a for a in arguments if a not in ("dataset=folder", "dataset.image_size=16", "dataset.path=pictures")]


def test_the_text_tokenizer_of_a_generator_to_start_from_must_be_the_shards(prepared: Path, call: Any) -> None:
    text = "task.text_tokenizer={vocab_size: 270, context_length: 12, bpe_dropout: 0.1}"
    assert call(*TRAIN, *PICTURES, text, "run.name=start")[0] == 0
    code, out, err = call(
        *TRAIN, "dataset=tokens", "dataset.path=tokens", "init_from=runs/start", "run.name=from-start"
    )
    assert (code, out) == (5, "")
    mine = Tokens(str(prepared / "tokens")).index.text_fingerprint
    assert f"made with the text tokenizer '{mine}'" in err
    assert not (prepared / "runs/from-start").exists()


def test_one_process_a_share(prepared: Path, call: Any) -> None:
    with locked(prepared / "tokens/.lock-0", ""):
        code, out, err = call(*MAKE, "to=tokens")
    assert (code, out) == (7, "")
    assert "directory tokens is in use by pid" in err
    assert "to=tokens-2" in err


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("-1", "2"), ("one", "2"), ("0", "")])
def test_a_rank_that_is_none_is_refused(
    prepared: Path, call: Any, monkeypatch: pytest.MonkeyPatch, rank: str, size: str
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    code, _, err = call(*MAKE, "to=x")
    assert code == 2
    assert "is no process" in err
    assert not (prepared / "x").exists()


def test_check_reads_everything(prepared: Path, call: Any) -> None:
    code, out, _ = call("data", "check", "tokens")
    assert (code, out.split(",")[0]) == (0, "whole: 60 samples in 8 shards")
    flipped = Path(shutil.copytree(prepared / "tokens", prepared / "flipped"))
    for name in ("shard-00002.text", "shard-00004.tokens"):
        data = bytearray((flipped / name).read_bytes())
        data[-9] ^= 1
        (flipped / name).write_bytes(data)
    code, out, err = call("data", "check", "flipped")
    assert (code, out) == (3, "")
    assert "shard-00002.text is damaged: its SHA-256 is" in err
    assert "shard-00004.tokens is damaged: its SHA-256 is" in err
