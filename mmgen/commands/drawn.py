"""What was drawn, written: a PNG each that says what made it, a sheet, and samples.json with all of it.

The same words stand in a picture's text chunks and in samples.json, the command that draws it again among them.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import Tensor

import mmgen
from mmgen.data.asked import check_counts
from mmgen.drawings import Drawings
from mmgen.files import json_bytes, write_atomic
from mmgen.images import save_png, sheet
from mmgen.options import written
from mmgen.text_to_image import TextToImage

KEPT = 4  # of the drawings, where nothing else is asked


@dataclass
class Made:
    """Drawings of one caption.

    Attributes:
        command: its words, which draw these again.
        about: what else is to be told of them, as JSON can hold it.
        given: the picture they are made of, for the sheet.
    """

    drawings: Drawings
    command: Sequence[str]
    about: Mapping[str, Any] = field(default_factory=dict)
    given: Tensor | None = None


def kept(asked: int | None, count: int) -> int:
    """How many of `count` drawings are kept: as many as asked, or four.

    Raises:
        ConfigError: more than are drawn.
    """
    check_counts(count, asked)
    return min(KEPT, count) if asked is None else asked


def words(command: str, config: Mapping[str, Any], keys: Sequence[str], model: TextToImage) -> list[str]:
    """A command as it can be typed again: the keys that are not null, and the sampler with every option."""
    said = [f"{key}={written(config[key])}" for key in keys if config[key] is not None]
    sampler = model.sampler_config
    options = [f"sampler.{name}={written(value)}" for name, value in sampler.items() if name != "name"]
    return ["mmgen", command, *said, f"sampler={sampler['name']}", *options]


def save(made: Sequence[Made], out: Path, model: TextToImage, source: Path, num_images: int) -> None:
    """Writes the pictures, sheet.png and samples.json into an empty directory."""
    records = []
    for number, one in enumerate(made):
        prefix = f"{number:02d}-" if len(made) > 1 else ""
        drawings, facts = one.drawings, _facts(one, model, num_images)
        files = [f"{prefix}{rank + 1:03d}.png" for rank in range(len(drawings))]
        numbers = drawings.numbers.tolist()
        scores = None if drawings.scores is None else drawings.scores.tolist()
        for rank, file in enumerate(files):
            save_png(drawings[rank], out / file, text_of(one, rank, model, num_images))
        records.append({**facts, "run": str(source), "numbers": numbers, "scores": scores, "files": files})
    write_atomic(out / "samples.json", json_bytes(records))
    rows = [(m.drawings.caption, ([] if m.given is None else [m.given]) + list(m.drawings.images)) for m in made]
    given = any(m.given is not None for m in made)
    ranks = [str(rank + 1) for rank in range(max(len(m.drawings) for m in made))]
    save_png(sheet(rows, headers=["given"] * given + ranks), out / "sheet.png")


def tell(made: Sequence[Made], out: Path, num_images: int) -> None:
    """Prints what was kept, and where it lies."""
    for one in made:
        drawings = one.drawings
        name = f"{Path(one.about['picture']).name}, {drawings.caption}" if "picture" in one.about else drawings.caption
        if drawings.scores is None:
            print(f"{name}: drew {len(drawings)}, not ranked")
            continue
        best = ", ".join(f"{float(score):.3f}" for score in drawings.scores[:4])
        more = " …" if len(drawings) > 4 else ""
        print(f"{name}: kept {len(drawings)} of {num_images}, scores {best}{more}")
    if any(one.drawings.scores is None for one in made):
        print("there is no encoder to rank them: encoder_from=RUN names one")
    print(f"pictures: {out}\nsheet: {out / 'sheet.png'}")


def _facts(made: Made, model: TextToImage, num_images: int) -> dict[str, Any]:
    return {
        "caption": made.drawings.caption,
        "seed": made.drawings.seed,
        "num_images": num_images,
        "sampler": model.sampler_config,
        "parts": model.fingerprints,
        **made.about,
        "versions": {"mmgen": mmgen.__version__, "torch": version("torch")},
        "command": shlex.join(made.command),
    }


def text_of(made: Made, rank: int, model: TextToImage, num_images: int) -> dict[str, str]:
    """What stands in the text chunks of one picture; what is no text is JSON."""
    drawings = made.drawings
    own = {**_facts(made, model, num_images), "number": int(drawings.numbers[rank])}
    if drawings.scores is not None:
        own["score"] = round(float(drawings.scores[rank]), 6)
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in own.items()}
