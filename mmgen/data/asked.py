"""Words that a user asks with: captions to draw, labels to choose among, templates around them."""

from __future__ import annotations

from collections.abc import Sequence

from mmgen.data.text_tokenizers import AnyTextTokenizer
from mmgen.errors import ConfigError, quoted


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


def check_labels(labels: Sequence[str], templates: Sequence[str]) -> None:
    """Raises ConfigError for no labels, an empty or a repeated one, and for a template without one place `{}`."""
    twice = {label for label in labels if labels.count(label) > 1}
    if not labels or twice or any(not label.strip() for label in labels):
        problem = f"the label {quoted(min(twice), 40)} is given twice" if twice else "a label is missing or empty"
        raise ConfigError(problem, code="MMG-C13", where="labels", fix='mmgen classify picture.png "a cat" "a dog"')
    for template in templates:
        if template.count("{}") != 1:
            raise ConfigError(
                f"the template {quoted(template, 40)} has no place for the label, or more than one",
                code="MMG-C14",
                where="templates",
                fix="templates=['a picture of {}']",
            )
