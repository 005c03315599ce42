"""A row: what a comparison keeps of a cell, and what a line of JSON has to be to be one."""

from __future__ import annotations

import dataclasses
import json
import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bridges.errors import BadInput
from bridges.storage.shapes import (
    COUNT,
    FINITE,
    FLAG,
    NUMBER,
    OBJECT,
    TEXT,
    Each,
    Maybe,
    Optional,
    Shape,
    misfit,
)
from pets.study.cells.arms import Arm
from pets.study.cells.right import unpacked
from pets.study.cells.tries import Numbers, Try, known_fields

FORMAT = 1
ANEW = "delete it; the same `bridge-pets compare` writes it anew"
"""What to do about a file or a line of a comparison that cannot be right."""

_OF_MODEL = ("model_sha256", "config_sha256", "tokenizer_sha256", "model_code")
Key = tuple[str, int | None, str, str, int]
"""Task, shots, PET, arm, seed."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is known of a cell: all that its numbers depend on, and the numbers.

    Fields as they are in JSON, in that order. Of a cell without a score, "open" or "failed", those of
    `_SCORED` are empty here and null there.

    Attributes:
        by_ratio: whether the strengths are ratios of gradients, see `pets.tuning.ratio`.
        right: of a task scored by its accuracy, which of the reported examples it is right on, see
            `pets.study.cells.right`; the field is not there where it is not known.
        depth: where it was asked for, the metric at each of the L+1 states, by reader, see
            `pets.anytime.by_layer`; the field is not there where it was not.
        source: the JSON that the row was read from. It is written as it was read, with what a newer
            version has put there; a row that was read is not changed.
    """

    format: int = FORMAT
    cell: str = ""
    status: str = "open"
    error: str | None = None
    task: str
    metric: str
    shots: int | None
    pet: str
    arm: str
    seed: int
    score: float = math.nan
    reported: Numbers = field(default_factory=dict)
    dev: Numbers = field(default_factory=dict)
    strength: float | None = None
    restart: int = 0
    best_step: int = 0
    tries: tuple[Try, ...] = ()
    bridge: Mapping[str, Any] | None
    control: str | None
    regularizer: str | None = None
    by_ratio: bool = False
    fit: Numbers | None
    trainable_parameters: int = 0
    examples: Mapping[str, int] = field(default_factory=dict)
    truncated: Mapping[str, int] = field(default_factory=dict)
    shared_texts: Mapping[str, Any] | None = None
    right: str | None = None
    depth: Mapping[str, Sequence[float] | None] | None = None
    settings: Mapping[str, Any]
    model: str
    hashes: Mapping[str, Any] = field(default_factory=dict)
    code: str
    versions: Mapping[str, str]
    device: str
    source: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Row:
        """From JSON that `parse_row` has checked."""
        known = known_fields(cls, record)
        if record["status"] == "done":
            known["tries"] = tuple(map(Try.from_dict, record["tries"]))
        else:
            known = {name: value for name, value in known.items() if name not in _SCORED}
        return cls(**known | {"source": record})

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        if self.source is not None:
            return dict(self.source)
        record = dataclasses.asdict(self)
        del record["source"]
        for name in ("right", "depth"):  # as rows were before there was any
            if record[name] is None:
                del record[name]
        return record if self.is_done else record | dict.fromkeys(_SCORED)

    @property
    def is_done(self) -> bool:
        """Whether it has a score."""
        return self.status == "done"

    @property
    def key(self) -> Key:
        """Which cell of a grid it is of."""
        return self.task, self.shots, self.pet, self.arm, self.seed

    @property
    def origin(self) -> dict[str, Any]:
        """What all rows of one report have in common: model, code and versions."""
        model = {name: self.hashes.get(name) for name in _OF_MODEL}
        return {"model": self.model, "code": self.code, "versions": self.versions, **model}

    @property
    def kind(self) -> str:
        """That of its arm, whether or not the arm's bridge is registered here."""
        bridge = None if self.bridge is None else str(self.bridge.get("name"))
        return Arm(self.arm, bridge, self.control, self.regularizer).kind

    @property
    def right_on(self) -> tuple[bool, ...] | None:
        """Of each reported example whether it was right; None where that is not known."""
        return None if self.right is None else unpacked(self.right, self.examples["reported"])

    @property
    def chosen(self) -> Try:
        """The try that was selected."""
        return self.tries[self.restart]


_SCORED = (
    *("score", "reported", "dev", "strength", "restart", "best_step", "tries"),
    *("trainable_parameters", "examples", "truncated", "shared_texts"),
)
_OF_ALL: dict[str, Shape | Optional] = {
    "cell": TEXT,
    "task": TEXT,
    "metric": TEXT,
    "shots": COUNT.or_null(),
    "pet": TEXT,
    "arm": TEXT,
    "seed": COUNT,
    "settings": OBJECT,
    "model": TEXT,
    "code": TEXT,
    "versions": OBJECT,
    "hashes": Optional(OBJECT),
    "shared_texts": Optional(Maybe(OBJECT)),
    "device": TEXT,
    "bridge": Maybe(OBJECT),
    "control": TEXT.or_null(),
    "by_ratio": Optional(FLAG),
    "fit": Maybe({"first": NUMBER, "best": NUMBER, "steps": COUNT}),
}
_FAILED: dict[str, Shape] = {"error": TEXT}


def _done(metric: str) -> dict[str, Shape | Optional]:
    """What a row with a score has besides, where that is of this metric."""
    look = {"step": COUNT, "dev": {metric: FINITE}, "dev_loss": FINITE}
    tried = {"strength": FINITE.or_null(), "restart": COUNT, "dev": {metric: FINITE}, "curves": [look]}
    return {
        "score": NUMBER,
        "tries": [tried],
        "restart": COUNT,
        "examples": Each(COUNT),
        "trainable_parameters": COUNT,
        "right": Optional(TEXT),
        "depth": Optional(Maybe({"probe": [FINITE], "exit": Maybe([FINITE]), "head": Maybe([FINITE])})),
    }


def parse_row(text: str, where: str) -> Row:
    """A row as a line of the table and a cell's file hold it: with all that is read of it, anywhere.

    Args:
        text: the JSON.
        where: what it is, for errors: the file, of a table the line too.

    Raises:
        BadInput: if it is broken or lacks something, or was written by a version with another format.
    """
    row = parse_json(text, where)
    if not isinstance(row, dict) or "format" not in row:
        raise BadInput(f"{where} is no row of a comparison, an object with a format: {ANEW}")
    if row["format"] != FORMAT:
        raise BadInput(
            f"{where} has format {reprlib.repr(row['format'])}, this version of bridge-pets reads "
            f"format {FORMAT}: use the version that wrote it, or choose another folder"
        )
    status = row.get("status")
    if status not in ("done", "failed"):
        raise BadInput(f"{where} has status {reprlib.repr(status)}, expected 'done' or 'failed': {ANEW}")
    wrong = misfit(row, _OF_ALL)
    if not wrong and status == "done":
        if isinstance(row.get("tries"), list) and not all(map(_is_try, row["tries"])):
            raise BadInput(
                f"{where}: a try lacks some of strength, restart, dev and curves (of step, dev and "
                f"dev_loss): {ANEW}"
            )
        wrong = misfit(row, _done(row["metric"])) or _uneven(row.get("depth")) or _miscounted(row)
    elif not wrong:
        wrong = misfit(row, _FAILED)
    if wrong:
        raise BadInput(f"{where}: {wrong}: {ANEW}")
    return Row.from_dict(row)


def parse_json(text: str, where: str) -> Any:
    """What a text that a comparison wrote holds.

    Raises:
        BadInput: if it is broken.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(f"{where} is broken ({error.msg} at character {error.pos}): {ANEW}") from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, endless nesting
        raise BadInput(f"{where} is broken ({error}): {ANEW}") from error


def _is_try(record: object) -> bool:
    return (
        isinstance(record, dict)
        and {"strength", "restart", "dev", "curves"} <= record.keys()
        and isinstance(record["curves"], list)
        and all(
            isinstance(look, dict) and {"step", "dev", "dev_loss"} <= look.keys()
            for look in record["curves"]
        )
    )


def _uneven(depth: Mapping[str, Sequence[float] | None] | None) -> str:
    """What is wrong with the lengths of a row's depth; empty if nothing is."""
    sizes = sorted({len(values) for values in (depth or {}).values() if values is not None})
    if not sizes or (len(sizes) == 1 and sizes[0] > 1):
        return ""
    return (
        f"depth has {' and '.join(map(str, sizes))} states, expected as many of each reader, 2 or more"
    )


def _miscounted(row: Mapping[str, Any]) -> str:
    """What is wrong with what a row is right on; empty if nothing is."""
    try:
        unpacked(row.get("right", ""), row["examples"].get("reported", 0) if "right" in row else 0)
    except BadInput as error:
        return str(error)
    return ""
