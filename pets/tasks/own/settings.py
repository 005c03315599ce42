"""What a user says of a task of his own: where its rows are, what their columns mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bridges.errors import (
    BadInput,
    check_counts,
    check_flags,
    check_name,
    check_seeds,
    is_number,
    listed,
    shown,
)
from pets.tasks.base import CHOICE, CLASSES, GENERATION, KINDS
from pets.tasks.metrics import BY_KIND
from pets.tasks.templates import Template

NEEDS = {CLASSES: ("label",), CHOICE: ("choices", "label"), GENERATION: ("answers",)}
"""By kind the settings that name its columns, beside the template."""


@dataclass(frozen=True)
class OwnSettings:
    """A task of a user's own. What is None is guessed from the columns, where these leave no doubt.

    Attributes:
        name: what results call it.
        source: where its table is, see `pets.tasks.own.tables.read`; None where ``train`` is a file.
        kind: one of `KINDS`.
        template, chat: see `pets.tasks.templates`; the template names the columns that are read.
        label: the column of the classes, or of the right choice.
        words: of kind "classes" the words of each class, by its name; "good,great" is two.
        choices: a column with a list of choices, or a column for each.
        answers: the columns with accepted answers; the first answer is trained on.
        answer_tokens: of kind "generation" how long a written answer is at most.
        metric: the main one; None for the first of its kind, see `pets.tasks.metrics.BY_KIND`.
        train, reported: names of the source's splits, or files. None: "train", and "test" where it has
            labels, or "validation"; where there is none to report a share of train is set aside.
        share, seed: of what is set aside so, see `pets.tasks.splits.set_aside`.

    Raises:
        BadInput: a setting is none, or does not go with another.
    """

    name: str
    source: str | None = None
    kind: str | None = None
    template: str | None = None
    chat: bool = False
    label: str | None = None
    words: Mapping[str, str] = field(default_factory=dict)
    choices: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    answer_tokens: int = 32
    metric: str | None = None
    train: str | None = None
    reported: str | None = None
    share: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.name.strip() or not self.name.isprintable():
            raise BadInput(f"task name {shown(self.name)}: expected printable characters")
        if self.source is None and self.train is None:
            raise BadInput(
                f"task {self.name} says of no table where it is: expected source, or train in splits"
            )
        if self.train is not None and self.train == self.reported:
            raise BadInput(
                f"task {self.name}: {shown(self.train)} is both trained on and reported: name two, or "
                "leave reported out, and a share is set aside"
            )
        if self.template is not None:
            Template.parse(self.template)
        check_flags(chat=self.chat)
        check_seeds(seed=self.seed)
        check_counts(answer_tokens=self.answer_tokens)
        if not is_number(self.share) or not 0 < self.share < 1:
            raise BadInput(f"share {shown(self.share)} is out of range; expected 0 < share < 1")
        if self.kind is None:
            return
        check_name("kind", self.kind, KINDS)
        if self.metric is not None:
            check_name(f"metric of the kind {self.kind!r}", self.metric, BY_KIND[self.kind])
        takes = (*NEEDS[self.kind], *(("words",) if self.kind == CLASSES else ()))
        for setting in ("label", "words", "choices", "answers"):
            if getattr(self, setting) and setting not in takes:
                raise BadInput(
                    f"task {self.name} is of kind {self.kind!r}, which has no {setting}: expected "
                    f"{listed(takes)}; kinds are {listed(KINDS)}"
                )
