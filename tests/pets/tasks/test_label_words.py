"""A label word is what the tokenizer makes of it in a text, whatever its kind."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from label_tokenizers import KINDS, made
from shared_files import needs_shared, shared
from three_tokenizers import real
from tiny import tiny_bert, tiny_tokenizer
from transformers import AutoTokenizer

from bridges import BadInput, RunningCost
from pets import Verbalizer, tasks
from pets.tasks.base import Example, TaskData
from pets.tasks.classifier import PromptClassifier
from pets.tasks.label_words import word_tokens
from pets.tuning.settings import TuneSettings
from pets.tuning.tune import tune

WORDS = ("great", "happy", "sad", "terrible", "good", "Great", "café", "not good", "grated", ".")
# How the vocabularies of some kinds write "happy", and a mark that others use.
MARKED = {"bytes": "Ġ", "metaspace": "▁", "llama": "▁", "unigram": "▁"}


def in_a_text(tokenizer: Any, word: str) -> list[int]:
    """What a text is longer by when the word goes on with it."""
    alone, whole = (
        tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("It was", f"It was {word}")
    )
    assert whole[: len(alone)] == alone
    return list(whole[len(alone) :])


def mark_of(kind: str) -> str | None:
    return MARKED.get(kind.partition("-")[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("word", WORDS)
def test_a_word_is_its_tokens_in_a_text(kind: str, word: str) -> None:
    tokenizer = made(kind)
    expected = in_a_text(tokenizer, word)
    if tokenizer.unk_token_id in expected:
        with pytest.raises(BadInput, match="is not in this vocabulary"):
            word_tokens(tokenizer, word)
        return
    found = list(word_tokens(tokenizer, word))
    bare = tokenizer(word, add_special_tokens=False)["input_ids"]
    masked_and_bare = tokenizer.mask_token is not None and len(bare) == 1 < len(expected)
    assert found == (bare if masked_and_bare else expected)
    assert word_tokens(tokenizer, f" {word} ") == tuple(found)


@pytest.mark.parametrize("kind", KINDS)
def test_marks_typed_by_hand_are_understood_or_refused(kind: str) -> None:
    tokenizer, own = made(kind), mark_of(kind)
    plain = word_tokens(tokenizer, "happy")
    for mark in ("Ġ", "▁"):
        if mark == own:
            assert word_tokens(tokenizer, f"{mark}happy") == plain
            assert word_tokens(tokenizer, f"{mark}not{mark}good") == word_tokens(tokenizer, "not good")
        else:
            with pytest.raises(BadInput, match=rf"'{mark}happy' is written with '{mark}', .* 'happy'$"):
                word_tokens(tokenizer, f"{mark}happy")
    if kind == "end-of-word":
        assert word_tokens(tokenizer, "happy</w>") == plain
    else:
        with pytest.raises(BadInput, match="'happy</w>' is written with '</w>'"):
            word_tokens(tokenizer, "happy</w>")
    for piece in ("##ing", "happ@@"):
        with pytest.raises(BadInput, match=f"'{piece}' is written as a piece of a longer word"):
            word_tokens(tokenizer, piece)
    if own:
        with pytest.raises(BadInput, match=r"write it as in a text$"):
            word_tokens(tokenizer, own)


def test_a_token_that_writes_bytes_as_letters_is_read_as_them() -> None:
    tokenizer = made("bytes")
    assert "ĠcafÃ©" in tokenizer.get_vocab()
    assert word_tokens(tokenizer, "ĠcafÃ©") == word_tokens(tokenizer, "café")


def test_a_capital_with_a_dot_inside_of_a_word_is_a_letter() -> None:
    tokens = word_tokens(made("bytes"), "il-Ġimgħa")
    assert made("bytes").decode(tokens) == " il-Ġimgħa"


def test_a_causal_tokenizer_has_no_bare_form() -> None:
    """Without a mask a word is always said after a space."""
    tokenizer = made("bytes-causal")
    assert len(tokenizer("q", add_special_tokens=False)["input_ids"]) == 1
    assert len(word_tokens(tokenizer, "q")) == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("word", WORDS)
def test_a_bare_word_is_its_tokens_alone(kind: str, word: str) -> None:
    """The published verbalizer: byte-level vocabularies have another token for it than after a space."""
    tokenizer = made(kind)
    alone = tokenizer(word, add_special_tokens=False)["input_ids"]
    if tokenizer.unk_token_id in alone:
        with pytest.raises(BadInput, match="is not in this vocabulary"):
            word_tokens(tokenizer, word, bare=True)
        return
    assert list(word_tokens(tokenizer, word, bare=True)) == alone
    if kind == "bytes":
        assert tokenizer.decode(alone) == word
        assert tokenizer.decode(in_a_text(tokenizer, word)) == f" {word}"
    if kind in ("wordpiece", "wordpiece-lower", "end-of-word"):
        assert alone == in_a_text(tokenizer, word)


def test_a_verbalizer_of_bare_words_proposes_bare_words(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = made("bytes")
    bare = Verbalizer.of_words(tokenizer, ["no", "terrible"], bare=True)
    spaced = Verbalizer.of_words(tokenizer, ["no", "terrible"], warn=False)
    assert bare.tokens == tuple((word_tokens(tokenizer, w, bare=True),) for w in ("no", "terrible"))
    assert bare.tokens != spaced.tokens
    (record,) = caplog.records
    near = record.getMessage().partition("words of one token are, for example, ")[2].split(", ")
    assert all(len(word_tokens(tokenizer, word, bare=True)) == 1 for word in near if word)
    assert "label word 'terrible' is" in record.getMessage()


def test_the_library_warns_of_long_words_unless_told_otherwise(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        Verbalizer.of_words(tiny_tokenizer(), ["very fine", "bad"], warn=False)
        assert not caplog.records
        Verbalizer.of_words(tiny_tokenizer(), ["very fine", "bad"])
    (record,) = caplog.records
    assert "label word 'very fine' is 2 tokens of this vocabulary (very fine)" in record.getMessage()


@pytest.mark.parametrize("words", [[1, 2], None, 3, {"a": None}, [["good"], [b"bad"]], {0: "a", 1: "b"}])
def test_what_is_no_word_is_refused(words: Any) -> None:
    with pytest.raises(BadInput, match="expected"):
        Verbalizer.of_words(tiny_tokenizer(), words)


def test_a_word_that_is_no_valid_text_is_refused() -> None:
    with pytest.raises(BadInput, match=r"label word '\\udcff' is no valid text"):
        word_tokens(tiny_tokenizer(), "\udcff")


def test_a_token_that_the_model_has_no_row_for_is_refused_by_name() -> None:
    tokenizer, model = tiny_tokenizer(), tiny_bert()
    tokenizer.add_tokens(["brandnew"])
    words = Verbalizer.of_words(tokenizer, ["brandnew", "bad"])
    message = r"label word 'brandnew' has tokens \[63\], and the model knows 0 to 62: .*resize_token"
    with pytest.raises(BadInput, match=message):
        words.ends(RunningCost.for_model(model, latent_dim=8))
    with pytest.raises(BadInput, match=message):
        PromptClassifier(model, words)


def test_a_text_with_a_token_that_the_model_has_no_row_for_is_refused(tmp_path: Path) -> None:
    tokenizer, task = tiny_tokenizer(), tasks.get("sst2").with_words(("bad", "good"))
    tokenizer.add_tokens(["brandnew"])
    texts = ("film", "book", "brandnew film", "a film", "a book", "the film", "the book", "story")
    data = TaskData(task, tuple(Example(text, i % 2) for i, text in enumerate(texts)), ())
    settings = TuneSettings(shots=2, max_steps=1, eval_every=1)
    with pytest.raises(BadInput, match="a text has token 63, and the model knows 0 to 62"):
        tune(tiny_bert(), tokenizer, data, settings, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@needs_shared("models", "stories260K")
def test_words_of_a_real_sentencepiece_vocabulary() -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared("models", "stories260K"))
    for word in ("terrible", "happy", "sad", "good", "great", "yes"):
        assert list(word_tokens(tokenizer, word)) == in_a_text(tokenizer, word)
        assert word_tokens(tokenizer, f"▁{word}") == word_tokens(tokenizer, word)
    assert tokenizer.convert_ids_to_tokens(list(word_tokens(tokenizer, "sad"))) == ["▁sa", "d"]


@needs_shared("models", "minilm-l6-mlm")
def test_words_of_a_real_wordpiece_vocabulary_stay_what_they_were() -> None:
    """Encoded alone after a space: the earlier rule, which was right there."""
    tokenizer = real()
    known = [word for word in tokenizer.get_vocab() if word.isalpha()][::40]
    words = [*known, "unwatchable", "not good"]
    for word in words:
        alone = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        assert list(word_tokens(tokenizer, word)) == alone
