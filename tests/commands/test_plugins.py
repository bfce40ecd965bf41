"""`mmgen plugins`: what `info` says, what `check` finds and with which exit code, what `new` writes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mmgen import cli, registry
from mmgen.commands import plugin_checks
from mmgen.commands.plugin_new import TEMPLATES, named
from mmgen.commands.words import summary, words_of
from mmgen.testing.kits import prepare, small_arguments
from tests.environments import environment, run, variables

Install = Callable[..., Path]
Capture = pytest.CaptureFixture[str]


# --- info ------------------------------------------------------------------------------------------------------------


def test_info_says_where_it_lies_and_what_each_option_means(capsys: Capture):
    assert cli.main(["plugins", "info", "mmgen-colours"]) == 0
    page = capsys.readouterr().out
    assert re.search(r"^dataset colours, mmgen_colours:Colours, of mmgen-colours 0\.1\.0$", page, re.MULTILINE)
    assert re.search(r"^  file    /.*mmgen_colours/__init__\.py$", page, re.MULTILINE)
    assert re.search(r"^  API     1$", page, re.MULTILINE)
    assert re.search(r"^  import  \d+\.\d\d s beyond torch's$", page, re.MULTILINE)
    assert "  dataset.image_size=32                        a whole number\n      pixels a side, at least 8." in page
    assert "Args:" not in page
    assert "Raises:" in page


def test_words_of_options_are_read_from_the_docstring():
    class Part:
        """Does something.

        Args:
            width, height: in pixels,
                at least 8.
            mode (str): one of
                two: a or b.

        Raises:
            ValueError: bad.
        """

    said = "in pixels, at least 8."
    assert words_of(Part) == {"width": said, "height": said, "mode": "one of two: a or b."}
    assert summary(Part) == "Does something.\n\nRaises:\n    ValueError: bad."


def test_every_option_of_the_repositorys_components_has_its_words():
    lacking, count = [], 0
    for kind in registry.KINDS:
        for name in registry.choices(kind):
            component = registry.find(kind, name)
            words, options = words_of(component.load()), component.options()
            count += len(options)
            lacking += [f"{kind} {name}: {option}" for option in options if not words.get(option)]
    assert not lacking
    assert count >= 100


# --- check -----------------------------------------------------------------------------------------------------------

FAULTS = {  # kind, template, what is changed into what, the check that finds it
    "pixels up to 255": ("dataset", 'image.expand', '255 * image.expand', "samples_are_captioned_pictures"),
    "a wrong signature": ("dataset", "def __getitem__(self, index: int)", "def __getitem__(self)",
                          "samples_are_captioned_pictures"),
    "no end": ("dataset", "raise IndexError(index)", "index = 0", "it_ends"),
    "indices in a row": ("tokenizer", ".argmin(-1)", ".argmin(-1).flatten(1)", "encode_gives_indices"),
    "not saved": ("tokenizer", "nn.Parameter(0.5 * torch.randn(codebook_size, codebook_dim))",
                  "0.5 * torch.randn(codebook_size, codebook_dim)", "it_moves_to_another_device"),
    "sees itself": ("generator", "tokens[:, :-1]", "tokens[:, 1:]", "image_logits_see_only_what_came_before"),
    "a stale cache": ("generator", "cache.advance(count)", "cache.advance(0)", "steps_agree_with_forward"),
    "not of length one": ("encoder", "return F.normalize(self.image_projection(places), dim=-1)",
                          "return self.image_projection(places)", "features_have_length_one"),
    "one seed for all": ("sampler", "PRIME * seed + number", "PRIME * seed", "seeds_and_numbers_make_a_difference"),
    "keeps nothing": ("sampler", "keep[n] if is_kept else chosen", "chosen", "kept_tokens_stay"),
    "goes on counting": ("evaluator", "self._n = 0", 'self._n = getattr(self, "_n", 0)', "begin_forgets_what_was"),
    "halves what it is given": ("evaluator", "evidence.reconstructions - evidence.images)",
                                "evidence.reconstructions.mul_(0.5) - evidence.images)", "what_it_is_given_stays"),
}  # fmt: skip


def plugin(install: Install, kind: str, name: str, change: Callable[[str], str] = lambda text: text) -> None:
    text = named((TEMPLATES / kind / "example.py").read_text(), kind, name)
    assert change(text) != text or change("x") == "x"
    entries = {f"mmgen.{kind}": {name: f"mmgen_{name}:{name.title()}"}, "mmgen.api": {"1": f"mmgen_{name}"}}
    install(f"mmgen-{name}", entries, {f"mmgen_{name}.py": change(text)})


@pytest.mark.parametrize("fault", FAULTS)
def test_the_kit_finds_each_seeded_fault(install: Install, fault: str):
    kind, old, new, check = FAULTS[fault]
    plugin(install, kind, "wrong", lambda text: text.replace(old, new))
    component = registry.find(kind, "wrong")
    small = {"tokenizer": {"codebook_size": 32}, "generator": {"embed_dim": 16}}.get(kind, {})
    built = registry.build(kind, {"name": "wrong", **small}, **small_arguments(kind, component.load()))
    found = {name for name, why in prepare(kind, built).verdicts() if why}
    assert check in found or (fault == "a wrong signature" and "samples_are_captioned_pictures" in found)


def test_there_are_more_than_ten_faults_and_they_are_of_every_kind():
    assert len(FAULTS) == 12
    assert {kind for kind, *_ in FAULTS.values()} == set(registry.KINDS)


def test_a_verdict_names_every_check_and_why_one_fails(install: Install, capsys: Capture):
    plugin(install, "dataset", "wrong", lambda text: text.replace("image.expand", "255 * image.expand"))
    assert cli.main(["plugins", "check", "wrong"]) == 4
    out = capsys.readouterr().out
    assert re.search(r"ok    it_can_be_imported, \d\.\d\d s beyond torch's", out)
    assert re.search(r"FAIL  samples_are_captioned_pictures: the image of sample \d+ has values outside \[0,1\]", out)
    assert "dataset wrong fails 1 of 26 checks: samples_are_captioned_pictures" in out


def test_a_component_that_conforms_passes_with_options_of_ones_own(install: Install, capsys: Capture):
    plugin(install, "dataset", "right")
    assert cli.main(["plugins", "check", "right", "image_size=16"]) == 0
    assert "dataset right passes all 26 checks" in capsys.readouterr().out
    assert cli.main(["plugins", "check", "right", "image_sise=16"]) == 2
    assert "did you mean dataset.image_size?" in capsys.readouterr().err
    assert cli.main(["plugins", "check", "right", "dataset.image_size=4"]) == 2
    assert "must be at least 16" in capsys.readouterr().err


def test_what_has_to_be_given_is_told(capsys: Capture):
    assert cli.main(["plugins", "check", "dataset/folder"]) == 2
    assert "dataset.path is required" in capsys.readouterr().err


@pytest.mark.slow
def test_check_tells_what_crashes_hangs_leaves_and_changes(
    install: Install, capsys: Capture, monkeypatch: pytest.MonkeyPatch
):
    sources = {
        "crash": "import os; os.abort()",
        "leave": "import sys; sys.exit(0)",
        "quiet": "import os; os._exit(0)",
        "other": "raise RuntimeError('made for another')",
        "rude": "import torch; torch.set_default_dtype(torch.float64)\nclass A:\n    def draw(self): ...",
    }
    for name, source in sources.items():
        entries = {"mmgen.sampler": {name: f"mod_{name}:A"}}
        install(name, entries | ({"mmgen.api": {"99": "x"}} if name == "other" else {}), {f"mod_{name}.py": source})
    install("hang", {"mmgen.sampler": {"hang": "mod_hang:A"}}, {"mod_hang.py": "import time; time.sleep(60)"})
    told = {
        "crash": "FAIL  it_can_be_imported: the process ended with -6",
        "leave": "FAIL  it_can_be_imported: SystemExit: 0",
        "quiet": "FAIL  it_can_be_imported: the process ended with 0",
        "other": "FAIL  it_can_be_imported: it is made for plugin API 99; this mmgen has 1",
    }
    for name, said in told.items():
        assert cli.main(["plugins", "check", name]) == 8
        assert said in capsys.readouterr().out
    assert cli.main(["plugins", "check", "rude"]) == 4
    out = capsys.readouterr().out
    assert "FAIL  importing_it_changes_nothing_that_all_share: sampler 'rude' of rude 1.0 changes torch's" in out
    monkeypatch.setattr(plugin_checks, "PATIENCE", 3)
    assert cli.main(["plugins", "check", "hang"]) == 8
    assert "it takes longer than 3 s" in capsys.readouterr().out


# --- new -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["datset", "x"], "fix: mmgen plugins new dataset x"),
        (["dataset", "3d"], "cannot be a name"),
        (["dataset", "class"], "cannot be a name"),
        (["dataset", "../x"], "cannot be a name"),
        (["dataset", "folder"], "it is mmgen-lightning 0.1.0's, and a name has one owner"),
        (["dataset"], "wants a kind and a name"),
        (["dataset", "x", "full"], "'full' is there already"),
    ],
)
def test_what_cannot_be_made_is_told(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    assert cli.main(["plugins", "new", *words]) == 2
    assert said in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "file"]


def test_a_name_of_several_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plugins", "new", "sampler", "mmgen-two-words"]) == 0
    project = tmp_path / "mmgen-two-words"
    assert 'two_words = "mmgen_two_words:TwoWords"' in (project / "pyproject.toml").read_text()
    assert "class TwoWords:" in (project / "mmgen_two_words" / "__init__.py").read_text()
    texts = [path.read_text() for path in project.rglob("*") if path.is_file()]
    assert len(texts) == 6
    assert not [text for text in texts if re.search("example|Example|KIND|API_VERSION|WHAT_IT|USE_IT", text)]


def installed(kind: str, work: Path) -> Path:
    """A new plugin of this kind, installed untouched into an environment of its own; gives its commands."""
    binaries = environment(work / "environment")
    done = run(binaries, "mmgen", "plugins", "new", kind, "mine", cwd=work)
    assert done.returncode == 0, done.stderr
    for line in [line.strip() for line in done.stdout.partition("next:\n")[2].splitlines()][:3]:
        told = run(binaries, *line.split(), cwd=work)
        assert told.returncode == 0, told.stdout + told.stderr
    assert re.search(r"\d+ passed", told.stdout)
    for arguments in (["--help"], ["plugins", "list"]):
        assert "mine" in run(binaries, "mmgen", *arguments, cwd=work).stdout
    return binaries


@pytest.mark.slow
def test_a_new_dataset_installs_untouched_passes_its_tests_and_trains(tmp_path: Path):
    binaries = installed("dataset", tmp_path)
    train = ["train", "task=tokenizer", "dataset=mine", "dataset.image_size=16", "run.name=x", "debug=one_batch"]
    done = run(binaries, "mmgen", *train, "tokenizer.width=8", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "x" / "model" / "model.safetensors").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [kind for kind in registry.KINDS if kind != "dataset"])
def test_a_new_one_of_each_other_kind_passes_its_tests_untouched(kind: str, tmp_path: Path, finished: Path):
    binaries = installed(kind, tmp_path)
    if kind == "evaluator":
        judge = ["dataset=folder", f"dataset.path={finished.parents[1] / 'pictures'}", "dataset.image_size=16"]
        done = run(binaries, "mmgen", "evaluate", f"run={finished}", "evaluator=[mine]", *judge, "out=e", cwd=tmp_path)
        assert "mine/error" in done.stdout, done.stderr
    if kind == "sampler":
        options = ["sampler=mine", "num_images=2", "keep=1", "out=drawn"]
        done = run(binaries, "mmgen", "sample", "a red bar", f"run={finished}", *options, cwd=tmp_path)
        assert len(list((tmp_path / "drawn").glob("*.png"))) >= 1, done.stderr


@pytest.mark.slow
def test_a_run_in_which_every_part_is_a_new_plugin(tmp_path: Path):
    binaries = environment(tmp_path / "environment")
    for kind in registry.KINDS:
        for command in (["mmgen", "plugins", "new", kind, f"my_{kind}"], ["pip", "install", "-e", f"mmgen-my-{kind}"]):
            done = run(binaries, *command, cwd=tmp_path)
            assert done.returncode == 0, done.stderr
    chosen = [f"{kind}=my_{kind}" for kind in registry.KINDS if kind != "evaluator"]
    small = ["drawing.num_captions=2", "drawing.num_images=2", "debug=one_batch"]
    done = run(binaries, "mmgen", "run", *chosen, "evaluator=[my_evaluator]", "run.name=x", *small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "my_evaluator/error" in done.stdout
    assert (tmp_path / "runs" / "x" / "report.html").is_file()
    assert variables(binaries)["PIP_NO_INDEX"] == "1"
