"""Every installed component keeps the contract of its kind. Registering one enrols it here."""

from __future__ import annotations

import json
import tarfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmgen import registry
from mmgen.data.scenes import Scenes
from mmgen.images import encode_png, save_png
from mmgen.protocols import Sample
from mmgen.testing import evaluators, small_samples
from mmgen.testing.checks import run
from mmgen.testing.kits import prepare, small_arguments
from tests.data.fakes import Noisy, tokens_at
from tests.models.open_clip_models import open_clip

INSTALLED = [
    (kind, f"{name}@{claim.distribution}")
    for kind in registry.KINDS
    for name, claims in registry.components(kind).items()
    for claim in claims
]


def folder(path: Path) -> dict[str, Any]:
    for sample in small_samples(6):
        save_png(sample["image"], path / f"{sample['id']}.png")
        (path / f"{sample['id']}.txt").write_text(sample["caption"])
    return {"path": str(path)}


def tokens(path: Path) -> dict[str, Any]:
    return {"path": str(tokens_at(path / "tokens", Noisy(20), "dalle_generator", variants=3))}


def parquet(path: Path) -> dict[str, Any]:
    import datasets

    samples = small_samples(6)
    rows = {
        "image": [{"bytes": encode_png(sample["image"]), "path": f"{sample['id']}.png"} for sample in samples],
        "text": [sample["caption"] for sample in samples],
    }
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path / "bars.parquet")
    return {"path": str(path / "bars.parquet"), "streaming": True}


def shard(path: Path) -> dict[str, Any]:
    bars = folder(path / "bars")["path"]
    with tarfile.open(path / "0.tar", "w") as archive:
        for file in sorted(Path(bars).iterdir()):
            archive.add(file, file.name)
    return {"path": str(path / "0.tar")}


def open_clip_model(path: Path) -> dict[str, Any]:
    """A tiny one; the package is imported first, without the torchvision that it asks for."""
    open_clip()
    text = {"width": 32, "heads": 2, "layers": 1}
    vision = {"layers": 1, "width": 32, "head_width": 16, "patch_size": 8}
    (path / "tiny.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    return {"model": str(path / "tiny.json")}


def mixture(path: Path) -> dict[str, Any]:
    (path / "few").mkdir()
    return {"parts": {"few": {"name": "folder", "weight": 2.0, **folder(path / "few")}, "scenes": {}}}


# Options without a default, by kind and name: a component that needs some says here which.
REQUIRED: dict[tuple[str, str], Callable[[Path], dict[str, Any]]] = {
    ("dataset", "folder"): folder,
    ("dataset", "mixture"): mixture,
    ("dataset", "huggingface"): parquet,
    ("dataset", "tokens"): tokens,
    ("dataset", "webdataset"): shard,
    ("encoder", "open_clip"): open_clip_model,
}

def build(kind: str, name: str, place: Path) -> Any:
    required = REQUIRED.get((kind, name.partition("@")[0]), lambda place: {})(place)
    trained_here = required or not name.startswith("efficientnet")
    runtime = small_arguments(kind, None if trained_here else registry.find(kind, name).load())
    return registry.build(kind, {"name": name, **required}, **runtime)


def _samples(dataset: str, count: int) -> list[Sample]:
    built = registry.build("dataset", {"name": dataset})
    return [built[i] for i in range(count)]


# Evaluators that need what the kit's samples lack.
SAMPLES: dict[str, Callable[[], list[Sample]]] = {
    "scene_judge": lambda: [Scenes(num_samples=48)[i] for i in range(48)],
    "emoji_judge": lambda: _samples("emoji_scenes", 48),
}


SLOW = ("fid_effnet_lite0", "kid_effnet_lite0")  # a network of ImageNet reads every picture of every check
EVERY = [pytest.param(*one, marks=[pytest.mark.slow] * (one[1].partition("@")[0] in SLOW)) for one in INSTALLED]


@pytest.mark.parametrize(("kind", "name"), EVERY)
def test_component_conforms(kind: str, name: str, tmp_path: Path) -> None:
    own = SAMPLES.get(name.partition("@")[0])
    built = build(kind, name, tmp_path)
    assert len(run(evaluators.prepare(built, own()) if own else prepare(kind, built))) >= 6


def test_all_of_mmgens_own_are_enrolled() -> None:
    ours = {(kind, name.partition("@")[0]) for kind, name in INSTALLED if name.endswith(f"@{registry.OURS}")}
    declared = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]["entry-points"]
    assert ours == {(group.removeprefix("mmgen."), name) for group, names in declared.items() for name in names}
    assert {kind for kind, _ in ours} == set(registry.KINDS)
    assert len(ours) == 18
