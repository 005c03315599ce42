"""Small tasks as users bring them: files of every form, whose answer follows from a word of the text.

All words are in the vocabulary of `tiny.tiny_tokenizer`, so that tiny models can learn them.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

NOUNS = ("film", "book", "story", "dog", "cat", "bird")
TELLING = (("bad", "poor", "hated"), ("good", "fine", "liked"))
"""Words that only texts of the one class have, and those of the other."""
LABELS = ("negative", "positive")


def rows() -> list[dict[str, Any]]:
    """72 rows of text and label, the classes in turns."""
    return [
        {"text": f"the {noun} was {TELLING[label][k]} {end}", "label": LABELS[label]}
        for end in ("and red", "on the day")
        for noun in NOUNS
        for k in range(3)
        for label in (0, 1)
    ]


def text_csv(folder: Path) -> Path:
    """One text and a label in words."""
    return write_csv(folder / "reviews.csv", rows())


def pair_jsonl(folder: Path) -> Path:
    """Two texts, and whether they tell the same: labels true and false."""
    pairs = [
        {
            "first": f"a {noun} was {TELLING[a][0]}",
            "second": f"the {noun} is {TELLING[b][k]}",
            "same": a == b,
        }
        for noun in NOUNS
        for k in range(3)
        for a in (0, 1)
        for b in (0, 1)
    ]
    return write_jsonl(folder / "pairs.jsonl", pairs)


def choice_jsonl(folder: Path) -> Path:
    """A text and two choices, the right one by its place: the word that is in the text."""
    asked = []
    for k, row in enumerate(rows()):
        right = row["text"].split()[3]
        wrong = next(word for words in TELLING if right not in words for word in words)
        choices = [right, wrong] if k % 3 else [wrong, right]
        asked.append({"premise": row["text"], "choices": choices, "answer": choices.index(right)})
    return write_jsonl(folder / "choices.jsonl", asked)


def generation_jsonl(folder: Path) -> Path:
    """A text and accepted answers, the first one a word of the text."""
    asked = [
        {"question": row["text"], "answers": [row["text"].split()[1], f"the {row['text'].split()[1]}"]}
        for row in rows()
    ]
    return write_jsonl(folder / "questions.jsonl", asked)


def saved_folder(folder: Path) -> Path:
    """A `datasets.DatasetDict` with train, validation and a test without labels, of a ClassLabel."""
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=list(reversed(LABELS)))}
    )
    of = {"train": rows()[:48], "validation": rows()[48:60], "test": rows()[60:]}
    saved = datasets.DatasetDict()
    for split, part in of.items():
        labels = [-1 if split == "test" else 1 - LABELS.index(row["label"]) for row in part]
        columns = {"text": [row["text"] for row in part], "label": labels}
        saved[split] = datasets.Dataset.from_dict(columns, features=features)
    path = folder / "saved"
    saved.save_to_disk(str(path))
    return path


def label_parquet(folder: Path) -> Path:
    """One text and a ClassLabel whose order is not the alphabet's."""
    import datasets

    path = folder / "reviews.parquet"
    datasets.load_from_disk(str(saved_folder(folder)))["train"].to_parquet(str(path))
    return path


def task_toml(folder: Path) -> Path:
    """A task file with words and files to train on and to report, labels 0 and 1."""
    numbered = [{**row, "label": LABELS.index(row["label"])} for row in rows()]
    write_csv(folder / "train.csv", numbered[:52])
    write_csv(folder / "scored.csv", numbered[52:])
    path = folder / "film.toml"
    path.write_text(
        """
name = "films"
kind = "classes"
template = "{text} It was {mask}."
label = "label"
metric = "f1_macro"

[words]
0 = "bad"
1 = ["good", "fine"]

[splits]
train = "train.csv"
reported = "scored.csv"
""",
        encoding="utf-8",
    )
    return path


def write_csv(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Rows as csv, with a header."""
    rows = list(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Rows as objects, one a line."""
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path
