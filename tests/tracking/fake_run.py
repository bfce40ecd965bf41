"""Writes the directory of a run as `mmgen run` leaves it, with made-up numbers and pictures."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from mmgen.images import grid, save_png

Draw = Callable[[int, float], Tensor]  # (number of the picture, blur in [0,1]) -> (3,H,W)

CAPTIONS = (
    "firefighter: dark skin tone", "woman in lotus position: medium-light skin tone", "red apple", "police car light",
    "person cartwheeling: medium skin tone", "hot beverage", "a cat wearing a space suit", "T-Rex",
)  # fmt: skip
CONFIG: dict[str, Any] = {
    "run": {"name": "quickstart", "dir": "runs"},
    "seed": 1,
    "dataset": {"name": "emoji", "image_size": 32},
    "tokenizer": {"name": "vq", "codebook_size": 1024},
    "generator": {"name": "transformer", "num_layers": 6},
    "encoder": {"name": "clip", "embed_dim": 128},
    "sampler": {"name": "autoregressive", "guidance_scale": 3.0},
    "tracking": {"mode": "offline", "api_key": "hunter2"},
}
STEPS = {"tokenizer": 1500, "generator": 3000, "encoder": 1200}


def disc(number: int, blur: float) -> Tensor:
    """A coloured disc on white, another for each number."""
    dice = random.Random(number)
    colour = torch.tensor([dice.random() for _ in range(3)])[:, None, None]
    at = torch.arange(32.0)
    radius = dice.uniform(6, 13)
    distance = ((at[:, None] - dice.uniform(11, 21)) ** 2 + (at[None] - dice.uniform(11, 21)) ** 2).sqrt()
    inside = ((radius - distance) / (0.5 + 4 * blur)).sigmoid()
    return 1 - inside * (1 - colour)


def make_run(
    path: Path, captions: tuple[str, ...] = CAPTIONS, draw: Draw = disc, steps: dict[str, int] = STEPS
) -> Path:
    """A finished run with everything in it."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    write(path / "status.json", status(None, 0, 0, 0.0))
    for kind, count in steps.items():
        make_stage(path / kind, kind, count)
    write(path / "evaluation.json", evaluation(path, captions, draw))
    write(path / "lineage.json", lineage())
    save_png(torch.rand(3, 64, 256), path / "sheet.png")
    return path


def make_stage(path: Path, kind: str, steps: int) -> Path:
    """One training, as `mmgen train` leaves it."""
    (path / "model").mkdir(parents=True, exist_ok=True)
    stage_config = {"run": {"name": f"{kind}-1"}, "seed": 1, "task": {"name": kind}, kind: CONFIG[kind]}
    (path / "config.yaml").write_text(yaml.safe_dump(stage_config))
    write(path / "status.json", status(kind, steps, steps, steps / 6.1))
    dice = random.Random(kind)
    with (path / "metrics.jsonl").open("w") as file:
        for step in range(0, steps, 5):
            level = 0.5 + 6 * math.exp(-step / (steps / 6))
            row = {
                "train/loss": level * dice.uniform(0.93, 1.07),
                "train/lr": 1e-3 * min(1, step / 100) * (0.5 + 0.5 * math.cos(math.pi * step / steps)),
                "train/grad_norm": dice.lognormvariate(0, 0.4),
            }
            if kind == "tokenizer":
                row["train/codebook_usage"] = 1 - math.exp(-step / 100)
                row["train/codebook_perplexity"] = 20 + 440 * (1 - math.exp(-step / 300))
            file.write(json.dumps({"step": step, "time": 1.8e9 + step, **row}) + "\n")
            if step % (steps // 6) == 0:
                validation = {"val/loss": level * 1.08} | ({"val/psnr": 27 - level} if kind == "tokenizer" else {})
                file.write(json.dumps({"step": step, "time": 1.8e9 + step, **validation}) + "\n")
    return path


def status(stage: str | None, step: int, max_steps: int, seconds: float) -> dict[str, Any]:
    return {
        "state": "finished", "stage": stage, "step": step, "max_steps": max_steps, "seconds": seconds,
        "config_fingerprint": "a1b2c3d4e5f60718", "started": "2026-11-22T20:40:00+00:00",
        "updated": "2026-11-22T20:52:00+00:00", "pid": 4127,
    }  # fmt: skip


def finding(name: str, value: float, n: int, unit: str = "", chance: float | None = None, note: str = "") -> Any:
    return {"name": name, "value": value, "n": n, "unit": unit, "chance": chance, "note": note}


def judged(*numbers: Any, stood_aside: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "numbers": list(numbers),
        "tables": {},
        "pictures": {},
        "depends_on": [],
        "stood_aside": stood_aside,
        **more,
    }


def evaluation(path: Path, captions: tuple[str, ...], draw: Draw) -> dict[str, Any]:
    drawings, classified = [], []
    for number, caption in enumerate(captions):
        files = [f"samples/drawing-{number:02d}-{rank}.png" for rank in range(1, 5)]
        for rank, file in enumerate(files):
            save_png(draw(number, 0.2 * (rank + 1)), path / file)
        original = f"samples/original-{number:02d}.png" if number != 6 else None
        if original:
            save_png(draw(number, 0.0), path / original)
        drawings.append(
            {
                "caption": caption,
                "id": f"u{number:04x}",
                "split": "heldout_pairs" if original else "",
                "pictures": files,
                "scores": [0.412 - 0.031 * rank for rank in range(4)],
                "original": original,
            }
        )
        labels = [{"label": other, "share": 0.02} for other in captions]
        labels[number]["share"] = 0.71
        if number == 2:
            labels[0]["share"] = 0.8
        picture = f"samples/classified-{number:02d}.png"
        save_png(draw(number, 0.0), path / picture)
        classified.append({"picture": picture, "id": f"u{number:04x}", "truth": caption, "labels": labels})
    for name, blur in (("originals", 0.0), ("reconstructions", 0.3)):
        save_png(grid(torch.stack([draw(n, blur) for n in range(24)]), 12), path / f"samples/{name}.png")
    return {
        "findings": findings(),
        "drawings": drawings,
        "classified": classified,
        "reconstructions": {
            "originals": "samples/originals.png",
            "reconstructions": "samples/reconstructions.png",
        },
        "seconds": {"drawing": 71.2, "reconstruction": 0.8, "retrieval": 2.1, "nearest_picture": 6.3},
    }


def findings() -> dict[str, Any]:
    by_tone = [
        {"tone": tone, "pictures": 66, "right, %": 100 * share} for tone, share in (("light", 0.91), ("dark", 0.94))
    ]
    return {
        "reconstruction": judged(
            finding("reconstruction/psnr", 24.312, 330, "dB", note="mean over pictures; k-means on patches: 22.5 dB"),
            finding("reconstruction/ssim", 0.8712, 330),
            finding("reconstruction/codebook_usage", 0.871, 330, "%"),
            finding("reconstruction/codebook_perplexity", 431.7, 3500, note="of 1,024 codes"),
        ),
        "retrieval": judged(
            finding("retrieval/R@1", 0.463, 330, "%", 1 / 330, "caption to picture"), depends_on=["dataset", "encoder"]
        ),
        "zero_shot": judged(
            finding("zero_shot/tone", 0.927, 330, "%", 0.2, "among the five tones"),
            finding("zero_shot/name", 0.888, 330, "%", 0.05, "among 20 random names"),
            tables={"Zero-shot: tone": by_tone},
        ),
        "nearest_picture": judged(
            finding("nearest_picture/best_of_8", 0.573, 300, "%", 0.0003, "the nearest of all is the right one"),
            finding("nearest_picture/baseline_interpolated", 0.71, 300, "%", note="interpolating the trained tones"),
        ),
        "aesthetics": judged(stood_aside="the dataset declares no classes and templates"),
    }


def lineage() -> dict[str, Any]:
    prints = {kind: f"{number}3fa9c1e5b7d2" * 4 for number, kind in enumerate(STEPS)}
    requires = {"tokenizer": {}, "generator": {"tokenizer": prints["tokenizer"]}, "encoder": {}}
    parts = {
        kind: {
            "fingerprint": prints[kind], "path": f"{kind}/model", "step": steps,
            "requires": {"data": "81c2" * 8, **requires[kind]},
        }
        for kind, steps in STEPS.items()
    }  # fmt: skip
    return {
        "parts": parts,
        "data": {"name": "emoji", "fingerprint": "81c2" * 8, "size": 3919},
        "config_fingerprint": "a1b2c3d4e5f60718",
        "versions": {"mmgen": "0.1.0", "python": "3.11.7", "torch": "2.13.0", "pytorch-lightning": "2.6.6"},
        "attribution": "Twemoji © Twitter, Inc and other contributors, CC-BY 4.0",
    }


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))
