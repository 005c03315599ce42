"""The tasks of a plan, made of the shared data: tables and task files, as a user would write them."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.generation import stories
from bridges.errors import BadInput
from bridges.storage.files import write_text
from pets import tasks
from pets.tasks.base import Task

Example = tuple[str, str]
"""A text, and the name of its class or what is written behind it."""
SENTIMENT = {"negative": "terrible", "positive": "great"}
TOPICS = {"World": "world", "Sports": "sports", "Business": "business", "Sci/Tech": "technology"}
SEED = 20261127
"""Of everything that is drawn here: which examples, which labels are flipped."""
SHIFTED = 400
"""Sentences of another domain that PETs tuned on film reviews are read on."""
FLIPPED = 0.2
"""The share of training labels that are wrong in a task of that name; the reported ones are right."""


@dataclass(frozen=True)
class Made:
    """How a task is made.

    Attributes:
        examples: of the shared data, those to train on and those to report.
        template: how it is asked.
        words: of each class; none where the answer is written.
        reported: how many are reported at most.
        flipped: the share of training examples with another class than theirs.
    """

    examples: Callable[[Path], tuple[list[Example], list[Example]]]
    template: str
    words: Mapping[str, str] = field(default_factory=dict)
    reported: int = 872
    flipped: float = 0.0


def _sst2(data: Path) -> tuple[list[Example], list[Example]]:
    folder = data / "glue" / "SST-2"
    return _sentiment(folder / "train.tsv"), _sentiment(folder / "dev.tsv")


def _sst2_others(data: Path) -> tuple[list[Example], list[Example]]:
    """To report, what "sst2-300" does not."""
    train, dev = _sst2(data)
    return train, _others(dev, TASKS["sst2-300"].reported)


def _films_to_reviews(data: Path) -> tuple[list[Example], list[Example]]:
    """To train on, films; to report, reviews of restaurants and goods that no reading is of."""
    return _sst2(data)[0], _others(shifted(data), SHIFTED)


def _films_to_reviews_others(data: Path) -> tuple[list[Example], list[Example]]:
    """To report, what neither a reading nor "films-to-reviews" is of."""
    films, reviews = _films_to_reviews(data)
    return films, _others(reviews, TASKS["films-to-reviews"].reported)


def _topics(data: Path) -> tuple[list[Example], list[Example]]:
    folder = data / "ag_news"
    rows = (_rows(folder / name, "text", "topic") for name in ("train.tsv", "dev.tsv"))
    train, reported = rows
    return train, reported


def _reviews(data: Path) -> tuple[list[Example], list[Example]]:
    found = shifted(data)
    random.Random(SEED).shuffle(found)
    return found[1000:], found[:1000]


def shifted(data: Path) -> list[Example]:
    """Sentences of reviews of restaurants and of goods: sentiment in another domain than films."""
    folder = data / "sentiment"
    return [*_sentiment(folder / "yelp.tsv"), *_sentiment(folder / "amazon.tsv")]


def read_elsewhere(data: Path) -> list[Example]:
    """Those of `shifted` that a reading is of, the same ones every time."""
    return _drawn(shifted(data), SHIFTED)


def _stories(data: Path) -> tuple[list[Example], list[Example]]:
    """Made up, see `benchmarks.generation`."""
    parts = (stories(1000, SEED), stories(300, SEED + 1))
    train, reported = ([(text, answer.strip()) for text, answer in part] for part in parts)
    return train, reported


_ABOUT = "{text} This is about {answer}."
_WAS = "{text} It was {answer}."
TASKS: dict[str, Made] = {
    "sst2": Made(_sst2, _WAS, SENTIMENT),
    "sst2-300": Made(_sst2, _WAS, SENTIMENT, reported=300),
    "sst2-others": Made(_sst2_others, _WAS, SENTIMENT),
    "sst2-flipped": Made(_sst2, _WAS, SENTIMENT, flipped=FLIPPED),
    "ag": Made(_topics, _ABOUT, TOPICS, reported=600),
    "ag-300": Made(_topics, _ABOUT, TOPICS, reported=300),
    "ag-flipped": Made(_topics, _ABOUT, TOPICS, reported=600, flipped=FLIPPED),
    "reviews": Made(_reviews, _WAS, SENTIMENT, reported=600),
    "films-to-reviews": Made(_films_to_reviews, _WAS, SENTIMENT, reported=400),
    "films-to-reviews-others": Made(_films_to_reviews_others, _WAS, SENTIMENT, reported=400),
    "stories": Made(_stories, "{text} {answer}", reported=200),
}
"""By name; a number in it is how many are reported, where a model takes long; "others" are the rest."""


def made(name: str, data: Path, folder: Path) -> Task:
    """A task, its files written where they are not; the same data make the same files.

    Args:
        name: of `TASKS`.
        data: the shared data.
        folder: for the files.

    Raises:
        BadInput: if the shared data are not there.
    """
    how = TASKS[name]
    train, reported = how.examples(data)
    reported = _drawn(reported, how.reported)
    if how.flipped:
        train = flipped(train, list(how.words), how.flipped)
    said: dict[str, object] = {"name": name, "template": how.template}
    if how.words:
        said |= {"kind": "classes", "label": "label", "metric": "accuracy"}
    else:
        said |= {"kind": "generation", "answers": ["label"], "answer_tokens": 12}
    lines = [f"{key} = {json.dumps(value)}" for key, value in said.items()]
    if how.words:
        lines += ["", "[words]", *(f"{json.dumps(k)} = {json.dumps(v)}" for k, v in how.words.items())]
    lines += ["", "[splits]", f'train = "{name}_train.csv"', f'reported = "{name}_reported.csv"']
    folder.mkdir(parents=True, exist_ok=True)
    for part, examples in (("train", train), ("reported", reported)):
        _write(folder / f"{name}_{part}.csv", _table(examples))
    _write(folder / f"{name}.toml", "\n".join(lines) + "\n")
    return tasks.parse(str(folder / f"{name}.toml"))


def _drawn(examples: list[Example], most: int) -> list[Example]:
    return examples if len(examples) <= most else random.Random(SEED).sample(examples, most)


def _others(examples: list[Example], most: int) -> list[Example]:
    """All but those that are drawn."""
    drawn = _drawn(examples, most)
    return [example for example in examples if example not in drawn]


def flipped(examples: list[Example], classes: list[str], share: float) -> list[Example]:
    """The same texts, a share of them with another class, drawn among the others."""
    rng = random.Random(SEED)
    which = set(rng.sample(range(len(examples)), round(share * len(examples))))
    return [
        (text, rng.choice([c for c in classes if c != label]) if k in which else label)
        for k, (text, label) in enumerate(examples)
    ]


def _sentiment(path: Path) -> list[Example]:
    names = list(SENTIMENT)
    return [(text, names[int(label)]) for text, label in _rows(path, "sentence", "label")]


def _rows(path: Path, text: str, label: str) -> list[Example]:
    try:
        content = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(
            f"{path} cannot be read ({error.strerror}): give --data, the folder of the shared data"
        ) from error
    rows = csv.DictReader(io.StringIO(content), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [(row[text].strip(), row[label]) for row in rows]


def _table(examples: list[Example]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("text", "label"), *examples])
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_text(path, text)
