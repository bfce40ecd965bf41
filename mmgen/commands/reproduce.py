"""`mmgen reproduce RUN`: the same run again, what differs told first, and whether the numbers are the same."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mmgen.commands.actions import Reproduce, only, read_options
from mmgen.commands.attempts import FAILED_PARTS
from mmgen.commands.composition import check_tree
from mmgen.commands.help import table
from mmgen.commands.recorded import Recorded, find_recorded, weights_of
from mmgen.errors import ConfigError, ConfigErrors, DataError, quoted
from mmgen.files import write_json
from mmgen.options import written
from mmgen.runs.agreement import Agreement, compare_evaluations, compare_rows
from mmgen.runs.directory import RunDirectory
from mmgen.runs.metrics import MetricsFile
from mmgen.runs.origin import SESSION
from mmgen.runs.redaction import hides

DIFFERS = 4  # the exit code of a run whose numbers are others

Difference = tuple[str, Any, Any]


def main(words: list[str], overrides: list[str], config_dir: Path | None = None) -> int:
    """Runs it again in a directory of its own; gives the exit code, 4 where a number differs or an evaluator failed."""
    only(words, 1, 1, "mmgen reproduce RUN")
    secrets = [text for text in overrides if "." in text.partition("=")[0]]
    options = read_options(Reproduce, [text for text in overrides if text not in secrets])
    recorded = find_recorded(Path(words[0]))
    config = _config(recorded, secrets, options.trust)
    config["run"] = _place(recorded, options)
    config["resume"] = "never"
    differences = list(_differences(recorded, config))
    _tell(recorded, differences)
    _refuse(differences, options.strict)
    from mmgen.commands.launch import call  # Lightning comes with the command

    code = call(recorded.command, config, [])
    if code not in (0, FAILED_PARTS):  # what an evaluator failed at is missing; the rest is there to be compared
        return code
    return _report(recorded, Path(config["run"]["dir"]) / config["run"]["name"], differences) or code


def _config(recorded: Recorded, secrets: list[str], trust: bool) -> dict[str, Any]:
    """The recorded config, checked as one that came from a file: it never reaches Hydra, and names what is installed.

    Raises:
        ConfigErrors: all that this version of mmgen refuses in it.
        ConfigError: it holds a secret, which was not recorded.
    """
    tree: dict[str, Any] = recorded.config
    lacking = [key for key, value in _flat(tree) if hides(value)]
    for text in secrets:
        key, _, value = text.partition("=")
        if key not in lacking:
            raise ConfigError(
                f"{quoted(key)} is as it was recorded",
                code="MMG-C07",
                where="command line",
                why="only what was left out, being secret, can be given",
                fix=f"mmgen config show {recorded.path}, and a run of its own",
            )
        lacking.remove(key)
        *sections, leaf = key.split(".")
        place = tree
        for section in sections:
            place = place[section]
        place[leaf] = _listed(value) if isinstance(place[leaf], list) or value[:1] == "[" else value
    if lacking:
        raise ConfigError(
            f"{lacking[0]} was not recorded, being secret", code="MMG-C05", where=lacking[0], fix=f"{lacking[0]}=VALUE"
        )
    config, errors = check_tree(recorded.command, tree, trusted=trust)
    if errors:
        raise ConfigErrors(errors)
    return config


def _listed(text: str) -> Any:
    """What stood in a list is given as one: `KEY=[A,B]`."""
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    return found if isinstance(found, list) else text


def _flat(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _place(recorded: Recorded, options: Reproduce) -> dict[str, str]:
    """`run.dir` and `run.name` of the new run: beside the old one, under a name that is free."""
    directory = Path(options.dir) if options.dir is not None else recorded.beside
    name = options.name or f"{recorded.name}-again"
    number = 2
    while options.name is None and (directory / name).exists():
        name = f"{recorded.name}-again-{number}"
        number += 1
    return {"dir": str(directory), "name": name}


def _differences(recorded: Recorded, config: dict[str, Any]) -> Iterator[Difference]:
    """What differs between then and now, of what the numbers depend on.

    Raises:
        DataError, CheckpointError: the data or a part that is needed cannot be read.
    """
    from mmgen.commands.made_by import made_by
    from mmgen.commands.preflight import read_pictures
    from mmgen.loading import part_of

    pictures = read_pictures(config["dataset"])
    then = recorded.origin
    now = made_by(recorded.command, config, pictures)
    assert now is not None
    if then["directory"] != now["directory"]:
        yield "directory", then["directory"], now["directory"]
    for part in SESSION:
        before, after = then["sessions"][-1][part], now["sessions"][0][part]
        for key in dict.fromkeys([*before, *after]):
            if before and before.get(key) != after.get(key):
                yield f"{part}.{key}", before.get(key), after.get(key)
    for key in ("fingerprint", "size"):
        if then["data"].get(key) not in (None, now["data"][key]):
            yield f"data.{key}", then["data"][key], now["data"][key]
    for key, fingerprint in then.get("requires", {}).items():
        kind = config["task"]["name"] if key == "init_from" else key.removesuffix("_from")
        found = part_of(str(config[key]), kind, key).fingerprint
        if found != fingerprint:
            yield f"data.{key}", fingerprint, found


def _tell(recorded: Recorded, differences: list[Difference]) -> None:
    for note in recorded.notes:
        print(f"note: {note}", file=sys.stderr)
    for key, before, after in differences:
        print(f"differs: {key}: {_short(before)} → {_short(after)}", file=sys.stderr)
    if not differences:
        print("data, code, versions and machine are as they were", file=sys.stderr)


def _short(value: Any) -> str:
    text = written(value) if not isinstance(value, Mapping) else str(dict(value))
    return text if len(text) <= 80 else f"{text[:79]}…"


def _refuse(differences: list[Difference], strict: str) -> None:
    """Raises DataError MMG-D60 or ConfigError MMG-C60 where what must be the same is not."""
    data = [one for one in differences if one[0].startswith("data.")]
    if data and strict != "nothing":
        key, before, after = data[0]
        raise DataError(
            f"{key.removeprefix('data.')} is {_short(after)}, and the run had {_short(before)}",
            code="MMG-D60",
            where="dataset" if key in ("data.fingerprint", "data.size") else key,
            why="trained on something else it would be another run",
            fix="bring back what it was trained on, or strict=nothing to run it with this",
        )
    others = [one for one in differences if one[0] != "directory"]
    if others and strict == "all":
        raise ConfigError(
            f"{len(others)} of the things that a run depends on differ, such as {others[0][0]}",
            code="MMG-C60",
            where="strict=all",
            why="they are told above",
            fix="install what it was made with, or strict=data",
        )


def _report(recorded: Recorded, path: Path, differences: list[Difference]) -> int:
    """Compares, prints, writes reproduction.json; the exit code."""
    found: dict[str, Agreement] = {}
    for kind, rows in recorded.rows.items():
        stage = RunDirectory(path / kind if recorded.command == "run" else path)
        found[kind] = compare_rows(rows, MetricsFile(stage.metrics_file).rows())
    if recorded.evaluation:
        found["evaluation"] = compare_evaluations(recorded.evaluation, RunDirectory(path).read_evaluation())
    weights = {kind: _weights(path, kind, recorded) == digest for kind, digest in recorded.weights.items()}
    told: list[tuple[str, ...]] = []
    for kind, agreement in found.items():
        same = {True: "the same weights", False: "other weights"}.get(weights.get(kind), "")  # type: ignore[arg-type]
        told.append((kind, agreement.told(), same))
    print("\n".join(table(told)))
    agrees = bool(found) and all(one.exact for one in found.values()) and all(weights.values())
    write_json(
        path / "reproduction.json",
        {
            "of": str(recorded.path),
            "agrees": agrees,
            "differences": [{"key": key, "then": before, "now": after} for key, before, after in differences],
            "compared": {kind: one.described() | {"same_weights": weights.get(kind)} for kind, one in found.items()},
        },
    )
    print(f"{path} {'is' if agrees else 'is not'} {recorded.path} to the last bit")
    return 0 if agrees else DIFFERS


def _weights(path: Path, kind: str, recorded: Recorded) -> str | None:
    return weights_of((path / kind if recorded.command == "run" else path) / "model")
