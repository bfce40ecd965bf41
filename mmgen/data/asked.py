"""Words that a user asks with: captions to draw, labels to choose among, templates around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mmgen.data.text_tokenizers import AnyTextTokenizer
from mmgen.errors import ConfigError, quoted

MAX_LABELS = 100_000
MAX_TEMPLATES = 1_000


def check_caption(caption: str, text_tokenizer: AnyTextTokenizer) -> None:
    """Raises ConfigError for a caption that is empty, or longer than the text tokenizer's context."""
    if not caption.strip():
        raise ConfigError("the caption is empty", code="MMG-C11", where="caption", fix='mmgen sample "a cat"')
    if not text_tokenizer.fits(caption):
        raise ConfigError(
            f"the caption {quoted(caption, 40)} is longer than the {text_tokenizer.context_length} tokens of the model",
            code="MMG-C12",
            where="caption",
            fix="shorten it, or train with a larger task.text_tokenizer.context_length",
        )


def check_counts(count: int, keep: int | None, what: str = "images") -> None:
    """Raises ConfigError where nothing is asked for, or more is to be kept than that."""
    if count < 1 or (keep is not None and not 1 <= keep <= count):
        raise ConfigError(
            f"cannot keep {keep} of {count} {what}", code="MMG-C10", where="keep", fix=f"keep={max(count, 1)}"
        )


def check_labels(labels: Sequence[str] | Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """Each label with the names that it goes by: itself, unless a mapping gives others.

    Raises:
        ConfigError: no labels or more than `MAX_LABELS`, an empty one, one given twice (blanks at its ends aside).
    """
    if len(labels) > MAX_LABELS:
        raise too_many_labels(f"{len(labels):,}")
    found: dict[str, tuple[str, ...]] = {}
    seen: set[str] = set()  # a mapping's labels are titles, which differ; others are captions
    for label in labels:
        if label.strip() in seen and not isinstance(labels, Mapping):
            raise _no_labels(f"the label {quoted(label.strip(), 40)} is given twice")
        seen.add(label.strip())
        found[label] = tuple(labels[label]) if isinstance(labels, Mapping) else (label,)
        if not label.strip() or not found[label] or any(not name.strip() for name in found[label]):
            raise _no_labels("a label is missing or empty")
    if not found:
        raise _no_labels("a label is missing or empty")
    return found


def too_many_labels(count: str) -> ConfigError:
    """The error of more labels than one question may have."""
    return ConfigError(
        f"there are {count} labels, at most {MAX_LABELS:,} can be told apart at once",
        code="MMG-C13",
        where="labels",
        why="each is encoded, and has a row in memory and in the result",
        fix="classify into groups first, then into the labels of the best group",
    )


def _no_labels(problem: str) -> ConfigError:
    return ConfigError(problem, code="MMG-C13", where="labels", fix='mmgen classify picture.png "a cat" "a dog"')


def check_templates(templates: Sequence[str]) -> None:
    """Raises ConfigError for no templates or more than `MAX_TEMPLATES`, and for one without one place `{}`."""
    if not 1 <= len(templates) <= MAX_TEMPLATES:
        raise ConfigError(
            f"there are {len(templates):,} templates, from 1 to {MAX_TEMPLATES:,} make sense",
            code="MMG-C14",
            where="templates",
            fix="templates=['a picture of {}']",
        )
    for template in templates:
        if template.count("{}") != 1:
            raise ConfigError(
                f"the template {quoted(template, 40)} has no place for the label, or more than one",
                code="MMG-C14",
                where="templates",
                fix="templates=['a picture of {}']",
            )
