"""A page of classified pictures: one file, each picture inside it with its likeliest labels as bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from mmgen.tracking.album import Album
from mmgen.tracking.charts import share_bar

SHOWN = 5  # labels of a picture
TEMPLATES_TOLD = 10


def classified_page(
    found: Sequence[tuple[str, Mapping[str, float]]],
    *,
    run: str,
    encoder: str,
    prompts: str | None,
    templates: Sequence[str],
    source: str = "",
) -> str:
    """The page as HTML; everything from outside is escaped, and nothing is loaded from elsewhere.

    Args:
        found: pictures' paths with the share of each label, the largest first.
        run: where the encoder lies. encoder: its fingerprint.
        prompts: the pack that was asked for, if one was. source: where that was published.
        templates: the captions' templates.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    album = Album(Path(Path.cwd().anchor))  # pictures lie anywhere; the paths are the user's own
    entries = [_entry(picture, shares, album) for picture, shares in found]
    facts: list[tuple[str, Any]] = [("Encoder", run), ("Fingerprint", encoder[:16])]
    facts += [("Labels", f"{len(found[0][1]):,}"), ("Templates", f"{len(templates):,}")]
    facts += [("Prompts", prompts)] if prompts else []
    return environment.get_template("classified.html").render(
        entries=entries,
        facts=facts,
        source=source,
        templates=templates[:TEMPLATES_TOLD],
        more_templates=len(templates[TEMPLATES_TOLD:]),
        left_out=album.left_out,
        share_bar=share_bar,
    )


def _entry(picture: str, shares: Mapping[str, float], album: Album) -> dict[str, Any]:
    best = list(shares.items())[:SHOWN]
    return {
        "name": picture,
        "embedded": album.picture(str(Path(picture).resolve()), 256),
        "labels": best,
        "others": len(shares) - len(best),
        "rest": max(0.0, 1 - sum(share for _, share in best)),
    }
