"""What a report holds, in order."""

from __future__ import annotations

from collections.abc import Sequence

from pets.study.report.analysis_figures import analysis_figures
from pets.study.report.arm_kinds import CONTROL, arm_kinds
from pets.study.report.curves import ABOUT, learning_curves
from pets.study.report.document import Block, Document, Paragraph, Pictures, Points, Section
from pets.study.report.effects import cost_picture, forests, times_table
from pets.study.report.figures import Picture
from pets.study.report.overview import compared, failures, what_was_run
from pets.study.report.runs import Runs
from pets.study.report.sensitivity import score_by_shots, sensitivity
from pets.study.report.tables import HOW_TO_READ, main_table, pooled_table
from pets.study.report.verdict import headline, points
from pets.study.statistics.comparison import compare_arms


def make_document(runs: Runs) -> Document:
    """The whole report of one comparison."""
    controls = [arm for arm, kind in arm_kinds(runs.done).items() if kind == CONTROL]
    found = compare_arms(runs.done, controls)
    tables = [main_table(runs, found, task, shots) for task, shots in runs.settings]
    how = Paragraph(HOW_TO_READ)
    times, said = times_table(runs), points(runs, found)
    sections = [
        Section("answer", "What is significant, and what is not", [Points(said)] if said else []),
        Section(
            "pooled",
            "All settings together",
            [Pictures(forests(runs, found)), how, pooled_table(runs, found)] if found.pooled else [],
        ),
        Section("tables", "Scores and differences by task", [how, *tables]),
        _drawn("cost", "Cost against accuracy", cost_picture(runs, found), *([times] if times else [])),
        _drawn("strength", "Sensitivity to the strength", sensitivity(runs)),
        _drawn("shots", "Score by the number of shots", score_by_shots(runs)),
        _drawn("curves", "Learning curves", learning_curves(runs), before=ABOUT),
        _drawn("analyses", "Inside the model", analysis_figures(runs.analysis)),
        failures(runs),
        what_was_run(runs),
    ]
    return Document(
        f"Comparison {runs.name}",
        headline(found),
        compared(runs),
        [section for section in sections if section is not None and section.blocks],
    )


def _drawn(
    anchor: str, title: str, pictures: Sequence[Picture], *after: Block, before: str = ""
) -> Section | None:
    """A section of pictures; None where there are none."""
    lead = [Paragraph(before)] if before else []
    return Section(anchor, title, [*lead, Pictures(pictures), *after]) if pictures else None
