"""A task as a model is asked it, in lines of text: prompts, tokens, label words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from bridges.errors import listed, one_line
from pets.tasks.asking import Asking
from pets.tasks.base import GENERATION, Example
from pets.tasks.families import CAUSAL, CLASSIFIER, ENCODER_DECODER
from pets.tasks.prompts import Row

_WIDTH = 2000  # characters of a line


def asked_by(asking: Asking, examples: Sequence[Example], shown: int, limit: int) -> Iterator[str]:
    """How the model is asked.

    Args:
        asking: of the task and the model.
        examples: all, of which those that are cut are counted.
        shown: how many of the first ones are rendered.
        limit: tokens of a prompt.
    """
    tokenizer: Any = asking.encoder.tokenizer
    rows, cut = asking.encode(examples, limit)
    yield f"model: {asking.family}, {_how(asking)}"
    if asking.written is not None and asking.written.drops:
        yield f"not read by it: {one_line(asking.written.drops, 200)!r}"
    if asking.verbalizer is not None and asking.family != CLASSIFIER:
        for name, words, tokens in zip(
            asking.verbalizer.labels, asking.verbalizer.words, asking.verbalizer.tokens, strict=True
        ):
            each = [f"{w!r} = {_tokens(tokenizer, ids)}" for w, ids in zip(words, tokens, strict=True)]
            yield f"tokens of class {name}: {listed(each)}"
    if asking.verbalizer is not None and asking.head:
        named = zip(asking.head, asking.verbalizer.labels, strict=True)
        yield f"classes of its head: {listed([f'{head} is {label}' for head, label in named])}"
    yield f"cut to {limit} tokens: {cut} of {len(rows)} texts"
    for number, ((row, label), example) in enumerate(zip(rows[:shown], examples, strict=False), 1):
        yield f"example {number}:"
        yield f"    prompt: {one_line(repr(_prompt(asking, row)), _WIDTH)}"
        read = row.input_ids[: row.mask_position] if asking.family == CAUSAL else row.input_ids
        yield f"    tokens: {one_line(_tokens(tokenizer, read), _WIDTH)}"
        yield f"    answer: {_answer(asking, row, label, example)}"


def _how(asking: Asking) -> str:
    if asking.family == CLASSIFIER:
        return "which tells the classes with its own head"
    if asking.task.kind == GENERATION:
        return f"which writes at most {asking.task.answer_tokens} tokens"
    if asking.whole:
        return "whose answers are compared by their whole log-probability"
    return "which says one word"


def _prompt(asking: Asking, row: Row) -> str:
    """What it reads, the answer's place in brackets where that is one."""
    tokenizer: Any = asking.encoder.tokenizer
    ids = row.input_ids
    if asking.family in (CLASSIFIER, ENCODER_DECODER):
        return str(tokenizer.decode(ids))
    before, after = (tokenizer.decode(part) for part in _around(ids, row.mask_position))
    place = "" if asking.family == CAUSAL else tokenizer.mask_token
    return f"{before}[{place}]{after}"


def _around(ids: Sequence[int], place: int) -> tuple[list[int], list[int]]:
    return list(ids[:place]), list(ids[place + 1 :])


def _answer(asking: Asking, row: Row, label: int, example: Example) -> str:
    tokenizer: Any = asking.encoder.tokenizer
    if asking.verbalizer is not None:
        if asking.family == CLASSIFIER:
            return f"class {asking.verbalizer.labels[label]}"
        return _tokens(tokenizer, asking.verbalizer.tokens[label][0])
    if asking.task.kind == GENERATION:
        return _tokens(tokenizer, row.answers[0])
    others = [_tokens(tokenizer, ids) for k, ids in enumerate(row.answers) if k != label]
    return f"{_tokens(tokenizer, row.answers[label])}, not {listed(others)}"


def _tokens(tokenizer: Any, ids: Sequence[int]) -> str:
    return " ".join(map(str, tokenizer.convert_ids_to_tokens(list(ids))))
