"""Which columns hold the picture, the captions and the labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from datasets import ClassLabel, Features, Image

from mmgen.images import DataError

IMAGES = ("image", "img", "picture", "jpg", "png", "webp")
CAPTIONS = ("caption", "captions", "text")


@dataclass(frozen=True)
class Columns:
    """Names of columns; no `caption` where captions are made of labels."""

    image: str
    caption: str | None
    labels: tuple[str, ...]
    id: str | None

    @property
    def all(self) -> list[str]:
        return list(dict.fromkeys(name for name in (self.image, self.caption, *self.labels, self.id) if name))


def find_columns(
    features: Features, image: str | None, caption: str | None, label: str | None, id: str | None, path: str
) -> Columns:
    """The columns named, and for what is not named those whose name or type leaves no doubt.

    Raises:
        DataError: MMG-D31, a named column does not exist, or is not clear; MMG-D03, there are neither captions nor
            labels.
    """
    for option, name in (("image", image), ("caption", caption), ("label", label), ("id", id)):
        if name is not None and name not in features:
            what = f"there is no column {name!r}"
            raise _unclear(what, features, path, f"dataset.{option}_column=ONE_OF_THEM")
    image = image or _image(features, path)
    caption = caption or _one("captions", _named(features, CAPTIONS, image), features, path, "caption")
    classes = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    labels = (label,) if label else tuple(name for name in classes if name != caption)
    if not caption and not labels:
        raise _unclear("no column is named after captions, and none holds labels", features, path, FIX_CAPTION, "D03")
    return Columns(image, caption, labels, id)


FIX_CAPTION = "dataset.caption_column=ONE_OF_THEM, or dataset.label_column=ONE_OF_THEM"


def _image(features: Features, path: str) -> str:
    typed = [name for name, feature in features.items() if isinstance(feature, Image)]
    clear = [name for name in typed if name in IMAGES]
    found = clear if len(clear) == 1 else typed or _named(features, IMAGES, None)
    name = _one("pictures", found, features, path, "image")
    if name is None:
        raise _unclear("no column holds pictures", features, path, "dataset.image_column=ONE_OF_THEM")
    return name


def _named(features: Features, names: Sequence[str], other_than: str | None) -> list[str]:
    return [name for name in features if name.lower() in names and name != other_than]


def _one(what: str, found: Sequence[str], features: Features, path: str, option: str) -> str | None:
    if len(found) > 1:
        fix = f"dataset.{option}_column={found[0]}"
        raise _unclear(f"{' and '.join(found)} may each hold the {what}", features, path, fix)
    return found[0] if found else None


def _unclear(what: str, features: Features, path: str, fix: str, code: str = "D31") -> DataError:
    listed = ", ".join(f"{name} ({_kind(feature)})" for name, feature in features.items())
    return DataError(what, code=f"MMG-{code}", where=path, why=f"the columns are {listed or 'none'}"[:600], fix=fix)


def _kind(feature: object) -> str:
    return str(getattr(feature, "dtype", None) or type(feature).__name__) if type(feature).__name__ == "Value" else (
        type(feature).__name__.lower()
    )
