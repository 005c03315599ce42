"""What the packages offer: found when it is first used, and the same for type checkers."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys

import pytest
from places import REPOSITORY

import bridges

PACKAGES = ["bridges"]


def declared(package: str) -> set[tuple[str, str]]:
    """The names that type checkers see, each with the module it is from."""
    tree = ast.parse((REPOSITORY / package / "__init__.py").read_text())
    [block] = [node for node in tree.body if isinstance(node, ast.If)]
    pairs = set()
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        for alias in node.names:
            assert alias.asname == alias.name, "a name that type checkers take for private"
            pairs.add((alias.name, str(node.module)))
    return pairs


@pytest.mark.parametrize("package", PACKAGES)
def test_type_checkers_see_what_there_is(package: str) -> None:
    module = importlib.import_module(package)
    assert {name for name, _ in declared(package)} == set(module.__all__)
    for name, home in declared(package):
        assert getattr(module, name) is getattr(importlib.import_module(home), name)


def test_a_name_is_found_when_it_is_used_and_kept() -> None:
    program = (
        "import sys, bridges\n"
        "assert 'torch' not in sys.modules and 'bridges.processes' not in sys.modules\n"
        "first = bridges.OUBridge\n"
        "assert vars(bridges)['OUBridge'] is first\n"
        "assert 'transformers' not in sys.modules and 'scipy' not in sys.modules\n"
        "from bridges import *\n"
        "assert RunningCost.__module__ == 'bridges.cost.running_cost'\n"
        "assert bridges.errors.BadInput is BadInput and bridges.testing.BridgeTestCase\n"
        "assert {'get', 'RunningCost', 'errors'} <= set(dir(bridges))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'bridges' has no attribute 'ornstein'"):
        _ = bridges.ornstein
    assert not hasattr(bridges, "_private")
