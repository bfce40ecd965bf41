"""The whole pipeline at its smallest: sixty pictures, parts of a few thousand weights, a training of seconds.

Tests that need a finished run share one; it is made by the installed command, in a process of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from mmgen.checkpoint.files import seal
from mmgen.images import save_png

STEPS = 24
COLOURS = {"red": (0.9, 0.1, 0.1), "green": (0.1, 0.7, 0.2), "blue": (0.1, 0.2, 0.9), "yellow": (0.9, 0.8, 0.1)}
SHAPES = {"square": (10, 10), "bar": (4, 14), "column": (14, 4)}

RUN = [
    "dataset=folder",
    "dataset.path=pictures",
    "dataset.image_size=16",
    "tokenizer.width=8",
    "tokenizer.blocks=1",
    "tokenizer.codebook_size=32",
    "generator.embed_dim=32",
    "generator.num_layers=1",
    "generator.num_heads=2",
    "encoder.width=32",
    "encoder.embed_dim=16",
    "encoder.image_layers=1",
    "encoder.text_layers=1",
    "encoder.num_heads=2",
    "drawing.num_captions=3",
    "drawing.num_images=3",
    "drawing.keep=2",
    "drawing.classified=2",
    *(
        f"stages.{kind}.{option}"
        for kind in ("tokenizer", "generator", "encoder")
        for option in (
            f"trainer.max_steps={STEPS}",
            "trainer.log_every_n_steps=1",
            "trainer.val_check_interval=8",
            "task.batch_size=16",
            "task.checkpoint_every=5",
        )
    ),
    "stages.generator.task.text_tokenizer={vocab_size: 280, context_length: 12, bpe_dropout: 0.1}",
    "stages.encoder.task.text_tokenizer={vocab_size: 280, context_length: 12, bpe_dropout: 0.1}",
]
QUIET = "tracking.mode=disabled"


def write_pictures(directory: Path, count: int = 60) -> Path:
    """Pictures such as `red-bar-3.png` with what they show beside them: each colour and shape at several places."""
    directory.mkdir(parents=True)
    place = torch.Generator().manual_seed(0)
    kinds = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    for number in range(count):
        colour, shape = kinds[number % len(kinds)]
        height, width = SHAPES[shape]
        top, left = (int(torch.randint(24 - size, (), generator=place)) for size in (height, width))
        image = torch.full((3, 24, 24), 0.95)
        image[:, top : top + height, left : left + width] = torch.tensor(COLOURS[colour])[:, None, None]
        name = f"{colour}-{shape}-{number // len(kinds)}"
        save_png(image, directory / f"{name}.png")
        (directory / f"{name}.txt").write_text(f"a {colour} {shape}\n", encoding="utf-8")
    return directory


def mmgen(*arguments: str, cwd: Path, timeout: float = 300, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs the installed command to its end."""
    with start(*arguments, cwd=cwd, **env) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            process.kill()
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def start(*arguments: str, cwd: Path, **env: str) -> subprocess.Popen[str]:
    """Starts the installed command, in a process group of its own."""
    return subprocess.Popen(
        [str(Path(sys.executable).parent / "mmgen"), *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **env},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell has its background jobs ignore Ctrl-C, and so do their children, this one among them.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def edit(directory: Path, name: str, change: Callable[[dict], None]) -> None:
    """Changes a JSON file of a part or an export, and makes the manifest agree, as whoever means harm would."""
    file = directory / name
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    for sealed in (file.parent, directory):
        (sealed / "manifest.json").unlink(missing_ok=True)
        seal(sealed)


def files(directory: Path, names: Sequence[str] = ("*",)) -> dict[str, tuple[int, bytes]]:
    """Time of writing and content of every file below, by its name."""
    found = {path for name in names for path in directory.rglob(name) if path.is_file()}
    return {str(path.relative_to(directory)): (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(found)}
