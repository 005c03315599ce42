"""A document as one HTML page that asks for nothing from outside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec

from bridges.errors import BadInput
from pets.study.report.document import Document
from pets.study.report.figures import Picture
from pets.study.report.images import Image, markup

_TEMPLATE = "page.html.jinja"


@dataclass(frozen=True)
class _Drawing:
    anchor: str
    markup: str


def require() -> None:
    """Refuse early where the page could not be made.

    Raises:
        BadInput: if Jinja is not installed.
    """
    if find_spec("jinja2") is None:
        raise BadInput("reports need jinja2, which is not installed: pip install 'bridge-pets[report]'")


def render_page(document: Document, images: Sequence[Image]) -> str:
    """The page.

    Args:
        document: what it says; every text is escaped.
        images: one for each of ``document.pictures``, in order.
    """
    require()
    from jinja2 import Environment, StrictUndefined

    drawings = {}
    for number, (picture, image) in enumerate(zip(document.pictures, images, strict=True), 1):
        anchor = f"picture-{number}"
        drawings[id(picture)] = _Drawing(anchor, markup(image, f"p{number}-", anchor))

    def drawing(picture: Picture) -> _Drawing:
        return drawings[id(picture)]

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = files("pets.study.report").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(source).render(document=document, drawing=drawing) + "\n"
