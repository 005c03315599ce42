"""The one exception that means: the input is wrong, not the program."""

from __future__ import annotations


class BadInput(ValueError):
    """Input from outside was refused.

    The message is one line that names the value, what was expected and what to do. The command line
    prints it and exits with code 2; everything else is a bug and keeps its traceback.
    """
