"""Which of the reported examples a PET is right on, as a row keeps it: four to a hexadecimal digit."""

from __future__ import annotations

from collections.abc import Sequence

from bridges.errors import BadInput


def packed(right: Sequence[bool]) -> str:
    """In their order, the first one the highest bit of the first digit; the last digit ends in zeros."""
    bits = "".join("1" if hit else "0" for hit in right)
    bits += "0" * (-len(bits) % 4)
    return "".join(f"{int(bits[k : k + 4], 2):x}" for k in range(0, len(bits), 4))


def unpacked(text: str, count: int) -> tuple[bool, ...]:
    """The other way.

    Args:
        text: from `packed`.
        count: examples.

    Raises:
        BadInput: if it is no such text, or of another number of examples.
    """
    try:
        bits = "".join(f"{int(digit, 16):04b}" for digit in text)
    except ValueError:
        raise BadInput(f"right is {text[:20]!r}, expected hexadecimal digits") from None
    if len(text) != -(-count // 4) or "1" in bits[count:]:
        raise BadInput(f"right has {len(text)} digits, expected those of {count} examples")
    return tuple(bit == "1" for bit in bits[:count])
