"""What was run: counts, versions, settings, fitted costs, and the cells that failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pets.study.cells.arms import ADAPTED, KINDS, VANILLA
from pets.study.cells.rows import Row
from pets.study.report.document import (
    Block,
    Entry,
    Paragraph,
    Points,
    RowGroup,
    Section,
    Table,
    listed,
    number,
    plural,
    setting_name,
)
from pets.study.report.runs import Runs

IN_EVERY_REPORT = "A cell is one task, number of shots, PET, arm and seed."
"""What tells a report of this project, of any version, from other files of its name."""

_PROTOCOL = (
    f"{IN_EVERY_REPORT} In it every arm has the same number of "
    "tries; they differ in the strength of the arm's cost or regularizer and in initialisation and "
    f"order, {VANILLA}'s in the latter only. Checkpoint and try are selected on a split made from the "
    "train set; the selected PET is scored once on the reported split, on which nothing was selected."
)
_MOST_NAMED = 12  # missing cells named one by one


def counts(runs: Runs) -> str:
    """How many cells there are of which kind, as a sentence."""
    parts = [f"{plural(len(runs.done), 'cell')} with a score", f"{len(runs.failed)} failed"]
    parts.append(f"{len(runs.missing)} not run yet")
    if runs.left_out:
        left = sum(left.count for left in runs.left_out)
        parts.append(f"{plural(left, 'row')} of other versions or settings left out")
    return listed(parts)


def compared(runs: Runs) -> str:
    """What was compared, as a sentence."""
    shots = "; ".join(setting_name(task, count) for task, count in runs.settings)
    seeds = len({row.seed for row in runs.done})
    arms, model = len(runs.kinds), runs.done[-1].model
    return (
        f"{plural(arms, 'arm')} on {model} with {listed(runs.pets)}: "
        f"{shots}; {plural(seeds, 'seed')}. {counts(runs)}."
    )


def what_was_run(runs: Runs) -> Section:
    blocks: list[Block] = [Paragraph(_PROTOCOL), _facts(runs)]
    if runs.left_out:
        total = sum(left.count for left in runs.left_out)
        blocks.append(
            Paragraph(
                f"{plural(total, 'row')} of the table {'is' if total == 1 else 'are'} left out, because "
                "results of other versions, settings, models or data are never mixed. What differs, "
                "there (left out) and here (shown):"
            )
        )
        blocks.append(
            Points([f"{plural(left.count, 'row')}: {left.difference}" for left in runs.left_out])
        )
    if runs.missing:
        named = [" ".join(map(str, _words(key))) for key in runs.missing[:_MOST_NAMED]]
        more = len(runs.missing) - len(named)
        tail = f", and {more} more" if more else ""
        blocks.append(Paragraph(f"Missing cells (not run yet): {', '.join(named)}{tail}."))
    if fits := _fits(runs.done):
        blocks.append(fits)
    return Section("run", "What was run", blocks)


def _words(key: tuple[Any, ...]) -> list[Any]:
    return ["full" if part is None else part for part in key]


def _facts(runs: Runs) -> Table:
    rows = runs.done
    last = rows[-1]
    kinds = runs.kinds
    facts = [
        ("cells", counts(runs)),
        ("model", last.model),
        ("device", listed(_each(row.device for row in rows))),
        ("tasks", "; ".join(_task(runs, *setting) for setting in runs.settings)),
        ("PETs", "; ".join(_pet(rows, pet) for pet in runs.pets)),
    ]
    for kind in KINDS[1:]:
        if arms := runs.arms(kind):
            facts.append((kind, ", ".join(arms)))
    facts += [
        ("seeds", ", ".join(map(str, sorted({row.seed for row in rows})))),
        ("tries a cell", listed(_each(str(len(row.tries)) for row in rows))),
        ("strengths", "; ".join(_strengths(rows, arm) for arm in kinds if arm != VANILLA)),
        *_settings(rows),
        ("code", last.code),
        ("versions", ", ".join(f"{name} {version}" for name, version in last.versions.items())),
    ]
    table = [[Entry(name), Entry(text)] for name, text in facts if text]
    return Table(
        "What all numbers in this report depend on.", ("", ""), [RowGroup("", table)], frozenset({0, 1})
    )


def _each(texts: Any) -> list[str]:
    return list(dict.fromkeys(texts))


def _task(runs: Runs, task: str, shots: int | None) -> str:
    rows = runs.of(task, shots)
    sizes = rows[0].examples
    told = (("train", "to train on"), ("dev", "to select on"), ("reported", "scored"))
    parts = [f"{sizes[split]:,} {use}" for split, use in told if split in sizes]
    return f"{setting_name(task, shots)} ({', '.join([rows[0].metric, *parts])})"


def _pet(rows: Sequence[Row], pet: str) -> str:
    sizes = sorted({row.trainable_parameters for row in rows if row.pet == pet})
    return (
        f"{pet} ({' to '.join(f'{size:,}' for size in (sizes[0], sizes[-1])[: len(sizes)])} parameters)"
    )


def _strengths(rows: Sequence[Row], arm: str) -> str:
    tries = [tried for row in rows if row.arm == arm for tried in row.tries]
    values = sorted({tried.strength for tried in tries if tried.strength is not None})
    return f"{arm} {', '.join(f'{value:.3g}' for value in values)}" if values else ""


def _settings(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Each setting once, with the PETs where it is theirs alone."""
    by_pet = {row.pet: row.settings for row in rows}
    lines = []
    for name in dict.fromkeys(name for settings in by_pet.values() for name in settings):
        values: dict[str, list[str]] = {}
        for pet, settings in by_pet.items():
            value = settings.get(name)
            text = "none" if value in (None, {}, "") else str(value)
            values.setdefault(text, []).append(pet)
        if len(values) == 1:
            text = next(iter(values))
        else:
            text = "; ".join(f"{value} for {listed(pets)}" for value, pets in values.items())
        lines.append((name.replace("_", " "), text))
    return lines


def _has_lens(row: Row) -> bool:
    """Whether its cost is read through a lens, which is made in closed form: by no steps."""
    return row.arm.split("@")[1:2] in (["lens"], [ADAPTED])  # of an arm of any recipe


def _fits(rows: Sequence[Row]) -> Table | None:
    fits = {row.arm: row.fit for row in rows if row.fit and not _has_lens(row)}
    if not fits:
        return None
    table = [
        [Entry(arm), Entry(number(fit["first"])), Entry(number(fit["best"])), Entry(f"{fit['steps']:,}")]
        for arm, fit in fits.items()
    ]
    caption = (
        "The latent maps, fitted once on text with the model frozen: held-out running cost before and "
        "after. Costs of different bridges are on different scales."
    )
    return Table(caption, ("arm", "unfitted", "fitted", "steps"), [RowGroup("", table)])


def failures(runs: Runs) -> Section | None:
    """The failed cells with their errors; None where there are none."""
    if not runs.failed:
        return None
    rows = [
        [
            Entry(f"{setting_name(row.task, row.shots)}, {row.pet}"),
            Entry(row.arm),
            Entry(str(row.seed)),
            Entry(str(row.error)),
        ]
        for row in runs.failed
    ]
    caption = (
        f"{plural(len(rows), 'cell')} ended with an error. They count nowhere, and a pair that lacks "
        "one partner is not compared; the same `bridge-pets compare` tries them again."
    )
    columns = ("setting", "arm", "seed", "error")
    return Section(
        "failed", "Failed cells", [Table(caption, columns, [RowGroup("", rows)], frozenset({0, 1, 3}))]
    )
