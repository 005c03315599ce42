"""How to ask for a bridge or regularizer: in Python, on the command line, in one word."""

from __future__ import annotations

import inspect
import json
import shlex
from collections.abc import Mapping
from typing import Any

from bridges import Cost
from pets.inside.zoo_entries import Example


def in_python(found: Example) -> str:
    """Lines that make it, as it is drawn."""
    record, shown = found.entry.record, _asked(found)
    word = json.dumps(in_one_word(record.name, shown))
    if not issubclass(record.cls, Cost):
        return f"handle = pets.regularize(model, {word})"
    arguments = [json.dumps(record.name), *(f"{k}={_literal(v)}" for k, v in shown.items())]
    made = f"bridge = bridges.get({', '.join(arguments)})"
    return f"{made}\ncost = bridges.RunningCost.for_model(plm, {word})"


def _literal(value: Any) -> str:
    if value is ...:
        return "..."
    return json.dumps(value) if isinstance(value, str) else repr(value)


def in_a_shell(found: Example) -> str:
    """A command that takes it, as it is drawn."""
    record = found.entry.record
    word = shlex.quote(in_one_word(record.name, _asked(found)))
    if not issubclass(record.cls, Cost):
        return f"bridge-pets tune --regularizer {word} --model MODEL --task TASK --data DATA --out RUN"
    if record.cls.fits:
        return f"bridge-pets fit --bridge {word} --model MODEL --text FILE --out COST"
    return f"bridge-pets compare --bridges {word} --model MODEL --tasks TASK --data DATA --out RUNS"


def _asked(found: Example) -> Mapping[str, Any]:
    """As drawn; what has to be given and was not is an ellipsis."""
    shown = {k: float(f"{v:.3g}") if k == "weight" else v for k, v in found.shown.items()}
    required = [k for k, v in found.entry.record.defaults.items() if v is inspect.Parameter.empty]
    return {**dict.fromkeys(required, ...), **shown}


def in_one_word(name: str, parameters: Mapping[str, Any]) -> str:
    """As a command takes it: ``ou:theta=5.0``; `Registry.parse` reads it again."""
    pieces = [f"{key}={_value(value)}" for key, value in parameters.items()]
    return f"{name}:{','.join(pieces)}" if pieces else name


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_value, value))}]"
    text = "..." if value is ... else str(value)
    return f"({text})" if isinstance(value, str) and "," in text else text
