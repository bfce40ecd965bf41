"""How fast token shards are read, in batches as training reads them: `python benchmarks/read_tokens.py`.

Prints samples a second of one process, by CPU time and by the clock, with the files in the page cache: image tokens
alone, and whole batches with ids, keys and captions. Nothing is asserted; tests measure no times.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mmgen.data.shards import TEXT_TOKENIZER, Entry, Index, write_index, write_shard, write_text
from mmgen.data.sources import TokenSource
from mmgen.data.text import BpeTextTokenizer
from mmgen.data.tokens import Tokens

CODES, CONTEXT = 8192, 24


def write(directory: Path, samples: int, grid: tuple[int, int], shards: int) -> Tokens:
    """Random image tokens with a caption each."""
    draw, each = np.random.default_rng(0), samples // shards
    text_tokenizer = BpeTextTokenizer([(97, 98)], CONTEXT, 0.0)
    written, text = [], []
    for number in range(shards):
        tokens = draw.integers(0, CODES, (each, 1, grid[0] * grid[1]), dtype=np.uint16)
        records = [
            {"id": f"picture-{number * each + i}", "captions": ["a picture of something"], "attributes": {}}
            for i in range(each)
        ]
        place = (number, "train", number * each, (number + 1) * each)
        written.append(write_shard(directory, place, zip(tokens, records, strict=True), 1, CODES))  # type: ignore[arg-type]
        text.append(write_text(directory, written[-1], draw.integers(0, 256, (each, CONTEXT)).astype("<u2")))
    content = text_tokenizer.to_json().encode()
    (directory / TEXT_TOKENIZER).write_bytes(content)
    entry = Entry(len(content), hashlib.sha256(content).hexdigest())
    recipe = {"grid": list(grid), "codebook_size": CODES, "image_tokenizer": "0" * 64}
    fingerprint, num_ids = text_tokenizer.fingerprint, text_tokenizer.num_ids
    write_index(directory, Index(recipe, written, text, entry, fingerprint, CONTEXT, num_ids))
    return Tokens(str(directory))


def speed(read: Callable[[list[int]], object], batches: list[list[int]]) -> str:
    """Millions of samples a second, the best of three rounds, by CPU time and by the clock."""
    found = []
    for _ in range(4):
        cpu, wall = time.process_time(), time.perf_counter()
        for batch in batches:
            read(batch)
        found.append((time.process_time() - cpu, time.perf_counter() - wall))
    cpu, wall = (min(times) for times in zip(*found[1:], strict=True))
    count = sum(map(len, batches))
    return f"{count / cpu / 1e6:5.2f} M/s of CPU time, {count / wall / 1e6:5.2f} M/s by the clock"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=200_000)
    samples = parser.parse_args().samples
    draw = random.Random(0)  # noqa: S311  a seeded draw is the point
    for grid, shards in (((8, 8), 4), ((8, 8), 200), ((16, 16), 20), ((32, 32), 20)):
        count = samples // (1 if grid[0] < 32 else 8)
        with tempfile.TemporaryDirectory() as directory:
            tokens = write(Path(directory), count, grid, shards)
            source = TokenSource(tokens, range(count), seed=1, alternative_captions=0.0)
            for size in (64, 1024):
                batches = [[draw.randrange(count) for _ in range(size)] for _ in range(max(1, 100_000 // size))]
                epochs = [0] * size
                what = f"{grid[0]}×{grid[1]} tokens, {shards:3} shards, batches of {size:4}"
                print(f"{what}: image tokens {speed(lambda b, t=tokens, e=epochs: t.image_tokens(b, e), batches)}")
                slots = [list(zip(batch, epochs, strict=True)) for batch in batches[: max(1, len(batches) // 5)]]
                print(f"{what}: whole batches {speed(source.__getitems__, slots)}")


if __name__ == "__main__":
    main()
