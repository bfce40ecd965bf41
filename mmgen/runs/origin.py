"""origin.json: what a run was made by, so that it can be made again: command, config, data, code, versions, machine.

Written when a run begins. `sessions` has an entry for each start that differs in code, versions or machine from the one
before, so that a run that was gone on with elsewhere says so.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mmgen import registry
from mmgen.errors import CheckpointError, MmgenError
from mmgen.files import read_json, write_json
from mmgen.runs.config import plain

NAME = "origin.json"
VERSIONS = ("torch", "pytorch-lightning", "numpy", "tokenizers", "hydra-core", "wandb")
SESSION = ("code", "versions", "machine")  # in the order in which differences are told
_GIT_SECONDS = 10
_CODE = ("mmgen", "conf", "plugins", "pyproject.toml")  # of a checkout; changes elsewhere change no number


def origin(
    command: str, config: Mapping[str, Any], data: Mapping[str, Any], machine: Mapping[str, Any]
) -> dict[str, Any]:
    """What origin.json holds.

    Args:
        command: run or train.
        config: the composed config; secrets are redacted.
        data: the dataset's name, fingerprint and size.
        machine: what the numbers depend on and only torch knows: threads, processes, devices.
    """
    session = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "code": code_version(config),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in VERSIONS}},
        "machine": {"system": f"{platform.system()} {platform.machine()}", "processor": processor(), **machine},
    }
    return {
        "command": command,
        "directory": os.getcwd(),
        "config": plain(config),
        "data": dict(data),
        "sessions": [session],
    }


def keep(directory: Path, made: Mapping[str, Any]) -> None:
    """Writes origin.json into a run's directory, or adds a session to the one that is there, if it is another."""
    file = directory / NAME
    if not file.is_file():
        write_json(file, made)
        return
    kept, session = read_origin(directory), made["sessions"][0]
    last = kept["sessions"][-1]
    if any(last.get(part) != session[part] for part in SESSION):
        write_json(file, {**kept, "sessions": [*kept["sessions"], session]})


def read_origin(directory: Path) -> dict[str, Any]:
    """The origin of a run.

    Raises:
        CheckpointError: there is none, or it is not ours.
    """
    return checked(read_json(directory / NAME, trusted=True), str(directory / NAME))


def in_tracker(made: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a tracker's config holds of an origin: the code for people, and the whole as one text. Trackers write 1.0
    as 1, which means another thing to some options."""
    return {"code": made["sessions"][0]["code"], "origin": json.dumps(made)} if made else {}


def checked(found: Any, where: str) -> dict[str, Any]:
    """What was read as an origin, if it is one.

    Raises:
        CheckpointError: it is something else.
    """
    kinds = {"command": str, "directory": str, "config": dict, "data": dict, "sessions": list}
    sessions = found.get("sessions") if isinstance(found, dict) else None
    if (
        not isinstance(found, dict)
        or any(not isinstance(found.get(key), kind) for key, kind in kinds.items())
        or not sessions
        or not all(isinstance(one, dict) and all(isinstance(one.get(p), dict) for p in SESSION) for one in sessions)
    ):
        raise CheckpointError(f"{where} does not tell what a run was made by", code="MMG-K05", fix="another RUN")
    return found


def config_of(directory: Path) -> dict[str, Any]:
    """The composed config of a run; of one without an origin, what its config.yaml holds.

    Raises:
        ConfigError: neither can be read.
    """
    from mmgen.runs.directory import RunDirectory

    try:
        found: dict[str, Any] = read_origin(directory)["config"]
        return found
    except MmgenError:
        return RunDirectory(directory).read_config()


def code_version(config: Mapping[str, Any]) -> dict[str, Any]:
    """Which code ran: mmgen's version, those of the plugins that the config chooses, and the commit of a checkout.

    `changes` is a digest of what differs from the commit; null where nothing does.
    """
    return {"mmgen": _version(registry.OURS), **checkout(), "plugins": _plugins(config)}


@functools.cache
def checkout() -> dict[str, Any]:
    """`commit` and `changes` of the checkout that mmgen is imported from; both null where it is none."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return {"commit": None, "changes": None}
    commit, changed = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain", "--", *_CODE)
    if commit is None or changed is None:
        return {"commit": None, "changes": None}
    digest = hashlib.sha256(changed + (_git(root, "diff", "HEAD", "--", *_CODE) or b"")).hexdigest()[:12]
    return {"commit": commit.decode().strip(), "changes": digest if changed.strip() else None}


def _git(root: Path, *words: str) -> bytes | None:
    command = ["git", "-C", str(root), "-c", "core.fsmonitor=false", *words]
    try:
        return subprocess.run(command, capture_output=True, check=True, timeout=_GIT_SECONDS).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def _plugins(config: Mapping[str, Any]) -> dict[str, str]:
    """The distributions beside mmgen's own that the chosen components are of."""
    found = {}
    for kind in registry.KINDS:
        section = config.get(kind)
        if not isinstance(section, Mapping):
            continue
        for one in section.values() if kind in registry.SEVERAL else [section]:
            name = one.get("name") if isinstance(one, Mapping) else None
            if isinstance(name, str) and ":" not in name:
                component = registry.find(kind, name)
                found[component.distribution] = component.version
    found.pop(registry.OURS, None)
    return dict(sorted(found.items()))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@functools.cache
def processor() -> str:
    """The processor's model; the last bits of a sum depend on it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()
