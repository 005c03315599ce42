"""Prompt templates: ``"{text} It was {mask}."``, in which columns and the answer have their places."""

from __future__ import annotations

import string
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from bridges.errors import BadInput, listed, shown

ANSWER = ("mask", "answer")
"""Either says where the answer stands: in a masked LM the mask, in others what comes next."""

_EXPECTED = "expected texts, columns in braces and one place of the answer, '{text} It was {mask}.'"


@dataclass(frozen=True)
class Piece:
    """A part of a template: words as they are, or a column's text."""

    text: str
    is_field: bool = False


@dataclass(frozen=True)
class Template:
    """A parsed template.

    Attributes:
        text: as it is written; a backslash and an n are a line end, doubled braces are braces.
        before, after: what stands before the answer and behind it.
    """

    text: str
    before: tuple[Piece, ...]
    after: tuple[Piece, ...]

    @classmethod
    def parse(cls, text: str) -> Template:
        """The template that is written so.

        Raises:
            BadInput: for braces that do not match, a column with a format of Python's, no place of the
                answer or several of them, or no column.
        """
        if not isinstance(text, str) or not text.strip():
            raise BadInput(f"template {shown(text)}: {_EXPECTED}")
        try:
            parsed = list(string.Formatter().parse(text.replace("\\n", "\n").replace("\\t", "\t")))
        except ValueError as error:
            raise BadInput(f"template {shown(text)}: {error}; a brace itself is written twice") from None
        pieces: list[Piece] = []
        answers: list[int] = []
        for literal, name, spec, conversion in parsed:
            if literal:
                pieces.append(Piece(literal))
            if name is None:
                continue
            if spec or conversion or not name.strip():
                raise BadInput(
                    f"template {shown(text)}: {shown('{' + name + '}')} is no column by its name alone; "
                    f"{_EXPECTED}"
                )
            if name in ANSWER:
                answers.append(len(pieces))
            else:
                pieces.append(Piece(name, is_field=True))
        if len(answers) != 1:
            what = "no place for the answer" if not answers else f"{len(answers)} places for the answer"
            raise BadInput(f"template {shown(text)} has {what}: write {{mask}} or {{answer}} once")
        if not any(piece.is_field for piece in pieces):
            raise BadInput(
                f"template {shown(text)} names no column, so every prompt is the same: {_EXPECTED}"
            )
        return cls(text, tuple(pieces[: answers[0]]), tuple(pieces[answers[0] :]))

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns that it names, in order, each once."""
        named = [p.text for p in (*self.before, *self.after) if p.is_field]
        return tuple(dict.fromkeys(named))

    @property
    def spaced(self) -> bool:
        """Whether the answer is a word of its own after a space, so that vocabularies write it so."""
        return bool(self.before) and not self.before[-1].is_field and self.before[-1].text[-1] == " "

    @property
    def context(self) -> str:
        """The words right before the answer, without the space."""
        literal = self.before[-1].text if self.before and not self.before[-1].is_field else ""
        return literal.rstrip(" ")

    def check(self, columns: Collection[str]) -> None:
        """Whether every column that it names is there.

        Raises:
            BadInput: naming the first one that is not.
        """
        for name in self.fields:
            if name not in columns:
                there = listed([shown(column, 40) for column in columns])
                raise BadInput(
                    f"template {shown(self.text)}: there is no column {name!r}; there are {there}"
                )

    def render(self, values: Mapping[str, str]) -> tuple[str, str]:
        """What stands before the answer, without spaces at its end, and what behind it."""
        before, after = (
            "".join(values[p.text] if p.is_field else p.text for p in part)
            for part in (self.before, self.after)
        )
        return before.rstrip(" "), after
