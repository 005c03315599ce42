"""A task: classes with words that say them, a metric, and where its examples come from."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from bridges.errors import BadInput, shown
from bridges.registry import Registry


@dataclass(frozen=True)
class Label:
    """One class of a task.

    Attributes:
        name: of the class, e.g. "entailment".
        word: the verbalizer, the word that is predicted at [MASK], or several with commas between.
    """

    name: str
    word: str


@dataclass(frozen=True)
class Example:
    """One text (a pair is joined by one space) and its class index.

    Attributes:
        stopped: the same text where the published protocol puts a full stop into it, behind the first
            text of a pair; None where it puts none.
    """

    text: str
    label: int
    stopped: str | None = None


class Task(ABC):
    """A classification task; class index k is `labels[k]` everywhere.

    A subclass that names itself, ``class SST2(GlueTask, name="sst2")``, is registered.

    Args:
        words: instead of the labels' own, one for each class in class order; "good,great" is two.

    Attributes:
        name: what it is asked for by, and called in results.
        labels: the classes in index order.
        metric: the main metric, a name of `pets.tasks.metrics`.

    Raises:
        BadInput: if the number of words is not the number of classes.
    """

    name: ClassVar[str] = ""
    labels: tuple[Label, ...]
    metric: ClassVar[str] = "accuracy"

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
    def verbalizer(self) -> dict[str, list[str]]:
        """The words of each class, as `pets.Verbalizer.of_words` takes them."""
        return {label.name: [w.strip() for w in label.word.split(",")] for label in self.labels}

    def with_words(self, words: Sequence[str]) -> Task:
        """The same task with other label words, one per class in class order; "good,great" is two.

        Raises:
            BadInput: the number of words is not the number of classes.
        """
        several = isinstance(words, Sequence) and not isinstance(words, str)
        if not (several and len(words) == len(self.labels) and all(isinstance(w, str) for w in words)):
            order = ", ".join(label.name for label in self.labels)
            raise BadInput(
                f"label words {shown(words)}: task {self.name} needs {len(self.labels)} words, "
                f"in the class order {order}"
            )
        other = copy.copy(self)
        pairs = zip(self.labels, words, strict=True)
        other.labels = tuple(replace(label, word=word) for label, word in pairs)
        return other

    @property
    def identity(self) -> dict[str, Any]:
        """What the results of runs on its examples depend on."""
        labels = [[label.name, label.word] for label in self.labels]
        return {"name": self.name, "labels": labels, "metric": self.metric}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.identity})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    def __hash__(self) -> int:
        return hash(repr(self))


@dataclass(frozen=True)
class TaskData:
    """A task's examples.

    `reported` is scored once, at the end, and no selection may see it: of GLUE the dev set.
    """

    task: Task
    train: tuple[Example, ...]
    reported: tuple[Example, ...]

    @property
    def without_reported(self) -> TaskData:
        """The same data with no reported examples: what runs get that are to be chosen among.

        What a run does not have it cannot score, so no checkpoint, try or strength is selected by it.
        """
        return replace(self, reported=())


catalogue: Registry[Task] = Registry(
    "task", group="pets.tasks", home="pets.tasks", example="sst2:words=[bad,good]"
)
"""Every task that is known by a name."""
