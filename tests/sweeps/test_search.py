"""Optuna's parts by name, its storages, and a journal that survives being torn."""

import importlib.util
import subprocess
import sys
import time

import optuna
import pytest

from mmgen.errors import ConfigError
from mmgen.sweeps import search
from mmgen.sweeps.reading import from_yaml
from mmgen.sweeps.space import Space

SPACE = Space([from_yaml("x", [1, 2]), from_yaml("y", {"low": 1, "high": 3})])


def test_every_sampler_and_pruner_of_optuna_has_its_name():
    samplers = {name for name in optuna.samplers.__all__ if name.endswith("Sampler") and not name.startswith("Base")}
    pruners = {name for name in optuna.pruners.__all__ if not name.startswith("Base")}
    assert len(samplers) >= 9
    assert len(pruners) >= 8
    needed = {"PartialFixedSampler": {"fixed_params": {"x": 1}, "base_sampler": {"name": "random"}}}
    for name in samplers:
        options = {"name": name, **needed.get(name, {})}
        if importlib.util.find_spec(search._NEEDS.get(name, "optuna")) is None:
            with pytest.raises(ConfigError, match=f"pip install {search._NEEDS[name]}"):
                search.sampler(options, SPACE)
        else:
            assert type(search.sampler(options, SPACE)).__name__ == name
    wanted = {
        "PatientPruner": {"wrapped_pruner": {"name": "median"}, "patience": 2},
        "PercentilePruner": {"percentile": 25.0},
        "ThresholdPruner": {"upper": 1.0},
    }
    for name in pruners:
        assert type(search.pruner({"name": name, **wanted.get(name, {})})).__name__ == name
    assert type(search.sampler({"name": "brute_force"}, SPACE)).__name__ == "BruteForceSampler"
    assert isinstance(search.pruner({"name": "none"}), optuna.pruners.NopPruner)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: search.sampler({"name": "tpee"}, SPACE), "did you mean tpe"),
        (lambda: search.sampler({"name": "tpe", "multivariat": True}, SPACE), "did you mean multivariate"),
        (lambda: search.pruner({"name": "median", "n_startup": 3}), "n_startup_trials"),
        (lambda: search.pruner({"name": "threshold"}), "refuses its options"),
        (lambda: search.sampler({"name": "grid"}, Space([from_yaml("x", {"low": 0.0, "high": 1.0})])), "infinitely"),
        (lambda: search.sampler({"name": "brute_force"}, Space([from_yaml("x", {"low": 0.0, "high": 1.0})])), "choice"),
    ],
)
def test_a_mistake_is_told_with_what_was_meant(call, words):
    with pytest.raises(ConfigError) as caught:
        call()
    assert words in caught.value.render()


def test_points_are_counted_beside_their_conditions():
    space = Space(
        [
            from_yaml("kind", ["a", "b", "c"]),
            from_yaml("depth", {"low": 1, "high": 3, "when": {"kind": ["b", "c"]}}),
            from_yaml("width", {"choices": [8, 16], "when": {"depth": {"low": 2, "high": 3}}}),
            from_yaml("rate", {"low": 0.0, "high": 0.3, "step": 0.1}),
        ]
    )
    assert search.size({"name": "BruteForceSampler"}, space) == (1 + 2 * (1 + 2 * 2)) * 4
    assert search.size({"name": "grid"}, SPACE) == 6
    assert search.size({"name": "tpe"}, SPACE) is None
    with pytest.raises(ConfigError, match="no conditions"):
        search.sampler({"name": "grid"}, space)


def test_without_optuna_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError) as caught:
        search.require_optuna()
    assert 'pip install "mmgen-lightning[sweep]"' in caught.value.fix


def test_random_numbers_are_of_the_trial_not_of_the_process(tmp_path):
    """A sampler made anew, as after a restart, proposes for a trial what it would have, and not the first's again."""
    def value(number):
        study = optuna.create_study(sampler=search.sampler({"name": "random", "seed": 3}, SPACE, number))
        return study.ask().suggest_float("z", 0, 1)

    assert value(4) == value(4)
    assert len({value(number) for number in range(6)}) == 6


def test_a_torn_line_of_the_journal_is_taken_away(tmp_path):
    optuna.create_study(study_name="s", storage=search.storage(None, tmp_path))
    journal = tmp_path / "journal.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code":4,"wor')
    study = optuna.load_study(study_name="s", storage=search.storage(None, tmp_path))
    study.tell(study.ask(), 1.0)
    study.tell(study.ask(), 2.0)
    again = optuna.load_study(study_name="s", storage=search.storage(None, tmp_path))
    assert [trial.value for trial in again.trials] == [1.0, 2.0]
    assert journal.read_bytes().startswith(whole)


def test_the_journals_lock_dies_with_its_holder(tmp_path):
    optuna.create_study(study_name="s", storage=search.storage(None, tmp_path))
    holder = (
        f"from pathlib import Path; from mmgen.sweeps import search; s = search.storage(None, Path({str(tmp_path)!r}));"
        "s._backend._lock.acquire(); print('held', flush=True); import time; time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"held\n"
    process.kill()
    process.wait()
    began = time.monotonic()
    optuna.load_study(study_name="s", storage=search.storage(None, tmp_path)).ask()
    assert time.monotonic() - began < 5
    process.stdout.close()


def test_a_storage_that_does_not_answer_is_told_without_its_password(tmp_path):
    with pytest.raises(ConfigError) as caught:
        search.storage("nothing://me:secret@host/db", tmp_path)
    assert caught.value.code == "MMG-C65"
    assert "nothing://…@host/db" in caught.value.what
    assert "secret" not in caught.value.what


def test_where_trials_are_kept(tmp_path):
    elsewhere = tmp_path / "shared" / "trials.log"
    optuna.create_study(study_name="s", storage=search.storage(str(elsewhere), tmp_path))
    assert elsewhere.is_file()
    optuna.create_study(study_name="s", storage=search.storage(f"sqlite:///{tmp_path}/t.db", tmp_path))
    assert (tmp_path / "t.db").is_file()
