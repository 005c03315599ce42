"""The prompt layout and label words, on three tiny tokenizers and the real one."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_files import needs_shared, shared
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
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
from bridges.text import IGNORED, max_positions
from pets import tasks
from pets.prompts import Row, collate, encode, label_token_ids

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<mask>"]
WORDS = "yes no maybe great terrible terribly positive negative same different film plot".split()  # noqa: SIM905
CORPUS = [f"{a} {b} {c}" for a in WORDS for b in WORDS for c in WORDS]
WIDE_MASK = "\uff1cmask\uff1e"  # NFKC turns it into "<mask>"
KINDS = ["wordpiece", "bytes", "unigram"]


@cache
def tiny(kind: str) -> Any:
    """WordPiece, byte-level BPE or sentencepiece-style Unigram over WORDS; `<s> text </s>`."""
    if kind == "wordpiece":
        letters = [chr(code) for code in range(33, 127)]
        pieces = [*SPECIAL, *WORDS, *letters, *(f"##{letter}" for letter in letters), "##ful"]
        vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
        backend = Tokenizer(models.WordPiece(vocab, unk_token="<unk>"))
        backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        backend.decoder = decoders.WordPiece()
    elif kind == "bytes":
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=SPECIAL[:-1],  # <mask> comes below, with its lstrip, as in RoBERTa
            initial_alphabet=alphabet,
            show_progress=False,
        )
        backend.train_from_iterator(CORPUS, trainer)
    else:
        # As in XLM-R and ALBERT, the special tokens are pieces of the model itself.
        scored = [(token, 0.0) for token in SPECIAL]
        scored += [(f"▁{word}", -3.0) for word in WORDS] + [("▁", -4.0), ("ful", -4.0)]
        scored += [(chr(code), -9.0) for code in range(33, 127)]
        backend = Tokenizer(models.Unigram(scored, unk_id=3, byte_fallback=False))
        backend.normalizer = normalizers.NFKC()
        backend.pre_tokenizer = pre_tokenizers.Metaspace()
        backend.decoder = decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        mask_token=AddedToken("<mask>", lstrip=True, special=True),
        model_max_length=16,
    )  # fmt: skip


@cache
def real() -> Any:
    return AutoTokenizer.from_pretrained(shared("models", "minilm-l6-mlm"))


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
        "2 of 3 texts were longer than 3 tokens and were cut (max_length 6)"
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


@pytest.mark.parametrize("kind", KINDS)
def test_label_words_are_whole_words(kind: str) -> None:
    tokenizer = tiny(kind)
    ids = label_token_ids(tokenizer, ("no", "maybe", "yes"))
    marker = {"wordpiece": "", "bytes": "Ġ", "unigram": "▁"}[kind]
    assert tokenizer.convert_ids_to_tokens(ids) == [f"{marker}{w}" for w in ("no", "maybe", "yes")]


def test_label_word_in_its_bare_form() -> None:
    tokenizer = tiny("bytes")
    (token,) = label_token_ids(tokenizer, ["q"])  # " q" is two tokens
    assert tokenizer.convert_ids_to_tokens(token) == "q"


@pytest.mark.parametrize("kind", KINDS)
def test_split_label_word_shows_its_pieces_and_proposes_others(kind: str) -> None:
    with pytest.raises(
        BadInput, match=r"'terribleful' is not a single token .*pieces: .*\); .* for example terr"
    ) as caught:
        label_token_ids(tiny(kind), ["terribleful"])
    proposals = str(caught.value).rpartition("for example ")[2].split(", ")
    assert {"terrible", "terribly"} <= set(proposals)
    assert label_token_ids(tiny(kind), proposals)


@pytest.mark.parametrize("word", ["<mask>", "<unk>", "漢"])
@pytest.mark.parametrize("kind", KINDS)
def test_special_and_unknown_label_words_do_not_count(kind: str, word: str) -> None:
    with pytest.raises(BadInput, match="is not a single token of this vocabulary"):
        label_token_ids(tiny(kind), [word])


@pytest.mark.parametrize("word", ["", " "])
@pytest.mark.parametrize("kind", KINDS)
def test_empty_label_words_are_refused(kind: str, word: str) -> None:
    with pytest.raises(BadInput, match=f"label word '{word}' is empty; expected a word"):
        label_token_ids(tiny(kind), ["yes", word])


def test_label_words_of_one_token_clash() -> None:
    with pytest.raises(BadInput, match=r"'great' and 'Great' are the same token \(id \d+\)"):
        label_token_ids(tiny("wordpiece"), ["great", "Great"])


@given(
    rows=st.lists(st.tuples(st.lists(st.integers(5, 99), max_size=9), st.integers(0, 1)), min_size=1),
    pad=st.integers(0, 3),
)
def test_collate(rows: list[tuple[list[int], int]], pad: int) -> None:
    pairs = [(Row([1, 4, *ids, 2], 1), label) for ids, label in rows]
    batch = collate(pairs, [70, 71], pad)
    length = max(len(ids) for ids, _ in rows) + 3
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
    for name in ("input_ids", "attention_mask", "labels"):
        assert batch[name].shape == (len(rows), length)
    assert batch["class_labels"].tolist() == [label for _, label in rows]
    for index, (row, label) in enumerate(pairs):
        size = len(row.input_ids)
        padding = [pad] * (length - size)
        assert batch["input_ids"][index].tolist() == row.input_ids + padding
        assert batch["attention_mask"][index].tolist() == [1] * size + [0] * (length - size)
        expected = [IGNORED] * length
        expected[row.mask_position] = 70 + label
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
@pytest.mark.parametrize("name", tasks.available())
def test_real_tokenizer_has_every_published_label_word(name: str) -> None:
    task = tasks.get(name)
    ids = label_token_ids(real(), task.words)
    assert real().convert_ids_to_tokens(ids) == list(task.words)


@needs_shared("models", "minilm-l6-mlm")
def test_real_tokenizer_layout() -> None:
    (row,) = encode(real(), ["A [MASK] film. [SEP]"], 128).rows
    pieces = real().convert_ids_to_tokens(row.input_ids)
    assert " ".join(pieces) == "[CLS] [MASK] a [ mask ] film . [ sep ] [SEP]"
    assert row.mask_position == 1


@needs_shared("models", "minilm-l6-mlm")
def test_real_tokenizer_proposes_words() -> None:
    with pytest.raises(BadInput, match=r"pieces: 'un ##watch ##able'\); .*, for example unstable"):
        label_token_ids(real(), ["unwatchable", "great"])


@needs_shared("models", "stories260K")
def test_a_causal_tokenizer_is_refused() -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared("models", "stories260K"))
    with pytest.raises(BadInput, match="stories260K' has no mask token"):
        encode(tokenizer, ["once"], 16)
