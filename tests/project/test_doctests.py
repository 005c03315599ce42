"""The examples in docstrings run, each by itself, and print what they say."""

from __future__ import annotations

import doctest
import importlib
from typing import Any

import pytest
import torch
from places import REPOSITORY

import bridges
import pets

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
NAMES = {"bridges": bridges, "pets": pets, "torch": torch}


def examples() -> list[Any]:
    """One parameter for each docstring of the three floors that has an example."""
    found = []
    for floor in ("bridges", "kernels", "pets"):
        for path in sorted((REPOSITORY / floor).rglob("*.py")):
            if ">>>" in path.read_text(encoding="utf-8"):
                name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
                module = importlib.import_module(name.removesuffix(".__init__"))
                for test in doctest.DocTestFinder(exclude_empty=True).find(module):
                    if test.examples:
                        found.append(pytest.param(test, id=test.name))
    return found


@pytest.mark.parametrize("example", examples())
def test_it_prints_what_it_says(example: doctest.DocTest) -> None:
    own = doctest.DocTest(
        example.examples,
        {**example.globs, **NAMES},
        example.name,
        example.filename,
        example.lineno,
        example.docstring,
    )
    said: list[str] = []
    result = doctest.DocTestRunner(optionflags=OPTIONS).run(own, out=said.append)
    assert result.failed == 0, "".join(said)
