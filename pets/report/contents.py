"""What a report holds, in order."""

from __future__ import annotations

from collections.abc import Sequence

from pets.report.analysis_figures import analysis_figures
from pets.report.curves import ABOUT, learning_curves
from pets.report.document import Block, Document, Paragraph, Pictures, Section
from pets.report.figures import Picture
from pets.report.overview import counts, failures, what_was_run
from pets.report.runs import Runs
from pets.report.sensitivity import score_by_shots, sensitivity


def make_document(runs: Runs) -> Document:
    """The whole report of one comparison."""
    sections = [
        _drawn("strength", "Sensitivity to the strength", sensitivity(runs)),
        _drawn("shots", "Score by the number of shots", score_by_shots(runs)),
        _drawn("curves", "Learning curves", learning_curves(runs), ABOUT),
        _drawn("analyses", "Inside the model", analysis_figures(runs.analysis)),
        failures(runs),
        what_was_run(runs),
    ]
    return Document(
        f"Comparison {runs.name}",
        f"{counts(runs)}.",
        [section for section in sections if section is not None],
    )


def _drawn(anchor: str, title: str, pictures: Sequence[Picture], *before: str) -> Section | None:
    """A section of pictures; None where there are none."""
    blocks: list[Block] = [Paragraph(text) for text in before]
    return Section(anchor, title, [*blocks, Pictures(pictures)]) if pictures else None
