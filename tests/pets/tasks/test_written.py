"""Prompts in a template's words: the tokens that the whole text has, and what is cut of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from label_tokenizers import KINDS, made
from tiny import tiny_tokenizer

from bridges import BadInput
from pets.tasks.base import CHOICE, GENERATION, Example, Label, Task, TaskData
from pets.tasks.families import CAUSAL, ENCODER_DECODER, MASKED
from pets.tasks.prompts import Encoder
from pets.tasks.written import Written

CHAT = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant:{% endif %}"
)


class Asked(Task):
    """Is a film good?"""

    name, labels = "asked", (Label("negative", "bad"), Label("positive", "good"))

    def __init__(self, template: str, **facts: Any) -> None:
        self.template = template
        for name, value in facts.items():
            setattr(self, name, value)

    def load(self, folder: Any = None) -> TaskData:
        raise NotImplementedError


def example(**fields: str) -> Example:
    return Example(" ".join(fields.values()), 0, fields=tuple(fields.items()))


def written(kind: str, family: str, template: str, **facts: Any) -> Written:
    return Written(Encoder(made(kind)), Asked(template, **facts), family)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not KINDS[kind]["mask"]])
@pytest.mark.parametrize(
    "template", ["{text} It was {mask}.", "{text}. It was{mask}", "{text} the {mask}"]
)
@pytest.mark.parametrize("word", ["good", "terrible", "not bad"])
def test_prompt_and_word_are_the_tokens_of_the_whole_text(kind: str, template: str, word: str) -> None:
    tokenizer = made(kind)
    asked = written(kind, CAUSAL, template)
    ((row, _),), cut = asked.encode([example(text="the happy film")], 100)
    assert cut == 0
    before = template.partition("{mask}")[0].replace("{text}", "the happy film")
    whole = tokenizer(before + word)["input_ids"]
    said = [*row.input_ids[: row.mask_position], *asked.word(word)]
    assert tokenizer.decode(said) == tokenizer.decode(whole)
    if asked.template.spaced:
        assert said == whole
    assert len(row.input_ids) == row.mask_position + 1


@pytest.mark.parametrize("kind", [kind for kind in KINDS if KINDS[kind]["mask"]])
def test_a_masked_prompt_is_what_the_tokenizer_makes_of_it(kind: str) -> None:
    tokenizer = made(kind)
    asked = written(kind, MASKED, "{text} It was {mask} .")
    ((row, _),), _ = asked.encode([example(text="the happy film")], 100)
    assert row.input_ids == tokenizer("the happy film It was <mask> .")["input_ids"]
    assert row.input_ids[row.mask_position] == tokenizer.mask_token_id
    asked = written(kind, MASKED, "{text} It was {mask} {text}")
    assert asked.word("good") == asked.word(" good ")


def test_special_tokens_in_a_text_are_text() -> None:
    asked = written("bytes", MASKED, "{text} It was {mask}.")
    ((row, _),), _ = asked.encode([example(text="a </s> <mask> film")], 100)
    tokenizer = made("bytes")
    assert row.input_ids.count(tokenizer.mask_token_id) == 1
    assert row.input_ids.count(tokenizer.eos_token_id) == 1


def test_a_chat_is_a_user_s_turn_and_the_begin_of_the_answer_s() -> None:
    tokenizer = made("bytes-causal")
    tokenizer.chat_template = CHAT
    try:
        asked = written("bytes-causal", CAUSAL, "{text} Is it good? {answer}", chat=True)
        ((row, _),), _ = asked.encode([example(text="a film </s>")], 100)
        ids = row.input_ids[: row.mask_position]
        assert tokenizer.decode(ids) == "<s>user: a film </s> Is it good?</s><s>assistant:"
        special = [k for k in ids if k in (tokenizer.bos_token_id, tokenizer.eos_token_id)]
        assert special == [1, 2, 1]  # the one in the text is text
        tokenizer.chat_template = "{{ raise_exception('no system turn') }}"
        with pytest.raises(BadInput, match=r"chat template of .* fails: no system turn"):
            written("bytes-causal", CAUSAL, "{text} {answer}", chat=True)
        tokenizer.chat_template = "{{ messages[0]['role'] }}"
        with pytest.raises(BadInput, match="does not write a user's text once"):
            written("bytes-causal", CAUSAL, "{text} {answer}", chat=True)
    finally:
        tokenizer.chat_template = None


def test_a_sentinel_stands_for_the_answer_where_the_vocabulary_has_it() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<extra_id_0>"]})
    sentinel = tokenizer.convert_tokens_to_ids("<extra_id_0>")
    for place, expected in (("mask", [sentinel]), ("answer", [])):
        asked = Written(
            Encoder(tokenizer), Asked(f"{{text}} it was {{{place}}} the day"), ENCODER_DECODER
        )
        ((row, _),), _ = asked.encode([example(text="a film")], 100)
        words = tokenizer("a film it was", add_special_tokens=False)["input_ids"]
        after = tokenizer("the day", add_special_tokens=False)["input_ids"]
        assert row.input_ids == [2, *words, *expected, *after, 3]
        assert list(asked.decoder_prefix)[-1:] == (expected or [2])


def lengths(cut: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in cut]


class Seen(Written):
    """One that keeps what it asks."""

    def _row(self, values: Any, answers: Any, example: Example) -> Any:
        self.asked = dict(values)
        return super()._row(values, answers, example)


LONG = " ".join(["film"] * 50)
SHORT = "good bad fine"


@pytest.mark.parametrize("limit", [14, 20, 33, 55])
def test_the_longest_columns_are_cut_and_nothing_else(limit: int) -> None:
    encoder = Encoder(tiny_tokenizer())
    asked = Seen(encoder, Asked("{one} and {two} is it {mask}"), MASKED)
    rows, cut = asked.encode([example(one=LONG, two=SHORT)], limit)
    assert cut == 1
    assert len(rows[0][0].input_ids) == limit  # all the room is used
    assert asked.asked["two"] == SHORT
    assert LONG.startswith(asked.asked["one"])
    rows, _ = asked.encode([example(one=LONG, two=LONG)], limit)
    one, two = lengths([asked.asked["one"], asked.asked["two"]])
    assert one == two == (limit - 6) // 2
    _, cut = asked.encode([example(one=SHORT, two=SHORT)], limit)
    assert cut == 0


def test_a_question_and_the_answers_are_never_cut() -> None:
    encoder = Encoder(tiny_tokenizer())
    task = Asked("{context} {question} {answer}", kind=CHOICE, labels=())
    asked = Seen(encoder, task, CAUSAL)
    question = " ".join(["dog"] * 20)
    choices = ("the cat", "red green blue house tree")
    whole = Example("x", 0, fields=(("context", LONG), ("question", question)), choices=choices)
    rows, cut = asked.encode([whole], 30)
    assert cut == 1
    assert asked.asked["question"] == question
    assert lengths([asked.asked["context"]]) == [30 - 1 - 20 - 5]
    assert rows[0][0].answers == tuple(asked.answer(text) for text in choices)
    with pytest.raises(
        BadInput, match=r"never cut need 21 of the 16 tokens .* give a larger max_length"
    ):
        asked.encode([whole], 21)


def test_an_answer_that_is_trained_on_has_its_end() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = "[SEP]"
    task = Asked("{text} {answer}", kind=GENERATION, labels=())
    asked = Written(Encoder(tokenizer), task, CAUSAL, 3)
    row = asked.encode([Example("x", 0, fields=(("text", "a"),), answers=("red house", "moon"))], 20)[0][
        0
    ][0]
    assert row.answers == ((*asked.answer("red house"), 3),)
    assert row.references == ("red house", "moon")


def test_one_long_word_is_cut_inside() -> None:
    asked = written("bytes", MASKED, "{text} It was {mask}")
    ((row, _),), cut = asked.encode([example(text="x" * 200)], 20)
    assert cut == 1
    assert len(row.input_ids) == 20


def test_answers_that_cannot_be_written_whole_are_told(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = tiny_tokenizer()
    asked = Written(Encoder(tokenizer), Asked("{text} {answer}", kind=GENERATION, labels=()), CAUSAL, 3)
    wholes = [
        Example(text, 0, fields=(("text", text),), answers=(text,))
        for text in ("dog", "red house", "a quick dog and a bird")
    ]
    asked.encode(wholes, 30, 3)
    assert "1 of 3 answers have more than the 3 tokens" in caplog.text


def test_too_little_room_for_answers_is_said_by_whose_length_it_is() -> None:
    encoder, wanted = Encoder(tiny_tokenizer()), ("dog", "a quick dog and a bird")
    task = Asked("{text} {answer}", kind=GENERATION, labels=())
    short, long = (Example("x", 0, fields=(("text", "dog"),), answers=(text,)) for text in wanted)
    causal = Written(encoder, task, CAUSAL, 3)
    own = len(causal.answers(short)[0])
    told = rf"up to 32 tokens are written.* fewer answer_tokens .*have {own} or more"
    with pytest.raises(BadInput, match=told):
        causal.encode([short], 20, 32)
    with pytest.raises(BadInput, match=r"an answer has \d+ tokens .* that begins 'x': give a larger"):
        causal.encode([short, long], 5, 2)
    # An encoder-decoder writes beside its prompt, so only an answer to learn from may be too long.
    assert Written(encoder, task, ENCODER_DECODER, 3).encode([short], 20, 32)[1] == 0
