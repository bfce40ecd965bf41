"""What a component's docstring says of each of its options: the section "Args:", as Google's style has it."""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import Any

from mmgen.commands.help import key_line
from mmgen.options import Option

SECTION = re.compile(r"^(\w+( \w+)?):\s*$")
ENTRY = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \([^)]*\))?:\s*(.*)$")


def summary(target: Any) -> str:
    """The docstring without its section of arguments: those stand beside the options."""
    lines, inside = [], False
    for line in (inspect.getdoc(target) or "no docstring").splitlines():
        if SECTION.match(line):
            inside = line.startswith("Args:")
        if not inside:
            lines.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def words_of(target: Any) -> dict[str, str]:
    """By option. Read from the class's docstring, then from its constructor's; several options may share an entry."""
    found: dict[str, str] = {}
    for text in (inspect.getdoc(target), inspect.getdoc(getattr(target, "__init__", None))):
        for name, words in _entries(text or ""):
            found.setdefault(name, words)
    return found


def _entries(text: str) -> list[tuple[str, str]]:
    found: list[tuple[list[str], list[str]]] = []
    inside = False
    for line in text.splitlines():
        if SECTION.match(line):
            inside = line.startswith("Args:")
        elif inside and (entry := ENTRY.match(line[4:])) and line.startswith("    ") and line[4:5].strip():
            found.append((entry[1].replace("*", "").split(", "), [entry[2]]))
        elif inside and found:
            found[-1][1].append(line.strip())
    return [(name, " ".join(filter(None, words)).strip()) for names, words in found for name in names]


def option_lines(options: dict[str, Option], target: Any, prefix: str) -> list[str]:
    """Each option with its type and default, and under it what the docstring says."""
    words = words_of(target)
    lines = []
    for name, option in options.items():
        lines.append(key_line(f"{prefix}{name}", option))
        lines += textwrap.wrap(words.get(name, ""), 112, initial_indent="      ", subsequent_indent="      ")
    return lines or ["  none"]
