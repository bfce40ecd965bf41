"""The rival in `time_to_accuracy.py`: dalle-pytorch 1.6.6 on the same pictures. Needs an environment of its own:

    python3.11 -m venv peer && peer/bin/pip install torch==2.13.0 cython wheel "setuptools<81"
    peer/bin/pip install --no-build-isolation youtokentome dalle-pytorch

Its image tokenizer, transformer, losses and drawing are its own, and so are the settings that its train_vae.py and
train_dalle.py have by default: Adam with 1e-3 that falls by 2 % every 100 steps, and a temperature that falls from 1
towards 0.5; then Adam with 3e-4, gradients clipped to 0.5, image loss times 7. What differs, and why:

- Batches of 64 as mmgen's, instead of 8 and 4: they are faster here.
- Pictures are not cropped at random, which would cut off things that the caption names.
- The image tokenizer has 1,024 codes as mmgen's instead of 8,192, 64 channels instead of 256, one residual block
  instead of two, and 3 epochs instead of 20. Its authors' size is for 128 pixels and a GPU; a step of it takes a core
  some fifteen times as long (9.2 s and 0.6 s), and the clock would run for hours before the transformer begins.
  Whether the smaller one is good enough is seen in the share of reconstructions that are right.
- The text tokenizer is its HugTokenizer with a vocabulary of the captions, smaller and so faster than the 49,408 ids.

It draws with its cache, the same pictures as without: at its defaults (the likelier half of all logits, those of text
among them, at temperature 1), with the tenth that its generate.py keeps, and at a temperature of 0.5. The best counts.

    python race_dalle_pytorch.py DIRECTORY --minutes 240
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

BATCH, IDS, TEXT_LENGTH, CODES = 64, 640, 22, 1024
ALTERNATIVE_CAPTIONS = 0.1  # share of the samples whose caption is any of its wordings, as in mmgen's recipe
UNKNOWN = "[UNK]"
FIRST, EVERY = 200, 1.25  # steps before the first drawing, and what the steps grow by until the next
SETTINGS: dict[str, dict[str, float]] = {
    "as it comes": {},
    "as generate.py": {"filter_thres": 0.9},
    "temperature 0.5": {"temperature": 0.5},
}


def imported() -> Any:
    """dalle-pytorch, with what it needs of older versions than pip gives it: a module that Lightning 2 has no more, and
    two operators that PyPI's torchvision looks for beside a CPU build of torch."""
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        with contextlib.suppress(RuntimeError):  # they are there
            operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from pytorch_lightning.utilities import rank_zero

    module = types.ModuleType("pytorch_lightning.utilities.distributed")
    module.rank_zero_only = rank_zero.rank_zero_only  # type: ignore[attr-defined]
    sys.modules.setdefault(module.__name__, module)
    import dalle_pytorch

    dalle_pytorch.kept = operators  # an operator lives as long as its library
    return dalle_pytorch


def text_tokenizer(captions: list[str], directory: Path) -> Any:
    """Its HugTokenizer over a byte-pair vocabulary of these captions."""
    from dalle_pytorch.tokenizer import HugTokenizer
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE(unk_token=UNKNOWN))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.train_from_iterator(captions, trainers.BpeTrainer(vocab_size=IDS, special_tokens=["[PAD]", UNKNOWN]))
    made.save(str(directory / "text_tokenizer.json"))
    return HugTokenizer(str(directory / "text_tokenizer.json"))


class Clock:
    """Seconds of training: started, stopped, and read in between."""

    def __init__(self) -> None:
        self._before = 0.0
        self._began: float | None = time.perf_counter()  # None: stopped

    @property
    def seconds(self) -> float:
        return self._before + (0.0 if self._began is None else time.perf_counter() - self._began)

    def stop(self) -> None:
        self._before, self._began = self.seconds, None

    def start(self) -> None:
        self._began = time.perf_counter()


def batches(count: int) -> list[Tensor]:
    return list(torch.randperm(count).split(BATCH))[: count // BATCH]


def train_vae(package: Any, pictures: Tensor, epochs: int) -> Any:
    """As its train_vae.py does; two halvings, so that 32 pixels become 8×8 tokens."""
    vae = package.DiscreteVAE(
        image_size=32, num_layers=2, num_tokens=CODES, codebook_dim=512, hidden_dim=64, num_resnet_blocks=1,
        smooth_l1_loss=False, kl_div_loss_weight=0,
    )  # fmt: skip
    optimizer = torch.optim.Adam(vae.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.98)
    step, temperature = 0, 1.0
    for epoch in range(epochs):
        for chosen in batches(len(pictures)):
            loss = vae(pictures[chosen].float() / 255, return_loss=True, temp=temperature)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step % 100 == 0:
                schedule.step()
                temperature = max(temperature * math.exp(-1e-6 * step), 0.5)
                print(f"dalle-pytorch: image tokenizer {step} steps, epoch {epoch}, loss {loss.item():.4f}", flush=True)
    return vae


def wording(captions: list[str]) -> str:
    """The first, or now and then any of them."""
    if float(torch.rand(())) >= ALTERNATIVE_CAPTIONS:
        return captions[0]
    return captions[int(torch.randint(len(captions), ()))]


def to_bytes(pictures: Tensor) -> np.ndarray:
    """Its pictures lie in [-1,1]."""
    return ((pictures * 0.5 + 0.5).clamp(0, 1) * 255).round().byte().numpy()


def hand_over(directory: Path, step: int, seconds: float, pictures: dict[str, np.ndarray]) -> None:
    """A file that appears whole; waits until it is renamed, since judging by the same cores would slow training."""
    begun, drawn = directory / "begun.npz", directory / f"drawn-{step:07d}.npz"
    np.savez(begun, seconds=seconds, **pictures)  # type: ignore[arg-type]
    begun.rename(drawn)
    while drawn.exists():
        time.sleep(0.1)


def draw(dalle: Any, text: Tensor) -> dict[str, np.ndarray]:
    """The asked captions, once by each setting."""
    drawn = {}
    for name, setting in SETTINGS.items():
        with torch.random.fork_rng(devices=[]):  # else every training after a drawing would go on by the same dice
            torch.manual_seed(1)
            drawn[name] = to_bytes(dalle.generate_images(text.clone(), use_cache=True, **setting))
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--vae-epochs", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=240.0)
    options = parser.parse_args()
    directory: Path = options.directory
    torch.manual_seed(1)
    clock = Clock()
    package = imported()
    pictures = torch.from_numpy(np.load(directory / "pictures.npy"))
    captions = json.loads((directory / "captions.json").read_text())
    tokenizer = text_tokenizer([caption for several in captions["train"] for caption in several], directory)
    vae = train_vae(package, pictures, options.vae_epochs)
    dalle = package.DALLE(
        dim=112, vae=vae, num_text_tokens=IDS, text_seq_len=TEXT_LENGTH, depth=6, heads=4, dim_head=32,
        loss_img_weight=7,
    )  # fmt: skip
    trained = [parameter for parameter in dalle.parameters() if parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=3e-4)
    asked = tokenizer.tokenize(captions["asked"], TEXT_LENGTH, truncate_text=True)
    count = sum(parameter.numel() for parameter in trained)
    with torch.no_grad():  # what its training script does anew in each step; once is faster
        codes = torch.cat([vae.get_codebook_indices(part.float() / 255) for part in pictures.split(256)])
    clock.stop()
    own = sum(parameter.numel() for parameter in vae.parameters())
    sizes = f"{count:,} parameters, image tokenizer {own:,}"
    print(f"dalle-pytorch: {sizes}, which took {clock.seconds:.0f} s", flush=True)
    with torch.no_grad():
        pictures = torch.from_numpy(np.load(directory / "asked.npy")).float() / 255
        hand_over(
            directory, 0, clock.seconds, {"reconstructed": to_bytes(vae.decode(vae.get_codebook_indices(pictures)))}
        )
    clock.start()
    step, due = 0, FIRST
    is_over = clock.seconds >= options.minutes * 60
    while not is_over:
        for chosen in batches(len(codes)):
            said = [wording(captions["train"][int(i)]) for i in chosen]
            text = tokenizer.tokenize(said, TEXT_LENGTH, truncate_text=True)
            loss = dalle(text, codes[chosen], return_loss=True)
            optimizer.zero_grad()
            loss.backward()
            clip_grad_norm_(dalle.parameters(), 0.5)
            optimizer.step()
            step += 1
            is_over = clock.seconds >= options.minutes * 60
            if step == due or is_over:
                due = round(step * EVERY)
                clock.stop()
                print(f"dalle-pytorch: {step} steps, {clock.seconds:.0f} s, loss {loss.item():.3f}", flush=True)
                hand_over(directory, step, clock.seconds, draw(dalle, asked))
                clock.start()
            if is_over:
                break


if __name__ == "__main__":
    main()
