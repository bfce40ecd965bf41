"""Captions made of templates: what a picture is classified among, and how.

A template has places for attributes, such as "{name} with {tone} skin tone", or one place `{}`, which is that of
whatever attribute is asked for.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence

from mmgen.protocols import Names, Setting

_NUMBER = re.compile(r"n?([0-9]{1,18})")  # of a class: a place, or a synset of WordNet


def fields(template: str) -> set[str]:
    """The attributes that a template names; `{}` is the name "".

    Raises:
        ValueError: its braces do not match.
    """
    return {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}


def fill(template: str, attributes: Mapping[str, str]) -> str:
    """The caption; unlike `str.format` it can only put in attributes."""
    parts = string.Formatter().parse(template)
    return "".join(text + ("" if field is None else attributes[field]) for text, field, _, _ in parts)


def check_templates(templates: Sequence[str]) -> None:
    """Raises ValueError where there are none, one has no place, or one occurs twice."""
    if not templates:
        raise ValueError("templates is empty; null takes the dataset's")
    for template in templates:
        try:
            named = fields(template)
        except ValueError as error:
            raise ValueError(f"the template {template!r} cannot be read: {error}") from error
        if not named:
            raise ValueError(f"the template {template!r} has no place for a label, {{}} or one named as an attribute")
    if len(set(templates)) < len(templates):
        raise ValueError("a template occurs twice")


def templates_for(attribute: str, own: Mapping[str, str], templates: Sequence[str]) -> list[str]:
    """Those that ask for an attribute and whose other places the picture's attributes fill, `{}` named."""
    found = []
    for template in templates:
        named = fields(template)
        if "" in named:
            named = named - {""} | {attribute}
        if attribute in named and named <= own.keys():
            found.append(template)
    return found


def captions_of(
    templates: Sequence[str], attribute: str, choices: Sequence[str], own: Mapping[str, str], names: Names | None = None
) -> list[list[list[str]]]:
    """(templates, choices, names of the choice): each template with the attribute varied and the others as they are.

    Args:
        names: what choices are called in captions; one that is not there is called by itself.
    """
    called = [(names or {}).get(choice, (choice,)) for choice in choices]
    return [[[fill(t, {**own, attribute: name, "": name}) for name in some] for some in called] for t in templates]


def titles_of(classes: Sequence[str], names: Names, prompts: str) -> tuple[dict[str, str], bool]:
    """Which entry of a pack each class is: the one called so (case aside, underscores as spaces). Where none is called
    as any, all are numbers, and there are as many, it is the one at its place by number: 2 before 10, and ImageNet's
    folders, such as n01440764, are numbered in the pack's order.

    Returns:
        the titles, in the pack's order where classes are numbers, and whether they are.

    Raises:
        ValueError: a class is not there.
    """
    known = {_plain(title): title for title in reversed(list(names))}
    found = {value: known[_plain(value)] for value in classes if _plain(value) in known}
    numbers = {value: int(match[1]) for value in classes if (match := _NUMBER.fullmatch(value))}
    if not found and len(numbers) == len(set(numbers.values())) == len(classes) == len(names):
        return dict(zip(sorted(classes, key=numbers.__getitem__), names, strict=True)), True
    if missing := [value for value in classes if value not in found]:
        raise ValueError(
            f"prompts={prompts} has no class {missing[0]!r} ({len(missing)} of {len(classes)} are missing; it has "
            f"{len(names)}): name the classes as it does, or prompts=FILE.yaml with labels of your own"
        )
    return found, False


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").casefold().split())


def usable_classes(setting: Setting, wanted: Sequence[str] | None, most: int | None = None) -> dict[str, list[str]]:
    """The attributes asked for, or by default all, that have two classes or more; and, unless named, or the only one,
    no more than `most`."""
    found = {name: list(values) for name, values in setting.classes.items() if len(values) >= 2}
    if wanted is not None:
        return {name: found[name] for name in wanted if name in found}
    if most is None or len(found) == 1:
        return found
    return {name: values for name, values in found.items() if len(values) <= most}


def why_not(setting: Setting, wanted: Sequence[str] | None, most: int | None = None) -> str:
    """Why `usable_classes` are none."""
    known = ", ".join(f"{name} ({len(values)})" for name, values in setting.classes.items())
    if wanted is not None and (missing := [name for name in wanted if name not in setting.classes]):
        return f"no picture has the attribute {missing[0]}; attributes with classes: {known or 'none'}"
    if most is not None and any(len(values) >= 2 for values in setting.classes.values()):
        return f"an attribute of more than {most} classes is judged where it is named; there are: {known}"
    return f"classifying needs two classes of an attribute, there are: {known or 'none'}"
