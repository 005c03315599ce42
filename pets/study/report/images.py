"""Pictures as bytes: SVG, or PNG where an SVG would be too long; the same bytes every time."""

from __future__ import annotations

import base64
import io
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass

from pets.inside import plots
from pets.study.report.figures import Picture

_LONGEST = 400_000  # characters of an SVG
_RESOLUTION = 144  # dots an inch of a PNG
_PHONE = 450  # CSS pixels; what is wider is not made narrower on a phone, but scrolls in its box
_NO_METADATA = ("Date", "Creator", "Format", "Type")
_STYLE = {
    "svg.hashsalt": "bridge-pets",
    "svg.fonttype": "none",  # text stays text: it can be searched, copied and read aloud
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Image:
    """A drawn picture.

    Attributes:
        data: the file's content.
        suffix: ".svg" or ".png".
        width: in CSS pixels, as it was made to be seen.
        height: likewise.
    """

    data: bytes
    suffix: str
    width: int
    height: int


def style() -> AbstractContextManager[None]:
    """The context in which every picture of a report is made and drawn.

    Raises:
        BadInput: if matplotlib is not installed.
    """
    plots.require()
    import matplotlib

    context: AbstractContextManager[None] = matplotlib.rc_context(_STYLE)
    return context


def draw(picture: Picture) -> Image:
    """The picture's figure as a file's content."""
    figure = picture.figure
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    with io.BytesIO() as buffer:
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(_NO_METADATA))
        data = buffer.getvalue()
    if len(data) <= _LONGEST:
        return Image(data, ".svg", width, height)
    with io.BytesIO() as buffer:
        figure.savefig(buffer, format="png", dpi=_RESOLUTION, metadata={"Software": None})
        return Image(buffer.getvalue(), ".png", width, height)


def markup(image: Image, prefix: str, text: str) -> str:
    """The image as a piece of an HTML page that needs nothing from outside.

    Args:
        image: what `draw` made.
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
