"""What is wrong with a config, told so that it can be mended: where it was written, and what was meant."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import MissingConfigException

from mmgen import registry
from mmgen.commands import places
from mmgen.commands.overrides import Request, place_of
from mmgen.commands.presets import PresetSource
from mmgen.errors import ConfigError
from mmgen.options import UnknownKey
from mmgen.spelling import distance, nearest


def translate(error: BaseException) -> ConfigError:
    """An exception of Hydra, OmegaConf or YAML as one of ours, without the advice to prefix a typo with a plus."""
    text = str(error) or str(error.__cause__ or type(error).__name__)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        known = list(error.options or places.options(group, PresetSource.where))
        missing = registry.unknown_option(group, name, known)
        by = text.partition("In '")[2].partition("'")[0]
        for _, file in PresetSource.loaded:
            if by and file.match(f"{by}.yaml"):
                missing.where, missing.fix = f"{file}, defaults", f"write {nearest(name, known) or 'another'} there"
        return missing
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    kept = [line for line in lines if "+" not in line and "HYDRA_FULL_ERROR" not in line]
    cause = str(error.__cause__ or "").partition("\n")[0]
    why = " ".join(kept[1:3]) or (cause if cause not in kept else "")
    what = kept[0] if kept else "the config cannot be composed"
    return ConfigError(what, code="MMG-C06", why=why, fix="mmgen COMMAND --help lists groups and keys")


def told(
    errors: list[ConfigError], request: Request, config: Mapping[str, Any], groups: list[str]
) -> list[ConfigError]:
    """The errors of a checked config, whose `where` is a key, each once, with place and suggestion.

    Args:
        config: the config with all its defaults, to look for a key that was meant in another section.
    """
    keys = {error.where for error in errors}
    unknown = {error.where for error in errors if isinstance(error, UnknownKey)}
    known = [key for key in (*flat(config), *groups) if key not in unknown]
    found = []
    for error in errors:
        once = re.sub(r"^stages\.\w+\.(trainer|task)\.", r"\1.", error.where)
        if once != error.where and once in keys:
            continue  # said once of all stages, and found in each
        section = error.where.partition(".")[0]
        if section in request.guessed and (error.where == section or not request.guessed[section]):
            continue  # follows from the choice that does not exist, which is told
        found.append(_located(_suggested(error, request, known), request))
    return found


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Every key of a config, dotted."""
    for key, value in config.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")


def _suggested(error: ConfigError, request: Request, known: list[str]) -> ConfigError:
    """An unknown key with the best suggestion there is: of its neighbours, else the same name in another section."""
    if not isinstance(error, UnknownKey):
        return error
    key = next((o.key_or_group for o in request.values if o.key_or_group.startswith(f"{error.path}.")), error.path)
    rest = key[len(error.path) :]
    neighbours = error.known if "." in error.path else [*error.known, *(k for k in known if "." not in k)]
    near = nearest(error.path, neighbours)
    if near:
        whole = near + rest
        inside = [k for k in known if k.startswith(f"{near}.")]
        near = whole if not rest or whole in known else nearest(whole, inside) or near
    else:
        leaf = key.rpartition(".")[2]
        meant = {k: distance(leaf, k.rpartition(".")[2]) for k in known if not k.startswith("stages.")}
        near = min(meant, key=lambda k: meant[k], default=None) if len(leaf) > 2 else None
        near = near if near and meant[near] <= (len(leaf) > 5) else None
    return UnknownKey(key, error.known, near)


def _located(error: ConfigError, request: Request) -> ConfigError:
    """The error with the override or the line of YAML that its key was written in, where there is one."""
    key = re.sub(r"^stages\.\w+\.(trainer|task)\.", r"\1.", error.where)
    if error.code == "MMG-C05":
        return error
    for override in reversed((*request.values, *request.deletions)):
        said = override.key_or_group
        if any(said == k or said.startswith(f"{k}.") or k.startswith(f"{said}.") for k in (error.where, key)):
            error.where = place_of(override)
            return error
    written = [
        (f"{file}:{line}", text)
        for group, file in PresetSource.loaded
        for line, text in lines(file, _inside(error.where, key, group, file))
    ]
    guilty = [place for place, text in written if text and text in error.what]  # of several, the one whose value it is
    kind = error.where.partition(".")[0]
    if (
        written
        and isinstance(error, UnknownKey)
        and kind in registry.KINDS
        and kind in {o.key_or_group for o in request.choices}
    ):
        error.why = f"it is set there for another {kind} than the one that the command line chooses"
        error.fix = f"move it into a preset, {kind}/NAME.yaml, that starts from its component"
    error.where = (guilty or [place for place, _ in written] or [error.where])[0]
    return error


def _inside(path: str, short: str, group: str, file: Path) -> list[str]:
    """What a key may be called inside a file of a group."""
    if not group or "@package _global_" in file.read_text(encoding="utf-8")[:512]:
        return [path, short]
    section, _, rest = short.partition(".")
    if section != group:
        return []
    return [rest.partition(".")[2]] if group in registry.SEVERAL else [rest]


def lines(file: Path, keys: Iterable[str]) -> Iterator[tuple[int, str]]:
    """The lines where a file says something of one of these keys, with what it says if that is a single value."""
    root = _composed(file.read_text(encoding="utf-8"))
    for key in dict.fromkeys(keys):
        node, line = root, 0
        for part in key.split("."):
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            line, node = next(((k.start_mark.line + 1, v) for k, v in pairs if k.value == part), (0, None))
        if line:
            yield line, node.value if isinstance(node, yaml.ScalarNode) else ""


@functools.lru_cache(maxsize=64)
def _composed(text: str) -> yaml.Node | None:
    return yaml.compose(text, Loader=yaml.SafeLoader)


def distinct(errors: list[ConfigError]) -> list[ConfigError]:
    """Each error once; the jobs of a sweep repeat them."""
    found: dict[tuple[str, str, str], ConfigError] = {}
    for error in errors:
        found.setdefault((error.code, error.what, error.where), error)
    return list(found.values())
