"""The encoder beside open_clip's, the same ViT-B/32 with the same weights: `python benchmarks/clip.py`.

One thread, fp32, processor time, median of five, interleaved. Text encoding is of short captions; a training step is
forward, loss, backward and AdamW, with captions that fill all 77 places and with short ones, where the padding is
trimmed. Needs the dependency group `references`.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from mmgen.models.clip import Clip

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "models"))
from clip_shapes import ours
from open_clip_models import open_clip

CONTEXT, END = 77, 49407
CAPTIONS, PAIRS = 64, 16
ROUNDS = 5


class Ids:
    """Captions that are ids already, written as text."""

    num_ids = vocab_size = END + 1
    context_length = CONTEXT

    def encode(self, captions: list[str], keys: object = None) -> torch.Tensor:
        return torch.tensor([[int(word) for word in caption.split()] for caption in captions])

    def end(self, text_tokens: torch.Tensor) -> torch.Tensor:
        return text_tokens.argmax(1)


def tokens(count: int, lengths: tuple[int, int]) -> torch.Tensor:
    """(count,77): a start, words, an end, zeros; lengths, both marks included, are drawn from a range."""
    source = torch.Generator().manual_seed(0)
    found = torch.zeros(count, CONTEXT, dtype=torch.long)
    for row, length in zip(found, torch.randint(*lengths, (count,), generator=source).tolist(), strict=True):
        row[:length] = torch.randint(1, END - 1, (length,), generator=source)
        row[length - 1] = END
    return found


def compare(name: str, mmgen: Callable[[], object], peer: Callable[[], object], rows: int) -> None:
    """A line of the table."""
    spent: dict[str, list[float]] = {"mmgen": [], "open_clip": []}
    for turn in range(ROUNDS + 1):
        for who, work in (("mmgen", mmgen), ("open_clip", peer)):
            began = time.process_time()
            work()
            if turn:  # the first warms up
                spent[who].append(time.process_time() - began)
    here, there = (statistics.median(spent[who]) for who in ("mmgen", "open_clip"))
    print(f"{name:34} {rows / here:8.2f} {rows / there:8.2f}   {there / here:5.2f}", flush=True)


def stepper(model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def main() -> None:
    torch.set_num_threads(1)
    package = open_clip()
    theirs = package.create_model("ViT-B-32-quickgelu")
    options = yaml.safe_load((Path(__file__).parents[1] / "conf/encoder/vit_b_32.yaml").read_text())
    options.pop("defaults")
    mine = Clip(text_tokenizer=Ids(), image_size=224, **options)
    mine.load_state_dict(ours(theirs.state_dict()))

    short = tokens(CAPTIONS, (6, 13))
    with torch.no_grad():
        found, wanted = mine.eval().encode_text(short), theirs.eval().encode_text(short, normalize=True)
        print(f"largest difference of text features: {float((found - wanted).abs().max()):.1e}")
        print(f"{'rows a second':34} {'mmgen':>8} {'open_clip':>8}   ratio")
        encode = (lambda: mine.encode_text(short), lambda: theirs.encode_text(short, normalize=True))
        compare("text encoding, 6 to 12 tokens", *encode, CAPTIONS)

    mine.train()
    theirs.train()
    images = torch.rand(PAIRS, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    contrast = package.ClipLoss()
    for name, lengths in (("training step, 77 tokens", (77, 78)), ("training step, 6 to 12 tokens", (6, 13))):
        ids = tokens(PAIRS, lengths)
        captions = [" ".join(map(str, row)) for row in ids.tolist()]
        batch = {"image": images, "caption": captions, "id": captions, "key": [0] * PAIRS}
        compare(
            name,
            stepper(mine, lambda batch=batch: mine.training_loss(batch, 0)[0]),
            stepper(theirs, lambda ids=ids: contrast(*theirs(images, ids))),
            PAIRS,
        )


if __name__ == "__main__":
    main()
