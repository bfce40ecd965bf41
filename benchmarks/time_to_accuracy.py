"""The race: how long a training on two cores takes until unseen pairs of things are drawn right in half of the cases.

    python benchmarks/time_to_accuracy.py --peer PEER/bin/python [--only mmgen] [--minutes 240] [--out race/]

mmgen against dalle-pytorch 1.6.6 (`race_dalle_pytorch.py`, run by the Python of an environment of its own). Same
pictures: 20,000 pairs on white at 32 pixels, whose held-out (shape, colour) pairs are never trained on. Same sizes: 64
image tokens out of 1,024, captions of 640 ids, 1.6 million parameters in the transformer, batches of 64. mmgen trains
by its command, with the recipe of `experiment=abilities_fast`; the rival by its own loss, with the learning rates,
schedules and clipping of its own training scripts. Each draws the same 200 captions along the way, by each of its
settings once; what is judged is whether both things' shapes and colours and the relation are right, and of several
settings the best counts. mmgen draws every 50 steps, the rival at steps that grow by a quarter; when the target was
reached is read off the line between the points on either side of it. The clock is that of training, image tokenizer,
start and reading included; drawing and judging stop it.

Prints each contestant's curve, the ratio, and how many of the asked pictures are still right after its image tokenizer
alone, the most that its drawings can be expected to reach. OUT/race.json keeps the curves, and is written after each
contestant. They run one after the other, by as many threads as there are cores. Nothing is asserted.

Whether everything runs to its end is seen in minutes, with too little of everything to draw what is asked, by adding

    --pictures 256 --asked 8 --tokenizer-steps 20 --steps 100 --vae-epochs 1 --minutes 1
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mmgen.checkpoint.parts import read_part
from mmgen.checkpoint.sharded import read_stored
from mmgen.checkpoint.steps import stored_state, verify
from mmgen.data.scenes import Scenes
from mmgen.errors import MmgenError
from mmgen.loading import load_part
from mmgen.samplers.autoregressive import Autoregressive
from mmgen.scenes.description import from_json
from mmgen.scenes.marking import judge

TARGET = 0.5
SIZE = 32
ATTRIBUTES = ["shape", "colour", "relation"]
DATA = [
    "dataset=scenes",
    "dataset.kinds=[pair]",
    "dataset.backgrounds=[white]",
    f"dataset.image_size={SIZE}",
    "tracking=disabled",
]
TOKENIZER = ["task=tokenizer", "tokenizer=emoji_vq", "task.optimizer.lr=3e-3"]
GENERATOR = [
    "task=generator",
    "generator.embed_dim=128",
    "generator.num_layers=6",
    "generator.qk_norm=false",
    "generator.token_noise=0.2",
    "task.optimizer={name: muon, lr: 1.0e-2, embedding_lr: 5.0e-2}",
    "task.ema_decay=0.99",
    "task.alternative_captions=0.1",
    "task.text_tokenizer={vocab_size: 640, context_length: 22, bpe_dropout: 0.0}",
]
EMA = "ema.module."
EVERY = 50  # steps between two drawings
RECONSTRUCTED = "reconstructed"  # what race_dalle_pytorch.py calls the asked pictures after its image tokenizer

Point = tuple[float, float]  # seconds of training, share right


def asked(dataset: Scenes) -> list[int]:
    return list(dataset.splits["heldout_pairs"])


def share_right(dataset: Scenes, pictures: Tensor) -> float:
    """Of pictures (B,3,H,W), one for each that is asked, read back by the judge."""
    truths = [from_json(dataset[i]["attributes"]["scene"]).canonical() for i in asked(dataset)]
    return sum(verdict.right(ATTRIBUTES) for _, verdict in judge(pictures, truths)) / len(truths)


# --- mmgen -----------------------------------------------------------------------------------------------------------


def mmgen_curve(dataset: Scenes, out: Path, tokenizer_steps: int, steps: int) -> Iterator[Point]:
    """Trains by two commands; each checkpoint is put aside as it appears, and its average drawn from afterwards."""
    began = time.perf_counter()
    data = [*DATA, f"dataset.num_samples={len(dataset.splits['train'])}"]
    names = {"tokenizer": "mmgen-tokenizer", "generator": "mmgen-generator"}
    command([*data, *TOKENIZER, f"trainer.max_steps={tokenizer_steps}", f"run.name={names['tokenizer']}"], out)
    seconds_before = time.perf_counter() - began
    generator = out / "runs" / names["generator"]
    keeper = Keeper(generator / "checkpoints", out / "kept")
    keeper.start()
    source = f"tokenizer_from=runs/{names['tokenizer']}"
    kept = [f"trainer.max_steps={steps}", f"task.checkpoint_every={EVERY}", source, f"run.name={names['generator']}"]
    command([*data, *GENERATOR, *kept], out)
    keeper.stop()
    image_tokenizer = load_part(read_part(out / "runs" / names["tokenizer"] / "model", trusted=True), trusted=True)
    model = load_part(read_part(generator / "model", trusted=True), trusted=True)
    sizes = f"{parameters(model):,} parameters, image tokenizer {parameters(image_tokenizer):,}"
    print(f"mmgen: {sizes}, which took {seconds_before:.0f} s", flush=True)
    with torch.no_grad():
        pictures = torch.stack([dataset[i]["image"] for i in asked(dataset)])
        tell_ceiling("mmgen", share_right(dataset, image_tokenizer.decode(image_tokenizer.encode(pictures))))
    text = model.text_tokenizer.encode([dataset[i]["caption"] for i in asked(dataset)])
    sampler = Autoregressive(temperature=0.5, guidance_scale=1.5)
    for path in sorted((out / "kept").glob("step-*")):
        state = stored_state(path)["state_dict"]
        average = {name.removeprefix(EMA): value for name, value in state.items() if name.startswith(EMA)}
        model.load_state_dict(read_stored(average))
        with torch.no_grad():
            tokens = sampler.draw(model, text, num_images=1, seed=1)[:, 0]
            right = share_right(dataset, image_tokenizer.decode(tokens.unflatten(1, image_tokenizer.grid)))
        yield seconds_before + keeper.seconds[path.name], right


def command(arguments: list[str], out: Path) -> None:
    subprocess.run([sys.executable, "-m", "mmgen.cli", "train", *arguments], cwd=out, check=True)


class Keeper(threading.Thread):
    """Copies the checkpoints of a training aside as they appear, and notes when that was."""

    def __init__(self, checkpoints: Path, kept: Path) -> None:
        super().__init__(daemon=True)
        self.checkpoints, self.kept, self.seconds = checkpoints, kept, dict[str, float]()
        self._began, self._ending = time.perf_counter(), threading.Event()

    def run(self) -> None:
        while not self._ending.wait(0.2):
            self._look()

    def stop(self) -> None:
        self._ending.set()
        self.join()
        self._look()

    def _look(self) -> None:
        for path in self.checkpoints.glob("step-*"):
            if path.name in self.seconds:
                continue
            try:
                verify(path)
            except MmgenError:
                continue  # another is already in its place
            self.seconds[path.name] = time.perf_counter() - self._began
            shutil.copytree(path, self.kept / path.name, copy_function=os.link)


# --- dalle-pytorch ---------------------------------------------------------------------------------------------------


def peer_curve(dataset: Scenes, out: Path, python: str, vae_epochs: int, minutes: float) -> Iterator[Point]:
    """Hands the pictures over as files, and judges what is drawn as it appears; the rival waits until that is done."""
    shared = out / "dalle_pytorch"
    shared.mkdir()
    train = dataset.splits["train"]
    samples = [dataset[i] for i in train]
    for name, images in (("pictures", samples), ("asked", [dataset[i] for i in asked(dataset)])):
        np.save(shared / f"{name}.npy", np.stack([(s["image"] * 255).round().byte().numpy() for s in images]))
    captions = {
        "train": [sample["captions"] for sample in samples],
        "asked": [dataset[i]["caption"] for i in asked(dataset)],
    }
    (shared / "captions.json").write_text(json.dumps(captions))
    script = Path(__file__).with_name("race_dalle_pytorch.py")
    errors = shared / "stderr.txt"
    with errors.open("w") as file:
        arguments = [str(shared), "--vae-epochs", str(vae_epochs), "--minutes", str(minutes)]
        process = subprocess.Popen([python, str(script), *arguments], stderr=file)
    try:
        while True:
            ended = process.poll() is not None
            for path in sorted(shared.glob("drawn-*.npz")):
                with np.load(path) as drawn:
                    found = dict(drawn)
                seconds = float(found.pop("seconds"))
                right = {n: share_right(dataset, torch.from_numpy(found[n]).float() / 255) for n in found}
                path.rename(path.with_name(path.name.replace("drawn", "judged")))  # and the rival goes on
                if RECONSTRUCTED in right:
                    tell_ceiling("dalle-pytorch", right[RECONSTRUCTED])
                    continue
                print("  ".join(f"{name} {share:.1%}" for name, share in right.items()), flush=True)
                yield seconds, max(right.values())
            if ended and process.returncode:
                end = errors.read_text(errors="replace")[-2000:]
                sys.exit(
                    f"dalle-pytorch ended with {process.returncode}, so that nothing is won; {errors} ends:\n{end}"
                )
            if ended:
                return
            time.sleep(1)
    finally:
        process.terminate()
        process.wait()


def parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def tell_ceiling(name: str, right: float) -> None:
    print(f"{name}: {right:.1%} of the asked pictures are right after its image tokenizer alone", flush=True)


def crossing(points: list[Point]) -> float | None:
    """Seconds to the target, on the line between the points on either side; of a first point, its own; None: never."""
    before: Point | None = None
    for seconds, right in points:
        if right >= TARGET:
            if before is None:
                return seconds
            return before[0] + (seconds - before[0]) * (TARGET - before[1]) / (right - before[1])
        before = seconds, right
    return None


def until(curve: Iterator[Point], name: str) -> list[Point]:
    """The curve's points, told one by one, until the target is reached."""
    points = []
    for seconds, right in curve:
        points.append((seconds, right))
        print(f"{name}: {seconds:6.0f} s  {right:6.1%}", flush=True)
        if right >= TARGET:
            break
    return points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", metavar="PYTHON", help="of an environment with dalle-pytorch 1.6.6")
    parser.add_argument("--only", choices=["mmgen", "dalle-pytorch"], help="the other's curve is read from OUT")
    parser.add_argument("--pictures", type=int, default=20_000, help="to learn from, at least a batch of 64")
    parser.add_argument("--asked", type=int, default=200, help="captions that are drawn")
    parser.add_argument("--tokenizer-steps", type=int, default=450, help="of mmgen's image tokenizer")
    parser.add_argument("--steps", type=int, default=600, help="of mmgen's generator")
    parser.add_argument("--vae-epochs", type=int, default=3, help="of dalle-pytorch's image tokenizer")
    parser.add_argument("--minutes", type=float, default=240.0, help="after which dalle-pytorch gives up")
    parser.add_argument("--out", type=Path, default=Path("race"), help="a new directory, or one for --only")
    options = parser.parse_args()
    out = options.out.resolve()
    if options.only != "mmgen" and not options.peer:
        parser.error("--peer is missing: the Python of an environment with dalle-pytorch, see race_dalle_pytorch.py")
    if options.pictures < 64:
        parser.error(f"--pictures is {options.pictures}; dalle-pytorch learns by whole batches of 64")
    out.mkdir(parents=True, exist_ok=options.only is not None)
    if options.only == "mmgen" and (out / "kept").exists():
        parser.error(f"--out {options.out} has a training of mmgen already, which would go on in too short a time")
    results = out / "race.json"
    dataset = Scenes(
        image_size=SIZE,
        num_samples=options.pictures,
        kinds=["pair"],
        backgrounds=["white"],
        num_heldout=options.asked,
    )
    curves: dict[str, list[Point]] = json.loads(results.read_text()) if results.is_file() else {}
    contestants = {
        "mmgen": mmgen_curve(dataset, out, options.tokenizer_steps, options.steps),
        "dalle-pytorch": peer_curve(dataset, out, options.peer, options.vae_epochs, options.minutes),
    }
    for name, curve in contestants.items():
        if options.only in (name, None):
            curves[name] = until(curve, name)
            results.write_text(json.dumps(curves, indent=1))
    times = {name: crossing(points) for name, points in curves.items()}
    for name, seconds in times.items():
        best = max((right for _, right in curves[name]), default=0.0)
        print(f"{name}: {seconds:.0f} s to {TARGET:.0%}" if seconds else f"{name}: {best:.0%} at the most")
    ours, theirs = times.get("mmgen"), times.get("dalle-pytorch")
    if ours and theirs:
        print(f"{theirs / ours:.1f} times as fast")
    elif ours and curves.get("dalle-pytorch"):
        print(f"more than {curves['dalle-pytorch'][-1][0] / ours:.1f} times as fast")


if __name__ == "__main__":
    main()
