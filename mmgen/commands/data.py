"""`mmgen data tokenize …` turns a dataset into token shards; `mmgen data check DIR` proves them whole."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from mmgen.commands.tokenizing import Tokenizing
from mmgen.data.checking import check
from mmgen.data.tokens import Tokens
from mmgen.errors import ConfigError, quoted
from mmgen.files import size
from mmgen.progress import Bar
from mmgen.spelling import nearest

ACTIONS = ("tokenize", "check")


def main(config: dict[str, Any], positionals: list[str]) -> int:
    """Does what the first word says; gives the exit code."""
    action, *words = positionals or [""]
    if action not in ACTIONS:
        near = nearest(action, ACTIONS) or ACTIONS[0]
        raise ConfigError(
            f"mmgen data cannot {quoted(action)}" if action else "mmgen data is to do what?",
            code="MMG-C07",
            where="command line",
            why="it can tokenize and check",
            fix=f"mmgen data {near} …",
        )
    if action == "check":
        return _check(words)
    if words:
        raise ConfigError(
            f"mmgen data tokenize takes no {quoted(words[0])}", code="MMG-C07", where="command line", fix="to=DIRECTORY"
        )
    return Tokenizing(config).run()


def _check(words: list[str]) -> int:
    """Reads every byte of a finished directory; tells every file that is damaged."""
    if len(words) != 1:
        raise ConfigError("which directory?", code="MMG-C05", where="command line", fix="mmgen data check DIRECTORY")
    tokens = Tokens(str(Path(words[0])))
    with Bar("checking", total=tokens.size, unit="bytes") as bar:
        found = check(tokens, lambda count: bar.advance(count))
    for error in found[:-1]:
        print(error.render(), file=sys.stderr)
    if found:
        raise found[-1]
    print(f"whole: {len(tokens):,} samples in {len(tokens.shards)} shards, {size(tokens.size)}")
    return 0
