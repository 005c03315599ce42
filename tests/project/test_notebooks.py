"""The notebooks of examples/ run from top to bottom; what is kept of a run is of the cells there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import stand_ins
from pages import put_models

for part in ("nbclient", "ipykernel", "matplotlib", "jinja2"):
    pytest.importorskip(part, reason=f"{part} is not installed; for Python 3.10 no jupyter is asked for")

import nbformat  # noqa: E402  with nbclient
import notebooks  # noqa: E402

pytestmark = pytest.mark.slow

TINY = "tiny-lm"
LARGEST = 250_000  # bytes
PARAMETERS: dict[str, dict[str, object]] = {
    "read_a_report.ipynb": {"steps": 4, "seeds": "42 43 44"},
    "tune_a_table.ipynb": {"steps": 2, "batch_size": 2, "held_out": 24, "lens_tokens": 200},
    "write_a_bridge.ipynb": {"fit_steps": 16, "fit_rows": 4, "tune_steps": 2},
}
"""Of the first cells, so that a run takes a minute at most."""


def kept(name: str) -> Any:
    """A notebook as it is in the repository."""
    return nbformat.read(notebooks.EXAMPLES / name, as_version=4)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny models by the names that the notebooks ask for, which know the words of their cells."""
    texts = [cell.source for name in PARAMETERS for cell in kept(name).cells]
    made = dict(stand_ins.made_once(tmp_path_factory, texts))
    return made | {TINY: made["$MODEL"]}


@pytest.mark.parametrize("name", PARAMETERS)
def test_it_runs_and_shows_what_is_kept_of_it(
    name: str, models: dict[str, Path], tmp_path: Path
) -> None:
    """The same cells show the same kinds of things, and the same words but for what numbers decide."""
    put_models(tmp_path, models)
    page = notebooks.run(notebooks.EXAMPLES / name, tmp_path, PARAMETERS[name])
    assert notebooks.shape(page) == notebooks.shape(kept(name))


@pytest.mark.parametrize("name", PARAMETERS)
def test_what_is_kept_is_of_the_cells_that_are_there(name: str) -> None:
    page = kept(name)
    advice = f"run it anew: python tests/shared/notebooks.py examples/{name}"
    assert notebooks.kept_digest(page) == notebooks.digest(page), advice
    code = [cell for cell in page.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), advice
    assert all(output.get("name") != "stderr" for cell in code for output in cell.outputs)
    assert any("image/png" in output.get("data", {}) for cell in code for output in cell.outputs)


@pytest.mark.parametrize("name", PARAMETERS)
def test_its_file_is_of_the_present_format_and_small(name: str) -> None:
    page = kept(name)
    nbformat.validate(page)
    assert (page.nbformat, page.nbformat_minor) == (4, 5)
    assert (notebooks.EXAMPLES / name).stat().st_size < LARGEST
    code = [cell for cell in page.cells if cell.cell_type == "code"]
    assert code[0].metadata.tags == ["parameters"]


def test_every_notebook_is_tested_and_named_in_the_readme() -> None:
    found = sorted(path.name for path in notebooks.EXAMPLES.glob("*.ipynb"))
    assert found == sorted(["notebook.ipynb", *PARAMETERS])  # the first by test_examples.py
    text = (notebooks.EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [name for name in found if f"examples/{name}`" not in text] == []


def written(folder: Path, *sources: str) -> Path:
    """A notebook of these code cells, the first one of parameters."""
    cells = [nbformat.v4.new_code_cell(source, id=f"cell-{k}") for k, source in enumerate(sources)]
    cells[0].metadata["tags"] = ["parameters"]
    path = folder / "page.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def test_a_run_has_other_parameters_and_is_known_by_its_cells(tmp_path: Path) -> None:
    path = written(tmp_path, "a, b = 1, 2", "print(a + b, 'things')\nprint('and more')")
    page = notebooks.run(path, tmp_path, {"b": 40})
    (output,) = page.cells[1].outputs
    assert output.text == "41 things\nand more\n"
    assert page.cells[0].source == "a, b = 1, 2\nb = 40"
    assert notebooks.kept_digest(page) == notebooks.digest(page)
    other = notebooks.run(path, tmp_path, {"b": -7})
    assert notebooks.shape(other) == notebooks.shape(page)
    page.cells[1].source += "  "
    assert notebooks.kept_digest(page) != notebooks.digest(page)
    with pytest.raises(ValueError, match="no parameter c"):
        notebooks.run(path, tmp_path, {"c": 1})


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("import warnings; warnings.warn('old')", "cell cell-1 complains.*old"),
        ("import os; print(os.getcwd())", "cell cell-1 shows"),
    ],
)
def test_what_belongs_to_one_machine_is_not_kept(source: str, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"(?s){complaint}"):
        notebooks.run(written(tmp_path, "a = 1", source), tmp_path)
