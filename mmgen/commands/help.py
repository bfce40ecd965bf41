"""The help pages, made from the schema, the presets and package metadata; no component is imported for them."""

from __future__ import annotations

from pathlib import Path

PAGES = {
    "run": "trains the three parts, draws, ranks, classifies and writes a report",
    "train": "trains one part",
    "sample": "draws captions",
    "classify": "names what pictures show",
    "export": "writes the three trained parts to share",
    "plugins": "installed components",
}


def overview() -> str:
    return "usage: mmgen COMMAND\n" + "\n".join(f"  {name:10} {text}" for name, text in PAGES.items())


def page(command: str, overrides: list[str], config_dir: Path | None) -> str:
    return f"usage: mmgen {command}"
