"""The report on runs whose truth is known: what it says, what it shows, and what it refuses."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from synthetic_runs import Truth, rows, write_rows, write_runs

from bridges.errors import BadInput
from pets.cli import cli
from pets.inside.images import style
from pets.study.cells.rows import Row
from pets.study.compare.asked import ASKED_FILE, read_asked, write_asked
from pets.study.report import rendering
from pets.study.report.document import MINUS, Document, Table
from pets.study.report.runs import read_runs
from pets.study.report.writing import make_document, write_report
from pets.study.statistics.arm_differences import compare_arms
from pets.study.statistics.setting import Setting

pytestmark = pytest.mark.slow

CONTROLS = ("regression", "brownian@random-map", "brownian@shuffled-ends")
HOSTILE = 'RuntimeError: <script>alert("x")</script> | a & b'
FAILED = ("rte", 16, "lora", "sde", 44)


class Page(HTMLParser):
    """What a test asks about a page: its tags with attributes, and the text of some of them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self.text.setdefault(tag, []).append(data)


@pytest.fixture(scope="module")
def effect(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A report where brownian is truly better, with a failed cell; its folder and rows."""
    folder = tmp_path_factory.mktemp("effect")
    table = write_runs(folder, Truth(effects={"brownian": 0.1}, failed={FAILED: HOSTILE}))
    write_report(folder)
    return folder, table


@pytest.fixture(scope="module")
def small() -> Truth:
    """As little as there can be: for what needs no statistics."""
    return Truth(settings=(("sst2", 16),), pets=("lora",), arms=("vanilla", "brownian"), seeds=(42, 43))


@pytest.fixture(scope="module")
def document(effect: tuple[Path, list[dict[str, Any]]]) -> Document:
    return document_of(effect[0])


def document_of(folder: Path) -> Document:
    with style():
        return make_document(read_runs(folder))


def tables(document: Document, anchor: str) -> list[Table]:
    (section,) = (section for section in document.sections if section.anchor == anchor)
    return [block for block in section.blocks if isinstance(block, Table)]


def strong(document: Document) -> list[str]:
    """The rows' names and texts of everything bold."""
    return [
        f"{row[0].text}: {cell.text}"
        for blocks in (document.top, *(section.blocks for section in document.sections))
        for block in blocks
        if isinstance(block, Table)
        for group in block.groups
        for row in group.rows
        for cell in row
        if cell.strong
    ]


def test_numbers_in_the_tables_are_those_of_the_statistics(
    effect: tuple[Path, list[dict[str, Any]]], document: Document
) -> None:
    _, table = effect
    found = compare_arms(map(Row.from_dict, table), CONTROLS)
    _, sst2, rte = tables(document, "tables")  # the first is that of all of them
    assert list(rte.columns[4:]) == [f"minus {name}" for name in ("vanilla", *CONTROLS)]
    seen = 0
    for task, shown in (("sst2", sst2), ("rte", rte)):
        for group in shown.groups:
            setting = Setting(task, 16, group.name)
            for row in group.rows:
                arm, score = row[0].text, found.scores[setting, row[0].text]
                assert [cell.text for cell in row[1:4]] == [
                    f"{score.mean:.3f}",
                    f"{score.deviation:.3f}",
                    str(score.count),
                ]
                for baseline, cell in zip(("vanilla", *CONTROLS), row[4:], strict=True):
                    comparison = found.single.get((setting, arm, baseline))
                    assert bool(cell.text) == (comparison is not None)
                    if comparison is None:
                        continue
                    d = comparison.difference
                    numbers = [
                        float(x) for x in re.findall(r"[+-]?\d\.\d+", cell.text.replace(MINUS, "-"))
                    ]
                    assert numbers == pytest.approx([d.mean, d.low, d.high], abs=5.01e-4)
                    assert ("2 pairs" in cell.note) == (d.count == 2)
                    assert cell.strong == comparison.significant
                    seen += 1
    assert seen == 2 * 2 * (8 + 5 * 3)
    (failed,) = (row for row in rte.groups[0].rows if row[0].text == "sde")
    assert failed[3].text == "4"


def test_a_large_effect_is_bold_and_told(
    effect: tuple[Path, list[dict[str, Any]]], document: Document
) -> None:
    (first,) = document.answers
    assert first.first.startswith("On rte and sst2, 4 settings together, use brownian: +0.")
    assert "Worse" not in first.more
    bold = strong(document)
    (pooled, *_) = tables(document, "tables")
    assert [cell.strong for cell in pooled.groups[0].rows[0]] == [False, False, True, True, True, True]
    (glance,) = (block for block in document.top if isinstance(block, Table))
    row = next(row for row in glance.groups[0].rows if row[0].text == "brownian")
    assert [cell.strong for cell in row] == [False, False, True, *[False] * 5]
    assert sum(entry.startswith("brownian: +0.") for entry in bold) >= 1 + 4 + 12
    said = (effect[0] / "report.md").read_text(encoding="utf-8")
    assert "brownian is significantly better than" in said
    assert said.count("**") == 2 * len(bold)
    page = Page((effect[0] / "report.html").read_text(encoding="utf-8"))
    assert page.text["strong"] == [entry.split(": ")[1] for entry in bold]


def test_the_first_table_has_difference_interval_p_and_price(
    effect: tuple[Path, list[dict[str, Any]]], document: Document
) -> None:
    pooled = compare_arms(map(Row.from_dict, effect[1]), CONTROLS).pooled
    (glance,) = (block for block in document.top if isinstance(block, Table))
    (group,) = glance.groups
    assert group.name == "rte and sst2, 4 settings together: accuracy"
    assert [row[0].text for row in group.rows][:2] == ["vanilla", "brownian"]
    assert {row[0].text for row in group.rows if row[0].note == "control"} == set(CONTROLS)
    vanilla = float(group.rows[0][1].text)
    for row in group.rows[1:]:
        arm = row[0].text
        d = pooled["accuracy", arm, "vanilla"].difference
        shown = [
            float(x)
            for cell in row[1:4]
            for x in re.findall(r"-?\d\.\d+", cell.text.replace(MINUS, "-"))
        ]
        # The sde lacks a cell, so its vanilla is another.
        assert shown[0] == pytest.approx(vanilla + d.mean, abs=1.1e-3 if arm != "sde" else 0.01)
        assert shown[1:] == pytest.approx([d.mean, d.low, d.high], abs=5.01e-4)
        assert row[5].text == "10"
        assert row[6].text == f"{1 + 0.01 * len(arm):.2f}"
        assert float(row[7].text) == pytest.approx((100 + len(arm)) / 107, abs=0.006)


def test_without_an_effect_nothing_is_bold(tmp_path: Path) -> None:
    arms = ("vanilla", "brownian", "ou:theta=2.0", "sde", "regression")
    write_runs(tmp_path, Truth(settings=(("sst2", 16),), arms=arms), whole=False)
    write_report(tmp_path)
    document = document_of(tmp_path)
    for told in document.answers:
        assert told.first.startswith("Nothing beats vanilla on sst2, 16 shots, ")
    assert len(document.answers) == 2  # two PETs
    assert not strong(document)
    assert "**" not in (tmp_path / "report.md").read_text(encoding="utf-8")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<strong>" not in text
    assert "together" not in text  # each setting speaks for itself
    told = [point for point in re.findall(r"<li>(.*?)</li>", text, re.DOTALL) if "controls" in point]
    assert len(told) == 2  # for each setting one sentence for all bridges
    assert (
        "none of these is told apart from any: brownian, ou:theta=2.0 and sde; nearest to it is"
        in told[0]
    )


def test_metrics_are_never_averaged(tmp_path: Path) -> None:
    """Two tasks of accuracy, one of Matthews, in two PETs: two answers, two groups, no third."""
    settings = (("sst2", 16), ("rte", 16), ("cola", 16))
    truth = Truth(settings=settings, arms=("vanilla", "brownian"), seeds=(42, 43, 44))
    write_runs(tmp_path, truth, whole=False)
    document = document_of(tmp_path)
    names = ["rte and sst2, 4 settings together", "cola, 2 settings together"]
    assert [told.first.split(" on ")[1].split(":")[0] for told in document.answers] == names
    (glance,) = (block for block in document.top if isinstance(block, Table))
    assert [group.name for group in glance.groups] == [f"{names[0]}: accuracy", f"{names[1]}: matthews"]
    strengths = next(p for p in document.pictures if p.title == "Dev metric by strength")
    axes = [axis.get_title() for axis in strengths.figure.axes if axis.get_visible()]
    assert axes == ["brownian, accuracy", "brownian, matthews"]


def test_the_page_needs_nothing_from_outside(effect: tuple[Path, list[dict[str, Any]]]) -> None:
    page = Page((effect[0] / "report.html").read_text(encoding="utf-8"))
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "object", "embed", "image", "base"}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            if name in ("src", "href", "xlink:href", "srcset", "data", "poster", "action"):
                assert value, (tag, name)
                assert value.startswith(("#", "data:image/png;base64,")), (tag, value)
            assert name.startswith("xmlns") or "//" not in (value or ""), (tag, name, value)
    styles = "".join(page.text["style"])
    assert "url(" not in styles
    assert "@import" not in styles
    assert ("default-src 'none'; style-src 'unsafe-inline'; img-src data:") in [
        attributes.get("content") for _, attributes in page.tags
    ]


def test_ids_are_unique_and_links_lead_somewhere(effect: tuple[Path, list[dict[str, Any]]]) -> None:
    text = (effect[0] / "report.html").read_text(encoding="utf-8")
    tags = Page(text).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(set(ids)) == len(ids)
    names = ("href", "aria-labelledby", "aria-describedby")
    links = [value.lstrip("#") for _, a in tags for name in names if (value := a.get(name))]
    links += re.findall(r"url\(#([^)]+)\)", text)
    assert set(links) <= set(ids)
    assert len([a for tag, a in tags if tag in ("svg", "img")]) == 10


def test_text_from_outside_is_escaped(effect: tuple[Path, list[dict[str, Any]]]) -> None:
    html = (effect[0] / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt; | a &amp; b" in html
    text = (effect[0] / "report.md").read_text(encoding="utf-8")
    assert '&lt;script&gt;alert("x")&lt;/script&gt; \\| a &amp; b' in text
    (failed,) = (line for line in text.splitlines() if "alert" in line)
    assert re.sub(r"\\\|", "", failed).count("|") == 5


def test_markdown_says_the_same_and_its_pictures_are_there(
    effect: tuple[Path, list[dict[str, Any]]], document: Document
) -> None:
    folder, _ = effect
    text = (folder / "report.md").read_text(encoding="utf-8")
    html = Page((folder / "report.html").read_text(encoding="utf-8"))
    heads = [section.title for section in document.sections]
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == heads
    assert [t for t in html.text["h2"] if t.strip()] == heads
    assert [a["id"] for tag, a in html.tags if tag == "details"] == [s.anchor for s in document.sections]
    assert not any("open" in a for tag, a in html.tags if tag == "details")
    pictures = re.findall(r"^!\[.*\]\((.*)\)$", text, re.MULTILINE)
    assert len(pictures) == len(document.pictures)
    for name in pictures:
        content = (folder / name).read_bytes()
        assert content.rstrip().endswith(b"</svg>") or content.startswith(b"\x89PNG")
    assert sorted(p.name for p in (folder / "report-figures").iterdir()) == sorted(
        name.split("/")[1] for name in pictures
    )


def test_every_part_is_there(document: Document) -> None:
    anchors = [section.anchor for section in document.sections]
    assert anchors == [
        "answer",
        "tables",
        "cost",
        "strength",
        "curves",
        "analyses",
        "failed",
        "run",
    ]


def test_twice_is_the_same_bytes(tmp_path: Path, small: Truth) -> None:
    write_runs(tmp_path / "a" / "runs", small)
    write_runs(tmp_path / "b" / "runs", small)
    for name in "ab":
        write_report(tmp_path / name / "runs")
    first, second = (
        {p.relative_to(tmp_path / name): p.read_bytes() for p in sorted((tmp_path / name).rglob("*.*"))}
        for name in "ab"
    )
    assert len(first) > 8
    assert first == second


def test_several_shots_have_their_own_picture_and_a_long_svg_is_a_png(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (("sst2", 4), ("sst2", None), ("sst2", 16))
    truth = Truth(settings=settings, pets=("lora",), arms=("vanilla", "sde"), seeds=(42, 43))
    write_runs(tmp_path, truth, whole=False)
    document = document_of(tmp_path)
    (shots,) = (section for section in document.sections if section.anchor == "shots")
    assert shots.title == "Score by the number of shots"
    (drawn,) = (p for p in document.pictures if p.title == shots.title)
    (axis,) = drawn.figure.axes
    assert (axis.get_title(), axis.get_ylabel()) == ("sst2", "accuracy")
    assert [t.caption.split(":")[0] for t in tables(document, "tables")] == [
        "sst2, 4 shots",
        "sst2, full train set",
        "sst2, 16 shots",
    ]
    monkeypatch.setattr("pets.study.report.pictures._LONGEST", 100)
    html, _ = write_report(tmp_path)
    sources = [a["src"] for tag, a in Page(html.read_text(encoding="utf-8")).tags if tag == "img"]
    assert len(sources) == len(document.pictures)
    assert all(p.suffix == ".png" for p in (tmp_path / "report-figures").iterdir())


def test_one_seed_is_shown_without_spread_or_tests(tmp_path: Path, small: Truth) -> None:
    one = Truth(settings=small.settings, pets=small.pets, arms=small.arms, seeds=(42,))
    write_runs(tmp_path, one)
    document = document_of(tmp_path)
    (table,) = tables(document, "tables")
    assert [cell.text for cell in table.groups[0].rows[0][2:4]] == ["-", "1"]
    assert table.groups[0].rows[1][4].note == "one pair: no test"
    assert document.answers[0].first.startswith(
        "Nothing can be said of sst2, 16 shots, lora yet: 1 pair of"
    )


def test_times_of_an_earlier_version_have_no_memory(tmp_path: Path, small: Truth) -> None:
    write_runs(tmp_path, small)
    path = tmp_path / "step-times.json"
    path.write_text(re.sub(r',\s*"memory": \d+', "", path.read_text()))
    document = document_of(tmp_path)
    (glance,) = (block for block in document.top if isinstance(block, Table))
    assert glance.columns[-1] == "step time"
    assert "memory" not in glance.caption
    (times,) = tables(document, "cost")
    assert times.columns[-1] == "rounds"
    write_runs(tmp_path, small)
    (times,) = tables(document_of(tmp_path), "cost")
    assert [row[-1].text for row in times.groups[0].rows] == ["10.7 MB", "10.8 MB"]


def test_vanilla_alone_is_reported_as_nothing_to_compare(tmp_path: Path) -> None:
    alone = Truth(settings=(("sst2", 16),), pets=("lora",), arms=("vanilla",), seeds=(42, 43))
    write_runs(tmp_path, alone, whole=False)
    write_report(tmp_path)
    document = document_of(tmp_path)
    assert document.answers[0].first.startswith("There is nothing to compare on sst2, 16 shots, lora")
    assert [section.anchor for section in document.sections] == ["tables", "curves", "run"]


def test_a_weight_and_a_ratio_of_the_same_number_are_not_one_cell(tmp_path: Path, small: Truth) -> None:
    table = rows(small)
    by_weight = [row for row in table if row["arm"] == "brownian"]
    write_rows(tmp_path, [*by_weight, *(row | {"by_ratio": row in by_weight} for row in table)])
    runs = read_runs(tmp_path)
    assert len(runs.done) == len(table)
    assert [(left.count, left.difference) for left in runs.left_out] == [
        (len(by_weight), "by_ratio False there, True here")
    ]


def test_rows_of_other_versions_are_counted_and_left_out(tmp_path: Path, small: Truth) -> None:
    table = rows(small)
    old = [row | {"code": "ffffffffffff", "score": 0.0} for row in table[:3]]
    unknown = [row | {"pet": "bitfit", "arm": "ou", "settings": {"batch_size": 2}} for row in old[:1]]
    older = [row | {"settings": row["settings"] | {"batch_size": 2}} for row in table[:1]]
    stronger = [t | {"strength": 9.0} for t in table[2]["tries"]]
    fewer = [row | {"tries": row["tries"][:2]} for row in (*table[:2], table[0] | {"arm": "ou"})]
    others = [*old, *unknown, *older, table[2] | {"tries": stronger}, *fewer]
    write_rows(tmp_path, [*others, *table])
    runs = read_runs(tmp_path)
    assert [row.to_dict() for row in runs.done] == table
    assert [(left.count, left.difference) for left in runs.left_out] == [
        (4, "code 'ffffffffffff' there, '0123456789ab' here"),
        (1, "batch_size 2 there, 8 here"),
        (1, "strengths [9.0, 9.0, 9.0] there, [0.3, 1.0, 3.0] here"),
        (3, "tries 2 there, 3 here"),
    ]
    write_report(tmp_path)
    told = "What differs, there (left out) and here (shown):"
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert (
        "9 rows of the table are left out, because results of other versions, settings, models or"
        in text
    )
    assert f"{told}\n\n- 4 rows: code 'ffffffffffff' there, '0123456789ab' here\n- 1 row: batch" in text
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert any(entry.endswith(told) for entry in page.text["p"])
    assert "3 rows: tries 2 there, 3 here" in page.text["li"]
    assert "9 rows of other versions or settings left out" in document_of(tmp_path).note


@pytest.mark.parametrize(
    ("name", "of", "told"),
    [
        ("model_sha256", {}, "another model: other weights"),
        ("tokenizer_sha256", {}, "another tokenizer"),
        ("data_sha256", {}, "other examples"),
        ("cost", {"arm": "brownian"}, "another cost"),
        ("cost_code", {"arm": "brownian"}, "other code of the cost, the PET or the regularizer"),
    ],
)
def test_rows_of_another_model_or_of_other_data_are_left_out_whatever_their_seeds(
    tmp_path: Path, small: Truth, name: str, of: dict[str, str], told: str
) -> None:
    ours, theirs = (
        [row | {"hashes": {name: digit * 64 if of.items() <= row.items() else None}} for row in table]
        for digit, table in (("1", rows(small)), ("2", rows(replace(small, seeds=(47, 48)))))
    )
    write_rows(tmp_path, [*theirs, *ours])
    runs = read_runs(tmp_path)
    other = [row for row in theirs if of.items() <= row.items()]
    assert [row.to_dict() for row in runs.done] == [r for r in (*theirs, *ours) if r not in other]
    assert [(left.count, left.difference) for left in runs.left_out] == [(len(other), told)]


def test_settings_may_be_those_of_a_pet(tmp_path: Path) -> None:
    write_runs(
        tmp_path, Truth(pets=("lora", "prefix"), arms=("vanilla", "sde"), seeds=(1, 2)), whole=False
    )
    runs = read_runs(tmp_path)
    assert len(runs.done) == 16
    (facts, _) = tables(document_of(tmp_path), "run")
    told = {row[0].text: row[1].text for row in facts.groups[0].rows}
    assert told["learning rate"] == "0.0001 for lora; 0.001 for prefix"
    assert told["max steps"] == "200"


def test_missing_cells_are_counted_and_named(tmp_path: Path, small: Truth) -> None:
    table = rows(small)
    write_rows(tmp_path, table[:-1])
    assert read_runs(tmp_path).missing == [("sst2", 16, "lora", "brownian", 43)]
    document = document_of(tmp_path)
    assert "1 not run" in document.note


def test_a_report_of_half_the_runs_says_which_there_are(tmp_path: Path, small: Truth) -> None:
    """One seed of an arm beside two of vanilla: no test was made, and the means are of other runs."""
    wider = replace(small, arms=("vanilla", "brownian", "regression"))
    write_rows(tmp_path, [r for r in rows(wider) if r["arm"] == "vanilla" or r["seed"] == 42])
    document = document_of(tmp_path)
    (table,) = [block for block in document.top if isinstance(block, Table)]
    notes = {row[0].text: row[1].note for row in table.groups[0].rows}
    assert notes == {"vanilla": "", "brownian": "1 of 2 runs", "regression": "1 of 2 runs"}
    text = rendering.render_markdown(document, [f"{k}.svg" for k in range(len(document.pictures))])
    assert (
        "One pair with vanilla alone, so no test, on sst2, 16 shots, lora: brownian and regression"
        in text
    )
    assert "told apart from vanilla" not in text
    assert "told apart from regression" not in text
    assert "signed-rank test cannot" not in text


def test_one_strength_has_no_sensitivity(tmp_path: Path, small: Truth) -> None:
    write_rows(tmp_path, rows(replace(small, strengths=(0.5,))))
    assert "strength" not in [section.anchor for section in document_of(tmp_path).sections]


def test_what_was_asked_for_and_has_no_row_is_not_run_yet(tmp_path: Path, small: Truth) -> None:
    """An interrupted comparison whose last seed is in no row at all."""
    table = rows(small)
    write_rows(tmp_path, [row for row in table if row["seed"] != 43])
    assert not read_runs(tmp_path).missing
    keys = [tuple(row[name] for name in ("task", "shots", "pet", "arm", "seed")) for row in table]
    write_asked(tmp_path, keys)
    assert read_asked(tmp_path) == keys
    assert read_runs(tmp_path).missing == [key for key in keys if key[-1] == 43]
    assert "2 not run" in document_of(tmp_path).note
    (tmp_path / ASKED_FILE).write_text('{"cells": [["sst2", 16, "lora"]]}')
    with pytest.raises(BadInput, match=r"asked.json holds no cells: .*cells\[0\]"):
        read_runs(tmp_path)


@pytest.mark.parametrize("by_ratio", [False, True])
def test_the_selected_strengths_are_counted(tmp_path: Path, small: Truth, by_ratio: bool) -> None:
    wider = replace(small, arms=("vanilla", "brownian", "regression"))
    table = [row | {"by_ratio": by_ratio and row["arm"] == "brownian"} for row in rows(wider)]
    write_rows(tmp_path, table)
    (found,) = tables(document_of(tmp_path), "strength")
    ((setting),) = found.groups
    told = {row[0].text: row[1].text for row in setting.rows}
    assert list(told) == ["brownian", "regression"]
    for arm, text in told.items():
        counted = Counter(row["strength"] for row in table if row["arm"] == arm)
        assert text == ", ".join(f"{s:.3g} ({counted[s]})" for s in sorted(counted))
        assert sum(counted.values()) == 2
    assert ("ratio" in found.caption) == by_ratio


def test_a_cell_that_was_tried_again_counts_once(tmp_path: Path, small: Truth) -> None:
    table = rows(small)
    failed = table[1] | {"status": "failed", "error": "x", "tries": None}
    write_rows(tmp_path, [failed, *table])
    assert [row.to_dict() for row in read_runs(tmp_path).done] == table
    write_rows(tmp_path, [*table[:2], failed, *table[2:]])
    runs = read_runs(tmp_path)
    assert ([row.to_dict() for row in runs.done], runs.failed) == (table, [])


def all_failed(folder: Path, truth: Truth) -> None:
    table = rows(truth)
    write_rows(folder, [row | {"status": "failed", "error": "no room", "tries": None} for row in table])


def no_number(folder: Path, truth: Truth) -> None:
    table = rows(truth)
    write_rows(folder, [*table[:3], table[3] | {"score": float("nan")}])


def twice(folder: Path, truth: Truth) -> None:
    write_rows(folder, [*rows(truth), *rows(truth)])


def beside(name: str, text: str) -> Callable[[Path, Truth], None]:
    def write(folder: Path, truth: Truth) -> None:
        write_rows(folder, rows(truth))
        (folder / name).write_text(text, encoding="utf-8")

    return write


def edited_time(folder: Path, truth: Truth) -> None:
    write_runs(folder, truth)
    path = folder / "step-times.json"
    path.write_text(re.sub(r'"ratio": [0-9.]+', '"ratio": NaN', path.read_text()))


def edited_record(key: str, value: object, number: int = 0) -> Callable[[Path, Truth], None]:
    def write(folder: Path, truth: Truth) -> None:
        write_runs(folder, truth)
        records = json.loads((folder / "analysis.json").read_text())
        records[number][key] = value
        (folder / "analysis.json").write_text(json.dumps(records))

    return write


def edited_row(key: str, value: object) -> Callable[[Path, Truth], None]:
    def write(folder: Path, truth: Truth) -> None:
        table = rows(truth)
        table[0][key] = value
        write_rows(folder, table)

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            lambda folder, truth: None,
            r"runs holds no results\.jsonl: give the folder that `bridge-pets comp",
        ),
        (lambda folder, truth: folder.rmdir(), r"runs is no folder: give the folder"),
        (
            lambda folder, truth: write_rows(folder, []),
            r"results\.jsonl is empty: run `bridge-pets compare`",
        ),
        (all_failed, r"none of the 4 cells .* nothing to report; the last failed with: no room"),
        (twice, r"holds the cell sst2 16 lora vanilla 42 twice, .* a folder of its own"),
        (
            lambda folder, truth: (folder / "results.jsonl").write_text("{"),
            r"results\.jsonl, line 1 is broken .*: delete it",
        ),
        (no_number, r"score nan, expected a finite number"),
        (beside("step-times.json", "{}"), r"step-times\.json holds no step times: delete it"),
        (
            edited_time,
            r"step-times\.json holds no step times: .* \(step_times\.lora\.vanilla\.ratio is ",
        ),
        (
            edited_record("tube", {"t": [0.0], "mean": [], "deviation": [0.0]}),
            "record 0 .* tube are not",
        ),
        (edited_record("labels", [1, 2]), r"record 0 of the analyses: labels\[0\] is 1, expected text"),
        (edited_record("distance", {"negative": {}}), r"distance\.negative\.negative is missing"),
        (edited_record("times", [0.1, 10**400]), r"times\[1\] is 1000.*, expected a finite number"),
        (
            edited_record("separability", [], number=2),
            r"record 2 of the analyses: separability is \[\], expected an object",
        ),
        (edited_row("restart", 7), r"has restart 7 of 3 tries: delete it"),
        (edited_row("examples", {"train": "8"}), r"line 1: examples\.train is '8', expected a whole"),
        (beside("step-times.json", "[" * 9999), r"step-times\.json is broken"),
        (beside("step-times.json", "{"), r"step-times\.json is broken"),
        (beside("analysis.json", "{}"), r"analysis\.json is no list of analyses"),
        (
            beside("analysis.json", '[{"of": "a", "task": "sst2"}]'),
            r"record 0 of the analyses lacks shots",
        ),
    ],
)
def test_bad_input_is_refused_by_name(
    tmp_path: Path, small: Truth, write: Callable[[Path, Truth], None], message: str
) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    write(folder, small)
    with pytest.raises(BadInput, match=message) as caught:
        write_report(folder)
    assert "\n" not in str(caught.value)
    assert not (folder / "report.html").exists()


def test_what_is_no_report_is_not_replaced(tmp_path: Path, small: Truth) -> None:
    runs, out = tmp_path / "runs", tmp_path / "out"
    write_runs(runs, small, whole=False)
    (out / "report-figures").mkdir(parents=True)
    write_report(runs, out)
    write_report(runs, out)  # its own is
    for name in ("report.md", "report.html", "report-figures/thesis.svg"):
        before = (out / name).read_bytes() if (out / name).exists() else None
        (out / name).write_text("precious")
        with pytest.raises(BadInput, match=r"(report|pictures) of bridge-pets: it is not replaced"):
            write_report(runs, out)
        assert (out / name).read_text() == "precious"
        (out / name).unlink() if before is None else (out / name).write_bytes(before)
    (out / "report.md").unlink()
    (out / "report.md").symlink_to(out / "report.html")
    with pytest.raises(BadInput, match=r"report\.md is a symbolic link"):
        write_report(runs, out)


def test_an_unwritable_place_is_refused(tmp_path: Path, small: Truth) -> None:
    write_runs(tmp_path / "runs", small, whole=False)
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=r"file cannot be written to .* choose another --out"):
        write_report(tmp_path / "runs", tmp_path / "file")


def test_the_page_needs_jinja(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendering, "find_spec", lambda name: None)
    with pytest.raises(BadInput, match=r"pip install .*'jinja2"):
        rendering.require()


def test_on_the_command_line(tmp_path: Path, small: Truth) -> None:
    write_runs(tmp_path / "runs", small, whole=False)
    done = CliRunner().invoke(cli, ["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert f"wrote {tmp_path / 'out' / 'report.html'}" in done.output
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["report-figures", "report.html", "report.md"]
    assert not (tmp_path / "runs" / "report.html").exists()
