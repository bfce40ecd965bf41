"""`mmgen export RUN DIRECTORY`: the three trained parts in one directory, to share and to load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmgen.checkpoint.exports import write_export
from mmgen.commands.source import run_sampler, source_of
from mmgen.errors import CheckpointError, ConfigError, quoted
from mmgen.text_to_image import open_trio, part_directories


def main(config: dict[str, Any], positionals: list[str]) -> int:
    """Copies the parts with their configs and a manifest, opens the result once, and prints where it lies."""
    words = [*positionals]
    source = source_of(config["run"] or (words.pop(0) if words else None))
    to = config["to"] or (words.pop(0) if words else None)
    if to is None or words:
        raise ConfigError(
            "an export needs a directory to write to", code="MMG-C23", where="to", fix=f"mmgen export {source} exported"
        )
    parts = part_directories(source)
    if not parts:
        raise CheckpointError(
            f"{quoted(str(source))} holds no finished run", code="MMG-K06", where="run", fix="mmgen run"
        )
    written = write_export(Path(to), parts, info={"sampler": run_sampler(source)})
    open_trio(written)
    size = sum(file.stat().st_size for file in written.rglob("*") if file.is_file())
    print(f"{', '.join(parts)}: {written} ({size / 1e6:.1f} MB)\nopen it: mmgen.load({str(written)!r})")
    return 0
