"""Figures as files' contents: a small SVG, or a PNG with a palette where that would be large."""

from __future__ import annotations

import io
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from pets.inside import plots
from pets.inside.plots import new_figure as new_figure

_LONG_NUMBERS = re.compile(rb' (d|x|y|points|transform)="[^"]*"')
_RESOLUTION = 120  # dots an inch of a PNG
_PALETTE = 64  # its colours
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
    """The context in which every picture of a page is made and drawn.

    Raises:
        BadInput: if matplotlib is not installed.
    """
    plots.require()
    import matplotlib

    context: AbstractContextManager[None] = matplotlib.rc_context(_STYLE)
    return context


def drawn(figure: Any, longest: int) -> Image:
    """The figure as an SVG, or as a PNG where that would have more than ``longest`` bytes."""
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    data = svg(figure)
    if len(data) <= longest:
        return Image(data, ".svg", width, height)
    return Image(png(figure, _RESOLUTION, _PALETTE), ".png", width, height)


def svg(figure: Any, creator: str | None = None) -> bytes:
    """The figure as an SVG file, the same each time.

    Args:
        figure: of matplotlib.
        creator: what the file says it was made by.
    """
    metadata = {**dict.fromkeys(_NO_METADATA), "Creator": creator}
    with io.BytesIO() as buffer:
        figure.savefig(buffer, format="svg", metadata=metadata)
        return _LONG_NUMBERS.sub(_shortened, buffer.getvalue())


def png(figure: Any, dpi: float, colours: int, software: str | None = None) -> bytes:
    """The figure as a PNG file with a palette: a third of the bytes, and no difference that is seen.

    Args:
        figure: of matplotlib.
        dpi: dots an inch.
        colours: of the palette, 2 to 256.
        software: what the file says it was written by.
    """
    from PIL import Image as pillow  # as slow to import as matplotlib, and as optional
    from PIL.PngImagePlugin import PngInfo

    said = PngInfo()
    if software is not None:
        said.add_text("Software", software)
    with io.BytesIO() as full, io.BytesIO() as buffer:
        figure.savefig(full, format="png", dpi=dpi, metadata={"Software": None})
        with pillow.open(full) as image:
            few = image.convert("RGB").quantize(colours, dither=pillow.Dither.NONE)
            few.save(buffer, format="png", optimize=True, pnginfo=said)
        return buffer.getvalue()


def _shortened(attribute: re.Match[bytes]) -> bytes:
    """Of places in points, a 72nd of an inch, two decimals are seen."""
    return re.sub(rb"(\.\d\d)\d+", rb"\1", attribute[0])
