"""The command `bridge-pets`, and whether the packages `bridges` and `pets` that are found are its own.

Other distributions have these import names too. Installed into the same folder, the last one overwrites
the ``__init__.py`` of the first; elsewhere on the path, whatever comes first hides the other. This file
can tell: its name is nobody else's, and until it has looked it imports the standard library alone.
"""

from __future__ import annotations

import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

_DISTRIBUTION = "bridge-pets"
_MARK = b"bridges.lazy"  # a module that both of our __init__.py import, compiled or not
_REINSTALL = "reinstall bridge-pets (in its clone: pip install --force-reinstall --no-deps .)"


def check(*names: str) -> None:
    """Refuse another project's package in the place of one of ours.

    Args:
        names: import names, each "bridges" or "pets".

    Raises:
        ImportError: in one line, which file is found, whose it is and what to do.
    """
    for name in names:
        found = _found(name)
        if found is None:
            raise ImportError(
                f"no __init__.py of bridge-pets' package {name!r} is found, as where another package of "
                f"that name was uninstalled and took it along: {_REINSTALL}",
                name=name,
            )
        try:
            ours = _MARK in Path(found).read_bytes()
        except OSError:  # inside of an archive, say: nothing can be told
            continue
        if not ours:
            message = f"{found} is not the {name!r} of bridge-pets: {_advice(Path(found))}"
            raise ImportError(message, name=name, path=found)


def _found(name: str) -> str | None:
    """The file that the import of a name runs, or ran; None for a folder without ``__init__.py``."""
    if name in sys.modules:
        return getattr(sys.modules[name], "__file__", None)
    spec = find_spec(name)
    return spec.origin if spec and spec.has_location else None


def _advice(found: Path) -> str:
    owner = _owner(found)
    if owner is None:
        return (
            "no installed package put it there; rename it, or start Python where it is not on the path"
        )
    overwritten = found.parent.parent.samefile(Path(__file__).parent)
    return (
        f"{owner} has installed it, and the two cannot share an environment: "
        f"pip uninstall {owner.partition(' ')[0]}{f', then {_REINSTALL}' if overwritten else ''}"
    )


def _owner(found: Path) -> str | None:
    """Name and version of the distribution, other than ours, that lists a file."""
    for distribution in metadata.distributions():
        if distribution.metadata["Name"] == _DISTRIBUTION:
            continue
        for file in distribution.files or ():
            if file.parts == found.parts[-len(file.parts) :] and found.samefile(str(file.locate())):
                return f"{distribution.metadata['Name']} {distribution.version}"
    return None


def main() -> None:
    """Run the command line; where `bridges` or `pets` are another's, one line and exit code 2."""
    try:
        check("pets", "bridges")
    except ImportError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    from pets.cli import main as command_line

    command_line()
