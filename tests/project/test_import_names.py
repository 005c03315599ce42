"""Other people's packages named `bridges` and `pets`, in every place where they can be met."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import REPOSITORY

import bridge_pets

OURS = ("bridges", "kernels", "pets")
ALONE = """
import os, sys
given = ["", *os.environ["PYTHONPATH"].split(os.pathsep)]
sys.path[:] = [p for p in sys.path if p in given or not os.path.exists(os.path.join(p, "pets"))]
"""
"""Of this project only what is given; the tests may run from an editable install."""
COMMAND = "from bridge_pets import main; main()"
REINSTALL = "pip install --force-reinstall --no-deps ."


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder on the path with this project in it, as an installation lays it there."""
    folder = tmp_path / "site"
    for name in OURS:
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "bridge_pets.py", folder)
    return folder


def install(site: Path, name: str) -> Path:
    """What pip makes of another project's wheel: its ``__init__.py`` is put there, and listed."""
    init, info = site / name / "__init__.py", site / f"their_{name}-3.5.2.dist-info"
    init.parent.mkdir(exist_ok=True, parents=True)
    init.write_text("theirs = True\n")
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: their-{name}\nVersion: 3.5.2\n")
    (info / "RECORD").write_text(f"{name}/__init__.py,,\n{name}/gone.py,,\n{info.name}/METADATA,,\n")
    return init


def python(program: str, *path: Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    return subprocess.run(
        [sys.executable, "-c", ALONE + program, "--version"],
        cwd=cwd or path[0].parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def refused(program: str, *path: Path, cwd: Path | None = None) -> str:
    """The line that says why: the command's only one, or the last under an import's traceback."""
    done = python(program, *path, cwd=cwd)
    *before, line = done.stderr.splitlines()
    if program == COMMAND:
        assert done.returncode == 2
        assert not before
        return line.removeprefix("error: ")
    assert done.returncode == 1
    return line.removeprefix("ImportError: ")


@pytest.mark.parametrize("name", ["bridges", "pets"])
def test_an_overwritten_package_is_told_with_its_owner_and_the_way_back(site: Path, name: str) -> None:
    init = install(site, name)
    line = refused(COMMAND, site)
    assert line.startswith(
        f"{init} is not the {name!r} of bridge-pets: their-{name} 3.5.2 has installed it"
    )
    assert f"pip uninstall their-{name}, then" in line
    assert line.endswith(f"{REINSTALL})")
    if name == "bridges":
        assert refused("import pets", site) == line
    shutil.copy(REPOSITORY / name / "__init__.py", init)  # ours again
    assert python(COMMAND, site).stdout.startswith("bridge-pets, version ")
    assert python("import pets; print(pets.__version__)", site).returncode == 0


@pytest.mark.parametrize("name", ["bridges", "pets"])
def test_what_another_package_took_along_is_missed(site: Path, name: str) -> None:
    (site / name / "__init__.py").unlink()
    for program in (COMMAND, "import pets") if name == "bridges" else (COMMAND,):
        line = refused(program, site, cwd=site)
        assert f"no __init__.py of bridge-pets' package {name!r}" in line
        assert REINSTALL in line


def test_before_an_editable_install_it_is_enough_to_uninstall_the_other(
    site: Path, tmp_path: Path
) -> None:
    init = install(tmp_path / "before", "bridges")
    for program in (COMMAND, "import pets", "import bridges, pets"):
        line = refused(program, tmp_path / "before", site)
        assert line.startswith(f"{init} is not the 'bridges' of bridge-pets: ")
        assert line.endswith("pip uninstall their-bridges")


@pytest.mark.parametrize("file", ["bridges.py", "bridges/__init__.py"])
def test_a_local_file_is_to_be_renamed(site: Path, tmp_path: Path, file: str) -> None:
    local = tmp_path / "work" / file
    local.parent.mkdir(parents=True)
    local.write_text("spans = 3\n")
    for program in (COMMAND, "import pets"):
        line = refused(program, site, cwd=tmp_path / "work")
        assert re.match(
            f"{re.escape(str(local))} is not the 'bridges' of bridge-pets: no installed", line
        )
        assert "rename it" in line


def test_a_folder_without_init_hides_nothing(site: Path, tmp_path: Path) -> None:
    (tmp_path / "work" / "bridges").mkdir(parents=True)
    assert python(COMMAND, site, cwd=tmp_path / "work").returncode == 0


def test_inside_an_archive_nothing_is_suspected(site: Path, tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "ours"), "zip", site))
    done = python("import pets; print(pets.__file__)", archive)
    assert done.stdout.startswith(str(archive)), done.stderr


def test_nobody_is_asked_where_nothing_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_pets.metadata, "distributions", lambda: pytest.fail("a scan"))
    bridge_pets.check("bridges", "pets")


def test_what_is_wrong_is_an_import_error_with_name_and_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "quays.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError) as caught:
        bridge_pets.check("quays")
    assert (caught.value.name, caught.value.path) == ("quays", str(tmp_path / "quays.py"))
