"""`mmgen sweep` from the command line: what is refused before anything runs, and whole sweeps of real trainings."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import yaml

from mmgen import cli
from mmgen.commands import composition, places
from mmgen.commands.recipe import write_experiment
from mmgen.commands.searching import asked, divide, seconds
from mmgen.errors import ConfigError, ConfigErrors, Interrupted
from mmgen.runs.config import differences
from mmgen.sweeps.driver import Driver
from mmgen.sweeps.wandb_file import write_wandb_sweep
from mmgen.tracking.wandb_mirror import WandbMirror
from tests.tiny import mmgen, start, write_pictures

TRAIN = [
    "task=tokenizer", "dataset=folder", "dataset.path=pictures", "dataset.image_size=16", "tokenizer.width=8",
    "tokenizer.blocks=1", "tokenizer.codebook_size=32", "trainer.max_steps=6", "trainer.val_check_interval=2",
    "trainer.log_every_n_steps=1", "task.batch_size=16", "task.checkpoint_every=2", "tracking=disabled",
]  # fmt: skip
LR = "task.optimizer.lr=tag(log,interval(1e-4,1e-2))"


def ask(*overrides, chosen=None, config_dir=None):
    """What the command makes of a command line."""
    own, theirs = divide(list(overrides), config_dir)
    return asked(composition.checked("sweep", own, places.places(config_dir)).config, theirs, chosen)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["task=tokenizer", "dataset=scenes"], "nothing is searched"),
        ([*TRAIN, "task.optimizer.lrr=interval(1e-4,1e-2)"], "did you mean task.optimizer.lr"),
        ([*TRAIN, "tokenizer.width=choice(8,wide)"], "tokenizer.width must be a whole number, got 'wide'"),
        ([*TRAIN, "task.ema_decay=interval(0.9,1.5)"], "from 0 up to 1"),
        ([*TRAIN, "tokenizer=choice(vq,vqq)"], "no option 'vqq'"),
        ([*TRAIN, LR, "run.name=x"], "sweep.name=…"),
        ([*TRAIN, LR, "resume=never"], "interrupted trials always go on"),
        ([*TRAIN, LR, "sweep.goal=val/psnr"], "sweep.direction=maximize"),
        ([*TRAIN, LR, "sweep.goal=evaluation:x"], "evaluates nothing"),
        (["experiment=quickstart", "seed=1,2", "sweep.goal=val/loss"], "sweep.goal=generator:val/loss"),
        ([*TRAIN, LR, "sweep.goal=[val/loss,val/psnr]", "sweep.direction=maximize", "sweep.pruner=median"], "pruned"),
        ([*TRAIN, LR, "total_time=soon"], "is no time"),
        ([*TRAIN, LR, "sweep.first=[{tokenizer.width:8}]"], "which is not searched"),
        ([*TRAIN, LR, "sweep.first=[{task.optimizer.lr:0.2}]"], "task.optimizer.lr from 0.0001 to 0.01"),
        ([*TRAIN, LR, "sweep.first=[{task.optimizer.lr:inf}]"], "sweep.first[0] has 'task.optimizer.lr=inf'"),
        ([*TRAIN, LR, "sweep.first=[{task.optimizer.lr:high}]"], "sweep.first[0] has 'task.optimizer.lr=high'"),
        (
            [*TRAIN, "tokenizer.width=choice(32,64)", "sweep.first=[{tokenizer.width:32},{tokenizer.width:48}]"],
            "sweep.first[1] has 'tokenizer.width=48', which the search could not propose",
        ),
        ([*TRAIN, "task.batch_size=range(8,33,8)", "sweep.first=[{task.batch_size:12}]"], "to 32 in steps of 8"),
        ([*TRAIN, "task.batch_size=int(interval(8,32))", "sweep.first=[{task.batch_size:12.5}]"], "32, whole numbers"),
        ([*TRAIN, LR, "sweep.gaol=val/loss"], "did you mean sweep.goal"),
        ([*TRAIN, LR, "sweep=learning_rat"], "learning_rate"),
    ],
)
def test_what_cannot_be_is_told_before_anything_runs(overrides, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        ask(*overrides)
    assert words in caught.value.render()
    assert not list(tmp_path.iterdir())


def test_every_mistake_is_told_at_once():
    with pytest.raises(ConfigErrors) as caught:
        ask(*TRAIN, "tokenizer.widht=choice(8,16)", "trainer.max_stepz=3", "task.ema_decay=interval(0.9,1.5)")
    assert len(caught.value.errors) == 3


def test_m_is_another_thing():
    with pytest.raises(ConfigError, match="leave -m out"):
        divide(["seed=1,2"], None, multirun=True)


def test_wandb_has_a_flag():
    assert cli.sort(["sweep=x", "--wandb"]).overrides == ["sweep=x", "wandb=true"]


def test_a_preset_and_the_command_line():
    found = ask("sweep=learning_rate", *TRAIN, "task.schedule.warmup_steps=3", LR, "n_trials=7", chosen="learning_rate")
    assert found.sweep.space.keys == ["task.optimizer.lr"]
    assert found.sweep.space["task.optimizer.lr"].log
    assert found.notes == ["task.schedule.warmup_steps is not searched: the command line sets it"]
    assert (found.command, found.sweep.name, found.sweep.trials) == ("train", "learning_rate", 7)
    assert found.sweep.pruner["n_warmup_steps"] == 100
    assert found.sweep.overrides[:2] == ("tracking.group=learning_rate", "task=tokenizer")


def test_the_first_trial_is_the_recipe_as_it_is():
    found = ask(*TRAIN, LR, "tokenizer.width=choice(32,64)", "task.batch_size=int(interval(1,8))", "task.ema_every=1,2")
    assert found.sweep.first == ({"task.optimizer.lr": 2e-3, "tokenizer.width": 64, "task.ema_every": 1},)
    assert found.notes == ["the first trial is the recipe as it is, but for task.batch_size"]
    assert not found.has_baseline
    assert ask(*TRAIN, LR).has_baseline
    assert ask(*TRAIN, LR, "sweep.baseline=false").sweep.first == ()


def test_settings_to_begin_with_are_as_the_search_would_propose_them():
    given = "sweep.first=[{task.optimizer.lr:0.01,tokenizer.width:64},{task.ema_decay:0}]"
    found = ask(*TRAIN, LR, "tokenizer.width=choice(32,64)", "task.ema_decay=interval(0.0,0.5)", given)
    assert found.sweep.first[1:] == ({"task.optimizer.lr": 0.01, "tokenizer.width": 64}, {"task.ema_decay": 0.0})
    assert type(found.sweep.first[2]["task.ema_decay"]) is float


def test_the_recipe_as_it_is_lacks_nothing_that_it_has_not(tmp_path):
    """What exists only under another width is no part of today's recipe."""
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sizes.yaml").write_text(
        "space:\n  tokenizer.width: [64, 32]\n  tokenizer.blocks: {when: {tokenizer.width: 32}, choices: [3, 4]}\n"
    )
    override = [argument for argument in TRAIN if "width" not in argument and "blocks" not in argument]
    found = ask("sweep=sizes", *override, chosen="sizes", config_dir=tmp_path)
    assert found.sweep.first == ({"tokenizer.width": 64},)
    assert found.has_baseline
    assert found.notes == []


def test_a_refused_command_leaves_the_sweep_as_it_is(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "pictures")
    Driver(ask(*TRAIN, LR, "sweep.name=lr").sweep).ledger.close()
    definition = tmp_path / "sweeps/lr/sweep.yaml"
    definition.write_text("as it was\n")
    other = "task.optimizer.lr=tag(log,interval(1e-4,1e-1))"
    assert cli.main(["sweep", *TRAIN, other, "sweep.name=lr"]) == 2
    assert "was made with another definition" in capsys.readouterr().err
    assert definition.read_text() == "as it was\n"


def test_a_sweep_that_is_interrupted_writes_its_report(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_pictures(tmp_path / "pictures")

    def interrupted(driver):
        driver.ledger.close()
        raise Interrupted(2, "stopped: the same command goes on")

    monkeypatch.setattr(Driver, "run", interrupted)
    assert cli.main(["sweep", *TRAIN, LR, "sweep.name=lr"]) == 130
    report = Path("sweeps/lr/report.html")
    assert f"report: {report}" in capsys.readouterr().out
    assert "Ranking" in report.read_text(encoding="utf-8")


def test_a_search_of_one_option_of_one_component(tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "parts.yaml").write_text(
        "space:\n  tokenizer: [vq, dvae]\n  tokenizer.tau_end: {when: {tokenizer: dvae}, low: 0.1, high: 0.5}\n"
    )
    found = ask("sweep=parts", "task=tokenizer", "dataset=scenes", chosen="parts", config_dir=tmp_path)
    assert found.sweep.space.keys == ["tokenizer", "tokenizer.tau_end"]
    assert found.sweep.program[-1] == f"--config-dir={tmp_path}"
    with pytest.raises(ConfigError, match="tau_end"):  # which `vq` has not
        ask("sweep=parts", "task=tokenizer", "dataset=scenes", "tokenizer=vq", config_dir=tmp_path)


def test_bounds():
    assert ask(*TRAIN, LR).sweep.trials == 20
    timed = ask(*TRAIN, LR, "total_time=2h").sweep
    assert (timed.trials, timed.seconds) == (None, 7200)
    both = ask(*TRAIN, LR, "total_steps=1000", "n_trials=3").sweep
    assert (both.trials, both.steps) == (3, 1000)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [(None, None), (90, 90), ("90", 90), ("90s", 90), ("2m", 120), ("90min", 5400), ("1h30m", 5400), ("1d", 86400),
     ("1.5h", 5400), ("00:01:00:00", 3600), ("2:00", 120)],
)  # fmt: skip
def test_times(given, wanted):
    assert seconds(given) == wanted


@pytest.mark.parametrize(
    ("command", "overrides"),
    [
        ("run", ["experiment=quickstart", "tokenizer=emoji_dvae", "trainer.max_steps=5", "evaluator=[retrieval]",
                 "stages.generator.task.optimizer.lr=0.001", "tracking=disabled"]),
        ("train", ["task=generator", "dataset=emoji", "task.optimizer.lr=1e-3", "generator.num_layers=3"]),
        ("train", ["experiment=quickstart", "task=encoder", "task.optimizer.lr=1e-3", "trainer.max_steps=5"]),
    ],
)  # fmt: skip
def test_the_best_trial_is_an_experiment_that_says_the_same(command, overrides, tmp_path):
    write_experiment(tmp_path, "best", command, overrides, places.places(), ["Trial 3."])
    said = composition.checked(command, [*overrides, "run.name=x"], places.places()).config
    as_experiment = composition.checked(command, ["experiment=best", "run.name=x"], places.places(tmp_path)).config
    assert differences(said, as_experiment) == []
    config = composition.checked(command, ["experiment=best"], places.places(tmp_path)).config
    assert config["run"]["name"] == "best"


def test_a_wandb_sweeps_agent_runs_mmgen(tmp_path, monkeypatch):
    """Its macros are filled in by wandb's own code; the command that comes of it composes."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    monkeypatch.chdir(tmp_path)
    more = ["task.optimizer.name=adamw,muon", "task.schedule.warmup_steps=int(interval(0,5))", "n_trials=9"]
    found = ask(*TRAIN, LR, *more)
    body = yaml.safe_load(write_wandb_sweep(found.sweep, found.command, None).read_text())
    assert body["metric"] == {"name": "val/loss", "goal": "minimize"}
    assert body["parameters"]["task.optimizer.lr"] == {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}
    assert body["parameters"]["task.schedule.warmup_steps"]["distribution"] == "int_uniform"
    assert (body["method"], body["run_cap"]) == ("bayes", 9)
    values = {"task.optimizer.lr": 0.002, "task.optimizer.name": "muon", "task.schedule.warmup_steps": 3}
    args = create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})
    words = [w for chunk in create_sweep_command(body["command"]) for w in (args.get(chunk[2:-1], [chunk]))]
    monkeypatch.setenv("WANDB_RUN_ID", "abc123")
    env, program, command, *overrides = words
    assert (env, program, command) == ("${env}", "mmgen", "train")
    config = composition.checked(command, overrides, places.places()).config
    assert config["task"]["optimizer"]["name"] == "muon"
    assert config["run"]["name"] == "tokenizer-abc123"
    assert config["tracking"]["mode"] == "online"
    with pytest.raises(ConfigError, match="three"):
        write_wandb_sweep(found.sweep, "run", None)


def test_the_run_that_an_agent_names_reaches_wandb(tmp_path, monkeypatch):
    """wandb's own client links a run to its sweep by these. Offline, and without an agent, none is passed on."""
    agents = {"WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": "r1", "WANDB_PROJECT": "p"}
    for name, value in agents.items():
        monkeypatch.setenv(name, value)

    def passed_on(mode):
        mirror = object.__new__(WandbMirror)
        mirror._mode, mirror._home = mode, tmp_path
        return {name: value for name, value in mirror._environment().items() if name in agents}

    assert passed_on("online") == agents
    assert passed_on("offline") == {}
    monkeypatch.delenv("WANDB_SWEEP_ID")
    assert passed_on("online") == {}


@pytest.mark.slow
def test_a_sweep_of_real_trainings(tmp_path):
    """Each trial is `mmgen train`; the best one is there to run again; nothing of it is shared."""
    write_pictures(tmp_path / "pictures")
    done = mmgen("sweep", *TRAIN, LR, "n_trials=2", "workers=2", "sweep.name=lr", cwd=tmp_path, timeout=600)
    assert done.returncode == 0, done.stderr
    sweep = tmp_path / "sweeps" / "lr"
    runs = sorted(path.name for path in (sweep / "trials").iterdir())
    assert runs == ["lr-0000", "lr-0001"]
    rates = set()
    for name in runs:
        run = sweep / "trials" / name
        assert json.loads((run / "status.json").read_text())["state"] == "finished"
        config = yaml.safe_load((run / "config.yaml").read_text())
        rates.add(config["task"]["optimizer"]["lr"])
    assert len(rates) == 2
    assert 2e-3 in rates, "the recipe as it was"
    assert "the recipe as it was" in done.stdout
    assert (sweep / "report.html").stat().st_size > 10_000
    assert "data:image/png" in (sweep / "report.html").read_text(encoding="utf-8"), "reconstructions"
    best = composition.checked("train", ["experiment=lr-best"], places.places(sweep / "conf")).config
    assert best["task"]["optimizer"]["lr"] in rates
    again = mmgen("sweep", *TRAIN, LR, "n_trials=2", "workers=2", "sweep.name=lr", cwd=tmp_path, timeout=600)
    assert again.returncode == 0
    assert sorted(path.name for path in (sweep / "trials").iterdir()) == runs


@pytest.mark.slow
def test_a_killed_sweep_of_real_trainings_goes_on_in_the_middle_of_a_trial(tmp_path):
    """The trainings go on from their checkpoints, bit for bit: an uninterrupted sweep finds the same losses."""
    write_pictures(tmp_path / "pictures")
    options = [*TRAIN, LR, "trainer.max_steps=40", "n_trials=3", "sweep.sampler.name=random", "sweep.baseline=false"]
    dice = random.Random(1)
    for _ in range(4):
        process = start("sweep", *options, "sweep.name=killed", cwd=tmp_path)
        time.sleep(dice.uniform(8, 25))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    for name in ("killed", "whole"):
        done = mmgen("sweep", *options, f"sweep.name={name}", cwd=tmp_path, timeout=900)
        assert done.returncode == 0, done.stderr

    def losses(name: str) -> list[float]:
        found = []
        for number in range(3):
            run = Path(tmp_path, "sweeps", name, "trials", f"{name}-{number:04d}")
            rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            found.append([row["val/loss"] for row in rows if "val/loss" in row][-1])
        return found

    assert losses("killed") == losses("whole")
