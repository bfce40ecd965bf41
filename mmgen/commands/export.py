"""`mmgen export RUN DIRECTORY`: the trained parts in one directory, to share and to load; or, with `format=open_clip`,
the encoder alone as open_clip opens it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmgen.checkpoint.exports import write_export
from mmgen.commands.source import source_of
from mmgen.errors import ConfigError
from mmgen.files import read_json
from mmgen.interop.clip_export import write_open_clip
from mmgen.loading import PARTS, part_of, read_parts, recorded_sampler
from mmgen.text_to_image import open_trio


def main(config: dict[str, Any], positionals: list[str]) -> int:
    """Copies the parts with their configs and a manifest, opens the result once, and prints where it lies."""
    words = [*positionals]
    elsewhere = {key: config[key] for key in ("tokenizer_from", "encoder_from")}
    wanted = ("encoder",) if config["format"] == "open_clip" else PARTS
    source = source_of(config["run"] or (words.pop(0) if words else None), *wanted)
    to = config["to"] or (words.pop(0) if words else None)
    if to is None or words:
        raise ConfigError(
            "an export needs a directory to write to", code="MMG-C23", where="to", fix=f"mmgen export {source} exported"
        )
    if config["format"] == "open_clip":
        return _open_clip(config["encoder_from"] or source, to)
    parts = read_parts(source, **elsewhere)
    write_export(
        Path(to), parts=parts, data=_data(source), sampler=recorded_sampler(source), precision=config["precision"]
    )
    open_trio(to, device="cpu")
    size = sum(file.stat().st_size for file in Path(to).rglob("*") if file.is_file())
    print(f"{', '.join(parts)}: {to} ({size / 1e6:.1f} MB)\nopen it: mmgen.load({to!r})")
    return 0


def _open_clip(source: str | Path, to: str) -> int:
    """The encoder in open_clip's form; what that form has no room for is told."""
    exported = write_open_clip(to, part_of(source, "encoder", "run"))
    size = sum(file.stat().st_size for file in Path(to).rglob("*") if file.is_file())
    print(f"encoder, {exported.image_tower}: {to} ({size / 1e6:.1f} MB)")
    for note in exported.notes:
        print(f"note: {note}")
    print(f"open it: open_clip.create_model_from_pretrained({'local-dir:' + to!r})")
    return 0


def _data(source: Path) -> dict[str, Any]:
    """What the parts were trained on, as the run's lineage has it."""
    lineage = source / "lineage.json"
    if not lineage.is_file():
        return {}
    found = read_json(lineage, trusted=True)
    return {**found["data"], "attribution": found["attribution"]}
