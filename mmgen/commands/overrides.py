"""The overrides of a command line: parsed, sorted, and written anew for Hydra.

Every value is given to Hydra as `++KEY=VALUE`, which it takes whether or not a YAML mentions the key; whether the key
is known is for the types to say (`composition.check`), so that a `+` hides nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Glob, Override
from hydra.errors import HydraException

from mmgen import registry
from mmgen.commands import places
from mmgen.commands.places import Place
from mmgen.commands.schema import COMMANDS, STAGES
from mmgen.errors import ConfigError, ConfigErrors, quoted
from mmgen.options import options_of
from mmgen.spelling import nearest

QUICKSTART = "experiment=quickstart"  # what `mmgen run` alone means
QUICKSTART_FIX = "pip install -e plugins/mmgen-emoji; or your own pictures: dataset=folder dataset.path=DIRECTORY"


@dataclass
class Request:
    """What was asked for, sorted: Hydra's own overrides, choices of groups, values, deletions; and what is wrong."""

    command: str
    where: list[Place]
    multirun: bool = False
    hydra: list[str] = field(default_factory=list)
    choices: list[Override] = field(default_factory=list)
    values: list[Override] = field(default_factory=list)
    deletions: list[Override] = field(default_factory=list)
    guessed: dict[str, str | None] = field(
        default_factory=dict
    )  # of a choice that does not exist, the nearest that does
    errors: list[ConfigError] = field(default_factory=list)

    @property
    def sweeps(self) -> list[Override]:
        return [o for o in (*self.choices, *self.values) if o.is_sweep_override()]

    def rewritten(self) -> list[str]:
        """Choices and values for Hydra, in an order in which what is said of a stage comes last."""
        return [
            *(self._choice(o) for o in self.choices),
            *(f"{group}={near}" for group, near in self.guessed.items() if near),
            *self._spread(),
            *(f"++{o.key_or_group}={self._value(o)}" for o in self.values),
        ]

    def _choice(self, override: Override) -> str:
        """With a + where the command's own YAML does not mention the group."""
        key = override.key_or_group + (f"@{override.package}" if override.package else "")
        return f"{'' if key in mentioned(self.command) else '+'}{key}={text_of(override)}"

    def _value(self, override: Override) -> str:
        """As it was written; a text that Hydra takes for a number is quoted, since 2026_11 is 202611 to it."""
        value, written = override.value(), text_of(override)
        number = isinstance(value, int | float) and str(value) != written
        return f"'{written}'" if number and _is_text(self.command, override.key_or_group) else written

    def _spread(self) -> list[str]:
        """`trainer.KEY=…` counts for every stage, whatever a YAML says of a stage."""
        sections = {"run": ("trainer.",), "train": ("trainer.", "task.")}.get(self.command, ())
        keys = [o.key_or_group for o in self.values if o.key_or_group.startswith(sections)] if sections else []
        return [f"++stages.{stage}.{key}=${{{key}}}" for key in keys for stage in STAGES]

    def variants(self) -> list[list[str]]:
        """The command lines to check: one, or in a sweep each value once, with the other sweeps at their first."""
        texts = self.rewritten()
        sweeps = {(o.key_or_group, text_of(o)): o for o in self.sweeps if not isinstance(o.value(), Glob)}
        swept = []
        for i, text in enumerate(texts):
            key, _, value = text.lstrip("+").partition("=")
            if (key.partition("@")[0], value) in sweeps:
                swept.append((i, sweeps[key.partition("@")[0], value]))
        first = list(texts)
        for i, override in swept:
            first[i] = f"{texts[i].partition('=')[0]}={_values(override)[0]}"
        found = [first]
        for i, override in swept:
            for value in _values(override)[1:]:
                found.append([*first[:i], f"{texts[i].partition('=')[0]}={value}", *first[i + 1 :]])
        return found


def _is_text(command: str, key: str) -> bool:
    """Whether a key of the command's own, not of a component's, holds text."""
    hint: Any = COMMANDS[command]  # a dataclass, then what its fields hold
    for part in key.split("."):
        option = options_of(hint).get(part) if dataclasses.is_dataclass(hint) and isinstance(hint, type) else None
        hint = option.type if option else None
    return hint is str or str in getattr(hint, "__args__", ())


def _values(override: Override) -> list[str]:
    return [str(text) for text in override.sweep_string_iterator()]


def read(command: str, texts: list[str], where: list[Place], multirun: bool) -> Request:
    """Parses the overrides and sorts them; what is wrong is collected in the request."""
    request = Request(command, where, multirun)
    groups = places.groups(where)
    for text in texts:
        try:
            _sort(request, parse(text), groups)
        except ConfigErrors as several:
            request.errors += several.errors
        except ConfigError as error:
            request.errors.append(error)
    chosen = {o.key_or_group for o in request.choices} | set(request.guessed)
    if command == "run" and not chosen & {"dataset", "experiment"}:
        _choose_quickstart(request)
    return request


def _choose_quickstart(request: Request) -> None:
    if places.exists("experiment", "quickstart", request.where):
        request.choices.append(parse(QUICKSTART))
    else:
        text = "`mmgen run` alone means experiment=quickstart, which is not installed"
        request.errors.append(ConfigError(text, code="MMG-C05", where="experiment", fix=QUICKSTART_FIX))


def parse(text: str) -> Override:
    """Hydra's grammar takes few characters outside quotes; a path or a word that it refuses is taken as it stands. Its
    `choice(…)` takes no null, where `a,null` does."""
    try:
        return OverridesParser.create().parse_overrides([text])[0]
    except HydraException as error:
        key, sign, value = text.partition("=")
        searched = re.fullmatch(r"(choice|interval|range|glob|tag|shuffle|sort)\((.*)\)", value)
        if searched and searched[1] == "choice":
            try:
                return OverridesParser.create().parse_overrides([f"{key}={searched[2]}"])[0]
            except HydraException:
                pass
        elif not searched and sign and value[:1] not in tuple("'\"[{("):
            try:
                return OverridesParser.create().parse_overrides([f"{key}='{_escaped(value)}'"])[0]
            except HydraException:
                pass  # the first complaint is the better one
        raise ConfigError(
            f"cannot read the override {quoted(text)}",
            code="MMG-C06",
            where="command line",
            why=str(error).splitlines()[0],
            fix=f"quote the value: '{key}=\"…\"'" if sign else "write KEY=VALUE",
        ) from error


def _escaped(value: str) -> str:
    """The value as it stands between single quotes: quotes escaped, and the backslashes before them and at the end."""
    return re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), value)


def _sort(request: Request, override: Override, groups: list[str]) -> None:
    key = override.key_or_group
    if override.is_hydra_override():
        request.hydra.append(line_of(override))
    elif override.is_sweep_override() and not request.multirun:
        raise ConfigError(
            f"{quoted(line_of(override))} is a list of values to sweep over",
            code="MMG-C06",
            where=place_of(override),
            fix=f"add -m to run them all; or quote one value: '{key}=\"…\"'; or write a list: '{key}=[…]'",
        )
    elif override.is_delete():
        request.deletions.append(override)
    elif key in groups:
        _check_choices(request, override)
        request.choices.append(override)
    elif key.endswith(".name") and key.count(".") < 3 and key.split(".")[0] in registry.KINDS:
        kind = key.split(".")[0]
        text = f"{key} cannot be set by itself: the {kind} is chosen with its options"
        raise ConfigError(text, code="MMG-C03", where=place_of(override), fix=f"{kind}={text_of(override)}")
    else:
        request.values.append(override)


def _check_choices(request: Request, override: Override) -> None:
    group, errors = override.key_or_group, []
    for value in _choices_of(override):
        if isinstance(value, Mapping):
            text = f"{group} takes the name of an option, got {quoted(text_of(override))}"
            fix = f"{group}.KEY=VALUE sets one value"
            errors.append(ConfigError(text, code="MMG-C03", where=place_of(override), fix=fix))
        elif value is not None and not places.exists(group, str(value), request.where):
            known = places.options(group, request.where)
            error = registry.unknown_option(group, str(value), known)
            error.where = place_of(override)
            errors.append(error)
            if group in mentioned(request.command):
                request.guessed[group] = nearest(str(value), known)
    if errors:
        raise ConfigErrors(errors)


def _choices_of(override: Override) -> Iterable[Any]:
    value = override.value()
    if isinstance(value, Glob):  # Hydra matches it against the options
        return []
    values = list(override.sweep_iterator()) if override.is_sweep_override() else [value]
    return [getattr(item, "text", item) for v in values for item in (v if isinstance(v, list) else [v])]


def swept(texts: list[str]) -> set[str]:
    """The keys of the overrides that a sweep varies."""
    overrides = OverridesParser.create().parse_overrides(texts)
    return {str(o.get_key_element()).lstrip("+") for o in overrides if o.is_sweep_override()}


def line_of(override: Override) -> str:
    """The override as it was written."""
    return str(override.input_line)


def text_of(override: Override) -> str:
    """The value as it was written."""
    return line_of(override).partition("=")[2]


def place_of(override: Override) -> str:
    """Where an error says that it was written."""
    return f"command line: {line_of(override)}"


@functools.cache
def mentioned(command: str) -> set[str]:
    """The groups, with their packages, in the defaults list of a command's own YAML."""
    config = yaml.safe_load((places.ours().directory / f"{command}.yaml").read_text(encoding="utf-8"))
    return {str(key) for item in config["defaults"] if isinstance(item, dict) for key in item}
