"""The package in docs/zoo.md, built and installed as it stands there, and its own test run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import processes
import pytest
from places import REPOSITORY

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The three files' folder, and the folder that pip installed the package into: that is on the path
    of `run`, beside this repository.
    """
    project, site = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("site")
    text = (REPOSITORY / "docs" / "zoo.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^`([\w.]+)`[^\n]*\n\n```\w+\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert [name for name, _ in blocks] == ["pyproject.toml", "late_bridge.py", "test_late.py"]
    for name, content in blocks:
        (project / name).write_text(content, encoding="utf-8")
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--quiet"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *offline, "--target", str(site), str(project)],
        check=True,
        timeout=300,
    )
    return project, site


def run(installed: tuple[Path, Path], *arguments: str) -> processes.Done:
    _, site = installed
    return processes.run(arguments, cwd=site.parent, PYTHONPATH=str(site))


def test_its_bridge_is_found_without_an_import(installed: tuple[Path, Path]) -> None:
    done = run(installed, "-m", "pets.cli", "zoo")
    assert done.returncode == 0, done.stderr
    expected = (
        "late\n  Brownian bridge whose mean turns to v late.\n  m(t) = t^power,  s2(t) = t (1 - t)\n"
    )
    assert expected in done.stdout
    program = "import bridges; print(bridges.parse('late:power=2,likelihood=path').hyperparameters)"
    done = run(installed, "-c", program)
    assert done.stdout.strip() == "{'power': 2.0, 'likelihood': 'path', 'learn': ''}", done.stderr


def test_it_passes_its_battery(installed: tuple[Path, Path]) -> None:
    """All of it: nothing is declared missing, so nothing is skipped."""
    test = installed[0] / "test_late.py"
    (installed[0] / "late_bridge.py").unlink()  # what is tested is what was installed
    done = run(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, str(test))
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d\d passed", done.stdout, re.MULTILINE), done.stdout
    assert "skipped" not in done.stdout
