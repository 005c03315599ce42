"""Whether a tag may be released: ``python .github/release.py OWNER/NAME TAG``, in the checkout's root.

Says every reason against it and exits with 1. The workflow `release` asks before it builds anything.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_PAGES = ("README.md", "docs/install.md", "docs/index.md")
_NOT_YET = re.compile(r"not\s+(?:yet\s+)?on\s+PyPI")


def reasons(root: Path, repository: str, tag: str) -> list[str]:
    """Why the tag of a checkout must not be released; none where it may.

    Args:
        root: of the checkout.
        repository: the one this runs in, "owner/name".
        tag: "v" and the version.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    home, version = project["urls"]["Repository"], project["version"]
    found = []
    if home != f"https://github.com/{repository}":
        found.append(f"this is {repository}, and pyproject.toml says that the project lives at {home}")
    if tag != f"v{version}":
        found.append(
            f"the tag is {tag}, and the version in pyproject.toml is {version}: expected v{version}"
        )
    changes = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)$", changes, re.MULTILINE):
        found.append(
            f"CHANGELOG.md has no section '## {version} (YYYY-MM-DD)': date the one of this version"
        )
    for page in _PAGES:
        path = root / page
        if path.exists() and _NOT_YET.search(path.read_text(encoding="utf-8")):
            found.append(f"{page} says that this is not on PyPI, which its release makes untrue")
    return found


if __name__ == "__main__":
    against = reasons(Path.cwd(), *sys.argv[1:3])
    for reason in against:
        print(f"error: {reason}", file=sys.stderr)
    sys.exit(bool(against))
