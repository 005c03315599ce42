"""The head of a result file: how the command was given, and of which code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from places import REPOSITORY

from benchmarks import environment


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("/root/out/gpu", "FOLDER"),
        ("--out=/root/out/gpu", "--out=FOLDER"),
        ("C:\\runs\\gpu", "FOLDER"),
        ("runs/gpu", "runs/gpu"),
        ("--out", "--out"),
        ("a=b", "a=b"),
        ("minilm-l6-mlm", "minilm-l6-mlm"),
    ],
)
def test_a_machine_s_path_is_not_written(word: str, written: str) -> None:
    assert environment.without_path(word) == written


def test_the_command_line_is_one_that_a_shell_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    package = REPOSITORY / "benchmarks"
    given = ["--out", "/root/out", "--label", "first round"]
    for script, name in ((package / "gpu/__main__.py", "gpu"), (package / "step_cost.py", "step_cost")):
        monkeypatch.setattr(sys, "argv", [str(script), *given])
        line = f"python -m benchmarks.{name} --out FOLDER --label 'first round'"
        assert environment.command_line() == line
    monkeypatch.setattr(sys, "argv", ["/usr/lib/pytest/__main__.py", "benchmarks"])
    assert environment.command_line() == "pytest benchmarks"
    monkeypatch.setattr(sys, "argv", [str(package / "readme.py")])
    assert environment.command_line() == "python -m benchmarks.readme"


def test_the_commit_is_the_repository_s_and_says_what_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "benchmarks/environment.py"))
    assert environment.commit() is None

    def git(*words: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(
            ["git", *who, *words], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    git("init", "-q")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-q", "-m", "first")
    at = git("rev-parse", "--short=12", "HEAD")
    assert environment.commit() == at
    (tmp_path / "new").write_text("not tracked")
    assert environment.commit() == at
    (tmp_path / "file").write_text("two")
    assert environment.commit() == f"{at} changed"


def test_without_git_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "benchmarks/environment.py"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment.commit() is None
