"""The exception that means that the input is wrong, not the program, and what raises it everywhere."""

from __future__ import annotations

import difflib
import math
import re
import reprlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager

from safetensors import SafetensorError

_MESSAGE = 1500  # characters of a message
_VALUE = 120  # characters of a value that a message quotes
_MOST = 2**31 - 1
LARGEST = 1e12
"""Of a number that others are multiplied by: far from overflow, and beyond all use."""
_SEEDS = 2**64  # what torch's generators take


class BadInput(ValueError):
    """Input from outside was refused.

    The message is one line that names the value, what was expected and what to do. The command line
    prints it and exits with code 2; everything else is a bug and keeps its traceback. Whatever a
    message quotes, it is bounded and printable: see `one_line`.
    """

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


def one_line(text: str, most: int = _MESSAGE) -> str:
    """A text from anywhere as one printable line of at most ``most`` characters.

    The middle of a longer one goes: what is wrong is said at the start, what to do at the end.
    """
    text = _without_middle(text, most)
    text = re.sub(r"\s*[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]\s*", " ", text.strip())
    return _without_middle("".join(c if c.isprintable() else _escaped(c) for c in text), most)


def shown(value: object, most: int = _VALUE) -> str:
    """A value as messages quote it: its `repr`, cut in the middle where it is long or deep."""
    if isinstance(value, int) and value.bit_length() > 4 * most:
        return f"a number of {value.bit_length()} bits"  # Python refuses to write the largest ones
    if isinstance(value, str):
        return _without_middle(repr(_without_middle(value, most)), most + 2)
    brief = reprlib.Repr()
    brief.maxlevel, brief.maxstring, brief.maxother, brief.maxlong = 3, most, most, most
    try:
        return _without_middle(brief.repr(value), most)
    except ValueError:  # such a number inside of it
        return f"a {type(value).__name__}"


def listed(values: Collection[object], most: int = 12) -> str:
    """Values with commas between, as messages list them: the first ones, and how many more."""
    first = [str(value) for value, _ in zip(values, range(most), strict=False)]
    more = len(values) - len(first)
    text = ", ".join(_without_middle(value, _VALUE) for value in first)
    return f"{text} and {more} more" if more else text


class CannotWrite(BadInput, OSError):
    """Nothing can be kept any more, on a full disk say: going on would only lose work.

    Attributes:
        errno: the operating system's number of the error; None where it has none.
    """

    @classmethod
    def of(cls, what: object, error: Exception) -> CannotWrite:
        """What could not be written, why, and what to do."""
        reason = getattr(error, "strerror", None) or str(error)
        cannot_write = cls(
            f"{what} could not be written: {' '.join(reason.split())}. What was finished is intact; "
            "make room or give write access, and the same command goes on"
        )
        cannot_write.errno = error_number(error)
        return cannot_write


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
    match = re.search(r"\(os error (\d+)\)", str(error)) if isinstance(error, SafetensorError) else None
    return int(match[1]) if match else None


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
    text = _without_middle(name, _VALUE) if isinstance(name, str) else ""
    near = difflib.get_close_matches(text, known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return BadInput(f"unknown {kind} {shown(name)}{hint} (known: {listed(sorted(known), 60)})")


def check_name(kind: str, name: object, known: Collection[str]) -> str:
    """The name, which is a registered one.

    Raises:
        BadInput: if not; see `unknown`.
    """
    if not isinstance(name, str) or name not in known:
        raise unknown(kind, name, known)
    return name


def is_number(value: object) -> bool:
    """Whether it is a finite number, which True and False are not here."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond every float
        return False


def is_whole(value: object, low: int, high: int) -> bool:
    """Whether it is a whole number from ``low`` to ``high``, both included."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def check_counts(**values: object) -> None:
    """Every value is a whole number above zero, of 31 bits."""
    for name, value in values.items():
        if not is_whole(value, 1, _MOST):
            raise BadInput(f"{name}={shown(value)}: expected a whole number above 0, at most {_MOST}")


def check_flags(**values: object) -> None:
    """Every value is True or False, and no number or text that stands for one."""
    for name, value in values.items():
        if not isinstance(value, bool):
            raise BadInput(f"{name}={shown(value)}: expected True or False")


def check_seeds(**values: object) -> None:
    """Every value is a seed: a whole number of 64 bits, not negative.

    Not every generator tells a negative one from the positive.
    """
    for name, value in values.items():
        if not is_whole(value, 0, _SEEDS - 1):
            raise BadInput(f"{name}={shown(value)}: expected a whole number from 0 to {_SEEDS - 1}")


def _without_middle(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    mark = f" ... [{len(text)} characters] ... "
    tail = max(0, most - len(mark)) // 3
    head = max(0, most - len(mark)) - tail
    return text[:head] + mark + text[len(text) - tail :]


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
