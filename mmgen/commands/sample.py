"""`mmgen sample CAPTION…`: draws captions, ranked by the encoder, each picture beside its score and seed."""

from __future__ import annotations

from typing import Any

from mmgen.commands.drawn import Made, kept, save, tell, words
from mmgen.commands.source import fresh_directory, open_model, refuse_in_use
from mmgen.errors import ConfigError
from mmgen.progress import Bar

# What decides the pictures.
AGAIN = ("run", "tokenizer_from", "generator_from", "encoder_from", "num_images", "keep", "seed")


def main(config: dict[str, Any], positionals: list[str]) -> int:
    """Draws every caption given and prints where the pictures lie."""
    if not positionals:
        raise ConfigError(
            "there is no caption to draw", code="MMG-C11", where="command line", fix='mmgen sample "a cat"'
        )
    count = config["num_images"]
    keep = kept(config["keep"], count)
    refuse_in_use(config["out"])
    model, source = open_model(config, "tokenizer", "generator")
    total = (count if model.ranks else keep) * len(positionals)
    with Bar("drawing", total=total, unit="pictures") as bar:
        drawn = model.draw(
            positionals,
            num_images=count,
            keep=keep,
            seed=config["seed"],
            progress=lambda pictures: bar.advance(pictures, ""),
        )
    again = words("sample", config, AGAIN, model)
    made = [Made(drawings, [*again, "--", drawings.caption]) for drawings in drawn]
    out = fresh_directory(config["out"], "samples", positionals[0])
    save(made, out, model, source, count)
    tell(made, out, count)
    summary = getattr(model.sampler, "summary", None)
    if summary is not None:
        print(summary())
    return 0
