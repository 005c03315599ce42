"""Makes the report of a RUNS folder: one HTML file, and Markdown with its pictures beside it."""

from __future__ import annotations

import re
from pathlib import Path

from bridges.errors import BadInput
from bridges.storage.files import new_folder, write_text
from bridges.storage.ownership import check_replaceable
from pets.inside import plots
from pets.study.report import images, page
from pets.study.report.contents import make_document
from pets.study.report.markdown import render_markdown
from pets.study.report.overview import IN_EVERY_REPORT
from pets.study.report.runs import read_runs

_PICTURE = re.compile(r"\d\d-[a-z0-9-]*\.(svg|png)")
PAGE_FILE, TEXT_FILE, PICTURES_FOLDER = "report.html", "report.md", "report-figures"


def write_report(folder: Path, out: Path | None = None) -> tuple[Path, Path]:
    """Read a comparison and write report.html, report.md and report-figures/.

    The same folder gives the same bytes. Each of the three takes the place of an older one in one step.

    Args:
        folder: what `compare` wrote.
        out: where to write; None for the same folder.

    Returns:
        The HTML file and the Markdown file.

    Raises:
        BadInput: if the folder holds nothing to report, a file in it is broken, a package that the
            report needs is missing, or ``out`` cannot be written to, or has something else where the
            three belong.
    """
    out = folder if out is None else out
    _check_place(out)
    plots.require()
    page.require()
    runs = read_runs(folder)
    with images.style():
        document = make_document(runs)
        pictures = document.pictures
        drawn = [images.draw(picture) for picture in pictures]
    names = [
        f"{number:02d}-{_slug(picture.title)}{image.suffix}"
        for number, (picture, image) in enumerate(zip(pictures, drawn, strict=True), 1)
    ]
    try:
        with new_folder(out / PICTURES_FOLDER) as new:
            for name, image in zip(names, drawn, strict=True):
                (new / name).write_bytes(image.data)
        text = render_markdown(document, [f"{PICTURES_FOLDER}/{name}" for name in names])
        write_text(out / TEXT_FILE, text)
        write_text(out / PAGE_FILE, page.render_page(document, drawn))
    except OSError as error:
        raise BadInput(f"{out} cannot be written to ({error}): choose another --out") from error
    return out / PAGE_FILE, out / TEXT_FILE


def _check_place(out: Path) -> None:
    """Whether nothing but an earlier report would be replaced."""
    if out.is_symlink() and not out.exists():
        raise BadInput(f"{out} is a symbolic link to nothing: choose another --out")
    try:
        for name in (PAGE_FILE, TEXT_FILE):
            path = out / name
            is_ours = path.is_file() and IN_EVERY_REPORT.encode() in path.read_bytes()
            check_replaceable(path, is_ours, "report")
        pictures = out / PICTURES_FOLDER
        names = [p.name for p in pictures.iterdir()] if pictures.is_dir() else [""]
        check_replaceable(pictures, all(map(_PICTURE.fullmatch, names)), "folder of a report's pictures")
    except OSError as error:
        raise BadInput(f"{out} cannot be written to ({error}): choose another --out") from error


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60]
