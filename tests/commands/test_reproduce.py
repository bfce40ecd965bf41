"""`mmgen reproduce`: the same run again, from its directory or from wandb's folder, equal to the last bit."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mmgen.commands import reproduce
from mmgen.commands.recorded import Recorded, find_recorded
from mmgen.files import read_json, write_json
from mmgen.runs.agreement import compare_evaluations, compare_rows
from mmgen.runs.origin import keep, origin, read_origin
from mmgen.tracking.wandb_folder import WandbRun
from tests.tiny import RUN, mmgen, write_pictures

Call = Callable[..., tuple[int, str, str]]
TRAIN = [
    "train", "task=tokenizer", "run.name=tiny", "trainer.max_steps=12", "trainer.log_every_n_steps=1",
    "trainer.val_check_interval=6", "task.batch_size=8", *(option for option in RUN if "stages" not in option
    and not option.startswith("drawing")),
]  # fmt: skip


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty pictures, and a training on them that was tracked offline."""
    work = tmp_path_factory.mktemp("work")
    write_pictures(work / "pictures")
    done = mmgen(*TRAIN, cwd=work)
    assert done.returncode == 0, done.stderr
    return work


def test_what_is_recorded(work: Path):
    made = read_origin(work / "runs" / "tiny")
    assert (made["command"], made["directory"]) == ("train", str(work))
    assert made["config"]["dataset"]["path"] == "pictures"
    assert made["data"]["size"] == 60
    (session,) = made["sessions"]
    assert session["code"]["mmgen"]
    assert len(session["code"]["commit"] or "0" * 40) == 40
    assert session["machine"]["threads"] == 1


def test_a_training_again_is_equal_to_the_last_bit(work: Path, call: Call):
    code, out, err = call("reproduce", "runs/tiny", "name=second")
    assert code == 0, out + err
    assert "equal to the last bit  the same weights" in out
    assert out.splitlines()[-1] == "runs/second is runs/tiny to the last bit"
    found = read_json(work / "runs" / "second" / "reproduction.json")
    assert found["agrees"] is True
    assert found["compared"]["tokenizer"]["numbers"] >= 12 * 8
    weights = [(work / "runs" / name / "model" / "model.safetensors").read_bytes() for name in ("tiny", "second")]
    assert weights[0] == weights[1]


def test_from_wandbs_folder_alone(work: Path, call: Call):
    """Its config holds what is needed, and its numbers are compared."""
    call("runs", "replay", "runs/tiny")  # on a busy machine wandb's process has not ended within its 15 s
    (folder,) = (work / "runs" / "tiny" / "wandb").glob("offline-run-*")
    shutil.copytree(folder, work / "sent" / folder.name)
    code, out, err = call("reproduce", f"sent/{folder.name}", "name=third")
    assert code == 0, out + err
    assert "numbers, equal to the last bit" in out
    assert read_json(work / "runs" / "third" / "reproduction.json")["compared"]["tokenizer"]["numbers"] >= 12 * 8


def test_a_run_that_is_another_is_told_and_ends_with_4(work: Path, call: Call):
    shutil.copytree(work / "runs" / "tiny", work / "runs" / "other")
    made = read_origin(work / "runs" / "other")
    made["config"]["seed"] = 2
    made["sessions"][0]["versions"]["numpy"] = "1.0"
    write_json(work / "runs" / "other" / "origin.json", made)
    code, out, err = call("reproduce", "runs/other")
    assert code == 4
    assert "differs: versions.numpy: 1.0 → " in err
    assert "numbers differ, the first at step 0: train/loss" in out
    assert "other weights" in out
    assert "is not runs/other to the last bit" in out
    assert call("reproduce", "runs/other", "strict=all")[0] == 2
    assert not (work / "runs" / "tiny-again-2").exists(), "refused before anything is written"


def test_other_data_is_refused_before_anything_is_written(work: Path, call: Call):
    picture = work / "pictures" / "red-bar-0.txt"
    before = picture.read_text()
    picture.write_text("a crimson bar\n")
    try:
        code, _, err = call("reproduce", "runs/tiny", "name=fourth")
    finally:
        picture.write_text(before)
    assert code == 3
    assert "error[MMG-D60]: fingerprint is" in err
    assert "strict=nothing" in err
    assert not (work / "runs" / "fourth").exists()


def test_a_recorded_class_of_ones_own_is_imported_only_if_trusted(work: Path, call: Call):
    shutil.copytree(work / "runs" / "tiny", work / "runs" / "foreign")
    (work / "evil.py").write_text("from pathlib import Path\nPath('ran').touch()\nclass Data: ...")
    made = read_origin(work / "runs" / "foreign")
    made["config"]["dataset"] = {"name": "evil:Data"}
    write_json(work / "runs" / "foreign" / "origin.json", made)
    code, _, err = call("reproduce", "runs/foreign")
    assert code == 2
    assert "evil:Data" in err
    assert not (work / "ran").exists()


def test_a_secret_has_to_be_given_again(work: Path, call: Call):
    shutil.copytree(work / "runs" / "tiny", work / "runs" / "secret")
    made = read_origin(work / "runs" / "secret")
    made["config"]["tokenizer"] |= {"hub_token": "<redacted>", "mirrors": ["https://<redacted>@host"]}
    write_json(work / "runs" / "secret" / "origin.json", made)
    code, _, err = call("reproduce", "runs/secret")
    assert (code, "fix: tokenizer.hub_token=VALUE" in err) == (2, True)
    code, _, err = call("reproduce", "runs/secret", "tokenizer.hub_token=x")
    assert (code, "fix: tokenizer.mirrors=VALUE" in err) == (2, True)
    code, _, err = call("reproduce", "runs/secret", "tokenizer.hub_token=x", "tokenizer.width=9")
    assert (code, "'tokenizer.width' is as it was recorded" in err) == (2, True)


@pytest.mark.parametrize("path", ["runs", "nowhere", "pictures"])
def test_what_is_no_run_is_refused(path: str, call: Call):
    code, _, err = call("reproduce", path)
    assert code == 5
    assert f"'{path}' is no run and no folder of an offline wandb run" in err


@pytest.mark.slow
def test_a_whole_run_again_is_equal_to_the_last_bit(finished: Path, tmp_path: Path):
    shutil.copytree(finished.parents[1] / "pictures", tmp_path / "pictures")
    shutil.copytree(finished, tmp_path / "runs" / "tiny")
    done = mmgen("reproduce", "runs/tiny/generator", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    compared = json.loads((tmp_path / "runs" / "tiny-again" / "reproduction.json").read_text())["compared"]
    assert sorted(compared) == ["encoder", "evaluation", "generator", "tokenizer"]
    assert all(one["numbers"] >= 10 for one in compared.values())
    assert [compared[kind]["same_weights"] for kind in ("tokenizer", "generator", "encoder")] == [True] * 3


@pytest.mark.parametrize(("code", "compares"), [(0, True), (4, True), (143, False)])
def test_a_run_of_which_an_evaluator_failed_is_compared(
    code: int, compares: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    made = origin("run", {"run": {"name": "one", "dir": "runs"}}, {"fingerprint": "abc"}, {"threads": 1})
    recorded = Recorded(Path("runs/one"), Path("runs"), made, rows={"tokenizer": [{"step": 0, "train/loss": 1.0}]})

    def again(command: str, config: dict, positionals: list) -> int:
        stage = Path("runs/one-again/tokenizer")
        stage.mkdir(parents=True)
        (stage / "metrics.jsonl").write_text('{"step": 0, "train/loss": 1.0}\n')
        return code

    monkeypatch.setattr("mmgen.commands.launch.call", again)
    monkeypatch.setattr("mmgen.commands.reproduce.find_recorded", lambda path: recorded)
    monkeypatch.setattr("mmgen.commands.reproduce._config", lambda recorded, secrets, trust: dict(recorded.config))
    monkeypatch.setattr("mmgen.commands.reproduce._differences", lambda recorded, config: iter(()))
    assert reproduce.main(["runs/one"], []) == code
    assert ("1 numbers, equal to the last bit" in capsys.readouterr().out) == compares
    assert Path("runs/one-again/reproduction.json").is_file() == compares


@pytest.mark.parametrize("moved", [False, True])
def test_a_rival_alone_is_of_its_run(moved: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its directory, and its log in wandb, also where that was moved: the whole run is made again, and its rows are
    the rival's, not those of the run's own encoder."""
    made = origin("run", {"run": {"name": "both", "dir": "runs"}}, {"fingerprint": "abc"}, {"threads": 1})
    run, rival = tmp_path / "runs/both", tmp_path / "runs/both/encoder-noisy"
    for directory in (rival, run):
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / "status.json", {"state": "finished"})
        keep(directory, made)
    assert find_recorded(rival).path == run
    log = (tmp_path / "sent" if moved else rival / "wandb") / "offline-run-1" / "run-1.wandb"
    log.parent.mkdir(parents=True)
    log.touch()
    config = {"kind": "encoder", "directory": "encoder-noisy", "origin": json.dumps(made)}
    rows = [{"step": 0, "train/loss": 1.0}]
    monkeypatch.setattr("mmgen.commands.recorded.read_wandb", lambda file: WandbRun(file, "1", config, rows, True))
    found = find_recorded(log.parent)
    assert found.rows == {"encoder-noisy": rows}
    assert found.notes == ["wandb's log is of the encoder-noisy alone: its numbers are compared"]
    assert found.beside == (Path("runs") if moved else tmp_path / "runs")


# --- agreement -------------------------------------------------------------------------------------------------------


def test_rows_are_compared_by_step_and_name():
    old = [{"step": 0, "time": 1.0, "loss": 0.5}, {"step": 1, "loss": math.nan}, {"step": 2, "loss": 1.0}]
    same = [{"step": 0, "time": 9.0, "loss": 0.5, "new": 1}, {"step": 1, "loss": math.nan}, {"step": 2, "loss": 1.0}]
    found = compare_rows(old, same)
    assert (found.numbers, found.exact, found.only_new) == (3, True, 1)
    other = [{"step": 0, "loss": 0.5}, {"step": 1, "loss": 2.0}, {"step": 2, "loss": math.nextafter(1.0, 2.0)}]
    found = compare_rows(old, other)
    assert (found.differing, found.exact, found.first[:2]) == (2, False, (1, "loss"))
    found = compare_rows(old, same[:2])
    assert (found.exact, found.only_old) == (False, 1)
    assert not compare_rows([], []).exact


@pytest.mark.parametrize(("old", "new", "shown"), [(None, 2.0, "nan → 2.0"), (2.0, math.inf, "2.0 → inf")])
def test_a_number_that_is_finite_in_one_run_only_is_told_and_written(
    old: float, new: float, shown: str, tmp_path: Path
):
    found = compare_rows(
        [{"step": 0, "loss": 1.0}, {"step": 1, "loss": old}], [{"step": 0, "loss": 1.5}, {"step": 1, "loss": new}]
    )
    assert found.told().endswith("; of some, one of the two is not finite")
    write_json(tmp_path / "found.json", found.described())
    assert read_json(tmp_path / "found.json")["largest"] is None
    found = compare_rows([{"step": 1, "loss": old}], [{"step": 1, "loss": new}])
    assert (
        found.told()
        == f"1 of 1 numbers differ, the first at step 1: loss {shown}; of some, one of the two is not finite"
    )
    assert found.described()["first"] == (1, "loss", old, new if math.isfinite(new) else None)


def test_throughput_and_memory_are_not_compared():
    old = [{"step": 0, "speed/pictures": 1.0, "train/step_seconds": 2.0, "system/cpu": 3.0, "train/loss": 0.5}]
    assert compare_rows(old, [{**old[0], "speed/pictures": 9.0}]).numbers == 1


def test_evaluations_are_compared_by_the_names_of_numbers():
    def evaluation(value: float) -> dict:
        return {"findings": {"a": {"numbers": [{"name": "a/psnr", "value": value}]}, "b": {"numbers": []}}}

    assert compare_evaluations(evaluation(1.0), evaluation(1.0)).exact
    told = compare_evaluations(evaluation(1.0), evaluation(1.5)).told()
    assert told.startswith("1 of 1 numbers differ, the first: a/psnr 1.0 → 1.5")
