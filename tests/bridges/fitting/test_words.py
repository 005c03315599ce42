"""Whole-word masking: words are hidden with all their pieces, whatever the vocabulary."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from label_tokenizers import made
from three_tokenizers import KINDS, WORDS, tiny
from tiny import TEXTS, tiny_bert, tiny_llama, tiny_tokenizer
from torch import Tensor

from bridges import BadInput, FitSettings, RunningCost
from bridges.fitting.batches import masked_batch, token_rows
from bridges.fitting.words import WordRow
from bridges.seeds import generator

# What vocabularies of WORDS have to take apart, and what they have not.
LONG = ["terriblyfilm", "yesno", "plotted", "greatful", "unmaybe"]


def texts(count: int = 40) -> list[str]:
    rng = random.Random(0)
    return [" ".join(rng.choices([*WORDS, *LONG], k=rng.randint(6, 14))) for _ in range(count)]


def rows_of(tokenizer: Any, given: list[str], length: int = 300) -> list[list[int]]:
    return token_rows(tokenizer, given, max_length=length, most=10_000, seed=0, whole_words=True)


def spans(tokenizer: Any, row: list[int]) -> list[list[int]]:
    """Which columns of a row are one word of the text, found by encoding each word by itself."""
    text = tokenizer.decode(row, skip_special_tokens=True).strip()
    found, column = [], 1
    for k, word in enumerate(text.split()):
        spelled = word if k == 0 else f" {word}"
        ids = tokenizer(spelled, add_special_tokens=False)["input_ids"]
        assert row[column : column + len(ids)] == ids
        found.append(list(range(column, column + len(ids))))
        column += len(ids)
    assert column == len(row) - 1
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_targets_with_all_their_pieces(kind: str) -> None:
    tokenizer = tiny(kind)
    rows = rows_of(tokenizer, texts())
    batch = masked_batch(rows, tokenizer, share=0.3, rng=generator(1), whole_words=True)
    several = 0
    for k, row in enumerate(rows):
        words = spans(tokenizer, row)
        chosen = (batch.targets[k] != -100).tolist()
        drawn = [word for word in words if chosen[word[0]]]
        for word in words:
            assert len({chosen[column] for column in word}) == 1
        assert sum(chosen) == sum(map(len, drawn))  # and nothing besides
        assert len(drawn) == max(1, round(0.3 * len(words)))
        several += sum(len(word) > 1 for word in drawn)
        for word in drawn:
            assert [int(batch.targets[k, c]) for c in word] == [row[c] for c in word]
            hidden = {int(batch.input_ids[k, c]) == tokenizer.mask_token_id for c in word}
            assert len(hidden) == 1  # all of it or none
    assert several > 20


def test_words_are_shown_80_10_10() -> None:
    """Each word as a whole; 4000 words, five binomial standard errors."""
    tokenizer = tiny("bytes")
    rows = rows_of(tokenizer, [" ".join(["plotted"] * 40)] * 100)
    batch = masked_batch(rows, tokenizer, share=0.999, rng=generator(2), whole_words=True)
    counts = {"hidden": 0, "shown": 0, "other": 0}
    for k, row in enumerate(rows):
        for word in spans(tokenizer, row):
            assert len(word) > 1
            seen = [int(batch.input_ids[k, c]) for c in word]
            hidden = seen == [tokenizer.mask_token_id] * len(word)
            same = seen == [row[c] for c in word]
            counts["hidden" if hidden else "shown" if same else "other"] += 1
    total = sum(counts.values())
    assert total == 4000
    for name, expected in {"hidden": 0.8, "shown": 0.1, "other": 0.1}.items():
        assert abs(counts[name] / total - expected) < 5 * (expected * (1 - expected) / total) ** 0.5


def test_every_word_is_drawn_as_often_however_long_it_is() -> None:
    tokenizer = tiny("wordpiece")
    rows = rows_of(tokenizer, ["yes terriblyfilm no plotted great"] * 3000)
    words = spans(tokenizer, rows[0])
    assert {len(word) > 2 for word in words} == {True, False}
    chosen = masked_batch(rows, tokenizer, share=0.2, rng=generator(0), whole_words=True).targets != -100
    share = chosen[:, [word[0] for word in words]].double().mean(0)
    assert (share - 0.2).abs().max() < 5 * (0.2 * 0.8 / 3000) ** 0.5


def test_a_batch_is_a_function_of_its_generator() -> None:
    tokenizer = tiny("unigram")
    rows = rows_of(tokenizer, texts(8))

    def shown(seed: int) -> Tensor:
        rng = generator(seed)
        return masked_batch(rows, tokenizer, share=0.3, rng=rng, whole_words=True).input_ids

    assert torch.equal(shown(1), shown(1))
    assert not torch.equal(shown(1), shown(2))


def test_a_word_with_an_unknown_piece_is_no_target() -> None:
    tokenizer = tiny("wordpiece")
    (row,) = rows_of(tokenizer, ["yes no 漢 great film"])
    assert tokenizer.unk_token_id in row
    for seed in range(30):
        batch = masked_batch([row], tokenizer, share=0.9, rng=generator(seed), whole_words=True)
        assert tokenizer.unk_token_id not in batch.targets[0].tolist()
    only = WordRow(row, [None if w is None else 0 for w in row.words])  # type: ignore[attr-defined]
    nothing = masked_batch([only], tokenizer, share=0.9, rng=generator(0), whole_words=True)
    assert (nothing.targets == -100).all()
    assert nothing.input_ids[0].tolist() == row


def test_single_tokens_are_masked_as_before_to_the_bit() -> None:
    """The default's batches, by the formula that made them before there was a choice."""
    tokenizer = tiny("bytes")
    rows = token_rows(tokenizer, texts(), max_length=300, most=100, seed=0)
    assert all(type(row) is list for row in rows)
    assert rows == rows_of(tokenizer, texts())[:100]
    batch = masked_batch(rows, tokenizer, share=0.15, rng=generator(7))
    rng = generator(7)
    width = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
    free = ~torch.isin(ids, torch.tensor(tokenizer.all_special_ids))
    rank = torch.rand(ids.shape, generator=rng).masked_fill(~free, 2.0).argsort(1).argsort(1)
    chosen = (rank < (free.sum(1) * 0.15).round().clamp(min=1)[:, None]) & free
    fate = torch.rand(ids.shape, generator=rng)
    others = torch.randint(len(tokenizer), ids.shape, generator=rng)
    shown = torch.where(chosen & (fate < 0.8), tokenizer.mask_token_id, ids)
    assert torch.equal(batch.input_ids, torch.where(chosen & (fate >= 0.9), others, shown))
    assert torch.equal(batch.targets, ids.masked_fill(~chosen, -100))


def test_a_tokenizer_that_knows_no_words_is_refused() -> None:
    with pytest.raises(BadInput, match="every row of text is a single word, so whole words cannot"):
        rows_of(made("llama-legacy"), ["It was great and good"])


@pytest.mark.parametrize("masking", ["word", "", None, 1])
def test_another_masking_is_refused(masking: Any) -> None:
    with pytest.raises(BadInput, match=r"masking=.*: expected 'tokens' or 'words'"):
        FitSettings(masking=masking)


def test_a_fit_on_whole_words_is_recorded_and_where_words_are_tokens_learns_too() -> None:
    model, tokenizer = tiny_bert(), tiny_tokenizer()
    short = {"max_steps": 6, "batch_size": 8, "eval_every": 3, "held_out": 8, "learning_rate": 0.01}
    cost = RunningCost.for_model(model, latent_dim=8)
    result = cost.fit(model, tokenizer, TEXTS, masking="words", progress=False, **short)
    assert result.best < result.held_out[0][1]
    assert cost.fit_record is not None
    assert cost.fit_record["settings"]["masking"] == "words"


def test_a_model_that_masks_nothing_says_so(caplog: pytest.LogCaptureFixture) -> None:
    model = tiny_llama()
    cost = RunningCost.for_model(model, latent_dim=8)
    short = {"max_steps": 1, "batch_size": 4, "held_out": 4}
    cost.fit(model, tiny_tokenizer(), TEXTS, masking="words", progress=False, **short)
    assert "masking='words' has no part here: nothing is masked for this model" in caplog.text
