"""What pictures are classified into: labels and templates as they were asked for, and their features, kept for the next
time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mmgen.checkpoint.kept import digest_of, keep, read_kept
from mmgen.data.asked import MAX_LABELS, check_labels, check_templates, too_many_labels
from mmgen.data.prompts import read_prompts
from mmgen.errors import CheckpointError, ConfigError, DataError, quoted
from mmgen.files import cache_directory
from mmgen.progress import Bar
from mmgen.trio import Trio, cut_so_far

RECIPE = 2  # of class features; another number forgets all that was kept
MANY = 1_000  # captions from which on a bar is shown, and what was kept is told
VERY_MANY = 20_000  # from which on those of an evaluation have a bar and are kept
MAX_LABEL_FILE = 64 << 20
Encode = Callable[[], tuple[Tensor, int]]
EXAMPLE = 'mmgen classify picture.png "a cat" "a dog"'


@dataclass(frozen=True)
class Classes:
    """Labels with the names of each, templates, and where they were published, if they were."""

    labels: dict[str, tuple[str, ...]]
    templates: tuple[str, ...]
    source: str = ""
    cut: bool = False  # a published label that is too long is cut; one of the user's own is refused

    @property
    def captions(self) -> int:
        """How many are encoded."""
        return sum(map(len, self.labels.values())) * len(self.templates)


def asked_classes(config: Mapping[str, Any], words: Sequence[str]) -> Classes:
    """The classes that a command's `prompts`, `labels` and `templates` ask for; labels and templates of the user's own
    stand in for the pack's.

    Args:
        words: labels from the command line.

    Raises:
        ConfigError: fewer than two labels or too many, an empty or a repeated one, a template without a place.
        DataError: a file cannot be read.
        PluginError: a pack's name is claimed twice.
    """
    pack = read_prompts(config["prompts"]) if config["prompts"] is not None else None
    own = [*words, *_labels_in(config["labels"])]
    labels = pack.labels if pack and not own else check_labels(own) if own else {}
    if len(labels) < 2:
        raise ConfigError(
            f"classifying needs at least two labels, there are {len(labels)}",
            code="MMG-C13",
            where="command line",
            fix=EXAMPLE,
        )
    templates = config["templates"] or (pack.templates if pack else ("{}",))
    check_templates(templates)
    return Classes(labels, tuple(templates), pack.source if pack else "", cut=pack is not None and not own)


def _labels_in(file: str | None) -> list[str]:
    if file is None:
        return []
    try:
        with open(file, "rb") as opened:
            data = opened.read(MAX_LABEL_FILE + 1)
        if len(data) > MAX_LABEL_FILE:
            raise too_many_labels(f"more than {MAX_LABEL_FILE >> 20} MiB of")
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"the labels {quoted(file)} cannot be read", code="MMG-D20", why=str(error)[:120], fix="labels=labels.txt"
        ) from error
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if len(found) > MAX_LABELS:
        raise too_many_labels(f"{len(found):,}")
    return found


def class_features(model: Trio, classes: Classes, *, cache: bool = True) -> Tensor:
    """The features (L,D) of the classes' captions, as `Trio.class_features` has them, with a bar where they are many.
    How many captions were cut is told each time.

    Args:
        cache: whether they are kept for the next time, under `cache_directory()`. What was kept and is damaged is
            computed anew, and said so; a directory that cannot be written is no error.

    Raises:
        ConfigError: a label of the user's own is longer than the encoder reads.
    """
    encoder = model.fingerprints.get("encoder")
    if cache and encoder:
        digest = digest_of(RECIPE, encoder, list(classes.labels.values()), classes.templates, classes.cut)
        told = classes.captions >= MANY
        features, cut = _kept_or(lambda: _encoded(model, classes), digest, len(classes.labels), told)
    else:
        features, cut = _encoded(model, classes)
    tell_cut(model, cut)
    return features


def caption_features(model: Trio, captions: Sequence[str], *, keep: bool = False) -> tuple[Tensor, int]:
    """`Trio.encode_captions`, and how many were cut.

    Args:
        keep: whether very many of them have a bar and are kept for the next time, as class features are.
    """

    def encode() -> tuple[Tensor, int]:
        before = cut_so_far(model)
        with Bar("encoding", total=len(captions), unit="captions") if large else nullcontext() as bar:
            features = model.encode_captions(captions, (lambda count: bar.advance(count, "")) if bar else None)
        return features, cut_so_far(model) - before

    large = keep and len(captions) >= VERY_MANY
    encoder = model.fingerprints.get("encoder")
    if large and encoder:
        return _kept_or(encode, digest_of(RECIPE, encoder, list(captions)), len(captions), told=True)
    return encode()


def tell_cut(model: Trio, cut: int, whose: str = "") -> None:
    """How many captions were cut, where any were."""
    if cut:
        length = model.part("encoder").text_tokenizer.context_length
        told = f"{whose}: " if whose else ""
        print(f"{told}{cut:,} captions are longer than the encoder's {length} tokens, and were cut", file=sys.stderr)


def _kept_or(encode: Encode, digest: str, rows: int, told: bool) -> tuple[Tensor, int]:
    """What `encode` gives, the features (rows,D) and how many captions were cut, from what was kept under that digest
    where there is such, and kept if not."""
    path = cache_directory() / "classes" / f"{digest}.safetensors"
    try:
        kept = read_kept(path, rows)
    except CheckpointError as error:
        print(f"{error.what} ({error.why}): the class features are computed anew", file=sys.stderr)
        kept = None
    if kept is not None:
        return kept
    features, cut = encode()
    features = features.cpu().float()
    try:
        keep(path, features, cut)
    except (CheckpointError, OSError) as error:
        why = error.why if isinstance(error, CheckpointError) else error
        print(f"the class features cannot be kept in {path.parent}: {why}", file=sys.stderr)
    else:
        if told:
            print(f"the class features are kept in {path}", file=sys.stderr)
    return features, cut


def _encoded(model: Trio, classes: Classes) -> tuple[Tensor, int]:
    """The features, and how many captions were cut."""
    before = cut_so_far(model)
    bar = Bar("encoding", total=classes.captions, unit="captions")
    with bar if classes.captions >= MANY else nullcontext():
        features = model.class_features(
            classes.labels, classes.templates, cut=classes.cut, progress=lambda count: bar.advance(count, "")
        )
    return features, cut_so_far(model) - before
