"""How this is released, cited and reported on: workflows, CITATION.cff, issue forms, the policy."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from places import REPOSITORY

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
VERSION = PROJECT["version"]
HOME = PROJECT["urls"]["Repository"].removeprefix("https://github.com/")
SCRIPT = REPOSITORY / ".github" / "release.py"
FORMS = REPOSITORY / ".github" / "ISSUE_TEMPLATE"
DATED = f"# Changelog\n\n## {VERSION} (2031-02-28)\n\n- all of it\n\n## 0.0.9 (2030-01-01)\n"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release_script", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What may be released."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "pyproject.toml").write_text((REPOSITORY / "pyproject.toml").read_text())
    (tmp_path / "CHANGELOG.md").write_text(DATED)
    (tmp_path / "README.md").write_text("pip install it\n")
    (tmp_path / "docs" / "install.md").write_text("from PyPI\n")
    return tmp_path


def test_what_is_right_is_released(script: ModuleType, checkout: Path) -> None:
    assert script.reasons(checkout, HOME, f"v{VERSION}") == []


@pytest.mark.parametrize("repository", ["somebody/bridge-pets", "bridge-pets", f"x/{HOME}", ""])
def test_another_repository_is_refused(script: ModuleType, checkout: Path, repository: str) -> None:
    [reason] = script.reasons(checkout, repository, f"v{VERSION}")
    assert "pyproject.toml says that the project lives at" in reason


@pytest.mark.parametrize("tag", [VERSION, f"v{VERSION}1", f"v{VERSION}rc1", "vnext", ""])
def test_another_version_is_refused(script: ModuleType, checkout: Path, tag: str) -> None:
    assert [f"expected v{VERSION}" in reason for reason in script.reasons(checkout, HOME, tag)] == [True]


@pytest.mark.parametrize("now", [f"{VERSION} (unreleased)", f"{VERSION}1 (2031-02-28)", VERSION])
def test_a_version_without_a_dated_section_is_refused(
    script: ModuleType, checkout: Path, now: str
) -> None:
    (checkout / "CHANGELOG.md").write_text(DATED.replace(f"{VERSION} (2031-02-28)", now))
    [reason] = script.reasons(checkout, HOME, f"v{VERSION}")
    assert f"no section '## {VERSION} (YYYY-MM-DD)'" in reason


@pytest.mark.parametrize("page", ["README.md", "docs/install.md"])
def test_a_page_that_denies_the_release_is_refused(
    script: ModuleType, checkout: Path, page: str
) -> None:
    (checkout / page).write_text("Install it from a clone; it is not\non PyPI.\n")
    [reason] = script.reasons(checkout, HOME, f"v{VERSION}")
    assert reason.startswith(page)


def test_this_tree_is_not_released_before_its_pages_say_so() -> None:
    """As long as the section is called unreleased, and in the words of a fork."""
    command = [sys.executable, str(SCRIPT), "somebody/else", "v0.0"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert len(re.findall("^error: ", done.stderr, re.MULTILINE)) >= 2


def workflow(name: str) -> dict[Any, Any]:
    return yaml.safe_load((REPOSITORY / ".github" / "workflows" / name).read_text())


def test_a_tag_is_checked_built_and_tried_before_it_is_uploaded() -> None:
    release = workflow("release.yml")
    assert release[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads `on` as a truth
    build, publish = release["jobs"]["build"], release["jobs"]["publish"]
    runs = [step["run"] for step in build["steps"] if "run" in step]
    assert runs[0] == 'python .github/release.py "$GITHUB_REPOSITORY" "$GITHUB_REF_NAME"'
    assert runs[1] == "make dist PYTHON=python"
    for words in ("-m venv", 'pip" install', "dist/*.whl", "bridge-pets --version", "bridge-pets zoo"):
        assert words in runs[2]
    assert publish["needs"] == "build"
    assert publish["permissions"] == {"id-token": "write"}  # trusted publishing, and nothing else
    assert release["permissions"] == {"contents": "read"}
    assert publish["steps"][-1] == {"uses": "pypa/gh-action-pypi-publish@release/v1"}
    assert "secrets" not in (REPOSITORY / ".github" / "workflows" / "release.yml").read_text()


def test_the_site_is_put_up_with_what_it_is_about() -> None:
    site = workflow("release.yml")["jobs"]["site"]
    assert site["needs"] == "publish"
    assert site["permissions"] == {"contents": "read", "pages": "write", "id-token": "write"}
    assert {"run": "make docs PYTHON=python"} in site["steps"]
    assert site["steps"][-1] == {"uses": "actions/deploy-pages@v4"}


def test_what_is_uploaded_is_built_in_every_check() -> None:
    steps = workflow("test.yml")["jobs"]["dist"]["steps"]
    assert steps[-1] == {"run": "make dist PYTHON=python"}
    makefile = (REPOSITORY / "Makefile").read_text()
    recipe = re.search(r"^dist:.*\n((?:\t.*\n)+)", makefile, re.MULTILINE)
    assert recipe is not None
    assert "python -m build" in recipe[1]
    assert "twine check --strict dist/*" in recipe[1]


def test_the_citation_has_what_the_format_demands() -> None:
    """Citation File Format 1.2.0. It has no version of ours, which stands in pyproject.toml alone."""
    cff = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert cff["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(cff)
    assert (cff["type"], cff["title"], cff["license"]) == (
        "software",
        PROJECT["name"],
        PROJECT["license"],
    )
    assert cff["authors"] == PROJECT["authors"]
    assert cff["repository-code"] == PROJECT["urls"]["Repository"]
    assert "version" not in cff
    [paper] = cff["references"]
    assert {"type", "title", "authors"} <= set(paper)
    assert all(set(author) == {"family-names", "given-names"} for author in paper["authors"])
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert paper["title"] in " ".join(readme.split())
    assert paper["doi"].startswith("10.")
    [arxiv] = paper["identifiers"]
    assert arxiv["value"].removeprefix("arXiv:") in readme
    assert set(cff["keywords"]) <= set(PROJECT["keywords"])


@pytest.mark.parametrize("name", ["bug", "results", "feature"])
def test_issue_forms_have_what_the_form_schema_demands(name: str) -> None:
    form = yaml.safe_load((FORMS / f"{name}.yml").read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= set(form) <= {"name", "description", "labels", "body"}
    fields = [item for item in form["body"] if item["type"] != "markdown"]
    for item in form["body"]:
        assert item["type"] in {"markdown", "input", "textarea"}
        assert ("value" if item["type"] == "markdown" else "label") in item["attributes"]
    ids = [item["id"] for item in fields]
    assert len(set(ids)) == len(ids)
    assert any(item.get("validations", {}).get("required") for item in fields)
    if name != "feature":
        assert {"version", "model", "command"} <= set(ids)


def test_the_forms_are_all_there_are() -> None:
    config = yaml.safe_load((FORMS / "config.yml").read_text())
    assert isinstance(config["blank_issues_enabled"], bool)
    assert {path.stem for path in FORMS.iterdir()} == {"config", "bug", "results", "feature"}


def test_the_changelog_begins_with_this_version() -> None:
    first = re.search(r"^## (\S+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first is not None
    assert first[1] == VERSION


def test_the_policy_and_the_way_to_release_are_written_down() -> None:
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for section in ("What may change", "Releasing"):
        assert f"\n## {section}\n" in text
    assert ".github/workflows/release.yml" in text
