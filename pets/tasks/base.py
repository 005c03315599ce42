"""A task: what is asked, what may be answered, a metric, and where its examples come from."""

from __future__ import annotations

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bridges.errors import BadInput, shown
from bridges.registry import Registry

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Label:
    """One class of a task.

    Attributes:
        name: of the class, e.g. "entailment".
        word: the verbalizer, the word that is predicted at [MASK], or several with commas between.
    """

    name: str
    word: str


CLASSES, CHOICE, GENERATION = "classes", "choice", "generation"
KINDS = (CLASSES, CHOICE, GENERATION)
"""Of tasks: the answer is one of the task's classes, of the example's own choices, or any text."""


@dataclass(frozen=True)
class Example:
    """One example: what is asked, and the answer.

    Attributes:
        text: all that is read of it, the fields joined by one space; equal texts are the same example.
        label: index of its class or of the right choice; 0 where the answer is a text.
        stopped: the same text where the published protocol puts a full stop into it, behind the first
            text of a pair; None where it puts none.
        fields: by name what a template may ask for: ``(("sentence1", "..."), ("sentence2", "..."))``.
        choices: the answers to choose from, of a task of kind "choice".
        answers: accepted answers, of a task of kind "generation"; the first one is trained on.
    """

    text: str
    label: int
    stopped: str | None = None
    fields: tuple[tuple[str, str], ...] = field(default=(), compare=False)  # the text has them all
    choices: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()


def same_text(text: str) -> str:
    """What texts have in common that are the same but for case and white space."""
    return " ".join(text.split()).casefold()


def check_words(where: str, labels: Sequence[Label]) -> None:
    """Whether each class has words of its own; a warning where one's word is another one's name.

    Args:
        where: what messages begin with.
        labels: the classes with their words.

    Raises:
        BadInput: for a word of two classes.
    """
    names, owner = {label.name for label in labels}, dict[str, str]()
    for label in labels:
        for word in (word.strip() for word in label.word.split(",")):
            other = owner.setdefault(word, label.name)
            if other != label.name:
                raise BadInput(
                    f"{where}: the word {shown(word)} stands for the classes {shown(other)} and "
                    f"{shown(label.name)}: give each its own; what is one class is written alike in the "
                    "table"
                )
            if word != label.name and word in names:
                _log.warning(
                    "%s: the word %s stands for the class %s, and there is a class %s: is the order of "
                    "the words that of the classes?",
                    where,
                    shown(word),
                    shown(label.name),
                    shown(word),
                )


class Task(ABC):
    """A task; where its answers are classes, class index k is `labels[k]` everywhere.

    A subclass that names itself, ``class SST2(GlueTask, name="sst2")``, is registered.

    Args:
        words: instead of the labels' own, one for each class in class order; "good,great" is two.

    Attributes:
        name: what it is asked for by, and called in results.
        kind: one of `KINDS`.
        labels: the classes in index order; none of other kinds.
        metric: the main metric, a name of `pets.tasks.metrics`.
        template: how an example is asked, see `pets.tasks.templates`; None for the published layout.
        chat: what stands before the answer is a user's turn in the tokenizer's chat template.
        natural: the template for models that have no published layout, and for chats; None where `load`
            finds one for the columns that are there.
        answer_tokens: how long a written answer is at most.

    Raises:
        BadInput: if the number of words is not the number of classes.
    """

    name: str = ""
    kind: str = CLASSES
    labels: tuple[Label, ...] = ()
    metric: str = "accuracy"
    template: str | None = None
    chat: bool = False
    natural: str | None = "{text}\nanswer: {answer}"
    answer_tokens: int = 32

    def __init_subclass__(cls, *, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = name or vars(cls).get("name") or cls.__name__
        if name is not None:
            catalogue.register(name, cls)

    def __init__(self, words: Sequence[str] = "") -> None:
        if words != "":
            self.labels = self.with_words(words).labels

    @abstractmethod
    def load(self, folder: str | Path | None = None) -> TaskData:
        """Read the train set and the reported set.

        Args:
            folder: what ``--data`` says; None for wherever else the examples come from.

        Raises:
            BadInput: if something is missing or malformed.
        """

    @property
    def words(self) -> tuple[str, ...]:
        """The label words in class order, as they are written."""
        return tuple(label.word for label in self.labels)

    @property
    def strata(self) -> tuple[str, ...]:
        """What splits keep the shares of: the classes, or "all" where there are none."""
        return tuple(label.name for label in self.labels) or ("all",)

    @property
    def verbalizer(self) -> dict[str, list[str]]:
        """The words of each class, as `pets.Verbalizer.of_words` takes them."""
        return {label.name: [w.strip() for w in label.word.split(",")] for label in self.labels}

    def with_words(self, words: Sequence[str]) -> Task:
        """The same task with other label words, one per class in class order; "good,great" is two.

        Given alone, "terrible,great" is the words of two classes.

        Raises:
            BadInput: the number of words is not the number of classes, or one is that of two.
        """
        if len(self.labels) > 1 and isinstance(words, (list, tuple)) and len(words) == 1:
            words = [word.strip() for word in str(words[0]).split(",")]  # "terrible,great"
        several = isinstance(words, Sequence) and not isinstance(words, str)
        if not self.labels:
            raise BadInput(f"label words {shown(words)}: task {self.name} has no classes for them")
        if not (several and len(words) == len(self.labels) and all(isinstance(w, str) for w in words)):
            order = ", ".join(label.name for label in self.labels)
            raise BadInput(
                f"label words {shown(words)}: task {self.name} needs {len(self.labels)} words, "
                f"in the class order {order}"
            )
        other = copy.copy(self)
        pairs = zip(self.labels, words, strict=True)
        other.labels = tuple(replace(label, word=word) for label, word in pairs)
        check_words(f"task {self.name}", other.labels)
        return other

    def with_template(self, template: str | None, *, chat: bool = False) -> Task:
        """The same task, asked in other words; see `pets.tasks.templates` for what is checked when."""
        other = copy.copy(self)
        other.template, other.chat = template, chat
        return other

    @property
    def identity(self) -> dict[str, Any]:
        """What the results of runs on its examples depend on."""
        labels = [[label.name, label.word] for label in self.labels]
        told: dict[str, Any] = {"name": self.name, "labels": labels, "metric": self.metric}
        if self.kind != CLASSES:
            told["kind"] = self.kind
        if self.kind == GENERATION:
            told["answer_tokens"] = self.answer_tokens
        if self.template is not None:
            told |= {"template": self.template, "chat": self.chat}
        return told

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.identity})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash(repr(self))


@dataclass(frozen=True)
class TaskData:
    """A task's examples.

    Attributes:
        task: what they are of.
        train: to tune and to select on.
        reported: scored once, at the end, and no selection may see it: of GLUE the dev set.
        left_out: rows that are no examples, counted by the reason, e.g. ``{"label -1": 12}``.
    """

    task: Task
    train: tuple[Example, ...]
    reported: tuple[Example, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def without_reported(self) -> TaskData:
        """The same data with no reported examples: what runs get that are to be chosen among.

        What a run does not have it cannot score, so no checkpoint, try or strength is selected by it.
        """
        return replace(self, reported=())

    @property
    def apart(self) -> TaskData:
        """The same data with no text in the train set that is reported too, but for case and spaces."""
        seen = {same_text(example.text) for example in self.reported}
        return replace(self, train=tuple(e for e in self.train if same_text(e.text) not in seen))


catalogue: Registry[Task] = Registry(
    "task", group="pets.tasks", home="pets.tasks", example="sst2:words=[bad,good]"
)
"""Every task that is known by a name."""
