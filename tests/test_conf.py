"""Composition: every YAML composes, and every trap of composing configs from components and presets."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from mmgen import registry
from mmgen.commands import composition, places
from mmgen.commands.overrides import parse
from mmgen.commands.presets import PresetSource
from mmgen.commands.schema import COMMANDS, TRAINER_OBJECTS, TRAINER_OWN, TrainerConfig
from mmgen.errors import ConfigErrors, MmgenError, PluginError
from mmgen.options import options_of

Install = Callable[..., Path]
CONF = Path(__file__).parent.parent / "conf"
PARTS = ("tokenizer", "generator", "encoder", "sampler")

TOYS = """
    from typing import Literal
    class Dataset:
        def __init__(self, path: str, image_size: int = 32): ...
    class Part:
        def __init__(self, width: int = 8, rate: float = 0.5, mode: Literal["a", "b"] = "a"): ...
    class Small:
        def __init__(self, depth: int = 2): ...
    class Judge:
        def __init__(self, split: str = "val", pictures: int | None = None): ...
    class Other:
        def __init__(self, tests: int = 3): ...
"""


@pytest.fixture
def toys(install: Install) -> Path:
    """A distribution with a component `toy` of each kind, so that no test imports torch."""
    entries: dict[str, dict[str, str]] = {
        f"mmgen.{kind}": {"toy": "toys:Part", "small": "toys:Small"} for kind in PARTS
    }
    entries["mmgen.dataset"] = {"toy": "toys:Dataset"}
    entries["mmgen.evaluator"] = {"judge": "toys:Judge", "other": "toys:Other"}
    entries["mmgen.configs"] = {"toys": "toys_presets.conf"}
    files = {"toys.py": TOYS, "toys_presets/__init__.py": "raise SystemExit('presets are read without importing')"}
    return install("toys", entries, files)


CHOICES = ["dataset=toy", "dataset.path=x", *(f"{kind}=toy" for kind in PARTS), "evaluator=[judge]"]


def train(*overrides: str, config_dir: Path | None = None) -> dict[str, Any]:
    return composed("train", "task=tokenizer", *CHOICES, *overrides, config_dir=config_dir)


def composed(command: str, *overrides: str, config_dir: Path | None = None) -> dict[str, Any]:
    return composition.checked(command, list(overrides), places.places(config_dir)).config


def errors_of(command: str, *overrides: str, config_dir: Path | None = None) -> list[MmgenError]:
    with pytest.raises(ConfigErrors) as caught:
        composed(command, *overrides, config_dir=config_dir)
    return list(caught.value.errors)


def write(directory: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(dedent(text).strip() + "\n")
    return directory


# --- everything that is shipped --------------------------------------------------------------------------------------


def test_every_yaml_composes(toys: Path):
    seen = set()
    groups = [d for d in CONF.iterdir() if list(d.glob("*.yaml"))]
    for command in COMMANDS:
        needed = {"run": CHOICES, "train": ["task=tokenizer", *CHOICES], "sample": ["sampler=toy"]}.get(command, [])
        theirs = [g for g in groups if g.name != "sweep"]  # the presets of a search are no config of a training
        mine = [g for g in theirs if command == "train" or (command == "run" and g.name != "task")]
        mine = [g for g in groups if g.name == "sweep"] if command == "sweep" else mine
        rounds = zip_longest(*([f"{g.name}={f.stem}" for f in sorted(g.glob("*.yaml"))] for g in mine))
        for choices in [(), *rounds]:
            composition.prepare(command, [*needed, *filter(None, choices)], places.places())
            seen |= {file for _, file in PresetSource.loaded}
    shipped = set(CONF.rglob("*.yaml"))
    assert {f.resolve() for f in seen} >= shipped
    assert len(shipped) >= 23, "the guard guards something"


def test_every_component_and_preset_of_mmgen_builds(toys: Path):
    import torch

    from mmgen.data.text import BpeTextTokenizer

    text = BpeTextTokenizer.train(["a cat", "a dog"], vocab_size=260, context_length=8)
    arguments = {"text_tokenizer": text, "grid": (8, 8), "codebook_size": 16, "image_size": 224}
    configs = []
    for kind in set(registry.KINDS) - {"dataset"}:  # a dataset reads files
        claims = registry.components(kind).items()
        configs += [(kind, {"name": name}) for name, (owner, *_) in claims if owner.distribution == registry.OURS]
        configs += [(kind, train(f"{kind}={file.stem}")[kind]) for file in (CONF / kind).glob("*.yaml")]
    for kind, config in configs:
        with torch.device("meta"):
            built = registry.build(kind, config, **{key: arguments[key] for key in registry.BUILD_ARGUMENTS[kind]})
        assert built is not None
    presets = len([f for kind in registry.KINDS for f in (CONF / kind).glob("*.yaml")])
    assert len(configs) >= presets + 9, "the guard guards all of them"


def test_trainer_options_are_lightnings():
    from pytorch_lightning import Trainer

    theirs = {
        p.name: p.default for p in inspect.signature(Trainer).parameters.values() if p.name not in TRAINER_OBJECTS
    }
    ours = {name: option.default for name, option in options_of(TrainerConfig).items() if name not in TRAINER_OWN}
    assert ours == theirs


# --- one config, one answer ------------------------------------------------------------------------------------------


def test_the_whole_config_is_there_with_defaults(toys: Path):
    config = train("tokenizer.width=16")
    assert config["tokenizer"] == {"name": "toy", "width": 16, "rate": 0.5, "mode": "a"}
    assert config["dataset"] == {"name": "toy", "path": "x", "image_size": 32}
    assert config["evaluator"] == {"judge": {"name": "judge", "split": "val", "pictures": None}}
    assert config["task"]["name"] == "tokenizer"
    assert config["task"]["optimizer"]["betas"] == [0.9, 0.95]
    assert config["trainer"]["accelerator"] == "cpu"
    assert config["trainer"]["enable_progress_bar"] is False
    assert "hydra" not in config


def test_what_was_checked_is_what_hydra_composes(toys: Path):
    said = ["tokenizer.width=16", "~trainer.logger", "+seed=3", "trainer.max_steps=7", "debug=profile", "run.name=x"]
    checked = composition.checked("run", [*CHOICES, *said], places.places())
    assert composition.finish("run", composition.compose("run", checked.overrides)) == checked.config
    assert checked.config["stages"]["encoder"]["trainer"]["max_steps"] == 7


def test_keys_that_no_yaml_mentions_need_no_plus(toys: Path):
    assert train("trainer.max_time=00:00:10:00")["trainer"]["max_time"] == "00:00:10:00"


def test_trainer_counts_for_every_stage_of_a_run(toys: Path):
    config = composed(
        "run",
        *CHOICES,
        "stages.generator.trainer.max_steps=500",
        "trainer.max_steps=7",
        "trainer=gpu",
        "trainer.devices=2",
    )
    stages = config["stages"]
    assert {name: s["trainer"]["max_steps"] for name, s in stages.items()} == {
        "tokenizer": 7,
        "generator": 500,
        "encoder": 7,
    }
    assert {s["trainer"]["accelerator"] for s in stages.values()} == {"gpu"}
    assert {s["trainer"]["devices"] for s in stages.values()} == {2}
    assert {name: s["task"]["name"] for name, s in stages.items()} == {name: name for name in stages}


def test_one_stage_may_have_a_trainer_of_its_own(toys: Path):
    stages = composed("run", *CHOICES, "trainer@stages.encoder.trainer=gpu")["stages"]
    assert [s["trainer"]["accelerator"] for s in stages.values()] == ["cpu", "cpu", "gpu"]


def test_a_debug_preset_goes_before_the_stages_own(toys: Path):
    stages = composed("run", *CHOICES, "debug=one_batch")["stages"]
    assert {s["trainer"]["max_steps"] for s in stages.values()} == {1}


def test_an_experiment_sets_stages_and_train_takes_its_own(toys: Path, tmp_path: Path):
    write(tmp_path / "mine", {"experiment/try.yaml": """
        # @package _global_
        defaults:
          - override /dataset: toy
        dataset: {path: y}
        trainer: {log_every_n_steps: 3}
        stages:
          generator: {task: {batch_size: 17}, trainer: {max_steps: 18}}
    """})  # fmt: skip
    parts = [f"{kind}=toy" for kind in PARTS]
    run = composed("run", "experiment=try", *parts, "evaluator=[judge]", config_dir=tmp_path / "mine")
    assert run["dataset"]["path"] == "y"
    assert run["stages"]["generator"]["task"]["batch_size"] == 17
    assert {s["trainer"]["log_every_n_steps"] for s in run["stages"].values()} == {3}
    one = composed("train", "experiment=try", "task=generator", *parts, config_dir=tmp_path / "mine")
    assert (one["task"]["batch_size"], one["trainer"]["max_steps"]) == (17, 18)
    said = ["task.batch_size=5", "trainer.max_steps=6"]
    one = composed("train", "experiment=try", "task=generator", *parts, *said, config_dir=tmp_path / "mine")
    assert (one["task"]["batch_size"], one["trainer"]["max_steps"]) == (5, 6), (
        "what is typed goes before the experiment"
    )
    other = composed("train", "experiment=try", "task=encoder", *parts, config_dir=tmp_path / "mine")
    assert other["task"]["batch_size"] != 17


def test_a_value_that_hydras_grammar_refuses_is_taken_as_it_stands(toys: Path):
    for path in ("~/Bilder/Größe (1)", 'it\'s, "so"', "a=b,c d#", "C:\\new\\", "[1", "back\\'slash"):
        quoted = path if path[0] not in "[" else f'"{path}"'
        assert train(f"dataset.path={quoted}".replace(", ", " "))["dataset"]["path"] == path.replace(", ", " ")


@pytest.mark.parametrize("name", ["2026_11", "1e3", "007", "1.50", "true", "null-1", "'quoted'"])
def test_text_that_looks_like_a_number_stays_text(toys: Path, name: str):
    assert train(f"run.name={name}")["run"]["name"] == name.strip("'")
    assert train("tokenizer.rate=1e-3")["tokenizer"]["rate"] == 0.001


# --- errors, all at once ---------------------------------------------------------------------------------------------


def test_all_errors_are_told_at_once_with_their_place(toys: Path):
    errors = errors_of(
        "train", "task=tokenizer", *CHOICES, "tokenizer.widht=3", "+generator.deptth=3", "++encoder.mode=c",
        "trainer.max_stepz=3", "trainer.max_steps=abc", "task.batch_size=abc", "trianer.max_steps=3", "seed=one",
    )  # fmt: skip
    told = {(e.code, e.where) for e in errors}
    assert told == {
        ("MMG-C01", "command line: tokenizer.widht=3"),
        ("MMG-C01", "command line: +generator.deptth=3"),
        ("MMG-C02", "command line: ++encoder.mode=c"),
        ("MMG-C01", "command line: trainer.max_stepz=3"),
        ("MMG-C02", "command line: trainer.max_steps=abc"),
        ("MMG-C02", "command line: task.batch_size=abc"),
        ("MMG-C01", "command line: trianer.max_steps=3"),
        ("MMG-C02", "command line: seed=one"),
    }
    fixes = {e.where.removeprefix("command line: "): e.fix for e in errors}
    assert fixes["tokenizer.widht=3"] == "did you mean tokenizer.width?"
    assert fixes["trianer.max_steps=3"] == "did you mean trainer.max_steps?"
    assert len(errors) == 8, "and each once"


@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_a_plus_hides_no_typo(toys: Path, prefix: str):
    (error,) = errors_of("train", "task=tokenizer", *CHOICES, f"{prefix}generator.widht=3")
    assert "did you mean generator.width?" in error.render()
    assert "+generator" not in error.render().replace(f"{prefix}generator.widht=3", "")


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("generator.batch_size=3", "task.batch_size"),
        ("max_steps=3", "trainer.max_steps"),
        ("task.optimiser.lr=1", "task.optimizer.lr"),
        ("generater=toy", "generator"),
        ("sed=3", "seed"),
        ("+sed=3", "seed"),
        ("~tokenizer.widht", "tokenizer.width"),
        ("experimant=x", "experiment"),
    ],
)
def test_what_was_meant_is_suggested(toys: Path, override: str, meant: str):
    (error,) = errors_of("train", "task=tokenizer", *CHOICES, override)
    assert error.fix == f"did you mean {meant}?"


def test_a_choice_may_be_null():
    """Hydra's own `choice(…)` takes none, so that the word would have been a value that nobody searches."""
    parsed = parse("task.group_size=choice(2,null)")
    assert parsed.is_sweep_override()
    assert parsed.value().list == [2, None]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("tokenizer=toyy", "no option 'toyy' in group 'tokenizer'"),
        ("trainer=gpuu", "no option 'gpuu' in group 'trainer'"),
        ("experiment=none_such", "no option 'none_such' in group 'experiment'"),
        ("evaluator=[judge,jugde]", "no option 'jugde' in group 'evaluator'"),
        ("trainer={max_steps:3}", "takes the name of an option"),
        ("tokenizer.name=small", "chosen with its options"),
        ("tokenizer.width=1,2", "a list of values to sweep over"),
        ("dataset.path=[a", "cannot read the override"),
        ("seed=interval(null,2)", "cannot read the override"),
        ("evaluator.other.tests=3", "evaluator other is not chosen"),
        ("evaluator.jugde.split=x", "unknown config key 'evaluator.jugde.split'"),
        ("task.ema_decay=2", "from 0 up to 1"),
        ("run=3", "run must be a section"),
        ("hydra/launcher=none_such", "no option 'none_such' in group 'hydra/launcher'"),
        ("hydra.jobb.chdir=true", "hydra.jobb"),
        ("tokenizer.width=${nowhere}", "refers to what is not there"),
        ("tokenizer.width=null", "tokenizer.width must be a whole number"),
    ],
)
def test_bad_overrides(toys: Path, override: str, words: str):
    (error,) = errors_of("train", "task=tokenizer", *CHOICES, override)
    assert words in error.render()
    assert len(error.render().splitlines()) <= 6
    assert "use +" not in error.render()
    assert error.exit_code == 2


def test_a_choice_that_does_not_exist_has_no_errors_in_its_wake(toys: Path):
    choices = [c for c in CHOICES if not c.startswith("dataset")]
    errors = errors_of("train", "task=tokenizr", *choices, "dataset=toyy", "task.batch_size=abc")
    assert sorted(e.code for e in errors) == ["MMG-C02", "MMG-C03", "MMG-C03", "MMG-C05"]
    assert [e.what for e in errors if e.code == "MMG-C05"] == ["dataset.path is required (text)"]


def test_missing_values(toys: Path):
    parts = [f"{kind}=toy" for kind in PARTS]
    assert [e.what for e in errors_of("train", *parts)] == ["no dataset is chosen", "no task is chosen"]
    (error,) = errors_of("train", "task=tokenizer", "dataset=toy", *parts)
    assert (error.code, error.fix) == ("MMG-C05", "dataset.path=VALUE")


def test_a_deleted_option_has_its_default_again(toys: Path):
    assert train("tokenizer.width=16", "~tokenizer.width")["tokenizer"]["width"] == 8
    assert train("~trainer.max_time")["trainer"]["max_time"] is None
    (error,) = errors_of("train", "task=tokenizer", *CHOICES, "~sampler")
    assert error.what == "no sampler is chosen"


def test_options_of_the_sampler_that_a_run_was_judged_with_need_no_name():
    """Whether they are its own is known when the run is: see tests/commands/test_drawing.py."""
    assert composed("sample", "sampler.temperature=0.5")["sampler"] == {"temperature": 0.5}
    assert composed("sample")["sampler"] is None
    assert composed("sample", "sampler=autoregressive")["sampler"]["temperature"] == 1.0


def test_run_alone_wants_the_quickstart(toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    here = places.places()
    monkeypatch.setattr(places, "places", lambda config_dir=None: [p for p in here if p.owner != "mmgen-emoji"])
    with pytest.raises(ConfigErrors) as caught:
        composition.prepare("run", [f"{kind}=toy" for kind in PARTS], places.places())
    assert any("pip install -e plugins/mmgen-emoji" in e.fix for e in caught.value.errors)
    quick = write(tmp_path / "mine", {"experiment/quickstart.yaml": "# @package _global_\nrun: {name: quick}\nseed: 5"})
    where = [*places.places(), places.Place(places.YOURS, quick)]
    choices = [c for c in CHOICES if not c.startswith("dataset")]
    with pytest.raises(ConfigErrors, match="no dataset is chosen"):
        composition.prepare("run", choices, where)
    assert "experiment=quickstart" in composition.prepare(
        "run", [*choices, "+dataset=toy", "dataset.path=x", "experiment=quickstart"], where
    )
    assert "experiment=quickstart" not in composition.prepare("run", CHOICES, where)


# --- YAML of the user's own ------------------------------------------------------------------------------------------


def test_a_typo_in_yaml_is_found_with_file_and_line(toys: Path, tmp_path: Path):
    mine = write(tmp_path / "mine", {
        "generator/big.yaml": "defaults: [toy, _self_]\n\nwidht: 64",
        "trainer/mine.yaml": "defaults: [cpu, _self_]\nmax_stepz: 64\nprecision: 33-true",
        "task/mine.yaml": "name: tokenizer\noptimizer:\n  lr: fast",
        "experiment/try.yaml": "# @package _global_\nsede: 3\nencoder:\n  rate: high",
    })  # fmt: skip
    errors = errors_of(
        "run",
        *CHOICES,
        "generator=big",
        "trainer=mine",
        "task@stages.tokenizer.task=mine",
        "experiment=try",
        config_dir=mine,
    )
    assert {(Path(e.where).relative_to(mine).as_posix(), e.code) for e in errors} == {
        ("generator/big.yaml:3", "MMG-C01"),
        ("trainer/mine.yaml:2", "MMG-C01"),
        ("trainer/mine.yaml:3", "MMG-C02"),
        ("task/mine.yaml:3", "MMG-C02"),
        ("experiment/try.yaml:2", "MMG-C01"),
        ("experiment/try.yaml:4", "MMG-C02"),
    }
    assert len(errors) == 6


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("width: [1", "big.yaml:2"),
        ("- a list", "holds no mapping"),
        ("defaults: [toyy, _self_]", "fix: write toy there"),
        ("a: 1\na: 2", "duplicate"),
    ],
)
def test_yaml_that_cannot_be_read(toys: Path, tmp_path: Path, text: str, words: str):
    mine = write(tmp_path / "mine", {"generator/big.yaml": text})
    (error,) = errors_of("train", "task=tokenizer", *CHOICES, "generator=big", config_dir=mine)
    assert words in error.render()
    assert "big" in error.render()


def test_a_class_of_the_users_own_is_a_choice(toys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path, {"my_idea.py": "class Mine:\n    def __init__(self, width: int = 3): ..."})
    monkeypatch.chdir(tmp_path)
    config = train("generator=my_idea:Mine", "generator.width=4", "evaluator=[my_idea:Mine,judge]")
    assert config["generator"] == {"name": "my_idea:Mine", "width": 4}
    assert config["evaluator"]["Mine"] == {"name": "my_idea:Mine", "width": 3}
    mine = write(tmp_path / "mine", {
        "generator/plain.yaml": "name: my_idea:Mine\nwidth: 5",
        "generator/based.yaml": "defaults: ['my_idea:Mine', _self_]\nwidth: 6",
    })  # fmt: skip
    assert train("generator=plain", config_dir=mine)["generator"]["width"] == 5
    assert train("generator=based", config_dir=mine)["generator"]["width"] == 6
    (error,) = errors_of("train", "task=tokenizer", *CHOICES, "generator=my_idea:Mine", "generator.widht=4")
    assert error.fix == "did you mean generator.width?"


def test_an_experiments_options_of_another_component_are_explained(toys: Path, tmp_path: Path):
    text = "# @package _global_\ndefaults:\n  - override /generator: toy\ngenerator: {width: 3, rate: 0.1}"
    mine = write(tmp_path / "mine", {"experiment/try.yaml": text})
    choices = [c for c in CHOICES if not c.startswith("generator")]
    assert composed("train", "task=encoder", *choices, "experiment=try", config_dir=mine)["generator"]["width"] == 3
    errors = errors_of("train", "task=encoder", *choices, "experiment=try", "generator=small", config_dir=mine)
    assert {e.where.rpartition("/")[2] for e in errors} == {"try.yaml:4"}
    assert all("generator/NAME.yaml" in e.fix for e in errors)


# --- presets ---------------------------------------------------------------------------------------------------------


def test_a_preset_named_like_its_component_does_not_recurse(toys: Path, tmp_path: Path):
    write(toys / "toys_presets" / "conf", {"generator/toy.yaml": "defaults: [toy, _self_]\nwidth: 64"})
    assert train()["generator"] == {"name": "toy", "width": 64, "rate": 0.5, "mode": "a"}
    assert train("generator=toy@toys")["generator"]["width"] == 8, "the component itself"
    mine = write(tmp_path / "mine", {"sampler/toy.yaml": "defaults: [toy, _self_]\nwidth: 65"})
    assert train(config_dir=mine)["sampler"]["width"] == 65


def test_a_preset_may_start_from_a_preset_or_a_distributions_component(toys: Path):
    write(toys / "toys_presets" / "conf", {
        "generator/big.yaml": "defaults: [toy@toys, _self_]\nwidth: 64",
        "generator/huge.yaml": "defaults: [big, _self_]\nrate: 0.1",
    })  # fmt: skip
    assert train("generator=huge")["generator"] == {"name": "toy@toys", "width": 64, "rate": 0.1, "mode": "a"}


def test_several_evaluators_with_presets_keep_apart(toys: Path):
    write(toys / "toys_presets" / "conf", {
        "evaluator/judge_few.yaml": "defaults: [judge, _self_]\npictures: 10",
        "evaluator/judge_test.yaml": "defaults: [judge_few, _self_]\nsplit: test",
    })  # fmt: skip
    config = train("evaluator=[judge,judge_few,judge_test,other]", "evaluator.judge.pictures=3")
    assert config["evaluator"] == {
        "judge": {"name": "judge", "split": "val", "pictures": 3},
        "judge_few": {"name": "judge", "split": "val", "pictures": 10},
        "judge_test": {"name": "judge", "split": "test", "pictures": 10},
        "other": {"name": "other", "tests": 3},
    }


def test_an_experiment_may_set_an_evaluator_that_is_not_chosen(toys: Path, tmp_path: Path):
    text = "# @package _global_\nevaluator: {other: {tests: 4}}"
    mine = write(tmp_path / "mine", {"experiment/try.yaml": text})
    assert list(train("experiment=try", config_dir=mine)["evaluator"]) == ["judge"]
    assert train("experiment=try", "evaluator=[other]", config_dir=mine)["evaluator"]["other"]["tests"] == 4


def test_what_an_experiment_says_of_a_whole_run_is_left_out_where_one_part_is_trained(toys: Path, tmp_path: Path):
    text = "# @package _global_\ndrawing: {keep: 3}\nrivals: {other: {evaluator: [judge]}}\nwanted: {judge/right: 0.5}"
    mine = write(tmp_path / "mine", {"experiment/try.yaml": text})
    assert not {"drawing", "rivals", "wanted"} & train("experiment=try", config_dir=mine).keys()
    with pytest.raises(ConfigErrors) as caught:
        train("experiment=try", "drawing.keep=4", config_dir=mine)
    assert "train has no use for drawing" in caught.value.render()


def test_two_presets_of_one_name_are_refused_when_chosen(toys: Path, install: Install):
    write(toys / "toys_presets" / "conf", {"generator/big.yaml": "defaults: [toy, _self_]"})
    install(
        "more", {"mmgen.configs": {"more": "more_conf"}}, {"more_conf/generator/big.yaml": "defaults: [toy, _self_]"}
    )
    assert train()["generator"]["width"] == 8, "who chooses another is not hurt"
    with pytest.raises(PluginError) as caught:
        train("generator=big")
    assert "more and toys" in caught.value.what
    assert caught.value.exit_code == 8


def test_a_preset_of_mmgens_own_cannot_be_shadowed(toys: Path, tmp_path: Path):
    mine = write(tmp_path / "mine", {"trainer/cpu.yaml": "accelerator: gpu"})
    with pytest.raises(PluginError) as caught:
        train(config_dir=mine)
    assert "mmgen-lightning and --config-dir" in caught.value.what
    assert "rename yours" in caught.value.fix


def test_a_preset_of_another_distribution_cannot_take_a_components_name(toys: Path, install: Install):
    files = {"more_conf/generator/small.yaml": "defaults: [small, _self_]\ndepth: 9"}
    install("more", {"mmgen.configs": {"more": "more_conf"}}, files)
    with pytest.raises(PluginError, match="more and toys"):
        train("generator=small")


# --- clashes and broken plugins --------------------------------------------------------------------------------------


def test_clashes_and_broken_plugins_hurt_only_those_who_choose_them(toys: Path, install: Install):
    entries = {
        "mmgen.generator": {"toy": "rival:Part", "bad": "bad:Bad"},
        "mmgen.configs": {"rival": "rival_gone.conf"},
    }
    install(
        "rival", entries, {"rival.py": "class Part:\n    def __init__(self, height: int = 1): ...", "bad.py": "1/0"}
    )
    with pytest.raises(PluginError, match=r"claimed by rival .* and toys"):
        train()
    assert train("generator=small")["generator"]["name"] == "small"
    assert train("generator=toy@rival", "generator.height=2")["generator"] == {"name": "toy@rival", "height": 2}
    with pytest.raises(PluginError, match="of rival"):
        train("generator=bad")


def test_errors_of_the_config_come_before_a_broken_plugin(toys: Path, install: Install):
    install("worse", {"mmgen.generator": {"bad": "bad:Bad"}}, {"bad.py": "1/0"})
    (error,) = errors_of("train", "task=tokenizer", *CHOICES, "generator=bad", "trainer=gpuu")
    assert error.code == "MMG-C03"


def test_literals_are_checked(toys: Path):
    (error,) = errors_of("train", "task=tokenizer", *CHOICES, "tokenizer.mode=c")
    assert "tokenizer.mode must be one of a, b, got 'c'" in error.what


# --- sweeps ----------------------------------------------------------------------------------------------------------


def test_every_value_of_a_sweep_is_checked(toys: Path):
    texts = ["task=tokenizer", *CHOICES, "tokenizer=toy,small", "trainer.max_steps=1,two,3", "seed=range(1,3)"]
    with pytest.raises(ConfigErrors) as caught:
        composition.prepare("train", texts, places.places(), multirun=True)
    (error,) = caught.value.errors
    assert "trainer.max_steps must be a whole number, got 'two'" in error.what
    checked = composition.prepare("train", [t.replace("two", "2") for t in texts], places.places(), multirun=True)
    assert "++trainer.max_steps=1,2,3" in checked
    assert "++stages.encoder.trainer.max_steps=${trainer.max_steps}" in checked, "one sweep, not one a stage"
