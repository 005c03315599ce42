"""What runs the checks elsewhere runs the checks that are run here, on the Pythons that are promised."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
import yaml
from places import REPOSITORY

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
MAKEFILE = (REPOSITORY / "Makefile").read_text()
WORKFLOW = REPOSITORY / ".github" / "workflows" / "test.yml"


def jobs() -> dict[str, Any]:
    return yaml.safe_load(WORKFLOW.read_text())["jobs"]


def commands(job: dict[str, Any]) -> list[str]:
    return [step["run"] for step in job["steps"] if "run" in step]


def recipe(target: str) -> str:
    return re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)[1]  # type: ignore[index]


def test_the_hosted_checks_run_on_every_python_that_is_promised() -> None:
    versions = jobs()["check"]["strategy"]["matrix"]["python"]
    prefix = "Programming Language :: Python :: 3."
    named = [c.removeprefix(prefix) for c in PROJECT["classifiers"] if c.startswith(prefix)]
    assert versions == [f"3.{minor}" for minor in named]
    assert PROJECT["requires-python"] == f">={versions[0]}"
    assert [int(minor) for minor in named] == list(range(int(named[0]), int(named[-1]) + 1))
    assert commands(jobs()["check"]) == ["make check PYTHON=python"]
    assert commands(jobs()["all"]) == ["make test PYTHON=python"]


def test_the_hosted_checks_name_no_machine_and_no_registry() -> None:
    text = WORKFLOW.read_text() + (REPOSITORY / ".pre-commit-config.yaml").read_text() + MAKEFILE
    assert not re.search(r"https?:|index-url|/home/|/work/|/opt/", text)


def test_a_commit_is_checked_by_what_make_runs() -> None:
    (local,) = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    hooks = [re.sub(r" --force-exclude", "", hook["entry"]) for hook in local["hooks"]]
    lint = recipe("lint").replace("$(BIN)", ".venv/bin").replace(" .\n", "\n")
    assert hooks == lint.replace("\t", "").splitlines()
    assert all(hook["language"] == "system" for hook in local["hooks"])


def test_check_is_test_without_the_slow_ones() -> None:
    assert recipe("check").replace(' -m "not slow"', "") == recipe("test")
