"""The exception that means that the input is wrong, not the program, and what raises it everywhere."""

from __future__ import annotations

import difflib
from collections.abc import Collection


class BadInput(ValueError):
    """Input from outside was refused.

    The message is one line that names the value, what was expected and what to do. The command line
    prints it and exits with code 2; everything else is a bug and keeps its traceback.
    """


def unknown(kind: str, name: object, known: Collection[str]) -> BadInput:
    """The error for a name that nothing is registered under: nearest match and all known names."""
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return BadInput(f"unknown {kind} {name!r}{hint} (known: {', '.join(sorted(known))})")


def is_number(value: object) -> bool:
    """Whether it is a number, which True and False are not here."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def check_counts(**values: object) -> None:
    """Every value is a whole number above zero."""
    for name, value in values.items():
        if not isinstance(value, int) or value < 1:
            raise BadInput(f"{name}={value}: expected a whole number above 0")
