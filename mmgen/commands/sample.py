"""`mmgen sample CAPTION…`: draws captions, ranked by the encoder, each picture beside its score and seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mmgen import registry
from mmgen.commands.source import fresh_directory, refuse_in_use, source_of
from mmgen.errors import ConfigError
from mmgen.files import write_atomic
from mmgen.images import save_png, sheet
from mmgen.runs.progress import Bar
from mmgen.text_to_image import Drawings, TextToImage, open_trio


def main(config: dict[str, Any], positionals: list[str]) -> int:
    """Draws every caption given and prints where the pictures lie."""
    if not positionals:
        raise ConfigError(
            "there is no caption to draw", code="MMG-C11", where="command line", fix='mmgen sample "a cat"'
        )
    count, keep, seed = config["num_images"], config["keep"], config["seed"]
    if not 1 <= keep <= count:
        raise ConfigError(f"cannot keep {keep} of {count} images", code="MMG-C10", where="keep", fix=f"keep={count}")
    refuse_in_use(config["out"])
    source = source_of(config["run"])
    sampler = registry.build("sampler", config["sampler"]) if config["sampler"] else None
    model = open_trio(source, sampler)
    with Bar("drawing", total=count * len(positionals), unit="pictures") as bar:
        drawn = model.draw(
            positionals, num_images=count, keep=keep, seed=seed, progress=lambda pictures: bar.advance(pictures, "")
        )
    out = fresh_directory(config["out"], "samples", positionals[0])
    for number, drawings in enumerate(drawn):
        _save(drawings, out, f"{number:02d}-" if len(drawn) > 1 else "", model)
    save_png(sheet([(d.caption, list(d.images)) for d in drawn]), out / "sheet.png")
    record = [
        {
            "caption": d.caption,
            "seed": d.seed,
            "numbers": d.numbers.tolist(),
            "scores": d.scores.tolist(),
            "parts": model.fingerprints,
        }
        for d in drawn
    ]
    write_atomic(out / "samples.json", json.dumps(record, indent=1).encode())
    for d in drawn:
        best = ", ".join(f"{float(score):.3f}" for score in d.scores[:4])
        print(f"{d.caption}: kept {len(d)} of {count}, scores {best}{' …' if len(d) > 4 else ''}")
    print(f"pictures: {out}\nsheet: {out / 'sheet.png'}")
    return 0


def _save(drawings: Drawings, out: Path, prefix: str, model: TextToImage) -> None:
    """Each picture as a PNG that says, in text chunks, what made it."""
    for rank, image in enumerate(drawings):
        facts = {
            "caption": drawings.caption,
            "seed": str(drawings.seed),
            "number": str(int(drawings.numbers[rank])),
            "score": f"{float(drawings.scores[rank]):.6f}",
            **{f"{kind} fingerprint": fingerprint for kind, fingerprint in model.fingerprints.items()},
        }
        save_png(image, out / f"{prefix}{rank + 1:03d}.png", facts)
