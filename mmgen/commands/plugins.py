"""`mmgen plugins list | info NAME | check [NAME] | new KIND NAME`: what is installed, what it can be told, whether it
keeps its contract, and a new one to begin with.

`list` reads metadata and source text and imports nothing; `info` imports the components it is asked for; `check`
imports each in a process of its own, so that one that crashes or hangs is only reported.
"""

from __future__ import annotations

import importlib
import time
from importlib.metadata import entry_points

from mmgen import api, registry
from mmgen.commands.help import page, table
from mmgen.commands.plugin_flaws import flaw
from mmgen.commands.words import option_lines, summary
from mmgen.errors import ConfigError
from mmgen.packages import MODELS, file_of
from mmgen.registry import Component
from mmgen.spelling import nearest

ACTIONS = ("list", "info", "check", "new")


def main(arguments: list[str]) -> int:
    """Gives the exit code: where `check` finds something broken, 8, or nonconforming, 4."""
    action, *names = arguments or ["list"]
    if "--help" in arguments or "-h" in arguments:
        print(page("plugins", []))
        return 0
    if action not in ACTIONS:
        near = nearest(action, ACTIONS)
        raise ConfigError(
            f"no action {action!r}",
            code="MMG-C07",
            where="command line",
            why=f"there are {', '.join(ACTIONS)}",
            fix=f"mmgen plugins {near}" if near else "mmgen plugins --help",
        )
    if action == "list":
        print("\n".join(listing()))
        return 0
    if action == "info" and not names:
        raise ConfigError("plugins info wants a name", code="MMG-C07", where="command line", fix="mmgen plugins list")
    if action == "info":
        print("\n\n".join(info(component) for name in names for component in named(name)))
        return 0
    if action == "new":
        from mmgen.commands.plugin_new import new

        print(new(names))
        return 0
    from mmgen.commands.plugin_checks import check, imports

    if not names:
        return imports(everything())
    values = [name for name in names if "=" in name]
    return check([c for name in names if name not in values for c in named(name)], values)


def everything() -> list[Component]:
    """Every installed component, by kind and name; of a clash, each with its distribution."""
    return [registry.find(kind, name) for kind in registry.KINDS for name in registry.choices(kind)]


def named(name: str) -> list[Component]:
    """The components of a name, of "kind/name", or of a distribution; one name may be used in several kinds.

    Raises:
        ConfigError: there is none.
        PluginError: two distributions claim it.
    """
    kind, slash, short = name.rpartition("/")
    kinds = [kind] if slash else list(registry.KINDS)
    if slash and kind not in registry.KINDS:
        raise registry.unknown_option("kind", kind, list(registry.KINDS))
    known = {k: registry.choices(k) for k in kinds}
    found = [registry.find(k, short) for k in kinds if short.partition("@")[0] in registry.components(k)]
    found = found or [c for c in everything() if registry.normal(c.distribution) == registry.normal(name)]
    if not found:
        raise registry.unknown_option(
            kind or "component", short, sorted({n for names in known.values() for n in names})
        )
    return found


def listing() -> list[str]:
    """A table of all components; nothing is imported, so only what the source text shows is known to be broken."""
    registry.refuse_foreign()
    rows: list[tuple[str, ...]] = [("kind", "name", "distribution", "file", "")]
    for component in everything():
        clash = "@" in component.name
        cause = component.other_api or flaw(component.value)
        note = f"broken: {cause}" if cause else "clash: choose it by this name" if clash else ""
        rows.append((component.kind, component.name, component.owner, component.value.partition(":")[0], note))
    entries = entry_points()  # which reads the metadata of all that is installed
    packages = sorted(
        {
            (what, e.value, e.dist.name if e.dist else "")
            for what, group in (("presets", "mmgen.configs"), ("prompts", "mmgen.prompts"), ("model", MODELS))
            for e in entries.select(group=group)
        }
    )
    return [*table(rows), *(f"{what}  {package} of {owner}" for what, package, owner in packages)]


def info(component: Component) -> str:
    """A component's page: where it comes from, what it does, its options and what the docstring says of them. Imports
    it.

    Raises:
        PluginError: it is broken.
    """
    seconds = import_seconds(component)
    options, target = component.options(), component.load()
    build = ", ".join(registry.BUILD_ARGUMENTS[component.kind])
    return "\n".join(
        [
            *heading(component),
            f"  import  {seconds:.2f} s beyond torch's",
            "",
            summary(target),
            "",
            "options:",
            *option_lines(options, target, f"{component.kind}."),
            *([f"set by other parts: {build}"] if build else []),
        ]
    )


def heading(component: Component) -> list[str]:
    """Whose a component is, where it lies, and the plugin API it was made for; nothing is imported."""
    made_for = ", ".join(sorted(api.declared(component.distribution))) or "not declared"
    ours = component.distribution == registry.OURS
    return [
        f"{component.kind} {component.name}, {component.value}, of {component.owner}",
        f"  file    {file_of(component.value.partition(':')[0]) or 'not found'}",
        f"  API     {api.API_VERSION if ours else made_for}",
    ]


def import_seconds(component: Component) -> float:
    """How long its import takes beyond torch's, which every run pays.

    Raises:
        PluginError: it is broken.
    """
    importlib.import_module("torch")
    began = time.monotonic()
    component.load()
    return time.monotonic() - began
