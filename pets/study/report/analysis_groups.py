"""The records of analyses, in groups that belong into one picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bridges.errors import BadInput
from bridges.storage.shapes import COUNT, FINITE, TEXT, Maybe, Shape, misfit
from pets.study.cells.arms import VANILLA
from pets.study.compare.look import FROZEN
from pets.study.report.pictures import arm_styles, in_order

Record = dict[str, Any]
Curves = dict[str, tuple[Tensor, Tensor]]
"""By arm the mean [L+1] and its deviation [L+1]."""

_TUBE = ("t", "mean", "deviation")
_PLAIN: dict[str, Shape] = {
    "task": TEXT,
    "shots": COUNT.or_null(),
    "pet": TEXT.or_null(),
    "arm": TEXT,
    "seed": COUNT,
    "reader": TEXT,
    "labels": [TEXT],
    "times": [FINITE],
    "tube": Maybe({key: [FINITE] for key in _TUBE}),
    "examples": COUNT,
}
_NAMED = 3  # other arms than frozen and vanilla whose numbers are all in a caption


@dataclass(frozen=True)
class Group:
    """Records of one task, number of shots and PET.

    Attributes:
        name: as in titles.
        arms: arm -> its records by seed; not empty.
        styles: arm -> how its line is drawn.
    """

    name: str
    arms: dict[str, list[Record]]
    styles: dict[str, dict[str, Any]]

    @property
    def records(self) -> list[Record]:
        return [record for records in self.arms.values() for record in records]

    @property
    def words(self) -> list[str]:
        return list(self.records[0]["labels"])

    @property
    def reader(self) -> str:
        return str(self.records[0]["reader"])

    @property
    def several_seeds(self) -> bool:
        return len(self.records) > len(self.arms)

    @property
    def count(self) -> str:
        """Of examples and seeds, a sentence for a caption."""
        examples = sorted({record["examples"] for record in self.records})
        seeds = sorted({record["seed"] for record in self.records})
        span = "-".join(str(n) for n in dict.fromkeys((examples[0], examples[-1])))
        many = "means over seeds" if self.several_seeds else "seed"
        return f"{span} examples from the train set, none of them tuned on; {many} {_listed(seeds)}."

    def curves(self, read: Callable[[Record], Any]) -> Curves:
        """What is read off the records [L+1], over seeds; without the arms where there is None.

        The deviation of one seed is 0.
        """
        curves = {}
        for arm, records in self.arms.items():
            rows = [row for row in map(read, records) if row is not None]
            values = torch.tensor(rows, dtype=torch.float64)
            if len(values):
                spread = values.std(0) if len(values) > 1 else torch.zeros_like(values[0])
                curves[arm] = (values.mean(0), spread)
        return curves


def groups(records: Sequence[Record]) -> list[tuple[Group, list[Group]]]:
    """By (task, shots, PET), in the records' order: all arms, and a group for every reader.

    In the first each arm has one record a seed, for what does not depend on the reader. A frozen model's
    record whose "pet" is None belongs to all PETs and shots of its task.

    Raises:
        BadInput: if a record lacks a field.
    """
    check_records(records)
    styles = arm_styles(record["arm"] for record in records)
    tuned = [r for r in records if r["arm"] != FROZEN] or list(records)
    grouped = []
    for key in dict.fromkeys((r["task"], r["shots"], r["pet"]) for r in tuned):
        task, shots, pet = key
        name = ", ".join(filter(None, (task, _size(shots), pet)))
        ours = [
            r
            for r in records
            if (r["task"], r["shots"], r["pet"]) == key
            or (r["arm"] == FROZEN and r["task"] == task and r["pet"] is None)
        ]
        once = list({(r["arm"], r["seed"]): r for r in reversed(ours)}.values())
        by_reader = [
            Group(name, _by_arm(r for r in ours if r["reader"] == reader), styles)
            for reader in dict.fromkeys(r["reader"] for r in ours)
        ]
        grouped.append((Group(name, _by_arm(once), styles), by_reader))
    return grouped


def check_records(records: Sequence[Record]) -> None:
    """Whether pictures can be made of the records.

    Raises:
        BadInput: if one lacks a field, has something else in one, or has other labels or layers than
            one of the same task before it.
    """
    first: dict[str, Record] = {}
    for number, record in enumerate(records):
        missing = [key for key in (*_PLAIN, *_shape((), ())) if key not in record]
        if missing:
            raise BadInput(
                f"record {number} of the analyses lacks {', '.join(missing)}: make them anew with this "
                "version"
            )
        wrong = misfit(record, _PLAIN) or misfit(record, _shape(record["labels"], record["times"]))
        like = first.setdefault(str(record["task"]), record)
        if not wrong and (len(set(record["labels"])) < 2 or len(record["times"]) < 2):
            wrong = "it has fewer than two labels or times"
        if not wrong and (tube := record["tube"]) and len({len(tube[k]) for k in _TUBE}) > 1:
            wrong = "the lists of its tube are not equally long"
        if not wrong and _axes(record) != _axes(like):
            wrong = "labels and number of times are not those of the same task before it"
        if wrong:
            raise BadInput(f"record {number} of the analyses: {wrong}: make them anew with this version")


def _axes(record: Record) -> tuple[list[str], int]:
    return record["labels"], len(record["times"])


def _shape(words: Sequence[str], times: Sequence[float]) -> dict[str, Shape]:
    """Of what has a part for each of a record's labels and states."""
    layers = (FINITE,) * len(times)
    paths = {"mean": layers, "low": layers, "high": layers, "examples": [layers]}
    return {
        "progress": dict.fromkeys(words, paths),
        "contrast": {word: {"end": FINITE, **paths} for word in words},
        "distance": dict.fromkeys(words, dict.fromkeys(words, layers)),
        "separability": {
            "chance": FINITE,
            **dict.fromkeys(("probe", "probe_deviation", "silhouette"), layers),
        },
        "lens": Maybe(
            {"metric": TEXT, "score": layers, "probability": dict.fromkeys(words, layers)},
        ),
    }


def said(values: dict[str, float], form: str) -> str:
    """Values by arm for a caption: frozen and vanilla by themselves, many others by their range."""
    named = {arm: f"{value:{form}}" for arm, value in values.items()}
    others = [arm for arm in values if arm not in (FROZEN, VANILLA)]
    if len(others) > _NAMED:
        low, high = (pick(values[arm] for arm in others) for pick in (min, max))
        named = {arm: text for arm, text in named.items() if arm not in others}
        named[f"the {len(others)} other arms"] = f"{low:{form}} to {high:{form}}"
    return ", ".join(f"{text} ({arm})" for arm, text in named.items())


def others_end(words: Sequence[str]) -> str:
    """How a caption names what is not the own end point."""
    return "the other label's" if len(words) == 2 else "the nearest other label's"


def _by_arm(records: Iterable[Record]) -> dict[str, list[Record]]:
    by_seed = sorted(records, key=lambda r: r["seed"])
    arms = in_order(r["arm"] for r in by_seed)
    return {arm: [r for r in by_seed if r["arm"] == arm] for arm in arms}


def _size(shots: int | None) -> str:
    return "full train set" if shots is None else f"{shots} shots"


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
