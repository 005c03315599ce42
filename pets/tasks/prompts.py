"""The prompt `[CLS] [MASK] text [SEP]`, or `[MASK] [CLS] text [SEP]`, and batches of it."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from bridges.errors import BadInput
from bridges.model.positions import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_log = logging.getLogger(__name__)


class Row(NamedTuple):
    """One encoded prompt, without padding.

    Attributes:
        input_ids: what the model, of an encoder-decoder the encoder, reads.
        mask_position: where the answer's first token stands among them: the index of [MASK], or of what
            keeps the place behind the last token of a causal model's prompt.
        answers: the tokens of each answer that it may choose, where they are not the same for all rows;
            of a text to be generated the one that is trained on.
        references: the accepted texts, where the answer is one.
        types: token types, of a pair that a classifier reads.
    """

    input_ids: list[int]
    mask_position: int
    answers: tuple[tuple[int, ...], ...] = ()
    references: tuple[str, ...] = ()
    types: tuple[int, ...] = ()


@dataclass(frozen=True)
class Prompts:
    """Encoded prompts, and how many of their texts were cut to fit."""

    rows: tuple[Row, ...]
    truncated: int


class Encoder:
    """A tokenizer that splits no text twice: splits of one data set share its texts.

    What was cut is warned of once, however often the same texts are asked for.

    Args:
        tokenizer: of a language model.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._tokens: dict[str, list[int]] = {}
        self._warned: set[tuple[int, int, int]] = set()

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """As `plain_token_ids`; not to be changed."""
        new = [text for text in dict.fromkeys(texts) if text not in self._tokens]
        if new:
            self._tokens.update(zip(new, plain_token_ids(self.tokenizer, new), strict=True))
        return [self._tokens[text] for text in texts]

    def encode(self, texts: Sequence[str], max_length: int, *, mask_first: bool = False) -> Prompts:
        """See `encode`."""
        prompts = _lay_out(self.tokenizer, self.ids(texts), max_length, mask_first)
        self.warn(prompts.truncated, len(texts), max_length)
        return prompts

    def warn(self, truncated: int, count: int, max_length: int) -> None:
        """Say once how many texts were cut."""
        what = (truncated, count, max_length)
        if truncated and what not in self._warned:
            self._warned.add(what)
            _warn(*what)


def encode(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int,
    *,
    mask_first: bool = False,
) -> Prompts:
    """Lay every text out as special prefix, [MASK], text, special suffix.

    A special token spelled out in a text stays plain text. A text that is too long loses its end;
    such texts are counted, and one warning says how many there were.

    Args:
        max_length: tokens per prompt, special tokens and [MASK] included.
        mask_first: put [MASK] before the special prefix, and do not count it: the published layout.

    Raises:
        BadInput: the tokenizer has no mask token, `max_length` leaves no room for a text, or
            there are no texts.
    """
    tokens = plain_token_ids(tokenizer, texts) if texts else []
    prompts = _lay_out(tokenizer, tokens, max_length, mask_first)
    if prompts.truncated:
        _warn(prompts.truncated, len(texts), max_length)
    return prompts


def _lay_out(
    tokenizer: PreTrainedTokenizerBase, tokens: list[list[int]], max_length: int, mask_first: bool
) -> Prompts:
    if not tokens:
        raise BadInput("there are no texts to encode; expected at least one")
    before, after = _shell(tokenizer)
    taken = len(before) + len(after) - mask_first
    room = max_length - taken
    if room < 1:
        raise BadInput(
            f"max_length {max_length} leaves no room for a text; expected at least {taken + 1}"
        )
    if mask_first:
        before = [before[-1], *before[:-1]]
    place = 0 if mask_first else len(before) - 1
    truncated = sum(len(ids) > room for ids in tokens)
    rows = tuple(Row([*before, *ids[:room], *after], place) for ids in tokens)
    return Prompts(rows, truncated)


def _warn(truncated: int, count: int, max_length: int) -> None:
    _log.warning(
        "%d of %d texts were cut to fit a prompt of at most %d tokens (max_length)",
        truncated,
        count,
        max_length,
    )


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """What rows are padded with: the tokenizer's own, or the end of a sequence, which no text has in it.

    Causal classifiers tell by it where a text ends, so it may be no token of a text.
    """
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id)
    return next((token for token in known if token is not None), 0)


def padded(rows: Sequence[Sequence[int]], fill: int) -> torch.Tensor:
    """Whole numbers [B, S]: rows with ``fill`` behind them to the length of the longest."""
    length = max(map(len, rows))
    return torch.tensor([[*row, *[fill] * (length - len(row))] for row in rows])


def collate(rows: Sequence[tuple[Row, int]], pad_id: int) -> dict[str, torch.Tensor]:
    """A batch, padded on the right to its longest row.

    Args:
        rows: B pairs of an encoded prompt and its class index.
        pad_id: the tokenizer's `pad_token_id`.

    Returns:
        int64 tensors "input_ids", "attention_mask" and "labels", [B, S] each. "labels" holds the class
        index at [MASK] and -100 everywhere else.
    """
    inputs = collate_inputs([row.input_ids for row, _ in rows], pad_id)
    labels = torch.full_like(inputs["input_ids"], IGNORED)
    for index, (row, label) in enumerate(rows):
        labels[index, row.mask_position] = label
    return {**inputs, "labels": labels}


def collate_inputs(rows: Sequence[Sequence[int]], pad_id: int) -> dict[str, torch.Tensor]:
    """Inputs of a model [B, S]: "input_ids", and "attention_mask", 1 where they are no padding."""
    ids = padded(rows, pad_id)
    lengths = torch.tensor([[len(row)] for row in rows])
    return {"input_ids": ids, "attention_mask": (torch.arange(ids.shape[1]) < lengths).long()}


def _shell(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The ids up to and including [MASK], and those after the text."""
    if tokenizer.mask_token is None:
        raise BadInput(
            f"tokenizer {tokenizer.name_or_path!r} has no mask token; expected one of a masked "
            "language model such as BERT or RoBERTa"
        )
    ids: list[int] = tokenizer(tokenizer.mask_token)["input_ids"]
    after_mask = ids.index(tokenizer.mask_token_id) + 1
    return ids[:after_mask], ids[after_mask:]


def plain_token_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Ids of plain texts: a special token spelled out in one is text, not the special token."""
    ids = _split_ids(tokenizer, texts)
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    leaked = special.intersection(itertools.chain.from_iterable(ids))
    # Unigram vocabularies (XLM-R, ALBERT) list the special tokens as pieces that match text, even
    # with split_special_tokens. Spelling these in two parts keeps them plain.
    parts: dict[int, list[int]] = {}
    for token in leaked:
        written = str(tokenizer.convert_ids_to_tokens(token))
        parts[token] = inner_ids(tokenizer, written[:1]) + inner_ids(tokenizer, written[1:])
    return [[part for token in row for part in parts.get(token, [token])] for row in ids]


def inner_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Ids of a text inside of another, where vocabularies put no space before it."""
    alone, whole = _split_ids(tokenizer, ["0", f"0{text}"])
    if whole[: len(alone)] == alone:
        return whole[len(alone) :]
    return _split_ids(tokenizer, [text])[0]


def _split_ids(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    # verbose=False: lengths are this module's business, the tokenizer need not warn about them.
    ids: list[list[int]] = tokenizer(
        list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False
    )["input_ids"]
    return ids
