"""Text made ready for fitting: token rows, length-bucketed batches, targets."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bridges.errors import BadInput
from bridges.fitting.words import check_words, chosen_words, word_rows, words_of
from bridges.model.positions import IGNORED
from bridges.seeds import generator

logger = logging.getLogger(__name__)

_MIN_TOKENS = 4  # a row needs a few words around the masked one
_BUCKET = 32  # batches whose rows are sorted by length together
_FIRST = 8  # of a causal row's tokens, which are no targets of a lens
_CAUSAL_PREFIX = 0.25  # least share of a causal row that is context


@dataclass(frozen=True)
class Batch:
    """Padded on the right, int64.

    Attributes:
        input_ids, attention_mask: [B, S].
        targets: [B, S], -100 where there is none; of an encoder-decoder [B, S'].
        decoder_input_ids: [B, S'] of an encoder-decoder, else None.
    """

    input_ids: Tensor
    attention_mask: Tensor
    targets: Tensor
    decoder_input_ids: Tensor | None = None

    def inputs(self, device: torch.device) -> dict[str, Tensor]:
        """The model's arguments."""
        arguments = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        if self.decoder_input_ids is not None:
            arguments["decoder_input_ids"] = self.decoder_input_ids
        return {name: tensor.to(device) for name, tensor in arguments.items()}

    @property
    def target_mask(self) -> Tensor:
        """The attention mask of the sequence that the targets are in."""
        if self.decoder_input_ids is None:
            return self.attention_mask
        return torch.ones_like(self.targets)  # its padding comes after the context


def token_rows(
    tokenizer: Any,
    texts: Iterable[str],
    *,
    max_length: int,
    most: int,
    seed: int,
    most_tokens: int | None = None,
    whole_words: bool = False,
) -> list[list[int]]:
    """Rows of at most ``max_length`` tokens, special ones included, from the texts in random order.

    Longer texts are cut into several rows; texts are read until there are ``most`` rows, or about
    ``most_tokens`` tokens. Rows of fewer than four words' tokens, such as ends of long texts, are left
    out and counted in the log. With ``whole_words`` each is a `bridges.fitting.words.WordRow`.

    Raises:
        BadInput: if there is no text, or none long enough, or words are asked for and the tokenizer does
            not know them.
    """
    kept = [text for text in texts if text.strip()]
    if not kept:
        raise BadInput("the text is empty: give at least one non-blank line")
    special = set(tokenizer.all_special_ids)
    order = torch.randperm(len(kept), generator=generator(seed)).tolist()
    rows: list[list[int]] = []
    short = tokens = 0
    for start in range(0, len(order), 256):
        if len(rows) >= most or (most_tokens is not None and tokens >= most_tokens):
            break
        encoded = tokenizer(
            [kept[i] for i in order[start : start + 256]],
            truncation=True,
            max_length=max_length,
            return_overflowing_tokens=True,
            split_special_tokens=True,
        )
        for row in word_rows(tokenizer, encoded) if whole_words else encoded["input_ids"]:
            if sum(token not in special for token in row) < _MIN_TOKENS:
                short += 1
            else:
                rows.append(row)
                tokens += len(row)
    if short:
        logger.info("left out %d rows of fewer than %d tokens", short, _MIN_TOKENS)
    if not rows:
        raise BadInput(
            f"none of the {len(kept)} texts has {_MIN_TOKENS} tokens: fitting needs longer text"
        )
    if whole_words:
        check_words(tokenizer, rows)
    return rows[:most]


def batches(
    rows: list[list[int]], batch_size: int, *, seed: int, start: int = 0
) -> Iterator[tuple[int, list[list[int]]]]:
    """Endless numbered batches of rows, from batch number ``start``.

    In each epoch rows are shuffled, sorted by length within buckets of some batches, and the batches
    shuffled again: little padding, and batch k is the same whether or not the run was interrupted.
    """
    per_epoch = -(-len(rows) // batch_size)
    for epoch in range(start // per_epoch, 2**31):
        order = torch.randperm(len(rows), generator=generator(seed, epoch)).tolist()
        bucket = batch_size * _BUCKET
        grouped = [
            sorted(order[i : i + bucket], key=lambda j: len(rows[j]))
            for i in range(0, len(order), bucket)
        ]
        chosen = [g[i : i + batch_size] for g in grouped for i in range(0, len(g), batch_size)]
        shuffle = torch.randperm(len(chosen), generator=generator(seed, epoch, 1)).tolist()
        for k, which in enumerate(shuffle):
            number = epoch * per_epoch + k
            if number >= start:
                yield number, [rows[j] for j in chosen[which]]


def masked_batch(
    rows: list[list[int]],
    tokenizer: Any,
    *,
    share: float,
    rng: torch.Generator,
    vocabulary: int | None = None,
    whole_words: bool = False,
) -> Batch:
    """Masked-LM batch: ``share`` of each row's tokens (at least one) are targets.

    As in BERT, 80 % of the targets are shown as the mask token, 10 % as a random token, 10 % as they
    are. Random tokens are drawn below ``vocabulary`` too, where a model has fewer than its tokenizer.
    With ``whole_words``, whose rows `token_rows` makes, it is the share of the words, and all pieces of
    one are hidden, replaced or shown together.
    """
    ids, attended = _pad(rows, tokenizer)
    if whole_words:
        words = words_of(rows, ids.shape[1], set(tokenizer.all_special_ids))
        chosen, fate = chosen_words(words, share, rng)
    else:
        special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids)) | ~attended
        score = torch.rand(ids.shape, generator=rng).masked_fill(special, 2.0)
        count = ((~special).sum(1) * share).round().clamp(min=1)
        rank = score.argsort(1).argsort(1)
        chosen = (rank < count[:, None]) & ~special
        fate = torch.rand(ids.shape, generator=rng)
    targets = ids.masked_fill(~chosen, IGNORED)
    most = min(len(tokenizer), vocabulary or len(tokenizer))
    random = torch.randint(most, ids.shape, generator=rng)
    shown = torch.where(chosen & (fate < 0.8), tokenizer.mask_token_id, ids)
    shown = torch.where(chosen & (fate >= 0.9), random, shown)
    return Batch(shown, attended.long(), targets)


def causal_batch(
    rows: list[list[int]],
    tokenizer: Any,
    *,
    rng: torch.Generator,
    context: bool = True,
    share: float | None = None,
) -> Batch:
    """Causal batch: each row is cut at a random place; targets are among what comes after.

    They are all of it, or at random as many of its tokens as are a ``share`` of the row's, one at least.

    The cost's context is what comes before the first target, so it never contains an answer. Without a
    context nothing but a short row's first half, or a long one's first few tokens, is left out: states
    there are of another kind, and have seen nothing.
    """
    ids, attended = _pad(rows, tokenizer)
    length = attended.sum(1)
    cut = _cuts(length, rng) if context else (length // 2).clamp(max=_FIRST)
    is_target = (torch.arange(ids.shape[1]) >= cut[:, None]) & attended
    if share is not None:
        is_target = _drawn(is_target, length * share, rng)
    return Batch(ids, attended.long(), ids.masked_fill(~is_target, IGNORED))


def moved_ahead(batch: Batch) -> Batch:
    """Each target stands where it is predicted, one position before its own."""
    targets = batch.targets.roll(-1, 1)
    targets[:, -1] = IGNORED
    return replace(batch, targets=targets)


def encoder_decoder_batch(
    rows: list[list[int]],
    tokenizer: Any,
    *,
    start: int,
    rng: torch.Generator,
    share: float | None = None,
) -> Batch:
    """Each row is cut at a random place: the encoder reads the start, the decoder predicts the rest.

    ``start`` is the token that the decoder begins with; of the rest ``share`` makes targets as in
    `causal_batch`.
    """
    cuts = _cuts(torch.tensor([len(row) for row in rows]), rng).tolist()
    ids, attended = _pad([row[:cut] for row, cut in zip(rows, cuts, strict=True)], tokenizer)
    targets, valid = _pad([row[cut:] for row, cut in zip(rows, cuts, strict=True)], tokenizer)
    decoder = targets.roll(1, 1)
    decoder[:, 0] = start
    if share is not None:
        valid = _drawn(valid, torch.tensor([len(row) for row in rows]) * share, rng)
    return Batch(ids, attended.long(), targets.masked_fill(~valid, IGNORED), decoder)


def _drawn(eligible: Tensor, count: Tensor, rng: torch.Generator) -> Tensor:
    """About ``count`` [B] of the eligible places [B, S] of each row, at random, at least one: [B, S]."""
    score = torch.rand(eligible.shape, generator=rng).masked_fill(~eligible, 2.0)
    rank = score.argsort(dim=1, stable=True).argsort(1)
    drawn: Tensor = (rank < count.round().clamp(min=1)[:, None]) & eligible
    return drawn


def _cuts(length: Tensor, rng: torch.Generator) -> Tensor:
    """Where rows of these lengths [B] are cut in two: [B], at least one token on both sides."""
    place = _CAUSAL_PREFIX + (1 - _CAUSAL_PREFIX) * torch.rand(len(length), generator=rng)
    return torch.minimum((length * place).long().clamp(min=1), length - 1)


def _pad(rows: list[list[int]], tokenizer: Any) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    # Padding is never attended, so a tokenizer without a padding token can lend any id.
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    length = torch.tensor([len(row) for row in rows])
    return ids, torch.arange(width) < length[:, None]
