"""Pages and their pieces: HTML of a template, a picture inside it, a text inside Markdown."""

from __future__ import annotations

import base64
import re
from importlib.resources import files
from typing import Any

from pets.inside.images import Image

_PHONE = 450  # CSS pixels; what is wider is not made narrower on a phone, but scrolls in its box
_SPECIAL = re.compile(r"([\\`*_\[\]|~])")


def page(package: str, template: str, **names: Any) -> str:
    """An HTML page, for which Jinja has to be installed; every text in it is escaped.

    Args:
        package: where the template is.
        template: name of its file.
        **names: that it knows.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = files(package).joinpath(template).read_text(encoding="utf-8")
    return environment.from_string(source).render(**names) + "\n"


def inline(image: Image, prefix: str, text: str) -> str:
    """The image as a piece of an HTML page that needs nothing from outside.

    Args:
        image: what `pets.inside.images.drawn` made.
        prefix: put before every id in an SVG, so that they differ from those of the page's others.
        text: id of the element that describes the picture.
    """
    size = f'width="{image.width}" height="{image.height}"'
    size += ' class="wide"' * (image.width > _PHONE)
    if image.suffix == ".png":
        data = base64.b64encode(image.data).decode()
        return f'<img src="data:image/png;base64,{data}" {size} alt="" aria-describedby="{text}">'
    svg = image.data.decode()
    svg = svg[svg.index("<svg") :]  # after the XML declaration and the doctype
    head, body = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box, head
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{prefix}', body)
    body = body.replace('xlink:href="#', f'href="#{prefix}').replace("url(#", f"url(#{prefix}")
    body = "\n".join(line.strip() for line in body.splitlines())
    return f'<svg {size} {box[0]} role="img" aria-labelledby="{text}">{body}'


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    text = " ".join(text.split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", text)
