"""docs/support.md says what running every PET on every architecture gives today."""

from __future__ import annotations

import pytest
from support_matrix import (
    COMMAND,
    DOCUMENT,
    NOTE,
    every_method,
    first_part,
    on_heads,
    parts,
    second_part,
    versions,
)

pytestmark = pytest.mark.slow

STALE = f"docs/support.md is stale: run {COMMAND}"


@pytest.fixture(scope="module")
def document() -> str:
    assert DOCUMENT.exists(), STALE
    return DOCUMENT.read_text(encoding="utf-8")


def test_it_says_that_it_is_generated(document: str) -> None:
    assert document.startswith(NOTE)


def test_the_table_of_the_five_pets_is_what_runs(document: str) -> None:
    assert parts(document)[0].split() == first_part(*on_heads()).split(), STALE


def test_the_table_of_all_methods_is_what_runs(document: str) -> None:
    if versions() not in document:
        pytest.skip("made with another peft or transformers")
    assert parts(document)[1].split() == second_part(every_method()).split(), STALE
