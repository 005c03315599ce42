"""The exception that means that the input is wrong, not the program, and what raises it everywhere."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from safetensors import SafetensorError


class BadInput(ValueError):
    """Input from outside was refused.

    The message is one line that names the value, what was expected and what to do. The command line
    prints it and exits with code 2; everything else is a bug and keeps its traceback.
    """


class CannotWrite(BadInput, OSError):
    """Nothing can be kept any more, on a full disk say: going on would only lose work.

    Attributes:
        errno: the operating system's number of the error; None where it has none.
    """

    @classmethod
    def of(cls, what: object, error: Exception) -> CannotWrite:
        """What could not be written, why, and what to do."""
        reason = getattr(error, "strerror", None) or str(error)
        found = cls(
            f"{what} could not be written: {' '.join(reason.split())}. What was finished is intact; "
            "make room or give write access, and the same command goes on"
        )
        found.errno = error_number(error)
        return found


@contextmanager
def writing(what: object) -> Iterator[None]:
    """An error of the operating system in the block is a `CannotWrite` of ``what``."""
    try:
        yield
    except CannotWrite:
        raise
    except (OSError, SafetensorError) as error:
        if isinstance(error, SafetensorError) and error_number(error) is None:
            raise  # of the tensors, not of the disk
        raise CannotWrite.of(what, error) from error


def error_number(error: BaseException) -> int | None:
    """The operating system's number of an error, such as `errno.ENOSPC`; None where it has none.

    Safetensors only tells it in words: "No space left on device (os error 28)".
    """
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error)) if isinstance(error, SafetensorError) else None
    return int(found[1]) if found else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, of the device or of this machine.

    Where the system kills the process instead, nothing can be told.
    """
    of_torch = isinstance(error, RuntimeError) and (
        type(error).__name__ == "OutOfMemoryError"  # torch is not imported for this
        or "can't allocate memory" in str(error)
    )
    return of_torch or isinstance(error, MemoryError)


def out_of_memory(error: BaseException) -> str:
    """What to do about it, in one line."""
    words = " ".join(str(error).split())[:200]
    return (
        f"out of memory ({words or type(error).__name__}): take fewer examples a step (--batch-size) or "
        "shorter ones (--max-length); the same command goes on from the last saved state"
    )


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
