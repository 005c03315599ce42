"""The site is built whole: every link, anchor and reference of it leads somewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import REPOSITORY

pytest.importorskip("mkdocs", reason="the site's tools want Python 3.11 or later")
pytest.importorskip("material")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return folder


def test_the_site_has_a_page_for_every_page_of_docs(site: Path) -> None:
    for page in (REPOSITORY / "docs").rglob("*.md"):
        where = page.relative_to(REPOSITORY / "docs").with_suffix("")
        folder = where.parent if where.name == "index" else where
        assert (site / folder / "index.html").is_file(), where


def test_every_name_that_the_packages_offer_is_in_the_reference(site: Path) -> None:
    import bridges
    import pets

    for package in (bridges, pets):
        page = (site / "reference" / package.__name__ / "index.html").read_text(encoding="utf-8")
        for name in package.__all__:
            if not name.startswith("__"):
                assert f'id="{package.__name__}.{name}"' in page, f"{package.__name__}.{name}"


def test_a_reader_is_sent_nowhere_else_for_what_the_page_is_made_of(site: Path) -> None:
    """No font, script or picture comes from another host."""
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        for tag in ('<script src="http', '<img src="http', 'rel="stylesheet" href="http'):
            assert tag not in text, (page.relative_to(site), tag)


def test_what_is_said_to_the_tests_is_not_on_the_site(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        assert "<!-- hurry" not in text, page.relative_to(site)
        assert "<!-- needs" not in text, page.relative_to(site)
