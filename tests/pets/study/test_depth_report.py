"""The report's section by depth: numbers, corrections, sentences, and where there is none."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from synthetic_runs import Truth, rows, write_rows

from pets.inside.images import style
from pets.study.report.depth import COLUMNS, Against, Depth, Depths, _verdict, depth_table, depths, facts
from pets.study.report.depth_figures import depth_picture
from pets.study.report.document import Pictures, Section, Table, number
from pets.study.report.runs import read_runs
from pets.study.report.writing import make_document, write_report
from pets.study.statistics.paired import difference, holm

pytestmark = pytest.mark.slow

ARMS = ("vanilla", "brownian", "regression")
SEEDS = (42, 43, 44, 45, 46)
LAYERS = 12


def group(gain: float, *, seeds: tuple[int, ...] = SEEDS, exits: float = 0.0) -> Depths:
    """Probes of brownian better by ``gain``, its exits than its probe by ``exits``; small noise."""
    rng = np.random.default_rng(0)

    def depth(arm: str, base: float) -> Depth:
        def curve(more: float) -> list[float]:
            rise = [base - 0.2 * (1 - k / LAYERS) for k in range(LAYERS + 1)]
            noise = rng.normal(0, 0.002, LAYERS + 1)
            return [float(value) for value in np.array(rise) + more + noise]

        more = gain if arm == "brownian" else 0.0
        has = arm == "brownian"
        own = {"probe": curve(more), "exit": curve(more + exits) if has else None, "head": curve(-0.1)}
        return Depth(base, own)

    bases = {seed: 0.7 + rng.normal(0, 0.02) for seed in seeds}
    arms = {arm: {seed: depth(arm, bases[seed]) for seed in seeds} for arm in ARMS}
    return Depths("sst2, 16 shots, lora", "accuracy", arms)


def cells(table: Table) -> dict[tuple[str, str], list[Any]]:
    return {(g.name, row[0].text): list(row[1:]) for g in table.groups for row in g.rows}


def test_the_table_has_the_means_and_the_paired_differences() -> None:
    made = group(0.05)
    found = cells(depth_table(made))
    probe = [one.by_reader["probe"] for one in made.arms["brownian"].values()]
    base = [one.by_reader["probe"] for one in made.arms["vanilla"].values()]
    exits = [one.by_reader["exit"] for one in made.arms["brownian"].values()]
    at = round(0.75 * LAYERS)
    line = found["linear probe", "brownian"]
    assert line[0].text == number(fmean(fmean(scores[1:]) for scores in probe))
    assert line[3].text == number(fmean(scores[at] for scores in probe))
    d = difference([s[at] for s in probe], [s[at] for s in base], (0.0, 1.0))
    assert line[3].note == f"+{d.mean:.3f} [+{d.low:.3f}, +{d.high:.3f}]"
    # Exits are held against the probe on vanilla.
    d = difference([s[at] for s in exits], [s[at] for s in base], (0.0, 1.0))
    assert found["exit of the cost", "brownian"][3].note.startswith(f"+{d.mean:.3f} ")
    assert ("exit of the cost", "vanilla") not in found
    assert found["linear probe", "vanilla"][0].note == ""
    assert line[-1].text == "5"


def test_p_is_corrected_for_all_of_a_table() -> None:
    made = group(0.05)
    p = holm([against.difference.p for against in made.against.values()])
    assert [against.adjusted_p for against in made.against.values()] == p
    # Two arms and a probe and a head, one of them with exits, at four places; the whole models once.
    assert len(p) == (2 + 2 + 1) * 4 + 2
    strong = {key for key, line in cells(depth_table(made)).items() if any(c.strong for c in line)}
    assert strong == {("linear probe", "brownian"), ("exit of the cost", "brownian")}


@pytest.mark.parametrize(
    ("gain", "exits", "said"),
    [
        (0.05, 0.0, "better (corrected p"),
        (0.0, -0.05, "worse (corrected p"),
    ],
)
def test_the_sentence_says_whether_exits_beat_a_probe_on_vanilla(
    gain: float, exits: float, said: str
) -> None:
    made = group(gain, exits=exits)
    vanilla, own = facts(made)
    assert "On vanilla a linear probe has" in vanilla
    assert (
        f"the full model has {number(fmean(o.full for o in made.arms['vanilla'].values()))}" in vanilla
    )
    _, verdict = own.split("against a probe on vanilla: ")
    assert verdict.startswith(said), own
    with style():
        assert own in depth_picture(made).caption


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ((0.03, -0.02, 0.01), "not shown to be better (corrected p 0.500, 3 seeds)"),
        ((-0.03, 0.02, -0.01), "not better (corrected p 0.500, 3 seeds)"),
        ((0.0, 0.0, 0.0), "not better (corrected p 0.500, 3 seeds)"),
    ],
)
def test_what_is_not_significant_is_not_called_better(differences: tuple[float, ...], said: str) -> None:
    moved = difference([0.5 + d for d in differences], [0.5] * 3)
    assert _verdict(Against(moved, 0.5)) == said


def test_one_seed_is_shown_without_intervals() -> None:
    made = group(0.05, seeds=(42,))
    assert all(math.isnan(against.adjusted_p) for against in made.against.values())
    assert "one seed does not show whether they are better" in facts(made)[1]
    note = cells(depth_table(made))["linear probe", "brownian"][0].note
    assert note.startswith("+0.0")
    assert "[" not in note
    with style():
        picture = depth_picture(made)
    assert not any(axis.collections for axis in picture.figure.axes)
    assert "interval" not in picture.caption


def test_the_picture_has_every_line_where_it_belongs() -> None:
    made = group(0.05)
    with style():
        figure = depth_picture(made).figure
    probe, exits, head = figure.axes
    assert [len([n for n in a.get_legend_handles_labels()[1] if n in ARMS]) for a in figure.axes] == [
        *(3, 2, 3)
    ]
    for axis, reader, arm in (
        (probe, "probe", "brownian"),
        (exits, "probe", "vanilla"),
        (head, "head", "regression"),
    ):
        (line,) = [line for line in axis.get_lines() if line.get_label() == arm]
        curves = [one.by_reader[reader] for one in made.arms[arm].values()]
        assert list(line.get_ydata()) == pytest.approx([fmean(at) for at in zip(*curves, strict=True)])
        assert list(line.get_xdata()) == pytest.approx([k / LAYERS for k in range(LAYERS + 1)])
        assert len(axis.collections) == len(axis.get_legend_handles_labels()[1]) - 1  # areas


def section(folder: Path) -> Section | None:
    with style():
        document = make_document(read_runs(folder))
    return next((one for one in document.sections if one.anchor == "depth"), None)


def test_a_report_has_the_section_only_where_rows_have_depth(tmp_path: Path) -> None:
    truth = Truth(settings=(("sst2", 16), ("rte", 16)), pets=("lora",), arms=ARMS, seeds=(42, 43))
    table = rows(truth)
    write_rows(tmp_path / "plain", table)
    assert section(tmp_path / "plain") is None
    for row in table:
        curve = [row["score"] - 0.01 * (4 - k) for k in range(5)]
        row["depth"] = {"probe": curve, "exit": None, "head": curve}
    del table[-1]["depth"]  # of an older run
    write_rows(tmp_path / "deep", table)
    found = section(tmp_path / "deep")
    assert found is not None
    assert found.title == "Accuracy by depth"
    assert len([block for block in found.blocks if isinstance(block, Table)]) == 2
    (drawn,) = [block for block in found.blocks if isinstance(block, Pictures)]
    assert len(drawn.pictures) == 2
    _, rte = depths(read_runs(tmp_path / "deep"))
    assert [len(rte.arms[arm]) for arm in ARMS] == [2, 2, 1]
    assert rte.readers() == ["probe", "head"]
    assert list(depth_table(rte).columns[1:-1]) == list(COLUMNS)
    page, text = write_report(tmp_path / "deep")
    assert "Accuracy by depth" in page.read_text(encoding="utf-8")
    assert "by depth" in text.read_text(encoding="utf-8")
