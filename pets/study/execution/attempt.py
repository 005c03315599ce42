"""What comes of an item of work: its result, or its failure."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bridges.errors import BadInput, is_out_of_memory

ATTEMPTS = 3
"""How often an item may take its worker down with it."""


@dataclass(frozen=True)
class Failure:
    """What came of an item instead of a result.

    Attributes:
        kind: class of the exception, or "WorkerDied".
        message: one line, the same in equal runs.
        traceback: for the log; empty where the message says it all.
    """

    kind: str
    message: str
    traceback: str = field(default="", compare=False, repr=False)

    @classmethod
    def of(cls, error: Exception) -> Failure:
        told = isinstance(error, BadInput) or is_out_of_memory(error)
        trace = "" if told else "".join(traceback.format_exception(error))
        return cls(type(error).__name__, " ".join(str(error).split()), trace)

    @classmethod
    def worker_died(cls, details: str = "") -> Failure:
        what = f"its worker died {ATTEMPTS} times: killed, or out of memory"
        return cls("WorkerDied", what, details)

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" if self.message else self.kind


def attempt(function: Callable[[Any, Any], Any], context: Any, item: Any) -> Any:
    """The item's result or its failure."""
    try:
        return function(context, item)
    except Exception as error:
        return Failure.of(error)
