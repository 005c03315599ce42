"""What is said where an optional package is missing works without any registry knowing this project."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import metadata

import pytest
from places import REPOSITORY

from pets import extras

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

EXTRAS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def without(monkeypatch: pytest.MonkeyPatch, *absent: str) -> None:
    def version(package: str) -> str:
        if package in absent:
            raise metadata.PackageNotFoundError(package)
        return "1"

    monkeypatch.setattr(extras.metadata, "version", version)


def asks(lines: list[str] | None) -> Callable[[str], list[str] | None]:
    return lambda name: lines


@pytest.mark.parametrize("extra", ["report", "ray"])
def test_all_that_is_missing_is_named_with_the_versions_that_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, extra: str
) -> None:
    written = [f'{package}; extra == "{extra}"' for package in EXTRAS[extra]]
    other = [
        "torch>=2.11",
        'ray>=1; extra == "rays"',
        "trl>=1; python_version >= '3.11' and extra == 'trl'",
    ]
    monkeypatch.setattr(extras.metadata, "requires", asks(other + written))
    names = [package.partition(">")[0] for package in EXTRAS[extra]]
    without(monkeypatch, *names)
    wanted = " ".join(f"'{package}'" for package in EXTRAS[extra])
    assert str(extras.missing("this needs it", extra)) == f"this needs it: pip install {wanted}"
    without(monkeypatch, names[-1])
    assert str(extras.missing("it", extra)) == f"it: pip install '{EXTRAS[extra][-1]}'"
    without(monkeypatch)  # there, but broken
    assert str(extras.missing("it", extra)) == f"it: pip install {wanted}"


@pytest.mark.parametrize("lines", [None, ["torch>=2.11"], [" matplotlib >= 3 ; extra == 'report'"]])
def test_packages_without_metadata_have_the_names(
    monkeypatch: pytest.MonkeyPatch, lines: list[str] | None
) -> None:
    monkeypatch.setattr(extras.metadata, "requires", asks(lines))
    without(monkeypatch, "matplotlib", "pillow", "jinja2")
    assert str(extras.missing("it", "report")) == "it: pip install 'matplotlib' 'pillow' 'jinja2'"


def test_a_tree_that_is_not_installed_has_the_names(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(extras.metadata, "requires", requires)
    without(monkeypatch, "ray")
    assert str(extras.missing("it", "ray")) == "it: pip install 'ray'"


def test_the_names_are_those_of_pyproject() -> None:
    for extra, names in extras._NAMES.items():
        assert list(names) == [package.partition(">")[0] for package in EXTRAS[extra]]


def test_no_message_asks_a_registry_for_this_project() -> None:
    for folder in ("bridges", "kernels", "pets", "examples", "benchmarks"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            assert "bridge-pets[" not in path.read_text(encoding="utf-8"), path
            assert "install bridge-pets" not in path.read_text(encoding="utf-8"), path
