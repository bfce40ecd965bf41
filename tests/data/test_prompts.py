"""Packs of prompts: found in installed distributions without running their code, or read from a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmgen.commands.plugins import listing
from mmgen.data.asked import MAX_LABELS
from mmgen.data.prompts import prompt_names, read_prompts
from mmgen.errors import ConfigError, DataError, PluginError
from tests.models.open_clip_models import open_clip

PACK = 'source: mine\nlabels: [cat, [happy, smiling], dog]\ntemplates: ["a {}.", "the {}."]\n'


def write(directory: Path, text: str, name: str = "own.yaml") -> str:
    (directory / name).write_text(text, encoding="utf-8")
    return str(directory / name)


def test_a_file_of_the_users_own(tmp_path):
    pack = read_prompts(write(tmp_path, PACK))
    assert pack.labels == {"cat": ("cat",), "happy": ("happy", "smiling"), "dog": ("dog",)}
    assert pack.templates == ("a {}.", "the {}.")
    assert pack.source == "mine"
    assert read_prompts(write(tmp_path, '{"labels": ["a", "b"]}', "own.json")).templates == ("{}",)


def test_a_name_that_two_classes_have_is_shown_once_with_its_number(tmp_path):
    pack = read_prompts(write(tmp_path, "labels: [missile, cat, missile, missile]"))
    assert list(pack.labels) == ["missile", "cat", "missile (class 2)", "missile (class 3)"]
    assert pack.labels["missile (class 3)"] == ("missile",)


def test_installed_packs_are_found_and_their_code_is_not_run(install):
    files = {
        "toy_packs/__init__.py": "raise RuntimeError('imported')",
        "toy_packs/packs/__init__.py": "raise RuntimeError('imported')",
        "toy_packs/packs/toy.yaml": PACK,
        "toy_packs/packs/seven.yaml": 'labels: toy\ntemplates: ["my {}"]',
        "toy_packs/packs/notes.txt": "no pack",
    }
    install("toy-packs", {"mmgen.prompts": {"toy": "toy_packs.packs"}}, files)
    assert {"toy", "seven"} <= set(prompt_names())
    assert "notes" not in prompt_names()
    assert "prompts  toy_packs.packs of toy-packs" in listing()
    assert read_prompts("seven").labels == read_prompts("toy").labels
    assert read_prompts("seven").templates == ("my {}",)
    assert read_prompts("toy@toy_packs").labels == read_prompts("toy").labels
    with pytest.raises(ConfigError, match="no option 'toyy'") as caught:
        read_prompts("toyy")
    assert caught.value.fix == "prompts=toy"


def test_a_name_has_one_owner(install):
    for name in ("one", "two"):
        install(f"{name}-packs", {"mmgen.prompts": {"x": f"{name}_packs"}}, {f"{name}_packs/toy.yaml": PACK})
    with pytest.raises(PluginError, match="claimed by one-packs and two-packs") as caught:
        read_prompts("toy")
    assert caught.value.code == "MMG-P02"
    assert {"toy@one-packs", "toy@two-packs"} <= set(prompt_names())
    assert len(read_prompts("toy@two-packs").labels) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no `labels:`"),
        ("[a, b]", "no `labels:`"),
        ("labels: [a\n", "expected"),
        ("labels: {a: b}", "no list"),
        ("labels: [a, 10]", "10 in `labels` is no text; put it in quotes"),
        ("labels: [a, yes]", "True in `labels` is no text"),
        ("labels: [a, {b: c}]", "a dict in `labels` is no text"),
        ("labels: [a, ' ']", "class 1 of `labels` has no name"),
        ("labels: [a, []]", "class 1 of `labels` has no name"),
        ("labels: []", "`labels` holds no class"),
        ("labels: [a, b]\ntemplates: [a photo]", "no place for the label"),
        ("labels: [a, b]\ntemplates: []", "0 templates"),
        ("labels: [a, b]\ntemplates: a photo of a {}", "`templates` is no list"),
        ("labels: [a, b]\nlables: [c]", "the key 'lables' is unknown"),
        ("labels: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        (f"labels: [{', '.join(['a'] * (MAX_LABELS + 1))}]", "at most 100,000 classes"),
    ],
)
def test_what_is_no_pack_is_refused_with_its_reason(tmp_path, text, words):
    with pytest.raises(DataError) as caught:
        read_prompts(write(tmp_path, text))
    assert caught.value.code == "MMG-D21"
    assert words in caught.value.why


def test_aliases_of_aliases_are_never_written_out(tmp_path):
    """Nine to the 40th values."""
    levels = ["x0: &x0 [a]", *(f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]" for i in range(1, 41))]
    inside = ", ".join(level.partition(": ")[2] for level in levels)
    with pytest.raises(DataError, match="a list in `labels` is no text"):
        read_prompts(write(tmp_path, f"labels: [b, [{inside}]]"))


def test_templates_alone_are_a_pack(tmp_path):
    pack = read_prompts(write(tmp_path, 'templates: ["my {}"]'))
    assert (pack.labels, pack.templates) == ({}, ("my {}",))


def test_labels_of_a_pack_without_any_end_there(tmp_path):
    with pytest.raises(DataError, match="is no pack"):
        read_prompts(write(tmp_path, f"labels: {tmp_path}/own.yaml"))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"gone\.yaml"):
        read_prompts(str(tmp_path / "gone.yaml"))


def test_imagenets_pack_is_the_list_that_open_clip_ships():
    package = open_clip()
    pack = read_prompts("imagenet")
    assert list(pack.labels.values()) == [(name,) for name in package.IMAGENET_CLASSNAMES]
    assert list(pack.templates) == [template("{}") for template in package.OPENAI_IMAGENET_TEMPLATES]
    assert list(read_prompts("imagenet_7").templates) == [t("{}") for t in package.SIMPLE_IMAGENET_TEMPLATES]
