"""``bridge-pets task new | show``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click

from bridges.errors import check_counts, one_line
from pets import tasks
from pets.commands.options import ManyValues, asked, trust_remote_code
from pets.tasks.base import CLASSES, Example, TaskData
from pets.tasks.own.task_file import write_first
from pets.tasks.shared_texts import shared_texts
from pets.tasks.templates import Template

_EXAMPLES = 3


@click.group()
def task() -> None:
    """Write a first task file for a table of your own, or show what a task is."""


@task.command()
@click.argument("file")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("task.toml"),
    show_default=True,
    help="The task file; nothing is replaced.",
)
def new(file: str, out: Path) -> None:
    """Write a first task file from the columns of FILE, to be corrected and given as --task.

    FILE is a .csv, .tsv, .jsonl, .json or .parquet file, a folder that save_to_disk wrote, or a dataset
    of the hub, owner/name or owner/name:config.
    """
    for doubt in write_first(file, out).doubts:
        click.echo(f"in doubt: {one_line(doubt)}", err=True)
    click.echo(f"wrote {out}; look at it with: bridge-pets task show {out}", err=True)


@task.command(cls=ManyValues)
@click.argument("name", metavar="TASK")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder with the original GLUE tsv files.  [default: the hub]",
)
@click.option("--template", help='How an example is asked: "{text} It was {mask}."')
@click.option("--chat", is_flag=True, help="Asked as a user, in the model's chat template.")
@click.option(
    "--label-words",
    multiple=True,
    metavar="WORD...",
    help="Words that stand for the classes, in class order; several for one as in 'good,great'.",
)
@click.option("--model", help="Show prompts and tokens as this model reads them; no weights are read.")
@click.option("--max-length", default=128, show_default=True, help="Tokens a prompt.")
@trust_remote_code
def show(
    name: str,
    data: Path | None,
    template: str | None,
    chat: bool,
    label_words: tuple[str, ...],
    model: str | None,
    max_length: int,
    trust_remote_code: bool,
) -> None:
    """Show what TASK is: its columns, classes and counts, and three examples as they are asked.

    TASK is a name, a table of your own or a task file, as for tune.
    """
    loaded = asked(tasks.parse(name), template, chat, label_words).load(data)
    check_counts(max_length=max_length)
    lines = list(described(loaded))
    if model is None:
        lines += examples_of(loaded)
    else:
        from pets.tasks.asking import Asking  # these import torch and transformers
        from pets.tasks.prompts import Encoder
        from pets.tasks.rendered import asked_by
        from pets.tuning.models import load_outline

        plm, tokenizer = load_outline(model, trust_remote_code=trust_remote_code)
        asking = Asking(plm, Encoder(tokenizer), loaded.task)
        every = (*loaded.train, *loaded.reported)
        lines += asked_by(asking, every, _EXAMPLES, max_length)
    click.echo("\n".join(lines))


def described(data: TaskData) -> Iterator[str]:
    """What a task is, line by line."""
    task = data.task
    yield f"task: {task.name}"
    yield f"kind: {task.kind}"
    settings = getattr(task, "settings", None)  # of a user's own
    if settings is not None:
        places = {"source": settings.source, "train": settings.train, "reported": settings.reported}
        yield from (f"{what}: {place}" for what, place in places.items() if place is not None)
    columns = dict.fromkeys(name for example in data.train[:1] for name, _ in example.fields)
    yield f"columns: {', '.join(columns)}"
    yield f"template: {'the published layout' if task.template is None else repr(task.template)}"
    if task.chat:
        yield "chat: asked as a user"
    yield f"metric: {task.metric}"
    yield f"examples: {len(data.train)} train, {len(data.reported)} reported"
    counts = [Counter(example.label for example in part) for part in (data.train, data.reported)]
    for k, label in enumerate(task.labels):
        words = ", ".join(task.verbalizer[label.name])
        yield f"class {label.name}: {words} ({counts[0][k]} train, {counts[1][k]} reported)"
    yield from (f"left out: {reason}, {count} of the rows" for reason, count in data.left_out.items())
    twice = shared_texts(data)
    yield f"texts in both: {twice['reported_in_train']} reported examples have a text that is trained on"
    yield f"texts with two labels: {twice['two_labels']}"


def examples_of(data: TaskData) -> Iterator[str]:
    """Three examples as they are asked, with no model in sight."""
    for number, example in enumerate(data.train[:_EXAMPLES], 1):
        yield f"example {number}:"
        yield from (f"    {line}" for line in with_answer(data, example).split("\n"))


def with_answer(data: TaskData, example: Example) -> str:
    """An example as it is asked, its answer in brackets."""
    task = data.task
    if task.kind == CLASSES:
        answer = task.verbalizer[task.labels[example.label].name][0]
    else:
        answer = (example.choices or example.answers)[example.label]
    lines = [f"choice: {choice}" for choice in example.choices]
    if task.template is None:
        return "\n".join([example.text, *lines, f"[{answer}]"])
    template = Template.parse(task.template)
    values = dict(example.fields)
    template.check(values)
    before, after = template.render(values)
    return "\n".join([f"{before}{' ' * template.spaced}[{answer}]{after}", *lines])
