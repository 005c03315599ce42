"""The text and the task that are made of the standard library."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import pytest

from bridges.errors import BadInput
from pets.demo import docstrings

pytestmark = pytest.mark.slow


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that stands for the standard library."""
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    return tmp_path


def test_reading_is_the_same_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docstrings, "_CORPUS_TEXTS", 1)
    package = docstrings._root() / "unittest"  # the whole library takes seconds
    first = docstrings._read(package)
    docstrings._read.cache_clear()
    assert docstrings._read(package) == first
    assert [path for path, _ in first] == sorted(path for path, _ in first)


def test_corpus_is_large_clean_and_without_duplicates() -> None:
    texts = docstrings.corpus()
    assert sum(len(text.split()) for text in texts) > 150_000
    assert len(set(texts)) == len(texts)
    assert all(text == " ".join(text.split()) for text in texts)


def test_pools_share_no_text_with_each_other_and_the_corpus_none_with_the_reported() -> None:
    train, reported = docstrings.areas()
    hidden = {text for text, _ in reported}
    assert hidden.isdisjoint(text for text, _ in train)
    seen = docstrings.corpus()
    assert hidden.isdisjoint(seen)
    assert {text for text, _ in train} <= set(seen)


def test_pools_share_no_module() -> None:
    source = {text: path for path, text in docstrings._docstrings()}
    train, reported = ({source[text] for text, _ in pool} for pool in docstrings.areas())
    assert train.isdisjoint(reported)


def test_every_area_has_enough_texts() -> None:
    train, reported = docstrings.areas()
    labels = range(len(docstrings.AREAS))
    assert Counter(label for _, label in reported) == dict.fromkeys(labels, 60)
    assert min(Counter(label for _, label in train)[label] for label in labels) >= 60


def test_no_module_is_in_two_areas() -> None:
    modules = [module for area in docstrings.AREAS.values() for module in area]
    assert len(set(modules)) == len(modules)


def test_a_library_without_source_is_refused(library: Path) -> None:
    (library / "python311.zip").touch()
    with pytest.raises(BadInput, match=r"only 0 docstrings .* \.py files are missing"):
        docstrings.corpus()


def test_a_library_without_an_area_is_refused(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docstrings, "_CORPUS_TEXTS", 1)
    (library / "socket.py").write_text('"""Open a plain socket."""\n')
    with pytest.raises(BadInput, match=r"too few docstrings for the area 'network' in .*: 0, "):
        docstrings.areas()


def test_reading_skips_tests_and_counts_what_it_cannot_read(
    library: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(docstrings, "_CORPUS_TEXTS", 1)
    source = '"""Module\n    of three words."""\ndef f():\n    """Short one."""\n'
    for name in ("b/c.py", "a.py", "test/d.py", "b/tests/e.py"):
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        (library / name).write_text(source)
    (library / "broken.py").write_text("def f(:\n")
    with caplog.at_level(logging.WARNING):
        found = docstrings._read(library)
    assert found == (("a.py", "Module of three words."),)
    assert "skipped 1 unreadable files" in caplog.text
