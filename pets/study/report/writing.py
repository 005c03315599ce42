"""Makes the report of a RUNS folder: one HTML file, and Markdown with its pictures beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bridges.errors import BadInput
from bridges.storage.files import new_folder, write_text
from bridges.storage.ownership import check_replaceable
from pets.inside import images, plots
from pets.study.cells.arms import CONTROL
from pets.study.report import pictures, rendering
from pets.study.report.analysis_figures import analysis_figures
from pets.study.report.analysis_table import analysis_table
from pets.study.report.answer import answer
from pets.study.report.curves import ABOUT, learning_curves, losses
from pets.study.report.depth import ABOUT as ABOUT_DEPTH
from pets.study.report.depth import depth_table, depths, facts
from pets.study.report.depth_figures import depth_picture
from pets.study.report.document import Block, Document, Paragraph, Picture, Pictures, Points, Section
from pets.study.report.effects import control_forest, cost_picture, forest
from pets.study.report.overview import IN_EVERY_REPORT, compared, failures, what_was_run
from pets.study.report.runs import Runs, read_runs
from pets.study.report.scopes import Scope, scopes
from pets.study.report.sweeps import score_by_shots, selected_strengths, sensitivity
from pets.study.report.tables import HOW_TO_READ, arms_table, main_table, pooled_table, times_table
from pets.study.report.verdict import points
from pets.study.statistics.arm_differences import ArmDifferences, compare_arms

_PICTURE = re.compile(r"\d\d-[a-z0-9-]*\.(svg|png)")
_MOST_BY_DEPTH = 6  # groups with a picture
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
    rendering.require()
    runs = read_runs(folder)
    with images.style():
        document = make_document(runs)
        drawn = [pictures.draw(picture) for picture in document.pictures]
    names = [
        f"{number:02d}-{_slug(picture.title)}{image.suffix}"
        for number, (picture, image) in enumerate(zip(document.pictures, drawn, strict=True), 1)
    ]
    try:
        with new_folder(out / PICTURES_FOLDER) as new:
            for name, image in zip(names, drawn, strict=True):
                (new / name).write_bytes(image.data)
        text = rendering.render_markdown(document, [f"{PICTURES_FOLDER}/{name}" for name in names])
        write_text(out / TEXT_FILE, text)
        write_text(out / PAGE_FILE, rendering.render_page(document, drawn))
    except OSError as error:
        raise BadInput(f"{out} cannot be written to ({error}): choose another --out") from error
    return out / PAGE_FILE, out / TEXT_FILE


def make_document(runs: Runs) -> Document:
    """The whole report of one comparison."""
    measured = compare_arms(runs.done, runs.arms(CONTROL))
    found = scopes(runs, measured)
    said = points(found, measured)
    sections = [
        Section("answer", "What is significant, and what is not", [Points(said)] if said else []),
        Section(
            "tables", "Every setting, against vanilla and every control", _tables(runs, measured, found)
        ),
        _drawn("cost", "Time and memory", cost_picture(runs, found), times_table(runs)),
        _drawn("strength", "Sensitivity to the strength", sensitivity(runs), selected_strengths(runs)),
        _drawn("shots", "Score by the number of shots", score_by_shots(runs)),
        _by_depth(runs),
        _drawn("curves", "Learning curves", learning_curves(runs), losses(runs), before=ABOUT),
        _inside(runs.analysis),
        failures(runs),
        what_was_run(runs),
    ]
    pictures = forest(found, measured)
    return Document(
        f"Comparison {runs.name}",
        [answer(scope) for scope in found],
        compared(runs),
        [arms_table(found), *([Pictures(pictures)] if pictures else [])],
        [section for section in sections if section is not None and section.blocks],
    )


def _tables(runs: Runs, measured: ArmDifferences, found: Sequence[Scope]) -> list[Block]:
    blocks: list[Block] = [Paragraph(HOW_TO_READ)]
    if drawn := control_forest(found):
        blocks.append(Pictures(drawn))
    blocks += [pooled_table(runs, measured, scope) for scope in found if scope.pooled]
    return blocks + [main_table(runs, measured, task, shots) for task, shots in runs.settings]


def _by_depth(runs: Runs) -> Section | None:
    """Pictures of the first groups, a table of each; None where nothing was scored by depth."""
    groups = depths(runs)
    if not groups:
        return None
    drawn, others = groups[:_MOST_BY_DEPTH], groups[_MOST_BY_DEPTH:]
    said = [f"{group.name}: {fact}" for group in others for fact in facts(group)]
    blocks: list[Block] = [Paragraph(ABOUT_DEPTH), Pictures([depth_picture(group) for group in drawn])]
    blocks += [Points(said)] if said else []
    blocks += [depth_table(group) for group in groups]
    return Section("depth", "Accuracy by depth", blocks)


def _inside(records: Sequence[dict[str, Any]]) -> Section | None:
    """Pictures of one task, number of shots and PET; the numbers of all."""
    if not records:
        return None
    about = (
        "The pictures are of the first task, number of shots and PET that were looked into; the table "
        "has all."
    )
    drawn = analysis_figures(records, first_only=True)
    return _drawn("analyses", "Inside the model", drawn, analysis_table(records), before=about)


def _drawn(
    anchor: str, title: str, pictures: Sequence[Picture], *after: Block | None, before: str = ""
) -> Section | None:
    """A section of pictures; None where there are none."""
    lead = [Paragraph(before)] if before else []
    blocks = [*lead, Pictures(pictures), *(block for block in after if block is not None)]
    return Section(anchor, title, blocks) if pictures else None


def _check_place(out: Path) -> None:
    """Whether nothing but an earlier report would be replaced."""
    if out.is_symlink() and not out.exists():
        raise BadInput(f"{out} is a symbolic link to nothing: choose another --out")
    try:
        for name in (PAGE_FILE, TEXT_FILE):
            path = out / name
            is_ours = path.is_file() and IN_EVERY_REPORT.encode() in path.read_bytes()
            check_replaceable(path, is_ours, "report")
        beside = out / PICTURES_FOLDER
        names = [p.name for p in beside.iterdir()] if beside.is_dir() else [""]
        check_replaceable(beside, all(map(_PICTURE.fullmatch, names)), "folder of a report's pictures")
    except OSError as error:
        raise BadInput(f"{out} cannot be written to ({error}): choose another --out") from error


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60]
