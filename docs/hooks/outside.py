"""Pages of the site that lie outside docs/, and links that hold both on the site and in the repository.

Markdown links name files, relative to the file they stand in, as on a code host. Here each becomes a
link to the page that the file is on the site, or where it is none, to the file in the repository.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urldefrag

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/*.md",
    "benchmarks/*.png",
    "examples/README.md",
)
NOTEBOOKS = "examples/*.ipynb"
_CODE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
_REMARK = re.compile(r"^ *<!-- .*? -->\n", re.MULTILINE)
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Addresses and author as pyproject.toml has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    urls = project.get("urls", {})
    config.site_url = urls.get("Documentation")
    config.repo_url = urls.get("Repository")
    config.repo_name = project["name"]
    config.extra["version_name"] = project["version"]
    return config


@event_priority(100)  # before the plugin that makes pages of notebooks
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/, under the paths that they have in the repository."""
    for pattern in (*OUTSIDE, NOTEBOOKS):
        for path in sorted(ROOT.glob(pattern)):
            where = path.relative_to(ROOT).as_posix()
            files.append(File(where, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


@event_priority(100)
def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with its links to files as links on the site, and without remarks for the tests."""
    here = page.file.abs_src_path
    if here is None:  # made by a hook, with links of the site
        return markdown
    known = {os.path.realpath(f.abs_src_path): f.src_uri for f in files if f.abs_src_path}

    def link(match: re.Match[str]) -> str:
        target, anchor = urldefrag(match[2])
        if not target or re.match(r"[a-z]+:", target):
            return match[0]
        path = os.path.realpath(os.path.join(os.path.dirname(here), target))
        if path in known:
            found = os.path.relpath(known[path], os.path.dirname(page.file.src_uri))
        elif os.path.exists(path) and not Path(path).is_relative_to(ROOT / "docs"):
            found = _in_repository(Path(path), config)
        else:
            return match[0]  # a page that a hook makes, or an error that the strict build tells
        return f"{match[1]}{found}{'#' + anchor if anchor else ''}{match[3]}"

    def prose(text: str) -> str:
        return _LINK.sub(link, _REMARK.sub("", text))

    parts, end = [], 0
    for code in _CODE.finditer(markdown):
        parts += [prose(markdown[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, prose(markdown[end:])])


def _in_repository(path: Path, config: MkDocsConfig) -> str:
    where = path.relative_to(ROOT).as_posix()
    kind = "tree" if path.is_dir() else "blob"
    version: Any = config.extra["version_name"]
    return f"{config.repo_url}/{kind}/v{version}/{where}" if config.repo_url else where
