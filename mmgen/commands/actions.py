"""The commands that are not composed by Hydra: what each can do, and the options of each action.

Their options are few and plain, so KEY=VALUE is read and checked here, without Hydra (half a second) and without torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from mmgen import options as typed
from mmgen.errors import ConfigError, ConfigErrors, quoted
from mmgen.spelling import nearest

Options = TypeVar("Options")


def _option(default: Any, help: str = "", **limits: Any) -> Any:
    return dataclasses.field(default=default, metadata={"help": help, **limits})


@dataclass
class NoOptions:
    """`config` takes the options of the command that it shows; `completion` takes none."""


@dataclass
class ListRuns:
    dir: str = _option("runs", "where runs lie, in folders of any depth up to four")
    state: Literal["running", "finished", "interrupted", "failed", "unreadable"] | None = _option(None, "only these")
    limit: int | None = _option(None, "the newest so many; null: all", low=1)
    html: str | None = _option(None, "also a page with the runs' pictures, one file")


@dataclass
class ShowRun:
    against: str | None = _option(None, "another run, to tell the differing config keys")


@dataclass
class CompareRuns:
    out: str | None = _option(None, "the page to write; null: a new one under comparisons/")


@dataclass
class OpenRun:
    browser: bool = _option(True, "false: only print the path")


@dataclass
class PruneRuns:
    dir: str = _option("runs", "where runs lie")
    state: Literal["finished", "interrupted", "failed"] | None = _option(None, "the runs in this state")
    older_than: str | None = _option(None, "not touched for so long: 36h, 30d, 8w")
    checkpoints: bool = _option(False, "remove only checkpoints, and keep each training's last")
    yes: bool = _option(False, "do it; without, only shows what would go")


@dataclass
class Reproduce:
    name: str | None = _option(None, "of the new run; null: the old one's, and -again")
    dir: str | None = _option(None, "where the new run lies; null: beside the old one")
    strict: Literal["nothing", "data", "all"] = _option(
        "data", "refuse to begin where this differs; all: data, code, versions and machine"
    )
    trust: bool = _option(False, "import the classes of your own that the config names as module:Class")


ACTIONS: dict[str, dict[str, type]] = {
    "config": {"show": NoOptions, "diff": NoOptions, "why": NoOptions},
    "runs": {
        "list": ListRuns,
        "show": ShowRun,
        "compare": CompareRuns,
        "open": OpenRun,
        "prune": PruneRuns,
        "replay": NoOptions,
    },
    "reproduce": {"": Reproduce},
    "completion": {"bash": NoOptions, "zsh": NoOptions, "fish": NoOptions},
}


def action_of(command: str, words: Sequence[str]) -> tuple[str, list[str]]:
    """The action that the first word names, and the other words.

    Raises:
        ConfigError: it names none.
    """
    known = list(ACTIONS[command])
    action, *rest = list(words) or [""]
    if action not in known:
        near = nearest(action, known) or known[0]
        raise ConfigError(
            f"mmgen {command} cannot {quoted(action)}" if action else f"mmgen {command} is to do what?",
            code="MMG-C07",
            where="command line",
            why=f"there are {', '.join(known)}",
            fix=f"mmgen {command} {near}",
        )
    return action, rest


def read_options(kind: type[Options], overrides: Sequence[str]) -> Options:
    """The options of an action from its KEY=VALUE words.

    Raises:
        ConfigErrors: every unknown key and every value of a wrong type.
    """
    given = {}
    for text in overrides:
        key, _, value = text.lstrip("+").partition("=")
        given[key] = None if value == "null" else value
    found, errors = typed.check(typed.options_of(kind), given)
    if errors:
        raise ConfigErrors(errors)
    return kind(**found)


def only(words: Sequence[str], least: int, most: int | None, usage: str) -> None:
    """Raises ConfigError unless there are at least and at most so many words."""
    if len(words) < least or (most is not None and len(words) > most):
        extra = most is not None and len(words) > most
        text = f"{quoted(words[most or 0])} is one too many" if extra else "a name is missing"
        raise ConfigError(text, code="MMG-C07", where="command line", fix=usage)
