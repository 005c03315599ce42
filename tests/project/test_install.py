"""docs/install.md: its commands run in order, in a copy of the tree with an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from page_blocks import commands
from places import REPOSITORY

pytestmark = pytest.mark.slow

PAGE = (REPOSITORY / "docs" / "install.md").read_text(encoding="utf-8")
NOT_RUN = {
    "git clone": "needs the address of the repository",
    "python3 -m venv": "the test has made an environment",
    "bridge-pets demo": "takes minutes; tests/pets/demo runs it",
}
# What a reader's pip fetches is already here, beside the environment's own packages.
PIP = """#!/bin/sh
case "$1" in
install) shift; set -- install --no-index --no-deps --no-build-isolation --quiet "$@" ;;
wheel) shift; set -- wheel --no-index --no-deps --no-build-isolation --quiet "$@" ;;
esac
exec "$(dirname "$0")/python" -m pip --disable-pip-version-check "$@"
"""


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `git clone` gives, with an activated environment's folder in it."""
    folder = tmp_path_factory.mktemp("clone") / "bridge-pets"
    folder.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("bridges", "kernels", "pets"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
    for name in ("bridge_pets.py", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, folder)
    venv.create(folder / ".venv", symlinks=True)
    [site] = (folder / ".venv" / "lib").glob("python*/site-packages")
    (site / "beside.pth").write_text(
        sysconfig.get_path("purelib") + "\n"
    )  # its own .pth are not followed
    pip = folder / ".venv" / "bin" / "pip"
    pip.write_text(PIP)
    pip.chmod(0o755)
    return folder


def run(clone: Path, command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(clone / ".venv" / "bin"), os.environ["PATH"]])
    kept = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")
    }
    return subprocess.run(
        ["bash", "-c", command],
        cwd=cwd or clone,
        env={**kept, "PATH": path, "HOME": str(clone.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_what_is_not_run_is_on_the_page() -> None:
    asked = [command for command, _ in commands(PAGE)]
    for start in NOT_RUN:
        assert any(command.startswith(start) for command in asked), start


def test_the_commands_of_the_page_run(clone: Path) -> None:
    asked = [command for command, _ in commands(PAGE) if not command.startswith(tuple(NOT_RUN))]
    check, reinstall, *others = asked
    assert check == "bridge-pets --version"
    assert reinstall.startswith("pip install --force-reinstall")
    assert len(others) > 6
    order = [
        others[0],
        check,
        reinstall,
        *others[1:],
    ]  # the warning comes first, what it is about is later
    assert order[0] == "pip install ."
    said = {}
    for command in order:
        done = run(clone, command)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        said[command] = done.stdout
    assert said[check].startswith("bridge-pets, version ")
    assert "brownian" in said["bridge-pets zoo"]
    assert run(clone, check).returncode == 127, "it is uninstalled"


def test_what_is_installed_is_found_from_anywhere_by_the_command_and_the_import(
    clone: Path, tmp_path: Path
) -> None:
    assert run(clone, "pip install .").returncode == 0
    done = run(
        clone, 'python -c "import pets, bridges; print(pets.__file__)"; bridge-pets --help', tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(clone / ".venv")), "not the checkout that the tests run in"
    assert "compare" in done.stdout


def test_the_page_names_every_extra_and_every_python() -> None:
    if sys.version_info < (3, 11):
        pytest.skip("needs tomllib")
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    for extra, packages in project["optional-dependencies"].items():
        assert f"| `'.[{extra}]'` |" in PAGE
        if extra == "report":
            names = ", ".join(package.partition(">")[0] for package in packages)
            assert f"| {names} |" in PAGE
    prefix = "Programming Language :: Python :: 3."
    named = [c.removeprefix(prefix) for c in project["classifiers"] if c.startswith(prefix)]
    assert f"Python 3.{named[0]} to 3.{named[-1]}" in PAGE
