"""The hash of the source: of all code that a piece of work runs through, and of none that only shows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from comparison_cases import FIT as FIT_SETTINGS
from comparison_cases import save_inputs
from places import REPOSITORY, script_environment
from tiny import TEXTS

import bridges.storage.source as source
from bridges.storage.source import FIT, source_digest, sources
from pets.study.cells.cell import MADE_BY as CELL
from pets.tuning.tune import MADE_BY as TUNE

pytestmark = pytest.mark.slow

WORK = """
import json, sys
from pathlib import Path

inputs, texts, settings = Path(sys.argv[1]), *map(json.loads, sys.argv[2:])

def loaded(what):
    files = {getattr(m, "__file__", None) for m in list(sys.modules.values())}
    print(json.dumps([what, sorted(filter(None, files))]))

from transformers import AutoModelForMaskedLM, AutoTokenizer
from bridges import RunningCost
model = AutoModelForMaskedLM.from_pretrained(inputs / "model")
tokenizer = AutoTokenizer.from_pretrained(inputs / "model")
cost = RunningCost.for_model(model, "sde")
cost.fit(model, tokenizer, texts, progress=False, **settings)
cost.save_pretrained(inputs / "cost")
RunningCost.from_pretrained(inputs / "cost")
loaded("fit")

from pets import tasks
from pets.tuning.settings import TuneSettings
from pets.tuning.tune import tune
short = {"max_steps": 2, "eval_every": 1, "shots": 4, "max_length": 20}
tune(model, tokenizer, tasks.get("sst2").load(inputs / "glue"), TuneSettings(**short),
     inputs / "run", cost=cost, progress=False)
loaded("tune")

from comparison_cases import small_grid, sources
from pets.study.cells.cell import run_cell
from pets.study.cells.context import Context
context = Context(small_grid(arms=("brownian", "r-drop")), inputs / "runs", *sources(inputs))
context.fit(progress=False)
for cell in context.grid.cells():
    run_cell(context, cell)
loaded("cell")
"""
# That importing `pets` runs, whatever is done then: names, and what an interrupt says.
FACADE = {"pets/__init__.py", "pets/interrupts.py", "pets/on_import.py"}


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The files of this project that a fit, then a tune, then cells have loaded when they are done."""
    inputs = save_inputs(tmp_path_factory.mktemp("inputs"))
    command = [sys.executable, "-c", WORK, str(inputs), json.dumps(TEXTS), json.dumps(FIT_SETTINGS)]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=script_environment(), capture_output=True, text=True, check=True
    )
    found = dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))
    rooms = ("kernels", "bridges", "pets")
    return {
        what: {
            Path(file).resolve().relative_to(REPOSITORY).as_posix()
            for file in files
            if Path(file).resolve().is_relative_to(REPOSITORY)
            and Path(file).resolve().relative_to(REPOSITORY).parts[0] in rooms
        }
        for what, files in found.items()
    }


@pytest.mark.parametrize(
    ("what", "folders", "some"),
    [
        ("fit", FIT, {"bridges/processes/sde.py", "bridges/fitting/loop.py", "kernels/dispatch.py"}),
        ("tune", TUNE, {"pets/tuning/loop.py", "pets/plug/regularize.py", "pets/tasks/glue.py"}),
        ("cell", CELL, {"pets/study/cells/grid.py", "pets/regularizers/__init__.py"}),
    ],
)
def test_it_is_of_all_that_is_really_loaded(
    used: dict[str, set[str]], what: str, folders: tuple[str, ...], some: set[str]
) -> None:
    packages = {"pets/study/__init__.py"}  # a line of documentation
    assert some <= used[what]
    assert not used[what] - sources(*folders).keys() - FACADE - packages


def test_the_rooms_that_are_named_are_there() -> None:
    """One that was renamed would silently have no part."""
    for folder in CELL:
        assert sources(folder), folder
    assert any(name.startswith("kernels/gpu/") for name in sources(*FIT))  # loaded on a GPU alone


def test_what_only_shows_results_has_no_part() -> None:
    shows = ("pets/study/report", "pets/study/statistics", "pets/study/compare", "pets/study/execution")
    shows += ("pets/inside", "pets/commands", "pets/cli", "pets/demo", "bridges/testing", "tests")
    assert not [name for name in sources(*CELL) if name.startswith(shows)]
    assert not [name for name in sources(*FIT) if name.startswith("pets")]
    assert set(FIT) < set(TUNE) < set(CELL)


def test_it_is_of_this_checkout() -> None:
    assert all(REPOSITORY in path.resolve().parents for path in sources(*CELL).values())


def test_it_changes_with_a_file_and_only_with_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("bridges/ou.py", "bridges/testing/case.py", "pets/tuning/loop.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("one")
    monkeypatch.setattr(source, "_ROOT", tmp_path)

    def digest(edited: str | None = None) -> str:
        if edited:
            (tmp_path / edited).write_text("two")
        source_digest.cache_clear()
        return source_digest(*FIT)

    before = digest()
    assert digest("pets/tuning/loop.py") == digest("bridges/testing/case.py") == before
    assert digest("bridges/ou.py") != before
    source_digest.cache_clear()
