"""lineage.json: what made what in a run. wandb says the same where it is used; this is there always."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import mmgen
from mmgen.checkpoint.parts import Part
from mmgen.data.module import Samples
from mmgen.files import write_json
from mmgen.runs.directory import RunDirectory

VERSIONS = ("torch", "pytorch-lightning", "hydra-core", "wandb", "tokenizers")


def write_lineage(
    directory: RunDirectory,
    parts: Mapping[str, Part],
    pictures: Samples,
    dataset: str,
    *,
    rivals: Mapping[str, Part] | None = None,
    judged: bool = False,
) -> None:
    """Writes lineage.json into a run's directory: the checkpoints, the data, the config, the versions.

    Args:
        directory: the run's.
        parts: what it trained, by kind.
        pictures: the data.
        dataset: its name.
        rivals: further encoders, by the folder that each lies in.
        judged: whether the parts drew and were judged; then evaluation.json and the samples are of them.
    """
    rivals, several = rivals or {}, not (directory.model / "manifest.json").is_file()
    lineage: dict[str, Any] = {
        "parts": {kind: _part(part, f"{kind}/model" if several else "model") for kind, part in parts.items()},
        "rivals": {name: _part(part, f"{name}/model") for name, part in rivals.items()},
        "data": {"name": dataset, "fingerprint": pictures.fingerprint, "size": len(pictures)},
        "config_fingerprint": directory.status().config_fingerprint,
        "versions": {
            "mmgen": mmgen.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in VERSIONS},
        },
        "attribution": getattr(getattr(pictures, "dataset", pictures), "attribution", ""),
    }
    if judged:
        made_with = {name: part.fingerprint for name, part in {**parts, **rivals}.items()}
        lineage["samples"] = {"path": "evaluation.json", "requires": {**made_with, "data": pictures.fingerprint}}
    write_json(directory.path / "lineage.json", lineage)


def _part(part: Part, path: str) -> dict[str, Any]:
    started = {"init_from": part.info["init_from"]} if "init_from" in part.info else {}
    about = {"fingerprint": part.fingerprint, "path": path, "step": part.info.get("step"), "requires": part.requires}
    return about | started
