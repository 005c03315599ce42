"""The prompt layout and label words, on three tiny tokenizers and the real one."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_files import needs_shared, shared
from three_tokenizers import KINDS, SPECIAL, WORDS, real, tiny
from tokenizers import Tokenizer, models
from transformers import (
    AutoTokenizer,
    BertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    T5Config,
    XLMRobertaConfig,
    XLNetConfig,
)

from bridges.errors import BadInput
from bridges.model.positions import IGNORED, max_positions
from pets.tasks.prompts import Encoder, Row, collate, encode

WIDE_MASK = "\uff1cmask\uff1e"  # NFKC turns it into "<mask>"

texts_with_special_tokens = st.lists(
    st.lists(
        st.one_of(st.text(max_size=8), st.sampled_from([*SPECIAL, *WORDS, " ", WIDE_MASK])),
        max_size=12,
    ).map("".join),
    min_size=1,
    max_size=6,
)


@pytest.mark.parametrize("kind", KINDS)
@given(texts=texts_with_special_tokens, max_length=st.integers(4, 20))
@settings(max_examples=60)
def test_layout(kind: str, texts: list[str], max_length: int) -> None:
    tokenizer = tiny(kind)
    pad, bos, eos = 0, 1, 2
    mask = tokenizer.mask_token_id
    whole = encode(tokenizer, texts, 10_000).rows
    prompts = encode(tokenizer, texts, max_length)
    assert len(prompts.rows) == len(texts)
    for row, full in zip(prompts.rows, whole, strict=True):
        assert row.mask_position == 1
        assert row.input_ids[:2] == [bos, mask]
        assert row.input_ids[-1] == eos
        assert not {pad, bos, eos, mask} & set(row.input_ids[2:-1])
        assert row.input_ids[:-1] == full.input_ids[:-1][: max_length - 1]
        assert len(row.input_ids) == min(max_length, len(full.input_ids))
    assert prompts.truncated == sum(len(full.input_ids) > max_length for full in whole)


@pytest.mark.parametrize("kind", KINDS)
def test_plain_text_is_encoded_as_the_tokenizer_does(kind: str) -> None:
    tokenizer = tiny(kind)
    (row,) = encode(tokenizer, ["great film no plot"], 16).rows
    ids = tokenizer("great film no plot")["input_ids"]
    assert row.input_ids == [ids[0], tokenizer.mask_token_id, *ids[1:]]


def test_a_spelled_out_special_token_keeps_its_letters() -> None:
    for kind in KINDS:
        (row,) = encode(tiny(kind), ["great <mask> film"], 30).rows
        text = tiny(kind).decode(row.input_ids[2:-1], skip_special_tokens=False)
        assert "".join(text.split()) == "great<mask>film"


def test_a_spelled_out_special_token_keeps_its_spaces() -> None:
    (row,) = encode(tiny("bytes"), ["great <mask> film"], 30).rows  # the real <mask> eats them
    assert tiny("bytes").decode(row.input_ids[2:-1]) == "great <mask> film"


def test_cut_texts_are_counted_in_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        prompts = encode(tiny("wordpiece"), ["yes " * 3, "yes " * 4, "no " * 40], 6)
    assert prompts.truncated == 2
    assert [record.getMessage() for record in caplog.records] == [
        "2 of 3 texts were cut to fit a prompt of at most 6 tokens (max_length)"
    ]


def test_an_encoder_warns_once_of_what_it_cuts(caplog: pytest.LogCaptureFixture) -> None:
    encoder = Encoder(tiny("wordpiece"))
    long, more = ["yes", "no " * 9], ["no " * 9, "yes " * 9, "yes"]
    found = [encoder.encode(texts, limit) for limit in (6, 7) for texts in (long, more, long)]
    assert [prompts.truncated for prompts in found] == [1, 2, 1] * 2
    assert [record.getMessage() for record in caplog.records] == [
        f"{count} texts were cut to fit a prompt of at most {limit} tokens (max_length)"
        for limit in (6, 7)
        for count in ("1 of 2", "2 of 3")
    ]


def test_no_warning_when_nothing_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    assert encode(tiny("wordpiece"), ["yes"], 6).truncated == 0
    assert not caplog.records


def test_encode_refuses_what_it_cannot_lay_out() -> None:
    with pytest.raises(BadInput, match=r"max_length 3 leaves no room .* expected at least 4"):
        encode(tiny("bytes"), ["yes"], 3)
    with pytest.raises(BadInput, match="no texts to encode"):
        encode(tiny("bytes"), [], 8)
    backend = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    bare = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    with pytest.raises(BadInput, match="has no mask token; expected one of a masked language model"):
        encode(bare, ["yes"], 8)


@given(
    rows=st.lists(st.tuples(st.lists(st.integers(5, 99), max_size=9), st.integers(0, 1)), min_size=1),
    pad=st.integers(0, 3),
)
def test_collate(rows: list[tuple[list[int], int]], pad: int) -> None:
    pairs = [(Row([1, 4, *ids, 2], 1), label) for ids, label in rows]
    batch = collate(pairs, pad)
    length = max(len(ids) for ids, _ in rows) + 3
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
    for name in ("input_ids", "attention_mask", "labels"):
        assert batch[name].shape == (len(rows), length)
    for index, (row, label) in enumerate(pairs):
        size = len(row.input_ids)
        padding = [pad] * (length - size)
        assert batch["input_ids"][index].tolist() == row.input_ids + padding
        assert batch["attention_mask"][index].tolist() == [1] * size + [0] * (length - size)
        expected = [IGNORED] * length
        expected[row.mask_position] = label
        assert batch["labels"][index].tolist() == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (BertConfig(max_position_embeddings=512), 512),
        (RobertaConfig(max_position_embeddings=514, pad_token_id=1), 512),
        (XLMRobertaConfig(max_position_embeddings=514, pad_token_id=1), 512),
        (T5Config(), None),
        (XLNetConfig(), None),
    ],
)
def test_max_positions(config: Any, expected: int | None) -> None:
    assert max_positions(config) == expected


@needs_shared("models", "minilm-l6-mlm")
def test_real_tokenizer_layout() -> None:
    (row,) = encode(real(), ["A [MASK] film. [SEP]"], 128).rows
    pieces = real().convert_ids_to_tokens(row.input_ids)
    assert " ".join(pieces) == "[CLS] [MASK] a [ mask ] film . [ sep ] [SEP]"
    assert row.mask_position == 1


@needs_shared("models", "stories260K")
def test_a_causal_tokenizer_is_refused() -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared("models", "stories260K"))
    with pytest.raises(BadInput, match="stories260K' has no mask token"):
        encode(tokenizer, ["once"], 16)
