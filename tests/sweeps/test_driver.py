"""A sweep's driver with trials that are real processes: it counts exactly and says what failed."""

import sys
import types

import optuna
import pytest

from mmgen.errors import ConfigError
from mmgen.runs.directory import RunDirectory
from mmgen.runs.metrics import MetricsFile
from mmgen.sweeps.driver import Driver
from mmgen.sweeps.goals import parse
from mmgen.sweeps.process import progress
from mmgen.sweeps.report import write_report
from tests.sweeps.left import Left


def test_a_sweep_runs_its_trials_and_ranks_them(drive, tmp_path):
    driver = drive(trials=4)
    Left(tmp_path).assert_exactly(4)
    values = [result.values[0] for result in driver.ranked]
    assert values == sorted(values)
    assert all(abs(r.values[0] - ((r.params["x"] - 0.3) ** 2 + 1 / 5)) < 1e-9 for r in driver.ranked)
    assert [r.steps for r in driver.ranked] == [5] * 4
    assert [line.partition(":")[0] for line in driver.told] == [f"trial {n}" for n in range(4)]


def test_a_finished_sweep_runs_nothing_again_and_a_larger_one_the_rest(drive, tmp_path):
    drive(trials=2)
    drive(trials=2)
    Left(tmp_path).assert_exactly(2)
    drive(trials=3)
    Left(tmp_path).assert_exactly(3)


@pytest.mark.parametrize(
    ("fail", "kind", "words"),
    [
        ("crash", "crash", "the trial broke down"),
        ("memory", "memory", "out of memory"),
        ("number", "nan", "not a number"),
        ("kill", "memory", "SIGKILL"),
    ],
)
def test_a_trial_that_fails_is_told_with_its_log_and_the_others_go_on(drive, fail, kind, words):
    driver = drive(
        trials=3,
        space={"x": {"low": 0.0, "high": 1.0}, "fail": ["none", fail]},
        first=({"fail": fail}, {"fail": "none"}),
        sampler={"name": "random", "seed": 3},
        stops_on_failures=False,
    )
    (failed,) = [r for r in driver.ranked if r.number == 0]
    assert (failed.state, failed.kind) == ("failed", kind)
    assert words in failed.failure
    assert driver.ranked[0].state == "complete"
    assert any(str(driver.sweep.log(0)) in line and words in line for line in driver.told)
    assert driver.sweep.log(0).is_file()


def test_it_stops_with_advice_when_most_of_the_first_trials_fail(drive):
    driver = drive(trials=20, overrides=["fail=number"])
    assert [r.state for r in driver.ranked] == ["failed"] * 5
    assert "smaller learning rates" in driver.advice
    assert "quick-0000.log" in driver.advice or "quick-0004.log" in driver.advice
    assert len(drive(trials=7, overrides=["fail=number"], stops_on_failures=False).ranked) == 7


def test_a_goal_that_is_not_logged_fails_the_trial_and_says_so(drive):
    driver = drive(trials=1, goal="val/lost", direction="minimize")
    assert driver.ranked[0].kind == "missing"
    assert "has no val/lost" in driver.ranked[0].failure


def test_bad_trials_are_pruned_while_they_run(drive, tmp_path):
    driver = drive(
        trials=3,
        first=({"x": 0.3}, {"x": 0.31}, {"x": 1.0}),
        pruner={"name": "median", "n_startup_trials": 2},
        overrides=["slow=0.4"],
    )
    states = {r.number: r.state for r in driver.ranked}
    assert states == {0: "complete", 1: "complete", 2: "pruned"}
    assert Left(tmp_path).ends["quick-0002"] == 0, "its process was stopped"
    assert 0 < driver.ranked[-1].steps < 5
    assert len(driver.ranked[-1].values) == 1, "it counts with what it had reached"


def test_what_is_watched_is_no_value_of_the_goal(drive):
    """Pruned by a metric of its own, which is to be maximized while the goal is to be minimized."""
    (watched,) = parse("val/psnr", "maximize", "last", True)
    driver = drive(
        trials=3,
        first=({"x": 0.3}, {"x": 0.31}, {"x": 0.1}),
        pruner={"name": "median", "n_startup_trials": 2},
        watched=watched,
        overrides=["slow=0.4"],
    )
    pruned = driver.ranked[-1]
    assert (pruned.number, pruned.state, pruned.values) == (2, "pruned", ())
    study = optuna.load_study(study_name="quick", storage=driver.storage)
    assert set(study.trials[2].intermediate_values.values()) == {-3.0}
    assert driver.told[2].startswith("trial 2: pruned at val/psnr 3 in ")
    page = write_report(driver.sweep, driver.ranked, study).read_text(encoding="utf-8")
    assert "A pruned trial was stopped by val/psnr, and has no value." in page
    assert page.count('<td class="n">–</td>') == 1
    assert "trial 2 (pruned)" not in page[page.index('id="parallel"') : page.index('id="curves"')]


@pytest.mark.parametrize("linger", [0, 0.5])
def test_a_trial_that_would_be_pruned_at_its_last_step_is_complete(drive, linger):
    """Also where its last row is seen before its end is: all of it was paid for."""
    driver = drive(
        trials=3,
        overrides=[f"linger={linger}"],
        first=({"x": 0.3}, {"x": 0.31}, {"x": 1.0}),
        pruner={"name": "median", "n_startup_trials": 2, "n_warmup_steps": 4},
    )
    assert {r.number: (r.state, r.steps) for r in driver.ranked} == dict.fromkeys(range(3), ("complete", 5))
    assert driver.ranked[-1].number == 2


def test_how_far_a_trial_is_that_is_a_whole_run(tmp_path):
    """All stages count from the beginning, but for what is taken from elsewhere; the one that runs by its rows."""
    stages = {kind: {"trainer": {"max_steps": steps}} for kind, steps in
              {"tokenizer": 400, "generator": 600, "encoder": 350}.items()}  # fmt: skip
    rivals = {"noisy": {"trainer": {"max_steps": 50}}, "small": {}}
    config = {"stages": stages, "encoder_from": "runs/other", "rivals": rivals}
    assert progress(tmp_path / "trial") == (0, 0)
    trial = RunDirectory(tmp_path / "trial").create(config)
    assert progress(trial.path) == (0, 400 + 600 + 50 + 350)
    begun = (("tokenizer", "finished", 400), ("generator", "running", 100), ("encoder", "finished", 9))
    for kind, state, step in begun:
        stage = trial.stage(kind)
        stage.path.mkdir()
        stage.update_status(state=state, step=step, max_steps=stages[kind]["trainer"]["max_steps"])
    rows = MetricsFile(trial.stage("generator").metrics_file)
    for step in (100, 149):
        rows.append({"step": step, "train/loss": 1.0})
    rows.close()
    with open(rows.path, "a") as file:
        file.write('{"step": 15')  # as it is while a row is written
    assert progress(trial.path) == (400 + 150, 1400)


def test_two_goals_have_a_front(drive):
    driver = drive(
        trials=6, goal=["val/loss", "val/psnr"], direction=["minimize", "maximize"], sampler={"name": "random"}
    )
    front = [r for r in driver.ranked if r.on_front]
    assert front == driver.ranked[: len(front)]
    assert max(r.params["x"] for r in driver.ranked) in [r.params["x"] for r in front]
    for r in driver.ranked[len(front) :]:
        assert any(f.values[0] <= r.values[0] and f.values[1] >= r.values[1] for f in front)


def test_budgets_of_time_and_of_steps(drive):
    driver = drive(trials=None, steps=12)
    assert len(driver.ranked) == 3, "5 steps each: the third begins below 12, the fourth would not"
    driver = drive(trials=None, seconds=driver.ledger.seconds() + 0.2)
    assert len(driver.ranked) == 4, "what was worked before counts, and one more began"


def test_a_worker_that_joins_later_takes_nothing_from_the_time_that_was_worked(sweep):
    ledger = Driver(sweep(trials=1)).ledger
    ledger._began -= 1000
    now = ledger._began + 1000
    ledger.storage.set_study_user_attr(ledger.study_id, "worked:gone", [now - 2000, now - 1500])
    ledger.storage.set_study_user_attr(ledger.study_id, "worked:joined", [now - 20, now - 10])
    assert 1500 <= ledger.seconds() < 1510
    ledger.close()


def test_parameters_that_exist_only_beside_values_of_others(drive):
    space = {
        "x": {"low": 0.0, "high": 1.0},
        "kind": ["a", "b"],
        "depth": {"low": 1, "high": 3, "when": {"kind": "b"}},
        "width": {"choices": [8, 16], "when": {"depth": {"low": 2, "high": 3}}},
    }
    driver = drive(trials=8, space=space, workers=4, sampler={"name": "random", "seed": 5})
    seen = {("depth" in r.params, "width" in r.params) for r in driver.ranked}
    assert seen == {(False, False), (True, False), (True, True)}
    for r in driver.ranked:
        assert ("depth" in r.params) == (r.params["kind"] == "b")
        assert ("width" in r.params) == (r.params.get("depth", 0) >= 2)


def test_a_grid_is_tried_once_through(drive):
    driver = drive(trials=50, space={"x": [0.1, 0.2, 0.3], "y": {"low": 1, "high": 2}}, sampler={"name": "grid"})
    assert sorted((r.params["x"], r.params["y"]) for r in driver.ranked) == [
        (x, y) for x in (0.1, 0.2, 0.3) for y in (1, 2)
    ]


def test_brute_force_tries_every_point_once_beside_its_conditions(drive):
    space = {"kind": ["a", "b"], "x": {"low": 0.0, "high": 0.3, "step": 0.1, "when": {"kind": "b"}}}
    driver = drive(trials=50, space=space, sampler={"name": "brute_force"}, first=({"kind": "a"},), workers=2)
    tried = sorted((r.params["kind"], round(r.params.get("x", -1), 1)) for r in driver.ranked)
    assert tried == [("a", -1), ("b", 0.0), ("b", 0.1), ("b", 0.2), ("b", 0.3)]


def test_another_definition_of_the_same_sweep_is_refused(drive):
    drive(trials=1)
    with pytest.raises(ConfigError, match=r"space.x.high: 1.0 → 2.0") as caught:
        drive(trials=2, space={"x": {"low": 0.0, "high": 2.0}})
    assert caught.value.code == "MMG-C66"
    assert "sweep.name=quick-2" in caught.value.fix


def test_trials_of_a_machine_that_has_gone_are_tried_again(sweep, tmp_path):
    """A worker elsewhere, of which there is no lock here, begins a trial and is never heard of again."""
    gone = Driver(sweep(trials=2, grace=1.5))
    lost = gone._begun(gone.ledger.claim(2, True))
    lost.process.kill()
    gone.ledger._lock_of(gone.ledger.worker).unlink()
    driver = Driver(sweep(trials=2, grace=1.5), tell=lambda line: None)
    ranked = driver.run()
    assert sorted(r.number for r in ranked) == [1, 2]
    assert [r.state for r in ranked] == ["complete"] * 2
    left = Left(tmp_path)
    assert dict(left.states) == {"FAIL": 1, "COMPLETE": 2}
    assert left.study.trials[0].user_attrs["abandoned"]
    assert left.study.trials[1].params == lost.values or left.study.trials[2].params == lost.values
    assert gone.ledger.finish(lost.frozen, optuna.trial.TrialState.COMPLETE, [1.0], {}) is False, "too late"


@pytest.mark.parametrize(("client", "name"), [("grpc", "RpcError"), ("redis", "RedisError")])
def test_a_storage_behind_a_client_of_its_own_is_waited_for(sweep, monkeypatch, client, name):
    monkeypatch.setattr("mmgen.sweeps.driver.LOOK", (0.1, 0.2))
    module = types.ModuleType(client)
    setattr(module, name, error := type(name, (Exception,), {}))
    monkeypatch.setitem(sys.modules, client, module)
    driver = Driver(sweep(trials=1), tell=lambda line: None)
    turn, turns = driver._turn, []

    def failing(bar):
        turns.append(1)
        if len(turns) in (1, 3):
            raise error("failed to connect to all addresses")
        return turn(bar)

    driver._turn = failing
    assert [r.state for r in driver.run()] == ["complete"]


def test_a_storage_that_fails_for_a_while_is_waited_for(sweep, tmp_path, monkeypatch):
    """The journal cannot be opened while a trial runs, as on a disk that is out of reach; the trial is not lost."""
    monkeypatch.setattr("mmgen.sweeps.driver.LOOK", (0.1, 0.2))
    told = []
    driver = Driver(sweep(trials=2, overrides=["slow=0.1"]), tell=told.append)
    journal, aside = tmp_path / "journal.log", tmp_path / "aside.log"
    turn, turns = driver._turn, []

    def failing(bar):
        turns.append(1)
        if len(turns) == 3:
            journal.rename(aside)
        if len(turns) == 12:
            aside.rename(journal)
        return turn(bar)

    driver._turn = failing
    driver.run()
    Left(tmp_path).assert_exactly(2)
    assert any("the storage fails" in line for line in told)
