"""What wandb is told of the things that a run makes and uses, so that it can link them: data, parts, samples."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmgen.errors import MmgenError
from mmgen.files import read_json
from mmgen.tracking.wandb_mirror import SETTINGS

if TYPE_CHECKING:
    from mmgen.checkpoint.parts import Part

LONGEST = 128  # characters of a name that wandb takes
_NOT_FOR_NAMES = re.compile(r"[^A-Za-z0-9._+-]+")


@dataclass(frozen=True)
class Artifact:
    """One thing. What has the same name and the same content is the same version on wandb, whoever records it: so a
    generator is linked with the tokenizer that another run has made.

    Args:
        name: as `artifact_name` makes it.
        type: dataset, model or samples.
        metadata: with the fingerprint, where there is one. With neither path nor files it is the content, too.
        path: a file or folder to refer to: its checksum is recorded, and not a byte is copied or sent.
        files: by the name inside the artifact, files that are sent, and copied only then.
    """

    name: str
    type: str
    metadata: dict[str, Any]
    path: str | None = None
    files: dict[str, str] = field(default_factory=dict)

    def told(self) -> dict[str, Any]:
        """As the follower reads it."""
        return asdict(self)


def artifact_name(*words: str) -> str:
    """How wandb calls a thing of a run, such as a part."""
    return _NOT_FOR_NAMES.sub("-", "-".join(words))[-LONGEST:]


def dataset_artifact(data: Mapping[str, Any]) -> Artifact:
    """The digest of a dataset. Its pictures stay where they are.

    Args:
        data: name, fingerprint and size.
    """
    told = {key: data[key] for key in ("name", "fingerprint", "size")}
    return Artifact(artifact_name("dataset", str(data["name"])), "dataset", told)


def part_artifact(part: Part, directory: Path, group: str) -> Artifact:
    """A trained part.

    Args:
        directory: where it lies.
        group: of the runs that it was trained in.
    """
    parents = {**part.requires, "data": str(part.info.get("data", ""))}
    metadata = {"kind": part.kind, "fingerprint": part.fingerprint, "parents": parents}
    return Artifact(artifact_name(group, part.kind), "model", metadata, str(directory.resolve()))


def used_part(part: Part) -> Artifact | None:
    """A part that came from disk, as the run that trained it recorded it; by its fingerprint where no run did."""
    if part.path is None:
        return None
    try:
        group = str(read_json(part.path.parent / "wandb" / SETTINGS, trusted=True)["group"])
    except (MmgenError, KeyError, TypeError):
        group = part.fingerprint[:12]
    return part_artifact(part, part.path, group)
