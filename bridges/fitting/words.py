"""Whole-word masking: the pieces of a word are hidden, replaced or shown together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from bridges.errors import BadInput


class WordRow(list[int]):
    """Token ids of a row, and which word each is a piece of.

    Attributes:
        words: of each token the number of its word; None of special ones.
    """

    def __init__(self, ids: Iterable[int], words: Iterable[int | None]) -> None:
        super().__init__(ids)
        self.words = list(words)


def word_rows(tokenizer: Any, encoded: Any) -> list[list[int]]:
    """The rows of what a fast tokenizer made of texts, each with its words.

    Raises:
        BadInput: if the tokenizer does not say what a word is.
    """
    if not getattr(tokenizer, "is_fast", False):
        name = type(tokenizer).__name__
        raise BadInput(
            f"{name} does not say which tokens are one word: whole-word masking needs a fast tokenizer, "
            "or take masking='tokens'"
        )
    ids = encoded["input_ids"]
    return [WordRow(row, encoded.word_ids(k)) for k, row in enumerate(ids)]


def check_words(tokenizer: Any, rows: Iterable[list[int]]) -> None:
    """Whether the tokenizer takes texts apart into words before it takes words apart into pieces.

    Raises:
        BadInput: if every row is one word to it, as for vocabularies whose pieces may span words.
    """
    for row in rows:
        if isinstance(row, WordRow) and len(set(row.words) - {None}) > 1:
            return
    raise BadInput(
        f"to {type(tokenizer).__name__} every row of text is a single word, so whole words cannot be "
        "masked: take masking='tokens'"
    )


def words_of(rows: Sequence[list[int]], width: int, special: Collection[int]) -> Tensor:
    """Of every token of padded rows its word's place among the row's words, from 0: [B, S].

    It is -1 where a token is no piece of a word, or of one with a special piece: an unknown one.
    """
    numbers = torch.full((len(rows), width), -1)
    for k, row in enumerate(rows):
        assert isinstance(row, WordRow)
        left_out = {word for token, word in zip(row, row.words, strict=True) if token in special}
        place: dict[int, int] = {}
        for column, word in enumerate(row.words):
            if word is not None and word not in left_out:
                numbers[k, column] = place.setdefault(word, len(place))
    return numbers


def chosen_words(words: Tensor, share: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which tokens are targets, and a number in [0, 1) that is the same for all pieces of a word.

    Args:
        words: [B, S], see `words_of`.
        share: of each row's words that are drawn, at least one.
        rng: draws the words, and those numbers.

    Returns:
        bool [B, S] and float [B, S].
    """
    inside = words >= 0
    most = max(1, int(words.max()) + 1)
    count = words.max(1, keepdim=True).values + 1  # [B, 1]
    exists = torch.arange(most) < count
    score = torch.rand(exists.shape, generator=rng).masked_fill(~exists, 2.0)
    rank = score.argsort(1).argsort(1)
    drawn = (rank < (count * share).round().clamp(min=1)) & exists
    fate = torch.rand(exists.shape, generator=rng)
    at = words.clamp(min=0)
    return drawn.gather(1, at) & inside, fate.gather(1, at)
