"""The site's gallery: every bridge and regularizer that is registered, drawn when the site is built."""

from __future__ import annotations

from functools import cache

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from pets.inside import zoo_gallery

PAGE = "gallery.md"


@cache  # `mkdocs serve` builds the site again and again, of the same zoo
def gallery() -> tuple[str, dict[str, bytes]]:
    return zoo_gallery.markdown()


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page, and the pictures beside it in ``gallery/``."""
    text, pictures = gallery()
    files.append(File.generated(config, PAGE, content=text))
    for name, data in pictures.items():
        files.append(File.generated(config, name, content=data))
    return files
