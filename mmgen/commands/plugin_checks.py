"""`mmgen plugins check`: is a component made for this mmgen, can it be imported and built, does it keep its contract?

Each is tried in a process of its own, which writes what it finds line by line into a file: one that crashes, hangs or
prints is only reported. Without a name every component is imported; with names each goes through the kit of its kind
(`mmgen.testing`).
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mmgen.commands.attempts import FAILED_PARTS, reason
from mmgen.commands.help import table
from mmgen.commands.plugins import heading, import_seconds
from mmgen.errors import ConfigError, MmgenError, PluginError
from mmgen.progress import Bar
from mmgen.registry import Component

PATIENCE = 20  # seconds that a component may take to be imported
KIT_PATIENCE = 300  # seconds for one check of the kit
SLOW = 2.0  # seconds beyond torch's from which an import is called slow
STARTS = "the_process_starts"  # Python and torch; a busy machine may take a while, and the component is not to blame
IMPORTED, SHARED, BUILT = "it_can_be_imported", "importing_it_changes_nothing_that_all_share", "it_can_be_built"

Row = dict[str, Any]  # of a trial: {"begin": check}, then {"check": …, "found": why or None, "seconds": …}


def imports(components: list[Component]) -> int:
    """Imports each and prints a table; 8 if one is broken."""
    rows: list[tuple[str, ...]] = []
    failed = False
    with Bar("importing", total=len(components), unit="components") as bar:
        for component in components:
            found = {row["check"]: row for row in trial(component, None) if "check" in row}
            imported = found.get(IMPORTED) or found[STARTS]
            broken, seconds = imported["found"], imported.get("seconds", 0.0)
            failed = failed or bool(broken)
            note = f"broken: {broken}" if broken else f"ok, {seconds:.2f} s{', slow' if seconds > SLOW else ''}"
            rows.append((component.kind, component.name, component.owner, note))
            bar.advance(1)
    print("\n".join(table(rows)))
    return PluginError.exit_code if failed else 0


def check(components: list[Component], values: list[str]) -> int:
    """Runs every check of each and prints the verdicts; 8 if one cannot be imported or built, 4 if one fails a check.

    Args:
        values: options to build it with, `KEY=VALUE`.

    Raises:
        ConfigError: none is named; or an option is unknown, wrong or lacking.
    """
    if not components:
        raise ConfigError(
            "plugins check wants a name before KEY=VALUE", code="MMG-C07", fix="mmgen plugins check NAME KEY=VALUE"
        )
    options = dict(value.split("=", 1) for value in values)
    options = {key.removeprefix(f"{components[0].kind}."): value for key, value in options.items()}
    codes = [_check(component, options) for component in components]
    return max(codes)


def _check(component: Component, options: dict[str, str]) -> int:
    print("\n".join(heading(component)))
    failed: list[str] = []
    count = 0
    for row in trial(component, options):
        if "refused" in row:
            raise ConfigError(**row["refused"])
        if "check" not in row:
            continue
        count += 1
        name, found = row["check"], row["found"]
        if found:
            failed.append(name)
        note = f": {found}" if found else ""
        if name == IMPORTED and not found:
            note = f", {row['seconds']:.2f} s beyond torch's{', which is slow' if row['seconds'] > SLOW else ''}"
        print(f"  {'FAIL' if found else 'ok  '}  {name}{note}", flush=True)
    print(f"{component.kind} {component.name} {'fails' if failed else 'passes'}", end=" ")
    print(f"{len(failed)} of {count} checks: {', '.join(failed)}" if failed else f"all {count} checks")
    return PluginError.exit_code if {STARTS, IMPORTED, BUILT} & set(failed) else FAILED_PARTS if failed else 0


def trial(component: Component, options: dict[str, str] | None) -> Iterator[Row]:
    """What the process of one component finds, as it finds it; what it was at when it ended is a failure too.

    Args:
        options: to build it with, and run the kit; None: it is imported only.
    """
    with tempfile.TemporaryDirectory() as directory:
        found = Path(directory, "found.jsonl")
        found.touch()
        code = "import sys; from mmgen.commands.plugin_checks import tried; tried(*sys.argv[1:])"
        arguments = [component.kind, component.name, json.dumps(options), str(found)]
        with Path(directory, "output").open("w+") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", code, *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
            at, began = STARTS, time.monotonic()
            try:
                for row in _followed(process, found):
                    if row is None:
                        patience = PATIENCE if at == IMPORTED else KIT_PATIENCE
                        if time.monotonic() - began > patience:
                            yield {"check": at, "found": f"it takes longer than {patience} s"}
                            return
                        continue
                    at, began = row.get("begin", ""), time.monotonic()
                    yield row
                if process.wait() or at:
                    output.seek(0)
                    last = output.read().strip().splitlines()
                    said = f": {last[-1][:200]}" if last else ""
                    yield {"check": at or "it_ends", "found": f"the process ended with {process.returncode}{said}"}
            finally:
                process.kill()
                process.wait()


def _followed(process: subprocess.Popen[bytes], found: Path) -> Iterator[Row | None]:
    """The rows of a file that a process writes, and None while there is none."""
    with found.open(encoding="utf-8") as file:
        part = ""
        while True:
            ended = process.poll() is not None
            part += file.readline()
            if part.endswith("\n"):
                yield json.loads(part)
                part = ""
            elif ended:
                return
            else:
                yield None
                time.sleep(0.02)


def tried(kind: str, name: str, options: str, found: str) -> None:
    """The process of one component."""
    from mmgen import registry

    with Path(found).open("a", buffering=1, encoding="utf-8") as file:

        def write(row: Row) -> None:
            file.write(json.dumps(row) + "\n")

        component = registry.find(kind, name)
        importlib.import_module("torch")
        write({"begin": IMPORTED})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                seconds = import_seconds(component)
                component.options()
            except MmgenError as error:
                write({"check": IMPORTED, "found": error.why or error.what})
                return
        write({"check": IMPORTED, "found": None, "seconds": seconds})
        told = [str(warning.message) for warning in caught if issubclass(warning.category, registry.PluginWarning)]
        write({"check": SHARED, "found": told[0] if told else None})
        if json.loads(options) is not None:
            _kit(component, json.loads(options), write)


def _kit(component: Component, options: dict[str, str], write: Callable[[Row], None]) -> None:
    import yaml

    from mmgen import registry
    from mmgen.testing.kits import prepare, small_arguments

    write({"begin": BUILT})
    config = {key: yaml.safe_load(value) for key, value in options.items()}
    runtime = small_arguments(component.kind, component.load())
    try:
        built = registry.build(component.kind, {"name": component.name, **config}, **runtime)
        prepared = prepare(component.kind, built)
    except ConfigError as error:
        details = {key: getattr(error, key) for key in ("what", "code", "where", "why", "fix")}
        write({"refused": details})
        return
    except Exception as error:
        write({"check": BUILT, "found": error.why if isinstance(error, PluginError) else reason(error)})
        return
    write({"check": BUILT, "found": None})
    for check in prepared.checks:
        write({"begin": check.__name__})
        began = time.monotonic()
        found = prepared.find(check)
        write({"check": check.__name__, "found": found, "seconds": time.monotonic() - began})
