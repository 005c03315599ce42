"""The hash of the source: of all code that a piece of work can reach, and of nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from places import REPOSITORY

from bridges.storage import source
from bridges.storage.source import source_digest, sources

CELL, TUNE, FIT = "pets.study.compare.cell", "pets.tuning.tune", "bridges.fitting.together"
LOADED = """
import sys, {root}
for name, module in list(sys.modules.items()):
    if name.partition(".")[0] in ("kernels", "bridges", "pets") and getattr(module, "__file__", None):
        print(name)
"""


@pytest.mark.parametrize("root", [CELL, FIT])
def test_it_is_of_what_is_really_imported_and_of_the_backends(root: str) -> None:
    command = [sys.executable, "-c", LOADED.format(root=root)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert (
        {"bridges.processes.ou", "bridges.fitting.together", "kernels.dispatch"}
        <= loaded
        <= sources(root).keys()
    )
    more = sources(root).keys() - loaded
    assert more
    assert all(name.startswith("kernels.triton_") for name in more), more  # imported when first used


def test_what_only_shows_results_has_no_part() -> None:
    shows = (
        "pets.study.report",
        "pets.commands",
        "pets.cli",
        "pets.study.statistics.differences",
        "pets.inside.trajectories",
    )
    shows += (
        "pets.inside.plots",
        "pets.demo",
        "pets.study.compare.look",
        "pets.study.compare.run",
        "bridges.testing",
    )
    assert not [name for name in sources(CELL) if name.startswith(shows)]
    assert {"pets.tuning.evaluation", "pets.tuning.loop", "pets.study.compare.grid"} <= sources(
        CELL
    ).keys()
    assert not [name for name in sources(FIT) if name.startswith("pets")]


def test_it_is_of_this_checkout() -> None:
    """`kernels` is a namespace: what else is in it, or a second path to this one, is not ours."""
    assert all(REPOSITORY in path.resolve().parents for path in sources(CELL).values())
    assert "kernels" not in sources(CELL)
    assert len({path.resolve() for path in sources(CELL).values()}) == len(sources(CELL))


def test_it_changes_with_a_file_and_only_with_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edited = tmp_path / "ou.py"
    edited.write_bytes(sources(FIT)["bridges.processes.ou"].read_bytes() + b"# edited\n")
    changed = {**sources(FIT), "bridges.processes.ou": edited}
    before = source_digest(FIT)
    monkeypatch.setattr(source, "sources", lambda root: changed)
    source_digest.cache_clear()
    assert source_digest(FIT) != before
    monkeypatch.undo()
    source_digest.cache_clear()
    assert source_digest(FIT) == before
