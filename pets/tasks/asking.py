"""How a task is put to a model: prompts in, a model that answers them out."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from torch import nn

from bridges.errors import BadInput
from bridges.model.spec import pretrained_model
from pets.tasks import prompts
from pets.tasks.answering import Answering, Rows
from pets.tasks.base import CLASSES, GENERATION, Example, Task
from pets.tasks.classifier import PromptClassifier, WholeAnswers
from pets.tasks.ending import end_token
from pets.tasks.families import CLASSIFIER, MASKED, family_of
from pets.tasks.own_head import HeadClassifier, places
from pets.tasks.protocol import OURS, Protocol
from pets.tasks.verbalizer import Verbalizer
from pets.tasks.writing import Writer
from pets.tasks.written import Written, closed


class Asking:
    """A task and a model: what of the zoo of prompts and answers fits the two.

    A task without a template is asked in the published layout of a masked LM, which others do not have;
    there its ``natural`` template is used.

    Args:
        model: a language model or a sequence classifier, plain or with a PET.
        encoder: of its tokenizer.
        task: what is asked.
        protocol: of the published layout.
        among_labels: see `PromptClassifier`.
        warn: whether to log label words of several tokens at one mask.

    Attributes:
        family: of the model.
        written: the template's prompts; None in the published layout.
        verbalizer: words of the labels; None where the answers are no classes.
        head: of a classifier what it calls each of the task's classes.

    Raises:
        BadInput: for what does not go together, and all that `Written` and `Verbalizer` refuse.
    """

    def __init__(
        self,
        model: nn.Module,
        encoder: prompts.Encoder,
        task: Task,
        protocol: Protocol = OURS,
        *,
        among_labels: bool = False,
        warn: bool = True,
    ) -> None:
        self.encoder, self.protocol, self.among_labels = encoder, protocol, among_labels
        self.family = family = family_of(model)
        tokenizer: Any = encoder.tokenizer
        if task.template is None and (family != MASKED or task.kind != CLASSES):
            task = task.with_template(task.natural)
        self.task = task
        if task.kind != CLASSES and family == CLASSIFIER:
            raise BadInput(
                f"task {task.name} is of kind {task.kind}, and the model tells classes of its own: give "
                "a language model"
            )
        if task.kind == GENERATION and family == MASKED:
            raise BadInput(
                "a masked language model does not write texts: give a causal one or an encoder-decoder, "
                "or a task with classes or choices"
            )
        if task.kind == GENERATION and among_labels:
            raise BadInput(
                f"loss='labels': task {task.name} has texts for answers and no labels to choose among; "
                "take loss='vocabulary'"
            )
        if task.template is not None and protocol != OURS:
            raise BadInput(
                f"protocol={protocol.name!r} has a layout of its own for masked language models: leave "
                f"out the protocol, or the template {task.template!r}"
            )
        self._model = model
        # Classes need it only where one word begins with another, and masks never do.
        end = self.end if task.kind != CLASSES and family != MASKED else None
        self.written = None if task.template is None else Written(encoder, task, family, end)
        self.pad_id = prompts.padding_id(tokenizer)
        self.verbalizer = None
        if task.kind == CLASSES:
            self.verbalizer = Verbalizer.of_words(
                tokenizer,
                task.verbalizer,
                bare=protocol.bare_words,
                warn=warn and family == MASKED,
                tokens_of=None if self.written is None else self.written.word,
            )
        self.head: tuple[str, ...] = ()
        if family == CLASSIFIER and self.verbalizer is not None:
            plm: Any = pretrained_model(model)
            names = plm.config.id2label
            self.head = tuple(str(names.get(k, k)) for k in places(plm, self.verbalizer))

    @functools.cached_property
    def end(self) -> int | None:
        """The token that ends an answer, see `pets.tasks.ending`: all rows of the head are looked at."""
        return end_token(self._model, self.encoder.tokenizer)

    @property
    def whole(self) -> bool:
        """Whether answers are compared by their whole log-probability, not by one token's."""
        if self.verbalizer is None:
            return self.task.kind != GENERATION
        several = any(len(word) > 1 for words in self.verbalizer.tokens for word in words)
        return several and self.family not in (MASKED, CLASSIFIER)

    @property
    def answer_tokens(self) -> int:
        """How many tokens an answer of the task's own has at most."""
        if self.task.kind == GENERATION:
            return self.task.answer_tokens
        if self.verbalizer is None or not self.whole:
            return 1
        return 1 + max(len(word) for words in self.verbalizer.tokens for word in words)

    def on(self, model: nn.Module) -> Answering:
        """The model that answers; `Answering.remove` gives it back.

        Args:
            model: the same as before, with or without a PET.
        """
        if self.family == CLASSIFIER:
            assert self.verbalizer is not None
            return HeadClassifier(model, self.verbalizer, pad_id=self.pad_id)
        options: dict[str, Any] = {"pad_id": self.pad_id}
        if self.written is not None:
            options["decoder_prefix"] = self.written.decoder_prefix
        if self.task.kind == GENERATION:
            room = self.task.answer_tokens
            return Writer(model, self.encoder.tokenizer, self.end, answer_tokens=room, **options)
        options["among_labels"] = self.among_labels
        if self.whole:
            return WholeAnswers(model, self.verbalizer, answers=self._answers(), **options)
        assert self.verbalizer is not None
        return PromptClassifier(model, self.verbalizer, mask_first=self.protocol.mask_first, **options)

    def encode(self, examples: Sequence[Example], limit: int) -> tuple[Rows, int]:
        """Encoded prompts of at most ``limit`` tokens, and how many were cut.

        Raises:
            BadInput: as `prompts.encode` and `Written.encode`.
        """
        if self.written is not None:
            return self.written.encode(examples, limit, self.answer_tokens)
        texts = [self.protocol.text(example) for example in examples]
        encoded = self.encoder.encode(texts, limit, mask_first=self.protocol.mask_first)
        labels = [example.label for example in examples]
        return list(zip(encoded.rows, labels, strict=True)), encoded.truncated

    def _answers(self) -> list[list[tuple[int, ...]]] | None:
        """The tokens of the labels' words, with the end behind where one begins with another."""
        if self.verbalizer is None:
            return None
        flat = tuple(word for words in self.verbalizer.tokens for word in words)
        ended = iter(closed(flat, lambda: self.end))
        return [[next(ended) for _ in words] for words in self.verbalizer.tokens]
