"""Columns shortened until a prompt fits: the longest first, in whole words."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from bridges.errors import one_line, shown
from pets.tasks.prompts import Encoder, plain_token_ids

KEPT = ("question",)
"""Columns that are never cut."""
_WORD = re.compile(r"\S+\s*")


def _least_length(values: Mapping[str, str], length: Callable[[Mapping[str, str]], int]) -> int:
    """The tokens of a prompt without all that may be cut."""
    return length({name: text if name in KEPT else "" for name, text in values.items()})


def cut(
    values: Mapping[str, str],
    room: int,
    length: Callable[[Mapping[str, str]], int],
    encoder: Encoder,
) -> dict[str, str] | None:
    """The columns with the ends of the longest ones cut off; None where that is not enough.

    All columns that are cut keep as many tokens, so a short one beside a long one stays whole.

    Args:
        values: the columns' texts, by name.
        room: tokens that a prompt may have.
        length: tokens that the prompt of such columns has.
        encoder: of the tokenizer.
    """
    lengths = {name: len(encoder.ids([text])[0]) for name, text in values.items() if name not in KEPT}
    cap, least = max(lengths.values(), default=0), _least_length(values, length)
    while cap > 1 and least + sum(min(cap, n) for n in lengths.values()) > room:
        cap -= 1
    for kept in range(cap, 0, -1):  # parts of a text may have more tokens than the text has there
        shorter = {
            name: _beginning(text, kept, encoder) if lengths.get(name, 0) > kept else text
            for name, text in values.items()
        }
        if length(shorter) <= room:
            return shorter
    return None


def _beginning(text: str, count: int, encoder: Encoder) -> str:
    """The beginning of a text with at most so many tokens, in whole words where one fits."""

    def fits(part: str) -> bool:
        return len(plain_token_ids(encoder.tokenizer, [part])[0]) <= count

    words = _WORD.findall(text)
    pieces = words if fits(words[0]) else list(text)
    low, high = 0, len(pieces)
    while low + 1 < high:
        middle = (low + high) // 2
        if fits("".join(pieces[:middle])):
            low = middle
        else:
            high = middle
    return "".join(pieces[:low]).rstrip()


def no_room_for_words(
    values: Mapping[str, str], room: int, length: Callable[[Mapping[str, str]], int]
) -> str:
    """Why `cut` gave None, in words."""
    first, least = one_line(next(iter(values.values())), 60), _least_length(values, length)
    return (
        f"the template's words and columns that are never cut need {least} of the {room} tokens that "
        f"there are beside the answer, in the example that begins {shown(first)}: give "
        "a larger max_length or a shorter template"
    )


def no_room_for_answers(text: str, own: int, writes: int, limit: int) -> str:
    """Why a prompt with its answers does not fit, in words.

    Args:
        text: of the example.
        own: tokens that its answers have at most.
        writes: tokens that a written answer has at most.
        limit: tokens that a prompt may have with its answer.
    """
    if own <= limit:
        return (
            f"answers of up to {writes} tokens are written, and a prompt with its answer may have "
            f"{limit}: give a larger max_length, or the task fewer answer_tokens (its own have {own} or "
            "more)"
        )
    return (
        f"an answer has {own} tokens and a prompt with its answer may have {limit}, in the example that "
        f"begins {shown(one_line(text, 60))}: give a larger max_length, or leave such examples out"
    )
