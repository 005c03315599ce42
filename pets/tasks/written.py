"""Prompts in a template's words, as a model of one family reads them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bridges.errors import BadInput, shown
from pets.tasks.base import CLASSES, GENERATION, Example, Task
from pets.tasks.cutting import cut, no_room_for_answers, no_room_for_words
from pets.tasks.families import CAUSAL, CLASSIFIER, ENCODER_DECODER, MASKED
from pets.tasks.label_words import after_space, in_place, word_tokens
from pets.tasks.prompts import Encoder, Row, inner_ids, plain_token_ids
from pets.tasks.shell import Shell, chat_turns, special_tokens
from pets.tasks.templates import Template

_log = logging.getLogger(__name__)
_SENTINEL = "<extra_id_0>"


class Written:
    """How the examples of a task become token ids for one model.

    A masked LM reads everything, with the mask in the answer's place. A causal one reads what stands
    before the answer. An encoder reads what stands around the answer, with T5's sentinel in its place
    where the template says mask and the vocabulary has it, and the decoder says the answer. A classifier
    reads the columns that the template names, two as a pair, and none of the template's words.

    Args:
        encoder: of the model's tokenizer.
        task: with a template.
        family: of the model, one of `pets.tasks.families.FAMILIES`.
        end: the token that ends an answer, see `pets.tasks.ending`; None for none.

    Attributes:
        decoder_prefix: what a decoder has said before the answer, but for its start token.
        drops: what of the template the model does not read; empty where it reads all.

    Raises:
        BadInput: for a template that the family cannot be asked in, or a tokenizer that lacks a mask or
            a chat template.
    """

    def __init__(self, encoder: Encoder, task: Task, family: str, end: int | None = None) -> None:
        assert task.template is not None
        self.tokenizer: Any = encoder.tokenizer
        self.encoder, self.task, self.family, self.end = encoder, task, family, end
        self.template = template = Template.parse(task.template)
        self.decoder_prefix: tuple[int, ...] = ()
        self.drops = ""
        self._place: tuple[int, ...] = ()
        self._after: dict[str, list[int]] = {}
        if task.chat and family != CAUSAL:
            raise BadInput(f"a chat template is for causal language models, and this one is {family}")
        self._shell = chat_turns(self.tokenizer) if task.chat else special_tokens(self.tokenizer)
        if family == MASKED:
            if self.tokenizer.mask_token_id is None:
                raise BadInput(f"tokenizer {self.tokenizer.name_or_path!r} has no mask token")
            self._place = (self.tokenizer.mask_token_id,)
        elif family == CAUSAL:
            self._check_causal()
            if not task.chat:
                self._shell = Shell(self._shell.before)
            self._place = (self.tokenizer.eos_token_id or 0,)  # read by nobody
            self.drops = "".join(p.text for p in template.after).strip()
        elif family == ENCODER_DECODER:
            self._check_encoder_decoder()
        else:
            self._pair = special_tokens(self.tokenizer, pair=True)
            words = (p.text.strip() for p in (*template.before, *template.after) if not p.is_field)
            self.drops = " ".join(filter(None, words))

    def _check_causal(self) -> None:
        before = {p.text for p in self.template.before if p.is_field}
        unread = [name for name in self.template.fields if name not in before]
        if unread:
            raise BadInput(
                f"template {shown(self.template.text)}: a causal language model does not read what "
                f"stands behind the answer, {listed_columns(unread)}: write the answer last"
            )

    def _check_encoder_decoder(self) -> None:
        said: Any = self.tokenizer(text_target="a", verbose=False)["input_ids"]
        special = set(self.tokenizer.all_special_ids) - {self.tokenizer.unk_token_id}
        first = next(k for k, token in enumerate(said) if token not in special)
        self.decoder_prefix = tuple(said[:first])
        if "{mask}" in self.template.text.replace("{{", ""):
            sentinel = self.tokenizer.get_vocab().get(_SENTINEL)
            if sentinel is not None:
                self._place = (sentinel,)
                self.decoder_prefix += (sentinel,)
            elif self.tokenizer.mask_token_id is not None:
                self._place = (self.tokenizer.mask_token_id,)

    # Answers

    def word(self, word: str) -> tuple[int, ...]:
        """The tokens of a label word in its place.

        Raises:
            BadInput: as `pets.tasks.label_words.word_tokens`.
        """
        if self.family in (MASKED, CLASSIFIER):
            return word_tokens(self.tokenizer, word, bare=not self.template.spaced)
        if self.family == ENCODER_DECODER or self.task.chat:
            return word_tokens(self.tokenizer, word, bare=True)
        return word_tokens(
            self.tokenizer, word, context=self.template.context, spaced=self.template.spaced
        )

    def answer(self, text: str) -> tuple[int, ...]:
        """The tokens of an answer of any length in its place."""
        if self.family == CAUSAL and not self.task.chat:
            ids = in_place(self.tokenizer, self.template.context, text, spaced=self.template.spaced)
        elif self.family == MASKED and self.template.spaced:
            ids = after_space(self.tokenizer, text)
        else:
            ids = list(self.encoder.ids([text])[0])
        return tuple(ids or self.encoder.ids([text])[0])

    def answers(self, example: Example) -> tuple[tuple[int, ...], ...]:
        """Of an example with answers of its own, each one's tokens; none where they are the classes.

        Where one of the choices begins with another one, and where texts are generated, the end of the
        answer is a part of it.

        Raises:
            BadInput: for choices of the same tokens, or none.
        """
        if self.task.kind == CLASSES:
            return ()
        end = self.end
        if self.task.kind == GENERATION:
            ids = self.answer(example.answers[0])
            return (ids if end is None else (*ids, end),)
        answers = tuple(map(self.answer, example.choices))
        if len(set(answers)) < len(answers) or not all(answers):
            raise BadInput(
                f"task {self.task.name}: the choices {shown(list(example.choices))} are not all "
                "different in this vocabulary"
            )
        return closed(answers, lambda: end)

    # Prompts

    def encode(
        self, examples: Sequence[Example], limit: int, answer_tokens: int = 1
    ) -> tuple[list[tuple[Row, int]], int]:
        """Encoded prompts with the index of the answer, and how many were cut.

        What is too long loses the ends of its longest columns; the template's words, the answers and a
        column called "question" are never cut.

        Args:
            examples: of the task.
            limit: tokens a prompt may have, its answer included.
            answer_tokens: how long an answer of the task's own, or one that is written, is at most.

        Raises:
            BadInput: if a column is not there, an answer is longer than the limit, or the words and the
                answer alone leave no room.
        """
        values = [self._values(example) for example in examples]
        self.encoder.ids([text for each in values for text in self._texts(each)])
        rows, truncated, beyond = [], 0, 0
        for example, value in zip(examples, values, strict=True):
            answers = self.answers(example)
            own = max(map(len, answers), default=0)
            beyond += self.task.kind == GENERATION and own > answer_tokens
            longest = max(own, answer_tokens) if self.family in (MASKED, CAUSAL) else own
            if answers and longest > limit:
                why = no_room_for_answers(example.text, own, answer_tokens, limit)
                raise BadInput(f"task {self.task.name}: {why}")
            room = limit - (longest if self.family in (MASKED, CAUSAL) else 0)  # others' are apart
            if self._length(value) > room:
                value, truncated = self._cut(value, room), truncated + 1
            rows.append((self._row(value, answers, example), example.label))
        if beyond:
            _log.warning(
                "task %s: %d of %d answers have more than the %d tokens that are written at most: give "
                "the task more answer_tokens",
                self.task.name,
                beyond,
                len(examples),
                answer_tokens,
            )
        self.encoder.warn(truncated, len(examples), limit)
        return rows, truncated

    def _values(self, example: Example) -> dict[str, str]:
        given = dict(example.fields) or {"text": example.text}
        self.template.check(given)
        return {name: given[name] for name in self.template.fields}

    def _texts(self, values: Mapping[str, str]) -> tuple[str, ...]:
        """What is split into tokens as one text each."""
        if self.family != CLASSIFIER:
            return (self.template.render(values)[0],)
        texts = list(values.values())
        return (texts[0], "\n".join(texts[1:])) if len(texts) > 1 else (texts[0],)

    def _parts(self, values: Mapping[str, str]) -> tuple[list[int], list[int]]:
        """The ids before the answer and behind it; of a classifier those of the two texts."""
        texts = self._texts(values)
        ids = self.encoder.ids(texts)
        if self.family == CLASSIFIER:
            return ids[0], ids[1] if len(ids) > 1 else []
        reads_after = self.family == MASKED or self.family == ENCODER_DECODER
        return ids[0], self._ids_after(self.template.render(values)[1]) if reads_after else []

    def _ids_after(self, text: str) -> list[int]:
        if text not in self._after:
            if text[:1].isspace():
                ids = after_space(self.tokenizer, text.strip())
            elif text[:1].isalnum():
                ids = plain_token_ids(self.tokenizer, [text])[0]
            else:
                ids = inner_ids(self.tokenizer, text) if text else []
            self._after[text] = ids
        return self._after[text]

    def _length(self, values: Mapping[str, str]) -> int:
        """Tokens of a prompt without its answer."""
        one, two = self._parts(values)
        if self.family == CLASSIFIER and two:
            return len(one) + len(two) + len(self._pair) + len(self._pair.between)
        own = len(self._place) if self.family == ENCODER_DECODER else 0
        return len(one) + len(two) + len(self._shell) + own

    def _row(
        self, values: Mapping[str, str], answers: tuple[tuple[int, ...], ...], example: Example
    ) -> Row:
        one, two = self._parts(values)
        shell = self._shell
        if self.family == CLASSIFIER:
            if not two:
                return Row([*shell.before, *one, *shell.after], 0)
            parts = (self._pair.before, one, self._pair.between, two, self._pair.after)
            kinds = zip(self._pair.types, parts, strict=False)
            types = tuple(kind for kind, part in kinds for _ in part)
            return Row([token for part in parts for token in part], 0, types=types)
        if self.family == CAUSAL:  # the answer stands behind a chat's turns
            ids = [*shell.before, *one, *shell.after]
            return Row([*ids, *self._place], len(ids), answers, example.answers)
        ids = [*shell.before, *one]
        return Row([*ids, *self._place, *two, *shell.after], len(ids), answers, example.answers)

    def _cut(self, values: dict[str, str], room: int) -> dict[str, str]:
        shorter = cut(values, room, self._length, self.encoder)
        if shorter is not None:
            return shorter
        raise BadInput(f"task {self.task.name}: {no_room_for_words(values, room, self._length)}")


def closed(
    answers: tuple[tuple[int, ...], ...], end: Callable[[], int | None]
) -> tuple[tuple[int, ...], ...]:
    """Answers, with the end of the sequence behind them where one begins with another, or that won.

    Args:
        answers: the tokens of each.
        end: the token of the end, asked for where it is needed.
    """
    begins = any(a != b and b[: len(a)] == a for a in answers for b in answers)
    token = end() if begins else None
    return answers if token is None else tuple((*ids, token) for ids in answers)


def listed_columns(names: Sequence[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names)
