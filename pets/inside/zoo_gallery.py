"""The gallery of the zoo: its cards as one HTML page that asks for nothing outside, or as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

from bridges.errors import BadInput
from bridges.storage.files import write_text
from pets import extras
from pets.inside import plots
from pets.inside.markup import escaped, inline, page
from pets.inside.zoo_cards import GROUPS, HOW_TO_READ, Card, cards
from pets.inside.zoo_entries import DRAWN, Entry, chosen

MARK = '<meta name="generator" content="bridge-pets zoo">'
"""By which a page of ours is known, among its first bytes."""
TITLE = "The gallery"
ABOUT = (
    "Every process and cost that a running cost can be made of, and what people use instead: what it is "
    "for, which layers it holds on to, and how to ask for it."
)


def check_place(path: Path) -> None:
    """Whether the page may be written there, and could be made.

    Raises:
        BadInput: if Jinja or matplotlib is not installed, or something other than a gallery is there.
    """
    plots.check_picture(path, MARK, "gallery")
    plots.require()
    if find_spec("jinja2") is None:
        raise extras.missing("the gallery needs jinja2, which is not installed", "report")


def write_gallery(path: Path, entries: Sequence[Entry]) -> None:
    """Write the page of what was asked for.

    Args:
        path: of the HTML file.
        entries: bridges and regularizers.

    Raises:
        BadInput: as `check_place`, and if nothing is asked for.
    """
    check_place(path)
    if not entries:
        raise BadInput("nothing of it has a card: expected bridges or regularizers")
    write_text(path, render_page(cards(entries)))


def render_page(found: Sequence[Card]) -> str:
    """The page; every text in it is escaped."""

    def picture(card: Card, number: int) -> str:
        drawing = card.drawings[number]
        return inline(drawing.image, f"{drawing.name}-", f"{drawing.name}-alt")

    return page(
        "pets.inside",
        "gallery.html.jinja",
        mark=MARK,
        title=TITLE,
        about=ABOUT,
        how=HOW_TO_READ,
        groups=list(_grouped(found)),
        picture=picture,
        pieces=_pieces,
    )


def markdown() -> tuple[str, dict[str, bytes]]:
    """The gallery of everything that is registered, for a site.

    Returns:
        The text, and the pictures that it shows, by their names seen from the text's folder.
    """
    found = cards(chosen([], DRAWN))
    pictures = {_file(card, k): d.image.data for card in found for k, d in enumerate(card.drawings)}
    return render_markdown(found), pictures


def render_markdown(found: Sequence[Card]) -> str:
    """The text; its headings' ids are those that Python-Markdown's toc gives them."""
    parts = [f"# {TITLE}", escaped(ABOUT)]
    index = []
    for name, _, members in _grouped(found):
        links = ", ".join(f"[{escaped(card.title)}](#{card.anchor})" for card in members)
        index.append(f"- {escaped(name)}: {links}")
    parts += ["\n".join(index), escaped(HOW_TO_READ)]
    for name, about, members in _grouped(found):
        parts += ["---", f"**{escaped(name)}.** {escaped(about)}"]
        for card in members:
            parts += _section(card)
    return "\n\n".join(parts) + "\n"


def _section(card: Card) -> Iterator[str]:
    yield f"## {escaped(card.title)}"
    yield escaped(card.description)
    if card.drawings:
        yield "\n".join(f"![{escaped(d.alt)}]({_file(card, k)})" for k, d in enumerate(card.drawings))
    yield from filter(None, [escaped(card.about)])
    if card.reason:
        yield f"Not all of it can be drawn: {escaped(card.reason)}"
    if card.purpose:
        yield f"**What it is for.** {_coded(card.purpose)}"
    if card.formula:
        yield _fenced("text", "\n".join(card.formula))
    yield f"**Parameters.** {', '.join(map(_code, card.parameters)) or 'none'}"
    yield _fenced("python", card.python)
    yield _fenced("console", f"$ {card.console}")


def _grouped(found: Sequence[Card]) -> Iterator[tuple[str, str, list[Card]]]:
    for group, (title, about) in GROUPS.items():
        if members := [card for card in found if card.group == group]:
            yield title, about, members


def _file(card: Card, number: int) -> str:
    drawing = card.drawings[number]
    return f"gallery/{drawing.name}{drawing.image.suffix}"


def _pieces(text: str) -> list[tuple[str, bool]]:
    """Pieces of a text, and whether each stood in backticks; of an odd backtick nothing is made."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:
        return [(text, False)]
    return [(piece, bool(k % 2)) for k, piece in enumerate(pieces) if piece]


def _coded(text: str) -> str:
    """Plain text with code in backticks, as Markdown."""
    return "".join(_code(p) if is_code else _spaced(p) for p, is_code in _pieces(text))


def _spaced(text: str) -> str:
    """Escaped, with the space at either end that separates it from code."""
    first, last = " " * text[:1].isspace(), " " * text[-1:].isspace()
    return f"{first}{escaped(text)}{last}"


def _code(text: str) -> str:
    fence = "``" if "`" in text else "`"
    return f"{fence}{text}{fence}"


def _fenced(language: str, text: str) -> str:
    lines = [line.replace("`", "'") for line in text.splitlines()]
    return "\n".join([f"```{language}", *lines, "```"])
