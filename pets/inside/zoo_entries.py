"""What of the zoo is asked for, and an example of each: a bridge or regularizer as it is drawn."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatch
from typing import Any

import torch
from torch import Tensor

import bridges.processes
from bridges import AboutLabel, Control, Cost, Process, SDEBridge
from bridges.errors import BadInput, one_line
from bridges.registry import Info, Registry
from pets import regularizers
from pets.inside.zoo_weights import layer_weights, state_weights
from pets.regularizers import Objective

LAYERS = 24  # of the model whose cost is drawn, as BERT-large
SHOWN: dict[str, dict[str, Any]] = {
    "alpha": {"alpha": 3.0},
    "clock": {"clock": [0.2, 0.6, 2.0, 1.2]},
    "fractional": {"hurst": 0.25},
    "ou": {"theta": 5.0},
    "posterior": {"over": "prefixes"},
    "random": {"keep": 0.7},
    "student": {"nu": 3.0},
}
"""Parameters that show a process's character better than its defaults do."""

DRAWN: tuple[Registry[Any], ...] = (bridges.processes.catalogue, regularizers.catalogue)
"""The kinds that have pictures and cards."""


@dataclass(frozen=True)
class Entry:
    """One that was asked for.

    Attributes:
        kind: where it is registered.
        record: its record.
        given: the parameters that were given with its name.
        text: as it was asked for: its name, or that with parameters.
    """

    kind: Registry[Any]
    record: Info[Any]
    given: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""

    @property
    def title(self) -> str:
        return self.text or self.record.name


def chosen(names: Sequence[str], kinds: Iterable[Registry[Any]]) -> list[Entry]:
    """What is asked for, kind by kind; everything where no name is given.

    Args:
        names: patterns of names, and texts of bridges and regularizers with parameters: "ou:theta=8".
        kinds: to look in.

    Raises:
        BadInput: for a pattern that matches nothing, a text of something else, and parameters that are
            unknown or out of range.
    """
    kinds = list(kinds)
    known = [name for kind in kinds for name in kind.available()]
    patterns = [name for name in names if ":" not in name]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in known):
            raise bridges.processes.catalogue.unknown("name", pattern, known)
    texts = [_of_text(name, known) for name in dict.fromkeys(names) if ":" in name]
    found = []
    for kind in kinds:
        for name in kind.available():
            if not names or any(fnmatch(name, pattern) for pattern in patterns):
                found.append(Entry(kind, kind.info(name)))
            found += [entry for entry in texts if entry.kind is kind and entry.record.name == name]
    return found


def _of_text(text: str, known: Sequence[str]) -> Entry:
    name = text.partition(":")[0]
    if name not in known:
        raise bridges.processes.catalogue.unknown("name", name, known)
    for kind in DRAWN:
        if name in kind.available():
            _, given = kind.split(text)
            entry = Entry(kind, kind.info(name), given, text)
            kind.get(name, **{**_needed(entry), **given})
            return entry
    raise BadInput(
        f"{text}: parameters are taken of bridges and regularizers here, name it {name!r} alone"
    )


@dataclass(frozen=True)
class Example:
    """An entry as it is drawn.

    Attributes:
        entry: whose example it is.
        shown: the parameters that it is made with, beside the defaults.
        made: the cost or regularizer; None where it cannot be made.
        weights: of the layers, [L+1]; None where there are none.
        reason: why it cannot be made or has no weights, where that is an error.
    """

    entry: Entry
    shown: Mapping[str, Any]
    made: Cost | Objective | None
    weights: Tensor | None
    reason: str = ""

    @property
    def draws_paths(self) -> bool:
        return isinstance(self.made, (Process, AboutLabel))


def example(entry: Entry) -> Example:
    """Made with the parameters that were given, else those `SHOWN`; a regularizer, middling strong.

    What goes wrong with it, in a plug-in say, is its ``reason``.
    """
    shown = dict(entry.given or SHOWN.get(entry.record.name, {}))
    made: Cost | Objective | None = None
    try:
        shown = {**_needed(entry), **shown}
        required = [k for k, v in entry.record.defaults.items() if v is inspect.Parameter.empty]
        missing = [name for name in required if name not in shown]
        if missing:
            return Example(entry, shown, None, None, f"It has no default for {', '.join(missing)}.")
        made = entry.record.cls(**shown)
        weights = _weights(made)
    except Exception as error:  # whatever a class of others does, its card says so
        return Example(entry, shown, made, None, told(error))
    if weights is not None and not weights.isfinite().all():
        return Example(entry, shown, made, None, "Its layer weights are not finite.")
    return Example(entry, shown, made, weights)


def told(error: Exception) -> str:
    """What went wrong, in one line."""
    return one_line(f"{type(error).__name__}: {error}")


def _weights(made: Cost | Objective) -> Tensor | None:
    if isinstance(made, Objective):
        return state_weights(made, LAYERS + 1) if "states" in made.reads else None
    with torch.no_grad():
        return layer_weights(made, LAYERS + 1)


def _needed(entry: Entry) -> dict[str, Any]:
    """A regularizer's strength, on which no picture depends."""
    cls = entry.record.cls
    return {"weight": cls.strengths(1)[0]} if issubclass(cls, Objective) else {}


def group_of(record: Info[Any]) -> str:
    """Where a card of it stands: one of `pets.inside.zoo_cards.GROUPS`."""
    cls = record.cls
    if issubclass(cls, Objective):
        return "regularizers" if "states" in cls.reads else "other-regularizers"
    if issubclass(cls, AboutLabel):
        return "labels"
    if issubclass(cls, Control):
        return "controls"
    if not issubclass(cls, Process):
        return "other-costs"
    return "learned" if issubclass(cls, SDEBridge) or record.defaults.get("learn") else "processes"


def written(name: str, default: Any) -> str:
    """A parameter with its default, where that is a word or a number."""
    value = default.value if isinstance(default, Enum) else default
    return f"{name}={value}" if isinstance(value, (bool, int, float, str)) and value != "" else name
