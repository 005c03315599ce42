"""The notebooks of examples/: run, cleaned of what belongs to one run or machine, and written anew.

    python tests/shared/notebooks.py examples/write_a_bridge.ipynb --model HuggingFaceTB/NAME=FOLDER

runs the notebook in a temporary folder, where a name that its first cell gives leads to FOLDER, and
writes it back with what came out. Its metadata then hold a digest of the cells that were run, so that
who edits one later without running it is found out.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import nbformat
from nbclient import NotebookClient
from pages import masked, put_models
from PIL import Image
from places import REPOSITORY, script_environment

EXAMPLES = REPOSITORY / "examples"
MINUTES = 40  # that a cell may take
_COLOURS = 64
_BAR = re.compile(r"TqdmWarning|from \.autonotebook|\d+%\|")
_SEEN = "bridge_pets"
_VARIES = "varies"
"""In a cell's metadata, ``{"bridge_pets": {"varies": true}}``: words depend on what came out, too."""


def run(notebook: Path, folder: Path, parameters: Mapping[str, object] | None = None) -> Any:
    """The notebook as it is after all its cells were run in the folder, cleaned.

    Args:
        notebook: its file, which stays as it is.
        folder: where its kernel runs.
        parameters: other values of names in the cell that is tagged "parameters".

    Raises:
        ValueError: for a parameter that the cell does not have, or an output that does not belong there.
        CellExecutionError: of a cell that fails.
    """
    page = nbformat.read(notebook, as_version=4)
    for cell in page.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source = _with(cell.source, parameters or {})
    offline = script_environment(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    where = {"metadata": {"path": str(folder)}}
    client = NotebookClient(page, timeout=60 * MINUTES, kernel_name="python3", resources=where)
    with mock.patch.dict(os.environ, offline):
        os.environ.pop("MPLBACKEND", None)  # a kernel has its own
        client.execute()
    for cell in page.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = _cleaned(cell, folder)
    page.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
        _SEEN: {"sources": digest(page)},
    }
    nbformat.validate(page)
    return page


def digest(page: Any) -> str:
    """Of the code cells' sources, in order."""
    sources = [cell.source for cell in page.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(sources).encode()).hexdigest()


def kept_digest(page: Any) -> str | None:
    """The `digest` of the cells that made the outputs."""
    found: str | None = page.metadata.get(_SEEN, {}).get("sources")
    return found


def shape(page: Any) -> dict[str, list[tuple[str, ...]]]:
    """By cell the kinds of its outputs, and of texts the words without their numbers."""
    return {
        cell.id: [
            _shape(output, cell.metadata.get(_SEEN, {}).get(_VARIES, False)) for output in cell.outputs
        ]
        for cell in page.cells
        if cell.cell_type == "code"
    }


def _shape(output: Any, varies: bool) -> tuple[str, ...]:
    kinds = sorted(output["data"]) if "data" in output else [output.get("name", "")]
    text = output.get("text", output.get("data", {}).get("text/plain", ""))
    if varies or "image/png" in kinds:
        text = ""
    numbers = re.sub(r"\bnan\b", "0", text.replace("\u2212", "-"))
    words = re.sub(r"[-+](?=0)", "", masked(numbers)).split()
    several = re.sub(
        r"\b0(?: 0)+\b", "0", " ".join(words)
    )  # a table has as many lines as there are seeds
    return (output["output_type"], *kinds, several)


def _with(source: str, parameters: Mapping[str, object]) -> str:
    """The cell with other values; its lines are ``a, b = 1, 2``."""
    for name, value in parameters.items():
        if not re.search(rf"^(?:\w+, )*{name}(?:, \w+)* = ", source, re.MULTILINE):
            raise ValueError(f"the first cell has no parameter {name}")
        source += f"\n{name} = {value!r}"
    return source


def _cleaned(cell: Any, folder: Path) -> list[Any]:
    """The outputs without progress bars, streams in one piece, pictures of few colours.

    Raises:
        ValueError: for warnings, and for texts with a place of this machine in them.
    """
    found: list[Any] = []
    for output in cell.outputs:
        data = output.get("data", {})
        if "application/vnd.jupyter.widget-view+json" in data:
            continue
        if output.get("name") == "stderr":
            if output.text.strip() and not _BAR.search(output.text):
                raise ValueError(f"cell {cell.id} complains: {output.text[-2000:]}")
            continue
        if "image/png" in data:
            data["image/png"] = _small(data["image/png"])
            data.pop("text/plain", None)
        if output.output_type == "stream" and found and found[-1].output_type == "stream":
            found[-1].text += output.text
        else:
            found.append(output)
        if "metadata" in output:
            output.metadata = nbformat.NotebookNode()
    written = json.dumps(found)
    for place in (str(folder), str(REPOSITORY), str(Path.home()) + "/", tempfile.gettempdir() + "/"):
        if place in written:
            raise ValueError(f"cell {cell.id} shows {place}, a place of this machine")
    return found


def _small(png: str) -> str:
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    new = io.BytesIO()
    picture.quantize(_COLOURS, dither=Image.Dither.NONE).save(new, "PNG", optimize=True)
    return base64.b64encode(new.getvalue()).decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--model", action="append", default=[], metavar="NAME=FOLDER")
    arguments = parser.parse_args()
    for notebook in arguments.notebooks:
        with tempfile.TemporaryDirectory() as temporary:
            put_models(Path(temporary), dict(pair.split("=", 1) for pair in arguments.model))
            page = run(notebook, Path(temporary))
        nbformat.write(page, notebook)
        print(f"wrote {notebook}, {notebook.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
