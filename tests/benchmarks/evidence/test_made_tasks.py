"""The tasks of a plan."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.evidence import made_tasks
from benchmarks.evidence.made_tasks import FLIPPED, Made, flipped, made
from benchmarks.evidence.readings import other_domain
from bridges.errors import BadInput


def test_a_task_is_made_of_the_data_and_made_again_to_the_same_files(
    films: Path, tmp_path: Path
) -> None:
    task = made("films", films, tmp_path / "tasks")
    loaded = task.load(None)
    assert [label.name for label in loaded.task.labels] == ["negative", "positive"]
    assert len(loaded.reported) == 12
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "tasks").iterdir()}
    made("films", films, tmp_path / "tasks")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "tasks").iterdir()} == before
    with pytest.raises(BadInput, match="give --data, the folder of the shared data"):
        made("films", tmp_path / "nowhere", tmp_path / "tasks")


def test_reviews_are_reported_that_no_reading_is_of(films: Path, tmp_path: Path) -> None:
    loaded = made("films-to-reviews", films, tmp_path / "tasks").load(None)
    reported = {example.fields[0][1] for example in loaded.reported}
    read = {example.fields[0][1] for example in other_domain(films)}
    assert len(reported) == 4
    assert len(read) == 16
    assert reported | read == {text for text, _ in made_tasks.shifted(films)}


def test_others_are_reported_that_no_comparison_before_was_scored_on(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fewer = Made(**{**vars(made_tasks.TASKS["films-to-reviews"]), "reported": 3})
    monkeypatch.setitem(made_tasks.TASKS, "films-to-reviews", fewer)
    names = ("films-to-reviews", "films-to-reviews-others")
    before, others = (made(name, films, tmp_path / "tasks").load(None) for name in names)
    reported = [{e.fields[0][1] for e in loaded.reported} for loaded in (before, others)]
    read = {example.fields[0][1] for example in other_domain(films)}
    assert list(map(len, reported)) == [3, 1]
    assert len(read | reported[0] | reported[1]) == 20
    tables = [(tmp_path / "tasks" / f"{name}_train.csv").read_text(encoding="utf-8") for name in names]
    assert tables[0] == tables[1]


def test_a_fifth_of_the_training_labels_is_wrong_and_no_reported_one(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = Made(**{**vars(made_tasks.TASKS["films"]), "flipped": FLIPPED})
    monkeypatch.setitem(made_tasks.TASKS, "noisy", noisy)
    tables = {}
    for name in ("films", "noisy"):
        made(name, films, tmp_path)
        for part in ("train", "reported"):
            with (tmp_path / f"{name}_{part}.csv").open(encoding="utf-8", newline="") as file:
                tables[name, part] = list(csv.reader(file))
    assert tables["films", "reported"] == tables["noisy", "reported"]
    pairs = list(zip(tables["films", "train"], tables["noisy", "train"], strict=True))
    assert all(clean[0] == other[0] for clean, other in pairs)
    wrong = sum(clean != other for clean, other in pairs)
    assert wrong == round(FLIPPED * (len(pairs) - 1)) > 0


def test_wrong_labels_are_drawn_among_all_other_classes() -> None:
    clean = [(str(k), "abc"[k % 3]) for k in range(3000)]
    changed = [(a[1], b[1]) for a, b in zip(clean, flipped(clean, list("abc"), 0.5), strict=True)]
    moves = Counter(pair for pair in changed if pair[0] != pair[1])
    assert sum(moves.values()) == 1500
    assert len(moves) == 6
    # 250 of each of six kinds, deviation of a binomial about 15: six times that is never seen.
    assert all(abs(count - 250) < 90 for count in moves.values())
