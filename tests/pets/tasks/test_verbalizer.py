"""Label words: their tokens, their scores at a position, and the classes' names as words."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from shared_files import needs_shared
from three_tokenizers import KINDS, real, tiny
from tiny import tiny_bert, tiny_model, tiny_tokenizer

from bridges import BadInput, RunningCost
from pets import Verbalizer, tasks


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_whole_words(kind: str) -> None:
    tokenizer = tiny(kind)
    verbalizer = Verbalizer.of_words(tokenizer, ("no", "maybe", "yes"))
    ids = [words[0][0] for words in verbalizer.tokens]
    marker = {"wordpiece": "", "bytes": "Ġ", "unigram": "▁"}[kind]
    assert tokenizer.convert_ids_to_tokens(ids) == [f"{marker}{w}" for w in ("no", "maybe", "yes")]
    assert verbalizer.labels == ("no", "maybe", "yes")


def test_a_word_in_its_bare_form_where_only_that_is_one_token() -> None:
    tokenizer = tiny("bytes")
    ((tokens,),) = Verbalizer.of_words(tokenizer, ["q"]).tokens  # " q" is two tokens
    assert tokenizer.convert_ids_to_tokens(list(tokens)) == ["q"]


@pytest.mark.parametrize("kind", KINDS)
def test_several_words_of_several_tokens(kind: str) -> None:
    tokenizer = tiny(kind)
    verbalizer = Verbalizer.of_words(tokenizer, {"bad": "terrible", "good": ["great", "great film"]})
    assert verbalizer.labels == ("bad", "good")
    assert verbalizer.words == (("terrible",), ("great", "great film"))
    assert [[len(t) for t in words] for words in verbalizer.tokens] == [[1], [1, 2]]
    written = tokenizer.decode(list(verbalizer.tokens[1][1])).strip()
    assert written == "great film"


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_word_is_warned_of_with_its_pieces_and_shorter_ones(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = tiny(kind)
    with caplog.at_level(logging.WARNING):
        Verbalizer.of_words(tokenizer, ["yes", "terribleful"])
    (record,) = caplog.records
    message = record.getMessage()
    assert "'terribleful' is" in message
    assert "tokens of this vocabulary" in message
    proposals = message.rpartition("for example, ")[2].split(", ")
    assert {"terrible", "terribly"} <= set(proposals)
    assert all(len(words[0]) == 1 for words in Verbalizer.of_words(tokenizer, proposals).tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_a_special_token_that_is_spelled_out_is_text(kind: str) -> None:
    tokenizer = tiny(kind)
    ((tokens,),) = Verbalizer.of_words(tokenizer, ["<mask>"]).tokens
    assert len(tokens) > 1
    assert not set(tokens) & set(tokenizer.all_special_ids)


@pytest.mark.parametrize("kind", ["wordpiece", "unigram"])  # bytes can spell everything
def test_a_word_of_unknown_pieces_is_refused(kind: str) -> None:
    with pytest.raises(
        BadInput, match=r"label word '漢' is not in this vocabulary \(its pieces: '.*<unk>'"
    ):
        Verbalizer.of_words(tiny(kind), ["yes", "漢"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["yes", ""], "label word '' is empty; expected a word"),
        (["yes", " "], "label word ' ' is empty; expected a word"),
        (["great", "Great"], r"'great' and 'Great' are the same tokens \(ids \[\d+\]\)"),
        ({"a": ["yes", "great"], "b": "great"}, "'great' and 'great' are the same tokens"),
        (["yes", "yes"], "expected one label or more, no two the same"),
        ([], "expected one label or more"),
        ("yes", "label words 'yes': expected a word, or a list of words, for each label"),
        ({"a": "yes", "b": []}, "label 'b' has no words: give it one or more"),
    ],
)
def test_bad_words_are_refused(words: object, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        Verbalizer.of_words(tiny("wordpiece"), words)  # type: ignore[arg-type]


def test_the_score_is_the_log_probability_of_the_words() -> None:
    """Two words: the sum of their probabilities. Two tokens: the geometric mean of theirs."""
    verbalizer = Verbalizer(("a", "b"), (("x", "y"), ("u v",)), (((3,), (5,)), ((1, 2),)))
    logits = torch.randn(4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = logits.softmax(1)
    score = verbalizer.score(logits)
    torch.testing.assert_close(score[:, 0].exp(), p[:, 3] + p[:, 5])
    torch.testing.assert_close(score[:, 1].exp(), (p[:, 1] * p[:, 2]).sqrt())


def test_class_names_become_words() -> None:
    model = tiny_model("bert", head="ForSequenceClassification", num_labels=2)
    model.config.id2label = {0: "not_good", 1: "Good"}
    verbalizer = Verbalizer.of_classes(tiny_tokenizer(), model)
    assert verbalizer.labels == ("not_good", "Good")
    assert verbalizer.words == (("not good",), ("Good",))
    assert [len(words[0]) for words in verbalizer.tokens] == [2, 1]


@pytest.mark.parametrize("names", [{0: "LABEL_0", 1: "LABEL_1"}, {0: "0", 1: "good"}])
def test_class_names_that_say_nothing_are_refused(names: dict[int, str]) -> None:
    model = tiny_model("bert", head="ForSequenceClassification", num_labels=2)
    model.config.id2label = names
    with pytest.raises(BadInput, match=r"the class names .* say nothing: give words with Verbalizer"):
        Verbalizer.of_classes(tiny_tokenizer(), model)


def test_labels_end_at_their_words() -> None:
    """A word of one token at its end point; of two at their direction's mean; equal weights."""
    tokenizer = tiny_tokenizer()
    cost = RunningCost.for_model(tiny_bert(), latent_dim=8)
    ends = Verbalizer.of_words(tokenizer, {"n": "bad", "p": ["good", "very fine"]}).ends(cost)
    word = {w: cost.end_points.vectors[tokenizer.convert_tokens_to_ids(w)] for w in _WORDS}
    assert ends.vectors.shape == (2, 2, 8)
    torch.testing.assert_close(ends.vectors[0, 0], word["bad"])
    torch.testing.assert_close(ends.vectors[1, 0], word["good"])
    mean = word["very"] + word["fine"]
    torch.testing.assert_close(ends.vectors[1, 1], mean / mean.norm())
    assert ends.log_weights[0].tolist() == [0.0, -math.inf]
    torch.testing.assert_close(ends.log_weights[1].exp(), torch.tensor([0.5, 0.5]))


_WORDS = ("bad", "good", "very", "fine")


@needs_shared("models", "minilm-l6-mlm")
@pytest.mark.parametrize("name", tasks.available())
def test_the_real_tokenizer_has_every_published_word(name: str) -> None:
    task = tasks.get(name)
    verbalizer = Verbalizer.of_words(real(), task.verbalizer)
    assert verbalizer.labels == tuple(label.name for label in task.labels)
    ids = [token for words in verbalizer.tokens for (token,) in words]
    assert real().convert_ids_to_tokens(ids) == list(task.words)


@needs_shared("models", "minilm-l6-mlm")
def test_the_real_tokenizer_proposes_words(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Verbalizer.of_words(real(), ["unwatchable", "great"])
    assert "(un ##watch ##able)" in caplog.text
    assert "for example, unstable" in caplog.text
