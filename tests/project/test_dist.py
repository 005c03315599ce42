"""What would be uploaded to PyPI, built without a network: wheel, source distribution, description."""

from __future__ import annotations

import email
import email.message
import email.policy
import re
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest
from places import REPOSITORY

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

pytestmark = pytest.mark.slow

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
VERSION = PROJECT["version"]
HOME = PROJECT["urls"]["Repository"]
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
TARGET = re.compile(r"\]\(([^)\s]+)|\b(?:href|src|srcset)=\"([^\"\s]+)|^\[[^\]]+\]: (\S+)", re.MULTILINE)


def build(folder: Path, out: Path, *what: str) -> None:
    options = ["--no-isolation", "--outdir", str(out), *what]
    done = subprocess.run(
        [sys.executable, "-m", "build", *options, str(folder)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@dataclass(frozen=True)
class Built:
    """The two files, and the folder that the source distribution unpacks to."""

    wheel: Path
    sdist: Path
    unpacked: Path

    def metadata(self) -> email.message.Message:
        with zipfile.ZipFile(self.wheel) as archive:
            text = archive.read(f"bridge_pets-{VERSION}.dist-info/METADATA").decode()
        return email.message_from_string(text, policy=email.policy.compat32)

    def description(self) -> str:
        return str(self.metadata().get_payload())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    out = tmp_path_factory.mktemp("dist")
    build(REPOSITORY, out, "--sdist", "--wheel")
    with tarfile.open(out / f"bridge_pets-{VERSION}.tar.gz") as archive:
        archive.extractall(out / "unpacked", filter="data")
    return Built(
        out / f"bridge_pets-{VERSION}-py3-none-any.whl",
        out / f"bridge_pets-{VERSION}.tar.gz",
        out / "unpacked" / f"bridge_pets-{VERSION}",
    )


def sources(root: Path) -> set[str]:
    """What a wheel has to have of a tree."""
    files = [path for name in ("bridges", "kernels", "pets") for path in (root / name).rglob("*")]
    kept = [path for path in files if path.is_file() and "__pycache__" not in path.parts]
    return {"bridge_pets.py", *(path.relative_to(root).as_posix() for path in kept)}


def test_twine_has_nothing_to_say(built: Built) -> None:
    command = [sys.executable, "-m", "twine", "check", "--strict", str(built.wheel), str(built.sdist)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2


def test_the_wheel_has_the_three_packages_the_command_and_nothing_else(built: Built) -> None:
    names = set(zipfile.ZipFile(built.wheel).namelist())
    info = {name for name in names if name.startswith(f"bridge_pets-{VERSION}.dist-info/")}
    assert names - info == sources(REPOSITORY)
    assert {PurePosixPath(name).suffix for name in names - info} == {".py", ".typed", ".jinja"}
    assert {"bridges/py.typed", "kernels/py.typed", "pets/py.typed"} <= names
    assert {"pets/study/report/page.html.jinja", "pets/inside/gallery.html.jinja"} <= names
    assert "kernels/__init__.py" not in names
    kept = {name.partition("/")[2] for name in info}
    assert kept == {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}


def test_a_wheel_of_the_source_distribution_is_the_wheel_of_the_tree(
    built: Built, tmp_path: Path
) -> None:
    build(built.unpacked, tmp_path, "--wheel")
    assert (tmp_path / built.wheel.name).read_bytes() == built.wheel.read_bytes()


def test_the_source_distribution_is_whole_and_lean(built: Built) -> None:
    top = {path.name for path in built.unpacked.iterdir()}
    files = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "CITATION.cff", "Makefile"}
    files |= {"pyproject.toml", "constraints.txt", "bridge_pets.py", "PKG-INFO", ".gitignore"}
    assert top == files | {"bridges", "kernels", "pets", "tests", "docs", "examples", "benchmarks"}
    assert sources(built.unpacked) == sources(REPOSITORY)
    for name in files - {"PKG-INFO"}:
        assert (built.unpacked / name).read_bytes() == (REPOSITORY / name).read_bytes()
    # They look at what only a checkout has: results that are kept, workflows.
    assert {path.name for path in (built.unpacked / "tests").iterdir() if path.is_dir()} == {
        "bridges",
        "kernels",
        "pets",
        "shared",
    }
    assert {path.suffix for path in (built.unpacked / "benchmarks").rglob("*.*")} == {".py", ".md"}
    assert not list(built.unpacked.rglob("__pycache__"))
    assert built.sdist.stat().st_size < 4_000_000


def test_the_fields_are_those_of_pyproject(built: Built) -> None:
    found = built.metadata()
    assert (found["Name"], found["Version"]) == ("bridge-pets", VERSION)
    assert (found["Author"], found["Author-email"]) == ("The bridge-pets authors", None)
    assert (found["License-Expression"], found["License-File"]) == ("MIT", "LICENSE")
    assert found["Requires-Python"] == PROJECT["requires-python"]
    assert found["Description-Content-Type"] == "text/markdown"
    assert found["Summary"] == PROJECT["description"]
    assert found.get_all("Classifier") == PROJECT["classifiers"]
    urls = dict(line.split(", ") for line in found.get_all("Project-URL"))
    assert urls == PROJECT["urls"]
    assert {"Documentation", "Repository", "Issues", "Changelog"} <= set(urls)
    assert (
        (built.unpacked / "PKG-INFO").read_text(encoding="utf-8").startswith("Metadata-Version: 2.4\n")
    )


def targets(markdown: str) -> list[str]:
    """What a page links to or shows; code is no link."""
    prose = re.sub(r"`[^`\n]+`", "", FENCED.sub("", markdown))
    return ["".join(each) for each in TARGET.findall(prose)]


def test_every_link_of_the_description_is_absolute_and_leads_to_what_is_there(built: Built) -> None:
    before, after = targets(README), targets(built.description())
    assert len(after) == len(before) > 10
    kinds = {f"{HOME}/tree/": "is_dir", f"{HOME}/blob/": "is_file"}
    kinds[f"{HOME.replace('github.com', 'raw.githubusercontent.com')}/"] = "is_file"
    ours = 0
    for old, new in zip(before, after, strict=True):
        if re.match(r"https?:", old):
            assert new == old
            continue
        [start] = [start for start in kinds if new.startswith(f"{start}v{VERSION}/")]
        path = new.removeprefix(f"{start}v{VERSION}/").partition("#")[0]
        assert getattr(REPOSITORY / path, kinds[start])(), new
        assert new.endswith(old)
        ours += 1
    assert ours > 5


def test_the_description_is_the_readme_but_for_its_links(built: Built) -> None:
    description = built.description()
    assert FENCED.findall(description) == FENCED.findall(README)
    at_tag = re.compile(rf"{HOME}/(?:tree|blob)/v{re.escape(VERSION)}/(?:README\.md(?=#))?")
    plain = at_tag.sub("", description)
    raw = HOME.replace("github.com", "raw.githubusercontent.com")
    assert plain.replace(f"{raw}/v{VERSION}/", "").strip() == README.strip()


def test_every_kind_of_link_becomes_absolute() -> None:
    """Those that the README may come to have, too."""
    hook = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["hatch"]["metadata"][
        "hooks"
    ]
    made = (
        "[a](docs/) ![b](docs/zoo.png) [![c](docs/zoo.png)](docs/zoo.md#one) [d](#install)"
        ' [e](https://f.g/) <img alt="h" src="docs/zoo.png"> <a href="examples/">i</a>'
        ' [j](CONTRIBUTING.md "title") <mailto:k@l>'
    )
    for each in hook["fancy-pypi-readme"]["substitutions"]:
        made = re.sub(each["pattern"], each["replacement"], made)
    at = "github.com/bridge-pets/bridge-pets"
    raw = f"https://{at.replace('github', 'raw.githubusercontent')}/v$HFPR_VERSION/docs/zoo.png"
    tree, blob = f"https://{at}/tree/v$HFPR_VERSION", f"https://{at}/blob/v$HFPR_VERSION"
    assert made == (
        f"[a]({tree}/docs/) ![b]({raw}) [![c]({raw})]({blob}/docs/zoo.md#one)"
        f" [d]({blob}/README.md#install)"
        f' [e](https://f.g/) <img alt="h" src="{raw}"> <a href="{tree}/examples/">i</a>'
        f' [j]({blob}/CONTRIBUTING.md "title") <mailto:k@l>'
    )
