"""`mmgen import FORMAT FILE… to=DIR`: weights that others trained, as an export with a report of every tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmgen.checkpoint.exports import PARITY
from mmgen.commands.help import table
from mmgen.errors import ConfigError
from mmgen.interop.importing import FORMATS, find_format, import_weights


def main(config: dict[str, Any], positionals: list[str]) -> int:
    """Imports, and prints the report's table and where both lie."""
    format, *files = positionals or [""]
    usage = f"mmgen import {FORMATS[0]} {find_format(FORMATS[0]).FILES} to=DIR"
    if not format:
        why = f"there are {', '.join(FORMATS)}"
        raise ConfigError("there is nothing to import", code="MMG-C40", where="command line", why=why, fix=usage)
    wanted = find_format(format)
    if not files or config["to"] is None:
        what = "no directory to write to" if files else "no files to read"
        usage = f"mmgen import {format} {' '.join(files) or wanted.FILES} to={config['to'] or f'imported/{format}'}"
        raise ConfigError(f"there is {what}", code="MMG-C40", where="to" if files else "command line", fix=usage)
    told = ("image_size", "activation", "vocabulary", "heads", "pixels", "allow_unused")
    options = {key: config[key] for key in told}
    report = import_weights(format, files, config["to"], **options)
    print("\n".join(table([(f"{name}:", value) for name, value in report.table()])))
    print(f"{report.kind} {report.component['name']}: {config['to']}\nreport: {Path(config['to']) / PARITY}")
    return 0
