"""The tree itself: floors, the shared name `kernels`, what is built, what no file may contain."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import processes
import pytest
from places import REPOSITORY

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def imports(folder: str) -> set[str]:
    """Top-level names that the modules of a folder import, anywhere in them."""
    found = set()
    for path in (REPOSITORY / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module.partition(".")[0])
    return found


def copy_sources(to: Path) -> None:
    """What is installed, as it lies in the tree."""
    to.mkdir(exist_ok=True)
    for package in ("bridges", "kernels", "pets"):
        shutil.copytree(REPOSITORY / package, to / package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "bridge_pets.py", to)


def test_imports_point_downwards_only() -> None:
    assert not imports("kernels") & {"bridges", "pets", "transformers", "peft"}
    assert not imports("bridges") & {"pets", "peft"}
    assert "kernels" in imports("bridges")
    assert "bridges" in imports("pets")


def test_kernels_is_a_namespace_portion_below_the_version_transformers_looks_for() -> None:
    assert not (REPOSITORY / "kernels" / "__init__.py").exists()
    assert tuple(map(int, PROJECT["version"].split("."))) < (0, 9)


@pytest.mark.slow
@pytest.mark.parametrize("with_other", [False, True])
def test_models_import_and_our_kernels_are_found_beside_another_package_of_that_name(
    tmp_path: Path, with_other: bool
) -> None:
    copy_sources(tmp_path)
    if with_other:  # as a package manager lays the two wheels into one folder
        (tmp_path / "kernels" / "__init__.py").write_text("def get_kernel(*a, **k): raise OSError\n")
    program = (
        "import kernels, pets, bridges; from kernels.bridge_nll import bridge_nll;"
        "from transformers import BertForMaskedLM, LlamaForCausalLM;"
        f"assert hasattr(kernels, 'get_kernel') == {with_other};"
        "print(bridge_nll.__module__, bridges.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["kernels.bridge_nll", str(tmp_path / "bridges" / "__init__.py")]


def test_every_dependency_says_why() -> None:
    lines = (REPOSITORY / "pyproject.toml").read_text().splitlines()
    start = lines.index("dependencies = [") + 1
    for line in lines[start : lines.index("]", start)]:
        assert re.search(r'",\s+# \w+', line), line


def test_nothing_loads_pickles() -> None:
    for folder in ("bridges", "kernels", "pets", "benchmarks"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            assert not re.search(r"torch\.(load|save)\(|import pickle|joblib", path.read_text()), path


def test_every_kind_of_import_is_declared() -> None:
    declared = {re.split(r"[><=;\[ ]", line)[0] for line in PROJECT["dependencies"]}
    declared |= {"matplotlib", "PIL", "jinja2", "ray"}  # the extras `report` and `ray`
    names = {"scikit-learn": "sklearn", "pyyaml": "yaml"}
    known = {names.get(d, d) for d in declared} | {"tokenizers"}
    known |= {"bridge_pets", "bridges", "kernels", "pets"}
    outside = imports("bridges") | imports("kernels") | imports("pets")
    assert outside - set(sys.stdlib_module_names) - {"tomllib"} <= known  # not in Python 3.10's


def test_bridge_pets_is_a_command() -> None:
    assert PROJECT["scripts"] == {"bridge-pets": "bridge_pets:main"}
    assert "brownian" in processes.run(["-m", "pets.cli", "zoo"]).stdout


def test_one_version_for_all() -> None:
    program = "import bridges, pets; print(bridges.__version__, pets.__version__)"
    assert processes.run(["-c", program]).stdout.split() == [PROJECT["version"]] * 2
    assert processes.run(["-m", "pets.cli", "--version"]).stdout.split()[-1] == PROJECT["version"]


def test_a_source_tree_behind_another_package_named_kernels(tmp_path: Path) -> None:
    """As an editable install, a path entry, beside Hugging Face's."""
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "__init__.py").write_text("theirs = True\n")
    program = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(REPOSITORY)!r}]; import bridges, kernels;"
        "import kernels.version; print(kernels.theirs, kernels.version.__version__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["True", PROJECT["version"]], done.stderr


def test_type_checkers_see_an_editable_install(tmp_path: Path) -> None:
    """It is a path entry, which they follow, and no import hook, which they do not."""
    project, site = tmp_path / "project", tmp_path / "site"
    copy_sources(project)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, project / name)
    options = ["--no-index", "--no-deps", "--no-build-isolation", "--quiet", "--target", str(site)]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--editable", str(project)],
        check=True,
        timeout=300,
    )
    [path] = site.glob("*.pth")
    assert path.read_text().strip() == str(project)
    assert all((project / name / "py.typed").exists() for name in ("bridges", "kernels", "pets"))
