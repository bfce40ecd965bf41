"""What mkdocs does beside reading docs/: generated and borrowed pages are put in, and nothing comes from a network."""

from __future__ import annotations

from typing import Any

import generate
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

SOURCES = {place: file for file, place in generate.places_on_site().items()}


def on_files(files: Files, config: Any) -> Files:
    for place, text in {**generate.generated(), **generate.borrowed()}.items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    place = page.file.src_uri
    if page.file.generated_by is None:
        markdown = generate.relink(markdown, SOURCES[place])
    return generate.inlined(markdown)


def on_page_content(html: str, **_: Any) -> str:
    return generate.breakable(html)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    if found := generate.elsewhere(output):
        raise PluginError(f"{page.file.src_uri} would load {', '.join(found)}")
    return output
