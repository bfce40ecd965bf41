"""Installed components: found in package metadata, their options read from their signatures, built by kind and name.

A component is a class (or a callable) named by an entry point in the group `mmgen.<kind>`; mmgen's own are declared the
same way. Listing reads metadata only; a component is imported when its name is chosen, so that a broken plugin hurts
only those who choose it. A name has one owner: two distributions with one name are refused, and `name@distribution`
picks one. There is no other place that turns a config into an object.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import EntryPoint, PackageNotFoundError, distribution, entry_points
from pathlib import Path
from typing import Any

from mmgen import api
from mmgen.errors import ConfigError, ConfigErrors, MmgenError, PluginError, quoted
from mmgen.isolation import PluginWarning as PluginWarning
from mmgen.isolation import alone
from mmgen.options import MISSING, Option, check, options_of, plain
from mmgen.signatures import written_options
from mmgen.spelling import nearest

KINDS = ("dataset", "tokenizer", "generator", "encoder", "sampler", "evaluator")
SEVERAL = ("evaluator",)  # the kinds of which a run may choose more than one
BUILD_ARGUMENTS: dict[str, tuple[str, ...]] = {  # what other parts set when it is built, never an option
    "dataset": (),
    "tokenizer": ("image_size",),
    "generator": ("text_tokenizer", "grid", "codebook_size"),
    "encoder": ("text_tokenizer", "image_size"),
    "sampler": (),
    "evaluator": (),
}
OURS = "mmgen-lightning"


@dataclass(frozen=True)
class Component:
    """An installed component, not yet imported.

    Args:
        name: as a config says it: its entry point's, with `@distribution` where that was asked for, or `module:Class`.
        value: where it lies, `module:Class`.
        owner: the distribution and its version; "your own module" for a `module:Class`.
    """

    kind: str
    name: str
    value: str
    distribution: str
    version: str = ""

    @property
    def owner(self) -> str:
        return f"{self.distribution} {self.version}".strip()

    def load(self) -> Any:
        """Imports it. What the import changes for everyone else is put back, with a warning.

        Raises:
            PluginError: it was made for another plugin API; or whatever the import raised, with the cause.
        """
        self._refuse_other_api()
        try:
            with self.alone("is imported"):
                return EntryPoint(name=self.name, value=self.value, group=f"mmgen.{self.kind}").load()
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:  # a plugin may raise anything when imported, SystemExit included
            lacking = error.name if isinstance(error, ModuleNotFoundError) and error.name else ""
            fix = f"choose another {self.kind}, or repair {self.distribution}"
            if lacking and not self.value.startswith(lacking):
                fix = f"pip install {lacking.partition('.')[0]}"
            raise PluginError(
                f"{self.kind} {quoted(self.name)} of {self.owner} cannot be imported",
                code="MMG-P01",
                where=self.value,
                why=f"{type(error).__name__}: {error}".splitlines()[0],
                fix=fix,
            ) from error

    @property
    def other_api(self) -> str:
        """Why it cannot be used with this version of the plugin API; empty where it can. Read from metadata."""
        return "" if self.distribution == OURS else api.unfit(api.declared(self.distribution))

    def _refuse_other_api(self) -> None:
        if why := self.other_api:
            behind = OURS if api.newer(api.declared(self.distribution)) else self.distribution
            raise PluginError(
                f"{self.kind} {quoted(self.name)} of {self.owner} is made for another mmgen",
                code="MMG-P06",
                where=self.value,
                why=why,
                fix=f"pip install --upgrade {behind}",
            )

    def alone(self, doing: str, random_numbers: bool = True) -> AbstractContextManager[None]:
        """Keeps a plugin's hands off what all share, while it is `doing`; mmgen's own are tested not to need it."""
        if self.distribution == OURS:
            return nullcontext()
        return alone(f"{self.kind} {quoted(self.name)} of {self.owner}", doing, random_numbers=random_numbers)

    def options(self) -> dict[str, Option]:
        """Its options, by name, as its signature says; imports it only where its source text does not tell them.

        Raises:
            PluginError: it cannot be imported, or is nothing that could be built from keyword options.
        """
        self._refuse_other_api()
        skip = BUILD_ARGUMENTS[self.kind]
        found = written_options(self.value, skip)
        if found is None:
            target = self.load()
            try:
                found = options_of(target, skip)
            except (TypeError, ValueError) as error:
                raise self.unfit("has no signature to read options from", str(error)) from error
        if "name" in found:
            raise self.unfit("has an option called 'name'", "that key holds the component's own name")
        return found

    def unfit(self, what: str, why: str) -> PluginError:
        """The error for a component that does not fit its contract."""
        text = f"{self.kind} {quoted(self.name)} of {self.owner} {what}"
        return PluginError(text, code="MMG-P04", where=self.value, why=why, fix=f"repair {self.distribution}")


def components(kind: str) -> dict[str, list[Component]]:
    """Every installed component of a kind, by name, read from metadata; more than one under a name is a clash."""
    assert kind in KINDS, kind
    return _installed(tuple(sys.path))[kind]


@functools.lru_cache(maxsize=4)
def _installed(path: tuple[str, ...]) -> dict[str, dict[str, list[Component]]]:
    """By kind and name; remembered for a search path. A distribution that lies there twice (an editable install beside
    its egg-info) counts once: `entry_points` keeps the first of a name."""
    found: dict[str, dict[str, list[Component]]] = {kind: {} for kind in KINDS}
    everything = entry_points()
    owners: dict[int, tuple[str, str]] = {}  # a distribution's metadata is parsed anew each time it is asked
    for kind in KINDS:
        entries = list(everything.select(group=f"mmgen.{kind}"))
        for entry in entries:
            if id(entry.dist) not in owners:
                owners[id(entry.dist)] = _owner(entry)
        for entry in sorted(entries, key=lambda e: (e.name, owners[id(e.dist)][0])):
            component = Component(kind, entry.name, entry.value, *owners[id(entry.dist)])
            same = found[kind].setdefault(entry.name, [])
            if component not in same:
                same.append(component)
    return found


def _owner(entry: EntryPoint) -> tuple[str, str]:
    return (entry.dist.name, entry.dist.version) if entry.dist else ("an unknown distribution", "")


def normal(distribution_name: str) -> str:
    """A distribution's name as the packaging rules compare it."""
    return re.sub(r"[-_.]+", "-", distribution_name).lower()


def find(kind: str, name: str, *, trusted: bool = True) -> Component:
    """The one component that a name means.

    Args:
        name: a registry name, `name@distribution`, or, if `trusted`, `module:Class` of the user's own.
        trusted: whether the user wrote the name; one from a file may only be looked up.

    Raises:
        ConfigError: no such component; the nearest name is told.
        PluginError: two distributions claim the name.
    """
    refuse_foreign()
    if ":" in name and trusted:
        return _own(kind, name)
    short, _, wanted = name.partition("@")
    claims = components(kind).get(short, [])
    if wanted:
        claims = [c for c in claims if normal(c.distribution) == normal(wanted)]
    if not claims:
        raise unknown_option(kind, name, choices(kind))
    if len(claims) > 1:
        owners = " and ".join(c.owner for c in claims)
        raise PluginError(
            f"{kind} {quoted(name)} is claimed by {owners}",
            code="MMG-P02",
            where=", ".join(c.value for c in claims),
            why="a name has one owner; none is preferred",
            fix=" or ".join(f"{kind}={short}@{c.distribution}" for c in claims),
        )
    return Component(kind, name, claims[0].value, claims[0].distribution, claims[0].version)


def _own(kind: str, name: str) -> Component:
    """A class of the user's own, `module:Class`; the working directory is where such a module lies."""
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name):
        text = f"{kind} {quoted(name)} is not of the form module:Class"
        raise ConfigError(text, code="MMG-C03", where=kind, fix=f"{kind}=my_module:MyClass")
    if str(Path.cwd()) not in sys.path and "" not in sys.path:
        sys.path.append(str(Path.cwd()))  # last, so that nothing there shadows what is installed
        importlib.invalidate_caches()
    return Component(kind, name, name, "your own module")


def choices(kind: str) -> list[str]:
    """The names of a kind's components; those of a clash with their distributions."""
    found = []
    for name, claims in components(kind).items():
        found += [name] if len(claims) == 1 else [f"{name}@{c.distribution}" for c in claims]
    return found


def unknown_option(group: str, name: str, known: list[str]) -> ConfigError:
    """The error for a choice that does not exist, with the list of those that do and the nearest."""
    near = nearest(name, known)
    return ConfigError(
        f"no option {quoted(name)} in group {quoted(group)}",
        code="MMG-C03",
        where=group,
        why=f"available: {', '.join(known) or 'none'}",
        fix=f"{group}={near}" if near else f"choose one of them, or install the plugin that has {quoted(name)}",
    )


def refuse_foreign() -> None:
    """Raises PluginError where another project's distribution called `mmgen` is installed: it brings a package of the
    same import name, so that files of the two may lie in one directory."""
    try:
        foreign = distribution("mmgen")
    except PackageNotFoundError:
        return
    raise PluginError(
        f"a foreign distribution 'mmgen' {foreign.version} is installed beside {OURS}",
        code="MMG-P03",
        where=str(foreign.locate_file("mmgen")),
        why="'mmgen' on the public index is another project with the same import name; their files mix",
        fix=f"pip uninstall mmgen && pip install --force-reinstall --no-deps {OURS}",
    )


def complete(kind: str, config: Mapping[str, Any], *, trusted: bool = True, place: str = "") -> dict[str, Any]:
    """The config with every option, checked and as JSON can hold it.

    Raises: as `build`, but nothing is built.
    """
    _, options = _checked(kind, config, trusted, place or kind)
    return {"name": config["name"], **plain(options)}


def build(kind: str, config: Mapping[str, Any], *, trusted: bool = True, **runtime: Any) -> Any:
    """Builds a component.

    Args:
        kind: one of `KINDS`.
        config: `name` and options; options left out have their defaults.
        trusted: whether the user wrote the config. One found in an export or a checkpoint holds registry names only:
            False refuses `module:Class`.
        runtime: the kind's `BUILD_ARGUMENTS`.

    Raises:
        ConfigError: an unknown name or option, a wrong type, a missing option, a value that the component refuses.
        PluginError: the component is broken or its name is claimed twice.
    """
    component, options = _checked(kind, config, trusted, kind)
    target = component.load()
    accepted = inspect.signature(target).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    for name in runtime:
        if name not in accepted and not open_ended:
            wanted = ", ".join(BUILD_ARGUMENTS[kind]) or "its options only"
            raise component.unfit(f"takes no argument {quoted(name)}", f"every {kind} is built with {wanted}")
    try:
        with component.alone("is built", random_numbers=False):  # weights may be drawn at random
            return target(**options, **runtime)
    except MmgenError:
        raise
    except ValueError as error:  # a range or a combination that only the component can judge
        reason = str(error).splitlines()[0] if str(error) else "a value is out of range"
        raise ConfigError(
            f"{kind} {quoted(component.name)} refuses its options: {reason}",
            code="MMG-C04",
            where=kind,
            fix=f"mmgen plugins info {component.name} lists the options",
        ) from error
    except Exception as error:
        if component.distribution == OURS:
            raise
        raise PluginError(
            f"{kind} {quoted(component.name)} of {component.owner} cannot be built",
            code="MMG-P07",
            where=component.value,
            why=f"{type(error).__name__}: {error}".splitlines()[0],
            fix=f"mmgen plugins check {component.name}",
        ) from error


def _checked(kind: str, config: Mapping[str, Any], trusted: bool, place: str) -> tuple[Component, dict[str, Any]]:
    name = config.get("name")
    if not isinstance(name, str) or name == MISSING:
        available = f"available: {', '.join(choices(kind)) or 'none'}"
        raise ConfigError(f"no {kind} is chosen", code="MMG-C05", where=place, why=available, fix=f"{kind}=NAME")
    component = find(kind, name, trusted=trusted)
    found, errors = check(component.options(), {k: v for k, v in config.items() if k != "name"}, place)
    if errors:
        raise ConfigErrors(errors)
    return component, found
