"""Which trained model a command works with, which pictures, and where it may write."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from mmgen import registry
from mmgen.devices import device_of
from mmgen.errors import ConfigError, MmgenError, quoted
from mmgen.files import read_json
from mmgen.images import SUFFIXES, decode
from mmgen.loading import PARTS, located, recorded_sampler
from mmgen.packages import models
from mmgen.runs.directory import finished_runs
from mmgen.stream import Order
from mmgen.text_to_image import TextToImage, open_trio

RUNS = Path("runs")


def open_model(config: Mapping[str, Any], *needs: str, order: Order = "text_first") -> tuple[TextToImage, Path]:
    """The model that a command's config asks for, and where it lies.

    Args:
        config: `run` and `device`, and where the command has them `sampler`, `tokenizer_from`, `generator_from`
            and `encoder_from`. A sampler's options without its name are for the one that the run was judged with.
        needs: kinds of parts; where no run is named, it is the newest finished one that has these.
        order: of the generator's stream, where no run is named.

    Raises:
        ConfigError: there is none, or the sampler refuses its options.
        CheckpointError: it cannot be opened.
    """
    sampler = config.get("sampler")
    if sampler and "name" in sampler:
        registry.build("sampler", sampler)  # a mistake is told before anything is read
    elsewhere = {kind: config.get(f"{kind}_from") for kind in PARTS}
    source = source_of(config["run"], *(kind for kind in needs if not elsewhere.get(kind)), order=order)
    if sampler and "name" not in sampler:
        sampler = registry.complete("sampler", {**recorded_sampler(source), **sampler}, trusted=False)
    model = open_trio(
        source,
        sampler,
        tokenizer_from=elsewhere["tokenizer"],
        generator_from=elsewhere["generator"],
        encoder_from=elsewhere["encoder"] or _encoder_beside(source),
        device=config["device"],
    )
    return model, source


def pretrained(config: Mapping[str, Any]) -> TextToImage:
    """An encoder that comes with its weights, alone, as the config's `encoder` names it.

    Raises:
        ConfigError: a run is named too, or the encoder has no weights before it is trained.
    """
    options = config["encoder"]
    for key in ("run", *(f"{kind}_from" for kind in PARTS)):
        if config.get(key):
            raise ConfigError(
                f"encoder={options['name']} is judged without a run, and {key}={config[key]} names one",
                code="MMG-C38",
                where="encoder",
                fix=f"leave out one of encoder= and {key}=",
            )
    component = registry.find("encoder", options["name"]).load()
    if not getattr(component, "pretrained", False):
        raise ConfigError(
            f"encoder {quoted(options['name'])} has no weights of its own",
            code="MMG-C38",
            where="encoder",
            why="they come from a training or an import",
            fix="run=RUN, of a run or an import that has them",
        )
    encoder = registry.build("encoder", options, text_tokenizer=None, image_size=getattr(component, "image_size", 224))
    return TextToImage(encoder=encoder.eval(), fingerprints={}, device=device_of(config["device"]))


def source_of(run: str | None, *needs: str, order: Order = "text_first") -> Path:
    """The run or export asked for, or the newest finished run under runs/ that has these kinds of parts; where there is
    none, a trained model that an installed plugin brings, which is told.

    Args:
        run: a path, or the name of such a model.
        needs: kinds of parts.
        order: of the generator's stream, where one is needed.

    Raises:
        ConfigError: there is none.
    """
    if run is not None:
        return located(run)
    finished = [directory.path for directory in finished_runs(RUNS)]
    for path in finished:
        if _fits(path, needs, order):
            return path
    for path in finished:
        if _fits(path, needs, None):
            return path  # whoever opens it says what it cannot do
    for model in models().values():
        if _fits(model.path, needs, order):
            print(
                f"the model {model.name!r} of {model.distribution}, since there is no finished run under {RUNS}/",
                file=sys.stderr,
            )
            return model.path
    wanted = f" with a trained {' and '.join(needs)}" if 0 < len(needs) < len(PARTS) else ""
    raise ConfigError(
        f"there is no finished run{wanted} under {RUNS}/",
        code="MMG-C21",
        where="run",
        fix="mmgen run, or run=PATH of a run or an export",
    )


def _encoder_beside(source: Path) -> Path | None:
    """Of a plugin's trained model without an encoder, the same plugin's model that has one: so two generators, for
    drawing and for captions, share it."""
    every = models().values()
    owner = next((model.distribution for model in every if model.path == source), None)
    if owner is None or _part_config(source, "encoder"):
        return None
    return next((m.path for m in every if m.distribution == owner and _part_config(m.path, "encoder")), None)


def _fits(path: Path, needs: Sequence[str], order: Order | None) -> bool:
    """Whether a finished run or an export has these parts, and the generator that is needed the order; null: any."""
    configs = {kind: _part_config(path, kind) for kind in needs}
    if any(config is None for config in configs.values()):
        return False
    generator = configs.get("generator")
    return generator is None or order is None or generator.get("order", "text_first") == order


def _part_config(path: Path, kind: str) -> dict[str, Any] | None:
    """A part's options: of a run's stage, of the only thing that it trained, or of an export; null: it has none."""
    for directory in (path / kind / "model", path / "model", path / kind):
        try:
            if (directory / "manifest.json").is_file():
                found = read_json(directory / "config.json", trusted=True)
                if found.get("kind") == kind:
                    return dict(found["config"])
        except (MmgenError, KeyError, TypeError, ValueError):
            continue
    return None


def refuse_in_use(out: str | None, key: str = "out") -> None:
    """Raises ConfigError where `out`, the value of `key`, is a file, or a directory that holds something."""
    path = Path(out) if out is not None else None
    if path is not None and (path.is_file() or (path.is_dir() and any(path.iterdir()))):
        number = 2
        while (free := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
            number += 1
        raise ConfigError(
            f"{quoted(out)} is in use" + ("" if path.is_file() else ": it holds files already"),
            code="MMG-C22",
            where=key,
            why="nothing is overwritten",
            fix=f"{key}={free}",
        )


def fresh_directory(asked: str | None, parent: str, title: str) -> Path:
    """A directory of its own for what is written: the one asked for, empty or new, or a new one under `parent`.

    Raises:
        ConfigError: the one asked for holds files, which are not overwritten.
    """
    if asked is not None:
        refuse_in_use(asked)
        path = Path(asked)
        path.mkdir(parents=True, exist_ok=True)
        return path
    slug = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40] or "pictures"
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for attempt in range(1000):
        path = Path(parent) / (f"{stamp}-{slug}" if attempt == 0 else f"{stamp}-{slug}-{attempt}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        return path
    raise ConfigError(f"{parent}/ is full of directories of this second", code="MMG-C22", fix="out=DIRECTORY")


def pictures_among(positionals: list[str], what: str, example: str) -> tuple[list[str], list[str]]:
    """The positionals that are files, each a picture that can be read, and the other words.

    Raises:
        ConfigError: MMG-C15, there is no picture.
        DataError: one cannot be read.
    """
    pictures = [word for word in positionals if os.path.isfile(word)]  # a long caption is no file, and no error
    words = [word for word in positionals if word not in pictures]
    looks = [word for word in words if Path(word).suffix.lower() in SUFFIXES]
    folders = [word for word in words if os.sep in word and os.path.isdir(word)]
    if not pictures or looks or folders:
        why = f"{quoted(looks[0])} does not exist" if looks else "none of the words is a file"
        if folders:
            why, example = f"{quoted(folders[0])} is a directory", f"{folders[0].rstrip(os.sep)}/*.png"
        none = f"there is no picture to {what}"
        said = none if not pictures else "a picture is missing"
        raise ConfigError(said, code="MMG-C15", where="command line", why=why, fix=example)
    for picture in pictures:
        decode(picture)
    return pictures, words
