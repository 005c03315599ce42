"""The workers of the study are forked from the tests' server: new interpreters are not the point."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import processes
import pytest


@pytest.fixture(autouse=True, scope="session")
def _forked_workers() -> Iterator[None]:
    forking = SimpleNamespace(get_context=lambda kind: processes.server())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pets.study.execution.local.multiprocessing", forking)
        yield
