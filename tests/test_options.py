"""Values against types, and the nearest name."""

from __future__ import annotations

import dataclasses
import enum
import random
import string
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Optional

import pytest

from mmgen import options
from mmgen.commands.schema import COMMANDS
from mmgen.options import REQUIRED, check, describe, options_of, plain
from mmgen.spelling import distance, nearest

if TYPE_CHECKING:
    from somewhere import Missing


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Component:
    def __init__(
        self,
        image_size: int,
        depth: int,
        *args: int,
        width: int = 64,
        rate: float = 0.5,
        other: Missing | None = None,
        mode: Literal["a", "b"] = "a",
        size: tuple[int, int] = (8, 8),
        old: Optional[int] = None,  # noqa: UP045 - both spellings are read
        bare=3,
        **more: int,
    ) -> None: ...


def test_options_are_read_from_the_signature():
    found = options_of(Component, skip=("image_size",))
    assert list(found) == ["depth", "width", "rate", "other", "mode", "size", "old", "bare"]
    assert found["depth"].default is REQUIRED
    assert found["width"].type is int
    assert found["width"].default == 64
    assert found["other"].type is Any, "a name that only type checkers see"
    assert found["mode"].type == Literal["a", "b"]
    assert found["bare"].type is Any
    assert describe(found["old"].type) == "a whole number or null"


def test_options_of_a_dataclass_have_fresh_defaults_and_help():
    @dataclasses.dataclass
    class Section:
        items: list[int] = dataclasses.field(default_factory=list, metadata={"help": "some", "low": 0})

    first, second = options_of(Section)["items"], options_of(Section)["items"]
    assert first.default == []
    assert first.default is not second.default
    assert first.help == "some"
    assert first.low == 0


def test_a_default_of_none_admits_none():
    def component(path: str = None) -> None: ...  # noqa: RUF013 - written so in the wild

    values, errors = check(options_of(component), {"path": None})
    assert (values, errors) == ({"path": None}, [])


GOOD = [
    (3, int, 3),
    ("3", int, 3),
    (1e3, int, 1000),
    (2**62 + 1, int, 2**62 + 1),
    (3, float, 3.0),
    ("1e-4", float, 1e-4),
    (True, bool, True),
    ("false", bool, False),
    (7, str, "7"),
    (True, str, "true"),
    (None, int | None, None),
    ("7", int | str, "7"),
    (7, int | str, 7),
    (7, str | None, "7"),
    ("b", Literal["a", "b"], "b"),
    (16, Literal["16", "32"], "16"),
    ([1, 2], tuple[int, int], (1, 2)),
    (["1", 2], list[int], [1, 2]),
    ({"a": "1"}, dict[str, int], {"a": 1}),
    ("BLUE", Colour, Colour.BLUE),
    ("x/y", Path, Path("x/y")),
    ("whatever", Any, "whatever"),
]
BAD = [
    ("abc", int),
    (3.5, int),
    (True, int),
    (float("nan"), int),
    (None, int),
    ("abc", float),
    ([1], float),
    (1, bool),
    ("yes", bool),
    ([], str),
    (None, str),
    ("c", Literal["a", "b"]),
    (True, Literal[1, 2]),
    ([1, 2, 3], tuple[int, int]),
    ("12", list[int]),
    ([1, "x"], list[int]),
    (3, dict[str, int]),
    ("GREEN", Colour),
    ("x", int | None),
]


@pytest.mark.parametrize(("value", "hint", "wanted"), GOOD)
def test_values_that_fit(value: Any, hint: Any, wanted: Any):
    found = options.convert(value, hint)
    assert found == wanted
    assert type(found) is type(wanted)


@pytest.mark.parametrize(("value", "hint"), BAD)
def test_values_that_do_not_fit(value: Any, hint: Any):
    _, errors = check({"key": options.Option("key", hint)}, {"key": value}, "section")
    assert [(e.code, e.where) for e in errors] == [("MMG-C02", "section.key")]
    assert describe(hint) in errors[0].what


def test_all_errors_are_told_at_once():
    given = {"widht": 3, "rate": "fast", "mode": "c", "depth": "???"}
    values, errors = check(options_of(Component, skip=("image_size",)), given, "generator")
    assert sorted(e.code for e in errors) == ["MMG-C01", "MMG-C02", "MMG-C02", "MMG-C05"]
    assert values["width"] == 64
    assert any("did you mean generator.width?" in e.render() for e in errors)


def test_numbers_stay_in_their_range():
    option = options.Option("share", float, 0.5, low=0, high=1)
    for bad in (-0.1, 1.1, float("nan"), "7"):
        _, errors = check({"share": option}, {"share": bad})
        assert "from 0 up to 1" in errors[0].what
    assert check({"share": option}, {"share": 1})[1] == []


def test_nested_sections_are_checked():
    task = options_of(COMMANDS["train"])["task"].type
    given = {"name": "tokenizer", "optimizer": {"lr": "fast", "beta": 1}, "schedule": 3}
    _, errors = check(options_of(task), given, "task")
    assert [e.where for e in errors] == ["task.optimizer.beta", "task.optimizer.lr", "task.schedule"]


def test_plain_is_what_json_can_hold():
    assert plain({"a": (1, 2), "b": Colour.RED, "c": Path("x"), 3: {4}}) == {
        "a": [1, 2],
        "b": "RED",
        "c": "x",
        "3": [4],
    }


def test_distance_counts_edits():
    assert distance("kitten", "sitting") == 3
    assert distance("ab", "ba") == 1, "neighbours swapped"
    assert distance("", "abc") == 3
    assert distance("same", "same") == 0


def _typo(word: str, edits: int, chance: random.Random) -> str:
    letters = list(word)
    for _ in range(edits):
        at = chance.randrange(len(letters))
        kind = chance.choice(("drop", "add", "change", "swap"))
        if kind == "drop" and len(letters) > 2:
            del letters[at]
        elif kind == "add":
            letters.insert(at, chance.choice(string.ascii_lowercase))
        elif kind == "swap" and at + 1 < len(letters):
            letters[at], letters[at + 1] = letters[at + 1], letters[at]
        else:
            letters[at] = chance.choice(string.ascii_lowercase)
    return "".join(letters)


def test_typos_of_one_or_two_letters_get_the_right_suggestion():
    chance = random.Random(7)
    keys = [("train", name) for name in options_of(COMMANDS["train"])]
    for section in ("trainer", "task", "tracking"):
        keys += [(section, name) for name in options_of(options_of(COMMANDS["train"])[section].type)]
    known = {section: [name for s, name in keys if s == section] for section, _ in keys}
    right = tried = 0
    while tried < 400:
        section, key = chance.choice(keys)
        wrong = _typo(key, 1 if len(key) < 6 else chance.choice((1, 2)), chance)
        if wrong not in known[section]:
            tried += 1
            right += nearest(wrong, known[section]) == key
    assert right / tried >= 0.95


@pytest.mark.parametrize(
    ("word", "known", "wanted"),
    [
        ("vqgn", ["vqgan", "vqvae", "dvae"], "vqgan"),
        ("layers", ["num_layers", "num_heads"], "num_layers"),
        ("trainer.max_stepz", ["trainer.max_steps", "trainer.min_steps"], "trainer.max_steps"),
        ("xyzzy", ["num_layers", "lr"], None),
        ("x", [], None),
    ],
)
def test_nearest(word: str, known: list[str], wanted: str | None):
    assert nearest(word, known) == wanted
