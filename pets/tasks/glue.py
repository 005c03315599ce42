"""The GLUE tasks: their columns, the words that name their classes, their metric."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bridges.errors import BadInput, shown


@dataclass(frozen=True)
class Label:
    """One class of a task.

    Attributes:
        name: the class name in GLUE, e.g. "entailment".
        word: the verbalizer, the word that is predicted at [MASK], or several with commas between.
        tsv: the value of the label column in the original tsv files.
        hub: the integer in the hub's `nyu-mll/glue`.
    """

    name: str
    word: str
    tsv: str
    hub: int


@dataclass(frozen=True)
class Task:
    """One GLUE task; class index k is `labels[k]` everywhere.

    Attributes:
        name: the configuration name on the hub, e.g. "sst2".
        folder: the folder of the original tsv files, e.g. "SST-2".
        labels: the classes in index order.
        tsv_texts: the one or two text columns of the tsv files.
        tsv_label: the label column of the tsv files.
        hub_texts: the text columns on the hub, in the order of `tsv_texts`.
        metric: the main metric, "accuracy", "matthews" or "f1_macro".
        tsv_columns: the columns of a tsv file without a header line; None when it has one.
        train_file, reported_file: file names; the reported one is the GLUE dev set.
        reported_split: the split on the hub that equals `reported_file`.
        skips_broken_rows: the original file holds rows broken by newlines inside a text.
    """

    name: str
    folder: str
    labels: tuple[Label, ...]
    tsv_texts: tuple[str, ...]
    tsv_label: str
    hub_texts: tuple[str, ...]
    metric: str = "accuracy"
    tsv_columns: tuple[str, ...] | None = None
    train_file: str = "train.tsv"
    reported_file: str = "dev.tsv"
    reported_split: str = "validation"
    skips_broken_rows: bool = False

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
        pairs = zip(self.labels, words, strict=True)
        return replace(self, labels=tuple(replace(label, word=word) for label, word in pairs))


@dataclass(frozen=True)
class Example:
    """One text (a pair is joined by one space) and its class index."""

    text: str
    label: int


@dataclass(frozen=True)
class TaskData:
    """A task's examples.

    `reported` is the GLUE dev set: it is scored once, at the end, and no selection may see it.
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


_TASKS = {
    task.name: task
    for task in (
        Task(
            "sst2",
            "SST-2",
            (Label("negative", "negative", "0", 0), Label("positive", "positive", "1", 1)),
            tsv_texts=("sentence",),
            tsv_label="label",
            hub_texts=("sentence",),
        ),
        Task(
            "mnli",
            "MNLI",
            (
                Label("neutral", "maybe", "neutral", 1),
                Label("contradiction", "no", "contradiction", 2),
                Label("entailment", "yes", "entailment", 0),
            ),
            tsv_texts=("sentence1", "sentence2"),
            tsv_label="gold_label",
            hub_texts=("premise", "hypothesis"),
            reported_file="dev_matched.tsv",
            reported_split="validation_matched",
        ),
        Task(
            "cola",
            "CoLA",
            (Label("unacceptable", "no", "0", 0), Label("acceptable", "yes", "1", 1)),
            tsv_texts=("sentence",),
            tsv_label="label",
            hub_texts=("sentence",),
            metric="matthews",
            tsv_columns=("source", "label", "star", "sentence"),
        ),
        Task(
            "rte",
            "RTE",
            (
                Label("not_entailment", "no", "not_entailment", 1),
                Label("entailment", "yes", "entailment", 0),
            ),
            tsv_texts=("sentence1", "sentence2"),
            tsv_label="label",
            hub_texts=("sentence1", "sentence2"),
        ),
        Task(
            "qnli",
            "QNLI",
            (
                Label("not_entailment", "no", "not_entailment", 1),
                Label("entailment", "yes", "entailment", 0),
            ),
            tsv_texts=("question", "sentence"),
            tsv_label="label",
            hub_texts=("question", "sentence"),
        ),
        Task(
            "mrpc",
            "MRPC",
            (Label("not_equivalent", "different", "0", 0), Label("equivalent", "same", "1", 1)),
            tsv_texts=("#1 String", "#2 String"),
            tsv_label="Quality",
            hub_texts=("sentence1", "sentence2"),
            metric="f1_macro",
        ),
        Task(
            "qqp",
            "QQP",
            (Label("not_duplicate", "different", "0", 0), Label("duplicate", "same", "1", 1)),
            tsv_texts=("question1", "question2"),
            tsv_label="is_duplicate",
            hub_texts=("question1", "question2"),
            metric="f1_macro",
            skips_broken_rows=True,
        ),
    )
}


_LONGEST = 100  # characters of a name that others are compared with


def available() -> list[str]:
    """The names of all tasks, sorted."""
    return sorted(_TASKS)


def get(name: str) -> Task:
    """The task of that name; case, dashes and underscores do not matter ("SST-2" is "sst2").

    Raises:
        BadInput: there is no such task.
    """
    key = name.lower().replace("-", "").replace("_", "") if isinstance(name, str) else ""
    if key not in _TASKS:
        near = difflib.get_close_matches(key[:_LONGEST], _TASKS, n=1, cutoff=0.0)[0]
        known = ", ".join(available())
        raise BadInput(f"task {shown(name)} is unknown; expected one of {known}; nearest is {near!r}")
    return _TASKS[key]
